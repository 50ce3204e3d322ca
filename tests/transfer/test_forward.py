"""A task that reads earlier ones changes no other, and reads nothing that validation data speak against."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dsn import MaskedModel
from dsn.transfer import Situation, assess, attempt, transfer_forward
from dsn.transfer.assessment import own_logits, predict
from tests.nets import learn, logits, make

CLASSES = 3
pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


def three_tasks(net: str = "mlp") -> tuple[MaskedModel, Tensor, Tensor]:
    model, _ = make(net)
    x = torch.randn(90, *model.input_shape[1:], generator=torch.Generator().manual_seed(2))
    y = torch.arange(90) % CLASSES
    for task in range(3):
        learn(model, x, task)
        assess(model, task, x, y, samples=10 * (task + 1))
    return model, x, y


def answers_of(model: MaskedModel, x: Tensor, task: int) -> Tensor:
    return predict(model, x, task).argmax(1)


@pytest.mark.parametrize("net", ["mlp", "small_cnn", "resnet18"])
def test_only_the_reading_task_changes_and_the_loss_is_what_is_told(net: str) -> None:
    model, x, _ = three_tasks(net)
    y = answers_of(model, x, 0)  # what an earlier task sees is worth reading
    kept, weights = logits(model, x), [p.clone() for p in model.parameters()]
    outcome = transfer_forward(model, 2, x[:60], y[:60], (x[60:], y[60:]), tasks=8)
    assert outcome.weight > 0
    assert sorted(outcome.sources) == [0, 1]
    now = logits(model, x)
    assert torch.equal(now[0], kept[0]) and torch.equal(now[1], kept[1])
    assert not torch.equal(now[2], kept[2])
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    loss = float(F.cross_entropy(predict(model, x[60:], 2), y[60:]))
    assert loss == pytest.approx(outcome.loss_after, rel=1e-4)
    assert outcome.loss_after < outcome.loss_before


def test_what_validation_speaks_against_is_not_read() -> None:
    model, x, _ = three_tasks()
    x = x[:40]
    own = answers_of(model, x, 2)
    kept = logits(model, x)
    outcome = transfer_forward(model, 2, x, (own + 1) % CLASSES, (x, own), tasks=8)
    assert outcome.weight == 0.0
    assert outcome.loss_after == outcome.loss_before
    assert torch.equal(logits(model, x)[2], kept[2])
    assert not len(model.lateral_heads(2))


@pytest.mark.parametrize(("task", "tasks"), [(0, 8), (2, 0)])
def test_without_earlier_tasks_there_is_nothing_to_read(task: int, tasks: int) -> None:
    model, x, y = three_tasks()
    assert transfer_forward(model, task, x, y, (x, y), tasks=tasks) is None


def test_a_gift_from_a_later_task_leaves_what_is_read_from_earlier_ones() -> None:
    model, x, _ = three_tasks()
    y = answers_of(model, x, 0)
    transfer_forward(model, 1, x[:60], y[:60], (x[60:], y[60:]), tasks=8)
    own = own_logits(model, x, 1)
    assert [lateral.source_task for lateral in model.lateral_heads(1)] == [0]
    for _ in range(2):
        attempt(Situation(model, 1, 2, x, y, lambda *_: None), "correspondence", "always")
        sources = [lateral.source_task for lateral in model.lateral_heads(1)]
        assert sources[0] == 0 and sources.count(0) == 1 and 2 in sources
    assert torch.equal(own_logits(model, x, 1), own)


def test_features_that_others_read_do_not_change() -> None:
    model, x, _ = three_tasks()
    y = answers_of(model, x, 0)
    transfer_forward(model, 1, x[:60], y[:60], (x[60:], y[60:]), tasks=8)
    kept = logits(model, x)
    outcome = attempt(Situation(model, 0, 2, x, y, lambda *_: None), "gates", "always")
    assert not outcome.accepted and "tasks [1] read them" in outcome.reason
    assert all(torch.equal(value, kept[task]) for task, value in logits(model, x).items())
