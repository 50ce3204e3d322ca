"""A training step of DSN beside a plain dense one: `python -m benchmarks.speed.step`.

Both train the paper's AlexNet (dropout on, plain SGD) on the same random batch, in turn, in one process and
on one thread; medians of CPU time. A step is all that training does a batch: gates, forward pass, loss with
the price of free neurons, backward pass, optimizer step inside protection, clamped gate logits. Each task
takes about half the neurons of a layer, as fresh gate logits do, so when the fifth is learnt nearly
everything is protected. Where in memory a network lies changes its time by some percent, so several equal
ones of each kind take turns and are averaged; how far the dense ones are apart is printed too. After a line
of the whole step, each part of it: what DSN adds, in milliseconds. The last line is the larger ratio of the
first and the last task.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

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
    parser.add_argument("--networks", type=int, default=3, help="equal ones of each kind")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    shape, hidden, networks = (3, 32, 32), arguments.hidden, arguments.networks
    model = mask_neurons(backbones.alexnet(hidden=hidden), example_input=torch.zeros(1, *shape))
    plain = nn.Sequential(backbones.alexnet(hidden=hidden), nn.Linear(hidden, CLASSES))
    x, y = torch.randn(arguments.batch, *shape), torch.randint(0, CLASSES, (arguments.batch,))
    dense = [DenseStep(copy.deepcopy(plain), x, y) for _ in range(networks)]
    ratios = []
    for task in range(arguments.tasks):
        if task in (0, arguments.tasks - 1):
            masked = [MaskedStep(copy.deepcopy(model), task, x, y) for _ in range(networks)]
            times = in_turn([*masked, *dense], arguments.rounds)
            ours, theirs = (sum(part) / networks for part in (times[:networks], times[networks:]))
            ratios.append(ours / theirs)
            spread = max(times[networks:]) / min(times[networks:])
            print(
                f"task {task + 1}: {share_used(model):.0%} of the neurons protected; {1e3 * ours:.1f} ms a "
                f"step, dense {1e3 * theirs:.1f} ms (apart by {spread:.3f}), ratio {ratios[-1]:.3f}"
            )
            show_parts(masked[0], dense[0], arguments.rounds)
        MaskedStep(model, task, x, y)()
        model.commit(task)
    print(f"ratio: {max(ratios):.3f}")


class Step:
    """One training step: its ``parts`` in turn."""

    parts: dict[str, Callable[[], object]]

    def __call__(self) -> None:
        for part in self.parts.values():
            part()


class DenseStep(Step):
    """One step of ``network`` on x [batch, ...], y [batch]."""

    def __init__(self, network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
        self.network, self.x, self.y = network.train(), x, y
        self.optimizer = torch.optim.SGD(network.parameters(), lr=LR)
        self.parts = {"forward": self.forward, "backward": self.backward, "update": self.optimizer.step}

    def forward(self) -> None:
        """Up to the loss."""
        self.optimizer.zero_grad()
        self.loss = F.cross_entropy(self.network(self.x), self.y)

    def backward(self) -> None:
        """Gradients."""
        self.loss.backward()


class MaskedStep(Step):
    """One step of a new task of ``model``."""

    def __init__(self, model: MaskedModel, task: int, x: torch.Tensor, y: torch.Tensor) -> None:
        model.add_task(CLASSES, task)
        self.model, self.task, self.x, self.y = model.train(), task, x, y
        self.optimizer = torch.optim.SGD(model.task_parameters(task), lr=LR)
        self.protected = ProtectedWeights(model)
        self.parts = {
            "forward": self.forward,
            "backward": self.backward,
            "update": self.optimizer.step,
            "protection": self.protect,
        }

    def forward(self) -> None:
        """Up to the loss with the price of free neurons."""
        self.model.anneal(0.0)  # the gate logits hardly move, so the masks are as they were drawn
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x, self.task), self.y)
        self.loss = loss + ETA * sparsity(self.model, self.task)

    def backward(self) -> None:
        """Gradients."""
        self.loss.backward()

    def protect(self) -> None:
        """What follows the optimizer's step."""
        with self.protected:
            pass
        self.model.clamp_logits()


def show_parts(masked: Step, dense: Step, rounds: int) -> None:
    """Print the median CPU time of each part of both steps."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in masked.parts}
    for _ in range(rounds):
        for which, step in enumerate((masked, dense)):
            for name, part in step.parts.items():
                began = time.process_time()
                part()
                times[name][which].append(time.process_time() - began)
    for name, (ours, theirs) in times.items():
        one, other = 1e3 * statistics.median(ours), 1e3 * statistics.median(theirs or [0.0])
        print(f"  {name}: {one:.1f} ms, dense {other:.1f} ms, more by {one - other:.1f} ms")


def share_used(model: MaskedModel) -> float:
    """Share of all neurons that the committed tasks use."""
    return float(torch.cat(list(model.used().values())).float().mean())


if __name__ == "__main__":
    main()
