"""A training step of DSN beside a plain dense one: `python -m benchmarks.speed.step`.

Both train the paper's AlexNet (dropout on, plain SGD) on the same random batch, in turn, in one process and
on one thread; medians of CPU time.
A step is all that training does a batch: gates, forward pass, loss with the
price of free neurons, backward pass, optimizer step inside protection, clamped gate logits. Each task takes
about half the neurons of a layer, as fresh gate logits do, so when the fifth is learnt nearly everything is
protected. The last line is the larger ratio of the first and the last task.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.speed.timing import in_turn, keep_freed_memory
from dsn import MaskedModel, ProtectedWeights, backbones, mask_neurons, sparsity

CLASSES, ETA, LR = 5, 0.75, 0.05


def main() -> None:
    """Train, time, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=2048, help="hidden units of AlexNet")
    parser.add_argument("--rounds", type=int, default=41)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    shape = (3, 32, 32)
    model = mask_neurons(backbones.alexnet(hidden=arguments.hidden), example_input=torch.zeros(1, *shape))
    plain = nn.Sequential(backbones.alexnet(hidden=arguments.hidden), nn.Linear(arguments.hidden, CLASSES))
    x, y = torch.randn(arguments.batch, *shape), torch.randint(0, CLASSES, (arguments.batch,))
    dense = DenseStep(plain, x, y)
    ratios = []
    for task in range(arguments.tasks):
        step = MaskedStep(model, task, x, y)
        if task in (0, arguments.tasks - 1):
            ours, theirs = in_turn([step, dense], arguments.rounds)
            ratios.append(ours / theirs)
            print(
                f"task {task + 1}: {share_used(model):.0%} of the neurons protected; "
                f"{1e3 * ours:.1f} ms a step, dense {1e3 * theirs:.1f} ms, ratio {ratios[-1]:.3f}"
            )
        else:
            step()
        model.commit(task)
    print(f"ratio: {max(ratios):.3f}")


class DenseStep:
    """One step of ``network`` on x [batch, ...], y [batch]."""

    def __init__(self, network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
        self.network, self.x, self.y = network.train(), x, y
        self.optimizer = torch.optim.SGD(network.parameters(), lr=LR)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.network(self.x), self.y).backward()
        self.optimizer.step()


class MaskedStep:
    """One step of a new task of ``model``."""

    def __init__(self, model: MaskedModel, task: int, x: torch.Tensor, y: torch.Tensor) -> None:
        model.add_task(CLASSES, task)
        self.model, self.task, self.x, self.y = model.train(), task, x, y
        self.optimizer = torch.optim.SGD(model.task_parameters(task), lr=LR)
        self.protected = ProtectedWeights(model)

    def __call__(self) -> None:
        self.model.anneal(0.0)  # the gate logits hardly move, so the masks are as they were drawn
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x, self.task), self.y)
        (loss + ETA * sparsity(self.model, self.task)).backward()
        with self.protected:
            self.optimizer.step()
        self.model.clamp_logits()


def share_used(model: MaskedModel) -> float:
    """Share of all neurons that the committed tasks use."""
    return float(torch.cat(list(model.used().values())).float().mean())


if __name__ == "__main__":
    main()
