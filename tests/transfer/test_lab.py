"""The lab's arms: each is what it says, and none leaves a trace in the model."""

import pytest
import torch
from torch import Tensor

from dsn import InputError, MaskedModel
from dsn.replay import Impressions
from dsn.transfer import ACCEPTANCE, MECHANISMS, Situation, assess
from dsn.transfer.assessment import predict
from dsn.transfer.lab import Trial, accuracy, in_parts, information, measure
from tests.nets import learn, make

CLASSES = 3
pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


def two_tasks(net: str = "mlp") -> tuple[MaskedModel, Tensor, Tensor]:
    """A model with tasks 0 and 1, inputs and labels for them."""
    model, _ = make(net)
    x = torch.randn(60, *model.input_shape[1:], generator=torch.Generator().manual_seed(1))
    y = torch.arange(60) % CLASSES
    for task in range(2):
        learn(model, x, task)
        assess(model, task, x, y, samples=10 * (task + 1))
    return model, x, y


def replay_of(model: MaskedModel, x: Tensor):
    def replay(task: int, seed: int) -> Impressions:
        made = torch.randn(24, *x.shape[1:], generator=torch.Generator().manual_seed(seed))
        targets = predict(model, made, task).softmax(1)
        return Impressions(made, targets, targets.argmax(1))

    return replay


def trial(model: MaskedModel, x: Tensor, y: Tensor, **changes) -> Trial:
    arguments = {
        "mechanism": "correspondence",
        "acceptance": "always",
        "old": (x[:20], y[:20]),
        "test": (x[20:], y[20:]),
        "random_features": lambda part: part.flatten(1),
    } | changes
    return measure(Situation(model, 0, 1, x, y, replay_of(model, x)), **arguments)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("acceptance", ACCEPTANCE)
@pytest.mark.parametrize("net", ["mlp", "small_cnn"])
def test_a_trial_leaves_the_model_bit_equal(net: str, mechanism: str, acceptance: str) -> None:
    model, x, y = two_tasks(net)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = trial(model, x, y, mechanism=mechanism, acceptance=acceptance)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert found.accepted or acceptance != "always"
    assert found.policy == (found.transfer if found.accepted else 0.0)


@pytest.mark.parametrize(
    "mechanism", ["correspondence", "anchored", "expert", "impressions", "current_images", "gates"]
)
def test_the_gain_is_that_of_the_mechanism_itself(mechanism: str) -> None:
    model, x, y = two_tasks()
    found = trial(model, x, y, mechanism=mechanism)
    before = accuracy(predict(model, x[20:], 0), y[20:])
    MECHANISMS[mechanism](Situation(model, 0, 1, x, y, replay_of(model, x)))
    assert found.accuracy == before
    assert found.transfer == accuracy(predict(model, x[20:], 0), y[20:]) - before


def test_anchors_are_impressions_with_what_the_earlier_task_says_of_them() -> None:
    model, x, y = two_tasks()
    situation = Situation(model, 0, 1, x, y, replay_of(model, x))
    labelled, targets = situation.relabelled_targets()
    inputs, anchored = situation.anchored_targets()
    made = situation.impressions.x
    assert torch.equal(inputs, torch.cat([labelled, made]))
    assert torch.equal(anchored[: len(labelled)], targets)
    says = (predict(model, made, 0) / situation.temperature).softmax(1)
    torch.testing.assert_close(anchored[len(labelled) :], says)


@pytest.mark.parametrize("near", [True, False])
def test_the_own_features_control_is_the_mechanism_of_that_name(
    near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsn.transfer.correspondence.NEAR_KAPPA", -1.0 if near else 2.0)
    monkeypatch.setattr("dsn.transfer.correspondence.NEAR_TEMPERATURE", float("inf"))
    model, x, y = two_tasks()
    own = trial(model, x, y, mechanism="own_features")
    assert own.transfer == own.own_features == trial(model, x, y).own_features


def test_random_features_replace_the_later_tasks() -> None:
    model, x, y = two_tasks()
    truth = torch.nn.functional.one_hot(y, CLASSES).float()
    telling = {tuple(row.flatten()[:2].tolist()): label for row, label in zip(x, truth, strict=True)}

    def knows(part: Tensor) -> Tensor:
        return torch.stack([telling[tuple(row.flatten()[:2].tolist())] for row in part])

    match = Situation(model, 0, 1, x, y, replay_of(model, x)).correspondence.match
    told = torch.empty_like(y)
    for old, later in enumerate(match):
        told[y == later] = old
    blind = trial(model, x, told, random_features=lambda part: torch.zeros(len(part), 2))
    seeing = trial(model, x, y, test=(x[20:], told[20:]), random_features=knows)
    assert seeing.random_features == pytest.approx(1 - seeing.accuracy, abs=0.15)
    assert seeing.random_features > blind.random_features


def test_the_oracle_learns_from_the_true_labels_of_the_old_data() -> None:
    model, x, y = two_tasks()
    right = trial(model, x, y, old=(x, y), test=(x, y))
    wrong = trial(model, x, y, old=(x, (y + 1) % CLASSES), test=(x, y))
    assert right.oracle > wrong.oracle
    assert (right.transfer, right.own_features) == (wrong.transfer, wrong.own_features)


def test_the_decision_sees_no_test_data() -> None:
    model, x, y = two_tasks()
    for acceptance in ACCEPTANCE:
        first = trial(model, x, y, acceptance=acceptance)
        second = trial(model, x, y, acceptance=acceptance, test=(-x[:9], y[:9]))
        assert (first.accepted, first.reason, first.measures) == (
            second.accepted,
            second.reason,
            second.measures,
        )


def test_a_later_task_with_fewer_classes_offers_nothing() -> None:
    model, x, y = two_tasks()
    model.add_task(2, 2)
    model.commit(2)
    assess(model, 2, x, y % 2, samples=60)
    situation = Situation(model, 0, 2, x, y % 2, replay_of(model, x))
    assert information(situation, "correspondence") is None
    found = measure(
        situation,
        mechanism="correspondence",
        acceptance="always",
        old=(x, y),
        test=(x, y),
        random_features=lambda part: part.flatten(1),
    )
    assert (found.transfer, found.own_features, found.random_features) == (0.0, 0.0, 0.0)
    assert not found.accepted and "nothing to offer" in found.reason


@pytest.mark.parametrize("name", ["mechanism", "acceptance"])
def test_unknown_names_are_refused(name: str) -> None:
    model, x, y = two_tasks()
    with pytest.raises(InputError, match=f"{name} is 'x': choose one of"):
        trial(model, x, y, **{name: "x"})


def test_features_in_parts_are_those_of_all() -> None:
    x = torch.randn(7, 3)
    assert torch.equal(in_parts(lambda part: part * 2, x, batch_size=3), x * 2)
