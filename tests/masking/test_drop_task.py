"""A task that was begun and dropped leaves nothing behind, wherever its training had got to."""

import pytest
import torch
from torch.nn import functional as F

from dsn import InputError, ProtectedWeights
from tests.nets import NETS, learn, logits, make, same


def half_learn(model, x: torch.Tensor, task: int, lr: float = 0.1) -> None:
    """Two steps of ``task``, uncommitted; a huge ``lr`` makes its weights non-finite."""
    model.add_task(3, task, planned_tasks=4, budget=0.9)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr, momentum=0.9)
    protected = ProtectedWeights(model)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x, task), torch.arange(len(x)) % 3).backward()
        with protected:
            optimizer.step()


def sizes(model) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("lr", [0.1, float("inf")])
@pytest.mark.parametrize("net", NETS)
def test_earlier_tasks_stay_and_later_ones_learn(net: str, lr: float) -> None:
    model, x = make(net)
    learn(model, x, 0)
    before, shapes, trained = logits(model, x), sizes(model), {n for n, _ in model.named_parameters()}
    half_learn(model, x, 1, lr)
    model.drop_task(1)
    assert (model.tasks, model.committed, model.learning) == ([0], [0], None)
    assert model.task_ids.tolist() == [0]
    assert sizes(model) == shapes
    assert {n for n, _ in model.named_parameters()} == trained
    assert same(before, logits(model, x))
    for task in (1, 2):
        learn(model, x, task)
        after = logits(model, x)
        assert same(before, after)
        assert all(value.isfinite().all() for value in after.values())
    assert model.committed == [0, 1, 2]


def test_the_first_task_can_be_dropped() -> None:
    model, x = make("small_cnn")
    half_learn(model, x, 5)
    model.drop_task(5)
    assert model.tasks == []
    learn(model, x, 0)


def test_committed_and_unknown_tasks_cannot_be_dropped() -> None:
    model, x = make("mlp")
    learn(model, x, 0)
    model.add_task(2)
    for task in (0, 7):
        with pytest.raises(InputError, match=f"task {task} is not being learnt.*never change"):
            model.drop_task(task)
    assert model.tasks == [0, 1]
