"""A training step never asks the device for a value: on a GPU the host would wait for everything before it.

Seen on a CPU as well: each such question is an operation that turns a tensor into a number, or that needs
one to know the size of its result.
"""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import split_digits
from dsn import DSN, backbones, mask_neurons
from tests.training.flat import dsn

aten = torch.ops.aten
ASKING = {
    aten._local_scalar_dense, aten.item, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select,
    aten.unique_dim, aten._unique2, aten._unique,
}  # fmt: skip


class Questions(TorchDispatchMode):
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in ASKING:
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


class Watched(DSN):
    """Keeps what its training epochs ask."""

    asked: list[str]

    def training_epoch(self, **kwargs) -> None:
        with Questions() as questions:
            super().training_epoch(**kwargs)
        self.asked = [*getattr(self, "asked", []), *questions.asked]


class Printing(SupervisedPlugin):
    def after_update(self, strategy, *_args, **_kwargs) -> None:
        float(strategy.loss)


NETS = {
    "mlp": (lambda: backbones.mlp(64, (20, 10)), (64,)),
    "folded": (lambda: backbones.small_cnn(1, 8, width=4, features=12, norm=False, dropout=0.1), (1, 8, 8)),
    "batch norm": (lambda: backbones.small_cnn(1, 8, width=4, features=12), (1, 8, 8)),
}
SETTINGS = {
    "defaults": {},
    "budget and every phase": {"budget": 0.5, "warmup_epochs": 1, "consolidation_epochs": 1},
    "bfloat16, channels last, growth": {"precision": "bfloat16", "channels_last": True, "growth": 2},
    "edges": {"edges": "own_and_read", "planned_tasks": 2},
}


def learn_two_tasks(net: str, **settings) -> Watched:
    build, shape = NETS[net]
    config = split_digits.SplitDigitsConfig(tasks=2, train_per_class=20, flatten=len(shape) == 1)
    torch.manual_seed(0)
    edges = settings.pop("edges", "none")
    model = mask_neurons(build(), example_input=torch.zeros(1, *shape), edges=edges)
    cl = dsn(
        Watched,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4),
        train_mb_size=16,
        evaluator=None,
        transfer_tasks=0,
        forward_tasks=0,
        **settings,
    )
    for experience in split_digits.build(config, 0).train_stream:
        cl.train(experience, eval_streams=[])
    return cl


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("net", NETS)
def test_a_step_asks_nothing(net: str, settings: str) -> None:
    cl = learn_two_tasks(net, **SETTINGS[settings])
    assert cl.asked == []
    assert len(cl.model.committed) == 2


def test_a_plugin_that_asks_is_noticed() -> None:
    cl = learn_two_tasks("mlp", plugins=[Printing()])
    iterations = cl.clock.train_iterations
    assert len(cl.asked) == iterations > 5
