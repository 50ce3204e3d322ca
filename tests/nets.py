"""The networks and the plain training loop that several tests share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsn import MaskedModel, ProtectedWeights, backbones, mask_neurons, sparsity


class Concatenation(nn.Module):
    """Two branches concatenated, a group norm and a layer norm, pooling and tanh on the way."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.right = nn.Conv2d(3, 6, 1, bias=bias)
        self.joint = nn.Conv2d(14, 10, 3, bias=bias)
        self.group_norm = nn.GroupNorm(2, 10)
        self.last = nn.Linear(90, 12, bias=bias)
        self.layer_norm = nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        h = F.avg_pool2d(torch.tanh(self.group_norm(self.joint(h))), 2)
        return torch.relu(self.layer_norm(self.last(h.flatten(1))))


NETS: dict[str, tuple[Callable[[bool], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda bias: backbones.mlp(48, (30, 20), bias), (3, 4, 4)),
    "alexnet": (lambda bias: backbones.alexnet(3, 16, hidden=40, bias=bias), (3, 16, 16)),
    "alexnet_norm": (lambda bias: backbones.alexnet(3, 16, hidden=40, bias=bias, norm=True), (3, 16, 16)),
    "lenet": (lambda bias: backbones.lenet(3, 8, bias), (3, 8, 8)),
    "strided_cnn": (
        lambda bias: backbones.strided_cnn(3, 20, width=6, features=20, bias=bias),
        (3, 20, 20),
    ),
    "small_cnn": (lambda bias: backbones.small_cnn(3, 16, width=6, features=20, bias=bias), (3, 16, 16)),
    "resnet18": (lambda bias: backbones.resnet18(3, 16, 6, bias), (3, 16, 16)),
    "resnet18_2x2": (lambda bias: backbones.resnet18(3, 16, 6, bias, "2x2"), (3, 16, 16)),
    "concatenation": (Concatenation, (3, 8, 8)),
}

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
}


def make(net: str, bias: bool = True) -> tuple[MaskedModel, Tensor]:
    """A wrapped network and a batch of inputs for it."""
    build, shape = NETS[net]
    torch.manual_seed(0)
    model = mask_neurons(build(bias), example_input=torch.zeros(1, *shape))
    return model, torch.randn(12, *shape)


def learn(
    model: MaskedModel,
    x: Tensor,
    task: int,
    optimizer: str = "sgd",
    *,
    protect: bool = True,
    steps: int = 4,
    planned_tasks: int | None = None,
) -> None:
    """Train ``task`` on random labels as the README's plain loop does, and commit it."""
    model.add_task(3, task, planned_tasks=planned_tasks)
    model.train()
    step = OPTIMIZERS[optimizer]([p for p in model.parameters() if p.requires_grad])
    protected = ProtectedWeights(model)
    for i in range(steps):
        model.anneal(i / (steps - 1))
        step.zero_grad()
        batch = torch.randint(0, len(x), (8,))
        loss = F.cross_entropy(model(x[batch], task), torch.randint(0, 3, (8,)))
        (loss + 0.75 * sparsity(model, task)).backward()
        if protect:
            with protected:
                step.step()
        else:
            step.step()
        model.clamp_logits()
    model.commit(task)


@torch.no_grad()
def logits(model: MaskedModel, x: Tensor) -> dict[int, Tensor]:
    """The logits of every committed task in evaluation mode."""
    model.eval()
    return {task: model(x, task) for task in model.committed}


def same(before: dict[int, Tensor], after: dict[int, Tensor]) -> bool:
    """Whether the tasks in ``before`` have bit-identical logits in ``after``."""
    return all(torch.equal(value, after[task]) for task, value in before.items())
