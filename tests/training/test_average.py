"""Averaged weights: against a plain mean, and no earlier task feels them."""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import split_digits
from dsn import backbones, mask_neurons
from dsn.training.average import RunningMean
from tests.baselines.setups import NEVER_FORGET, Trained, config
from tests.training.flat import dsn

FINITE = st.floats(-100, 100, width=32, allow_subnormal=False)


def path_of(values, steps):
    tensor = torch.zeros(())
    mean = RunningMean([tensor], steps)
    for value in values:
        tensor.fill_(value)
        mean.update()
    return tensor, mean


@given(st.lists(FINITE, min_size=1, max_size=20), st.integers(1, 30))
def test_it_is_the_mean_of_the_last_steps(values, steps) -> None:
    """All weigh alike until there are ``steps``; then each later step shrinks it by 1 - 1/steps."""
    weights = []
    for taken in range(1, len(values) + 1):
        share = 1 / min(taken, steps)
        weights = [weight * (1 - share) for weight in weights] + [share]
    wanted = sum(w * v for w, v in zip(weights, values, strict=True))
    tensor, mean = path_of(values, steps)
    if len(values) <= steps:
        assert weights == pytest.approx([1 / len(values)] * len(values))
    with mean.in_place():
        assert float(tensor) == pytest.approx(wanted, rel=1e-4, abs=1e-3)
    assert float(tensor) == torch.tensor(values[-1])
    mean.put()
    assert float(tensor) == pytest.approx(wanted, rel=1e-4, abs=1e-3)


@given(FINITE, st.integers(1, 30), st.integers(1, 9))
def test_what_never_changed_keeps_its_bits(value, steps, count) -> None:
    """The sign of -0.0 too, which no mean keeps."""
    tensor, mean = path_of([value] * count, steps)
    mean.put()
    assert float(tensor) == torch.tensor(value)
    assert torch.signbit(tensor) == torch.signbit(torch.tensor(value))


def test_no_steps_no_mean() -> None:
    tensor, mean = path_of([1.0, 2.0], 0)
    mean.put()
    assert float(tensor) == 2.0


def trained(name, average, **more):
    train = {"epochs": 3, "batch_size": 8, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    setup = config(name, train={**train, "average_epochs": average}, **more)
    return Trained(setup, valid=more.get("valid", 0.0))


EDGES = {"selection": {"edges": "own_and_read", "planned_tasks": "stream"}}


@pytest.mark.parametrize("name", [*NEVER_FORGET, "dsn", "edges"])
def test_earlier_tasks_feel_nothing_of_it(name) -> None:
    more = EDGES if name == "edges" else {}
    learnt, last = (trained("dsn" if more else name, share, **more) for share in (1.0, 0.0))
    for task, now in learnt.after[-1].items():
        assert torch.equal(now, learnt.after[task][task]), task
    assert not torch.equal(learnt.after[0][0], last.after[0][0]), "averaging did nothing"


class Path(SupervisedPlugin):
    """The weights of the first layer after each step, and as they are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[torch.Tensor] = []
        self.kept = torch.zeros(())

    def after_update(self, strategy, **_kwargs):
        weight = next(iter(strategy.model.layer_modules()))[1].weight
        self.steps.append(weight.detach().clone())

    def after_training_exp(self, strategy, **_kwargs):
        self.kept = next(iter(strategy.model.layer_modules()))[1].weight.detach().clone()


def test_a_task_keeps_the_mean_of_its_epoch() -> None:
    """One epoch: the plain mean over all its steps, as a plugin of Avalanche's sees them."""
    stream = split_digits.build(split_digits.SplitDigitsConfig(tasks=3, train_per_class=20), 0)
    torch.manual_seed(0)
    model = mask_neurons(backbones.mlp(64, (12, 8)), example_input=torch.zeros(1, 64))
    path = Path()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cl = dsn(
        model=model, optimizer=optimizer, plugins=[path], train_mb_size=8, average_epochs=1,
        transfer_tasks=0, forward_tasks=0, evaluator=None,
    )  # fmt: skip
    cl.train(stream.train_stream[0])
    assert len(path.steps) > 1
    torch.testing.assert_close(path.kept, torch.stack(path.steps).mean(0))
    assert not torch.equal(path.kept, path.steps[-1])
