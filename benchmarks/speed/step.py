"""A training step of DSN beside a plain dense one: `python -m benchmarks.speed.step`.

Both train the paper's AlexNet (dropout on, plain SGD) on the same random batch, in turn, in one process and
on one thread; medians of CPU time. Measured over the whole annealing: at its beginning no gate is small, and
small ones cost most if a CPU has to compute with denormal numbers. A step is all that training does a batch:
gates, forward pass, loss with the price of free neurons, backward pass, optimizer step inside protection,
clamped gate logits. Each task takes about half the neurons of a layer, as fresh gate logits do, so when the
fifth is learnt nearly everything is protected; with ``--planned`` each takes its share. Where in memory a
network lies changes its time by some percent, so several equal ones of each kind take turns and are averaged;
how far the dense ones are apart is printed too. After the lines of whole steps, each part of one at the
slowest progress: what DSN adds, in milliseconds. The last line is the larger ratio of the first and the last
task, over the whole annealing.
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
PROGRESS = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
SHAPE = (3, 32, 32)
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "alexnet": lambda: backbones.alexnet(hidden=2048),
    "small_cnn": lambda: backbones.small_cnn(width=16),
    "mlp": lambda: backbones.mlp(3 * 32 * 32, widths=(400, 400)),
    "vit": lambda: backbones.vit(),
    "mobilenet": lambda: backbones.mobilenet(width=0.5),
}


def main() -> None:
    """Train, time, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=BACKBONES, default="alexnet")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--planned", action="store_true", help="limit each task to its share of the neurons")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--networks", type=int, default=3, help="equal ones of each kind")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    networks, planned = arguments.networks, arguments.tasks if arguments.planned else None
    build, example = BACKBONES[arguments.backbone], torch.zeros(1, *SHAPE)
    model = mask_neurons(build(), example_input=example)
    plain = nn.Sequential(build(), nn.Linear(model.feature_size, CLASSES))
    x, y = torch.randn(arguments.batch, *SHAPE), torch.randint(0, CLASSES, (arguments.batch,))
    dense = [DenseStep(copy.deepcopy(plain), x, y) for _ in range(networks)]
    ratios = []
    for task in range(arguments.tasks):
        if task in (0, arguments.tasks - 1):
            print(f"task {task + 1}: {share_used(model):.0%} of the neurons protected")
            masked = [MaskedStep(copy.deepcopy(model), task, x, y, planned) for _ in range(networks)]
            ratios.append(over_the_annealing(task, masked, dense, arguments.rounds))
        MaskedStep(model, task, x, y, planned)()
        model.commit(task)
    print(f"ratio: {max(ratios):.3f}")


def over_the_annealing(task: int, masked: list[MaskedStep], dense: list[DenseStep], rounds: int) -> float:
    """Time and print steps at each progress; the time of all of them over that of the dense ones."""
    times: dict[float, tuple[float, float]] = {}
    for progress in PROGRESS:
        for step in masked:
            step.progress = progress
        medians = in_turn([*masked, *dense], rounds)
        mine, others = medians[: len(masked)], medians[len(masked) :]
        ours, theirs = statistics.mean(mine), statistics.mean(others)
        times[progress] = ours, theirs
        print(
            f"  progress {progress:g}: {1e3 * ours:.1f} ms a step, dense {1e3 * theirs:.1f} ms "
            f"(apart by {max(others) / min(others):.3f}), ratio {ours / theirs:.3f}"
        )
    worst = max(times, key=lambda progress: times[progress][0] / times[progress][1])
    for step in masked:
        step.progress = worst
    show_parts(masked[0], dense[0], rounds)
    ratio = sum(ours for ours, _ in times.values()) / sum(theirs for _, theirs in times.values())
    at_worst = times[worst][0] / times[worst][1]
    print(f"task {task + 1}, slowest at progress {worst:g}: ratio {at_worst:.3f}")
    print(f"task {task + 1}, whole annealing: ratio {ratio:.3f}")
    return ratio


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
    """One step of a new task of ``model``, at ``progress`` of its annealing."""

    progress = 0.0

    def __init__(
        self, model: MaskedModel, task: int, x: torch.Tensor, y: torch.Tensor, planned: int | None = None
    ) -> None:
        model.add_task(CLASSES, task, planned_tasks=planned)
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
        self.model.anneal(self.progress)
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
