"""A transfer changes its own task alone, or nothing; refusals do not end the search."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dsn import InputError, MaskedModel, ProtectedWeights, grow, sparsity
from dsn.evaluation import capacity
from dsn.masking.records import Lateral
from dsn.replay import Impressions
from dsn.transfer import MECHANISMS, Situation, assess, attempt, most_similar, similarity, transfer_backward
from dsn.transfer import acceptance as policies
from dsn.transfer.acceptance import Decision
from tests.nets import NETS, OPTIMIZERS, learn, logits, make, same

CLASSES = 3


def fake_replay(model: MaskedModel, x: Tensor):
    """Impressions without the cost of synthesis: noise with what the task says of it."""

    def replay(task: int, seed: int) -> Impressions:
        made = torch.randn(24, *x.shape[1:], generator=torch.Generator().manual_seed(seed))
        model.eval()
        with torch.no_grad():
            targets = model(made, task).softmax(1)
        return Impressions(made, targets, targets.argmax(1))

    return replay


def situation(model: MaskedModel, x: Tensor, task: int, source: int) -> Situation:
    y = torch.arange(len(x)) % CLASSES
    return Situation(model, task, source, x, y, fake_replay(model, x))


def state(model: MaskedModel) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def three_tasks(net: str, bias: bool = True, optimizer: str = "sgd") -> tuple[MaskedModel, Tensor]:
    model, x = make(net, bias)
    for task in range(3):
        learn(model, x, task, optimizer)
        assess(model, task, x, torch.arange(len(x)) % CLASSES, samples=10 * (task + 1))
    return model, x


CASES = list(itertools.product(NETS, (True, False), OPTIMIZERS))


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize(("net", "bias", "optimizer"), CASES)
def test_accepted_changes_its_task_alone_and_refused_changes_nothing(
    net: str, bias: bool, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = three_tasks(net, bias, optimizer)
    monkeypatch.setitem(policies.ACCEPTANCE, "never", lambda s: lambda: Decision(False, "never", {}))
    before, kept = state(model), logits(model, x)
    for mechanism in MECHANISMS:
        outcome = attempt(situation(model, x, 0, 2), mechanism, "never")
        assert not outcome.accepted
        after = state(model)
        assert list(before) == list(after), mechanism
        assert all(torch.equal(value, after[key]) for key, value in before.items()), mechanism
    for mechanism in MECHANISMS:
        assert attempt(situation(model, x, 0, 2), mechanism, "always").accepted
        now = logits(model, x)
        assert torch.equal(now[1], kept[1])
        assert torch.equal(now[2], kept[2])
    assert not torch.equal(now[0], kept[0])


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("net", NETS)
def test_what_was_transferred_is_never_forgotten(net: str) -> None:
    model, x = three_tasks(net)
    for mechanism in ("correspondence", "gates"):
        attempt(situation(model, x, 0, 2), mechanism, "always")
    kept = logits(model, x)
    grow(model, by=4, below=10**6)
    learn(model, x, 3)
    assert same(kept, logits(model, x))

    loaded, _ = make(net)
    loaded.load_state_dict(model.state_dict())
    assert same(logits(model, x), logits(loaded, x))


def test_gates_open_only_neurons_of_the_source_and_weights_stay() -> None:
    model, x = three_tasks("mlp")
    own, others = model.masks(0), model.masks(2)
    weights = [p.clone() for p in model.backbone.parameters()]
    outcome = attempt(situation(model, x, 0, 2), "gates", "always")
    after = model.masks(0)
    opened = 0
    for path, mask in after.items():
        assert (mask | own[path]).equal(mask)
        fresh = mask & ~own[path]
        assert not (fresh & ~others[path]).any()
        opened += int(fresh.sum())
    assert outcome.neurons == opened
    assert all(torch.equal(a, b) for a, b in zip(weights, model.backbone.parameters(), strict=True))


def test_a_refusal_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = three_tasks("mlp")
    answers = iter([False, True])
    monkeypatch.setitem(
        policies.ACCEPTANCE, "scripted", lambda s: lambda: Decision(next(answers), "as told", {"a": 1.0})
    )
    seen = []
    outcomes = transfer_backward(
        model,
        2,
        x,
        torch.arange(len(x)) % CLASSES,
        replay=fake_replay(model, x),
        acceptance="scripted",
        on_outcome=seen.append,
    )
    assert [o.accepted for o in outcomes] == [False, True]
    assert {o.task for o in outcomes} == {0, 1}
    assert outcomes == seen
    assert [o.task for o in outcomes] == most_similar(model, 2, 3)
    assert outcomes[0].similarity >= outcomes[1].similarity
    assert outcomes[0].measures == {"a": 1.0}
    assert "gains from task 2" in str(outcomes[1])
    assert transfer_backward(model, 0, x, x, replay=fake_replay(model, x)) == []


def test_similarity_is_the_geometric_mean_of_cosines() -> None:
    model, x = three_tasks("mlp")
    product = 1.0
    for path in model.layers:
        a, b = model.masks(0)[path].double(), model.masks(1)[path].double()
        product *= float(F.cosine_similarity(a, b, dim=0))
    assert similarity(model, 0, 1) == pytest.approx(product ** (1 / len(model.layers)), rel=1e-5)
    assert similarity(model, 1, 1) == pytest.approx(1.0)
    pairs = [[similarity(model, a, b) for b in range(3)] for a in range(3)]
    assert capacity.similarity(model) == pytest.approx(np.array(pairs), abs=1e-6)  # the report's fast twin


def test_unknown_names_are_refused() -> None:
    model, x = three_tasks("mlp")
    with pytest.raises(InputError, match="mechanism is 'magic': choose one of correspondence"):
        attempt(situation(model, x, 0, 2), "magic", "always")
    with pytest.raises(InputError, match="acceptance is 'hope': choose one of closeness"):
        attempt(situation(model, x, 0, 2), "gates", "hope")


def blobs(shift: float, order: list[int], n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four Gaussian blobs in 12 dimensions, moved by ``shift``; class c of the task is blob order[c]."""
    centres = 2.0 * torch.randn(4, 12, generator=torch.Generator().manual_seed(7))
    random = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % len(order)
    x = centres[torch.tensor(order)[y]] + 2.6 * torch.randn(n, 12, generator=random) + shift
    return x, y


def train(model: MaskedModel, task: int, x: Tensor, y: Tensor, steps: int = 60) -> None:
    model.add_task(int(y.max()) + 1, task)
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    protected = ProtectedWeights(model)
    for i in range(steps):
        model.anneal(i / (steps - 1))
        optimizer.zero_grad()
        (F.cross_entropy(model(x, task), y) + 0.1 * sparsity(model, task)).backward()
        with protected:
            optimizer.step()
        model.clamp_logits()
    model.commit(task)


def accuracy(model: MaskedModel, task: int, data: tuple[Tensor, Tensor]) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(data[0], task).argmax(1) == data[1]).float().mean())


def poor_then_rich(order: list[int], shift: float = 0.1) -> tuple[MaskedModel, tuple[Tensor, Tensor]]:
    """Task 0 has 16 samples, task 1 has 2,000 of the same blobs in another order."""
    from dsn import backbones, mask_neurons

    torch.manual_seed(0)
    model = mask_neurons(backbones.mlp(12, (40, 40)), example_input=torch.zeros(1, 12))
    train(model, 0, *blobs(0.0, [0, 1, 2, 3], 16, seed=1))
    assess(model, 0, *blobs(0.0, [0, 1, 2, 3], 40, seed=2), samples=16)
    rich = blobs(shift, order, 2000, seed=3)
    train(model, 1, *rich)
    assess(model, 1, *blobs(shift, order, 200, seed=4), samples=2000)
    return model, rich


@pytest.mark.parametrize(("near", "least"), [(True, 0.02), (False, 0.005)])
def test_a_poor_task_gains_from_a_rich_one_with_the_same_classes_in_another_order(
    near: bool, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsn.transfer.correspondence.NEAR_TEMPERATURE", float("inf") if near else 1.4)
    order = [2, 0, 3, 1]
    model, (x, y) = poor_then_rich(order)
    test = blobs(0.0, [0, 1, 2, 3], 4000, seed=5)
    before = accuracy(model, 0, test)
    made = Situation(model, 0, 1, x, y, fake_replay(model, x))
    assert made.correspondence.match.tolist() == [order.index(c) for c in range(4)]
    assert made.correspondence.near == near
    outcome = attempt(made, "correspondence", "closeness")
    assert outcome.accepted, outcome.reason
    assert accuracy(model, 0, test) > before + least
    assert outcome.measures["agreement"] == 1.0


def test_unrelated_classes_are_refused() -> None:
    model, _ = poor_then_rich([0, 1, 2, 3])
    x = torch.randn(400, 12, generator=torch.Generator().manual_seed(8))
    made = Situation(model, 0, 1, x, torch.arange(400) % 4, fake_replay(model, x))
    outcome = attempt(made, "correspondence", "closeness")
    assert not outcome.accepted
    assert "shows other things" in outcome.reason or "is not close" in outcome.reason


def test_fewer_classes_offer_nothing_and_no_validation_is_no_ground() -> None:
    model, x = make("mlp")
    learn(model, x, 0)
    model.add_task(2)
    model.commit(1)
    y = torch.arange(len(x)) % 2
    outcome = attempt(Situation(model, 0, 1, x, y, fake_replay(model, x)), "correspondence", "always")
    assert not outcome.accepted
    assert "fewer classes" in outcome.reason
    outcome = attempt(Situation(model, 0, 1, x, y, fake_replay(model, x)), "current_images", "closeness")
    assert "no validation data" in outcome.reason


def test_a_transfer_takes_the_place_of_the_one_before() -> None:
    model, x = three_tasks("mlp")
    fresh = logits(model, x)[0]
    attempt(situation(model, x, 0, 2), "correspondence", "always")
    alone = logits(model, x)[0]
    attempt(situation(model, x, 0, 1), "correspondence", "always")
    assert not torch.equal(logits(model, x)[0], alone)
    attempt(situation(model, x, 0, 2), "correspondence", "always")
    assert torch.equal(logits(model, x)[0], alone)
    assert not torch.equal(fresh, alone)


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("closer_first", [True, False])
def test_the_closest_giver_is_kept(closer_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Task 0 sees the images of one later task as its own, those of the other half disguised."""
    for limit in ("AGREEMENT", "CLOSENESS", "RICHER"):
        monkeypatch.setattr(policies, limit, 0.0)
    model, x = three_tasks("mlp")
    with torch.no_grad():
        model.eval()
        y = model(x, 0).argmax(1)
    close, far = (Situation(model, 0, 2, x, t, fake_replay(model, x)) for t in (y, y.roll(1)))
    assert close.correspondence.accuracy > far.correspondence.accuracy
    first, second = (close, far) if closer_first else (far, close)
    assert attempt(first, "correspondence", "closeness").accepted
    outcome = attempt(second, "correspondence", "closeness")
    assert outcome.accepted is not closer_first
    assert ("closer task has given" in outcome.reason) is closer_first


def test_a_pooled_opinion_is_the_pool_of_probabilities() -> None:
    z, f = torch.randn(5, 3), torch.randn(5, 4)
    weight, bias, mixture = torch.randn(6, 4), torch.randn(6), torch.rand(6, 3)
    pooled = Lateral(1, torch.tensor(0.5), weight, bias, mixture)(z, f)
    expected = (0.5 * z).softmax(1) + F.linear(f, weight, bias).softmax(1) @ mixture
    torch.testing.assert_close(pooled.exp(), expected)
