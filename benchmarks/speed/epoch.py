"""An epoch through the Avalanche strategy beside a plain PyTorch loop: `python -m benchmarks.speed.epoch`.

10,000 random images 28 x 28 in batches of 64, one MLP of Avalanche's own shape (a hidden layer of 512), one
thread. The plain loop cuts its batches out of tensors by index and trains a dense network with the same
optimizer; the strategy does so through ``DSN(...).train(experience)``, everything included: reading the
data set, adding the task, Avalanche's hooks, gates, sparsity, protection, commit. Both train anew in each
round, in turn; medians of CPU time. Wrapping the network, once in its life, is left out. ``--naive`` sets
Avalanche's Naive strategy beside them.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from avalanche.models import MultiTaskModule
from avalanche.training import Naive
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.base import StreamConfig
from benchmarks.speed.timing import in_turn
from benchmarks.tasks import Images, make_stream
from dsn import DSN, MaskedModel, Transfer, backbones, mask_neurons
from dsn.training.loader import read_samples

SIZE, CLASSES, LR = 28, 10, 0.05


def main() -> None:
    """Train, time, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--widths", type=int, nargs="+", default=[512])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--naive", action="store_true", help="time Avalanche's Naive too")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    experience = random_experience(arguments.images)
    x, y = read_samples(experience.dataset)
    wrapped = mask_neurons(network(arguments.widths), example_input=torch.zeros(1, SIZE * SIZE))
    calls = [
        lambda: train_dsn(experience, copy.deepcopy(wrapped), arguments.batch),
        lambda: train_plain(x, y, arguments.widths, arguments.batch),
    ]
    if arguments.naive:
        calls.append(lambda: train_naive(experience, arguments.widths, arguments.batch))
    ours, plain, *naive = in_turn(calls, arguments.rounds, warm_up=1)
    print(f"plain loop: {1e3 * plain:.0f} ms an epoch; DSN: {1e3 * ours:.0f} ms")
    for seconds in naive:
        print(f"Avalanche's Naive: {1e3 * seconds:.0f} ms, {seconds / plain:.2f} times the plain loop")
    print(f"ratio: {ours / plain:.3f}")


def random_experience(images: int) -> Any:
    """A task of random pixels."""
    pixels = torch.randint(0, 256, (images, 1, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.arange(images) % CLASSES
    source = Images(pixels, labels, pixels[:CLASSES], labels[:CLASSES], [str(c) for c in range(CLASSES)])
    stream = make_stream(StreamConfig(name="random", tasks=1), source, [range(CLASSES)], 0, flatten=True)
    return stream.train_stream[0]


def network(widths: list[int]) -> nn.Module:
    """The MLP, without its head."""
    return backbones.mlp(SIZE * SIZE, widths)


def train_plain(x: Tensor, y: Tensor, widths: list[int], batch: int) -> None:
    """One epoch of a dense network on batches indexed out of x [n, d], y [n]."""
    model = nn.Sequential(network(widths), nn.Linear(widths[-1], CLASSES)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for rows in torch.randperm(len(x)).split(batch):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()


def train_dsn(experience: Any, model: MaskedModel, batch: int) -> None:
    """One epoch of a fresh DSN on the experience."""
    strategy = DSN(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LR),
        train_mb_size=batch,
        evaluator=None,
        transfer=Transfer(tasks=0, forward=0),
    )
    strategy.train(experience, eval_streams=[])


def train_naive(experience: Any, widths: list[int], batch: int) -> None:
    """One epoch of Avalanche's Naive with a dense network."""

    class Labelled(MultiTaskModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(network(widths), nn.Linear(widths[-1], CLASSES))

        def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
            return self.inner(x)

    model = Labelled()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    strategy = Naive(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch,
        evaluator=None,
    )
    strategy.train(experience, eval_streams=[])


if __name__ == "__main__":
    main()
