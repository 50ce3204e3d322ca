"""Costs against the number of tasks: `python -m benchmarks.speed.tasks`.

One MLP learns permuted digits (scikit-learn's), task after task through ``DSN``, with forward and backward
transfer on and growth where nothing is free. Printed for the first, some and the last task: a training step,
the time at the task's beginning and end, and what it adds to the model's state. At the end the steps of the
first and the last task are timed in turn, on networks of one size; the last line is their ratio.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import torch

from benchmarks import permuted
from benchmarks.speed.step import MaskedStep
from benchmarks.speed.timing import in_turn
from dsn import DSN, MaskedModel, Selection, backbones, mask_neurons
from dsn.evaluation.capacity import mask_bytes
from dsn.training.loader import read_samples

CLASSES = 10


def main() -> None:
    """Learn, time, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--widths", type=int, nargs="+", default=[400, 400])
    parser.add_argument("--train-per-class", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=201)
    arguments = parser.parse_args()

    warnings.simplefilter("ignore")  # each full layer says so, task after task
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = permuted.PermutedConfig(
        data="digits",
        tasks=arguments.tasks,
        train_per_class=arguments.train_per_class,
        validation=0.2,
    )
    stream = permuted.build(config, seed=0)
    x, y = read_samples(stream.train_stream[0].dataset)
    strategy = make_strategy(x.shape[1], arguments.widths)
    model = strategy.model
    shown = {1, 2, 5, 10, 20, 50, arguments.tasks}
    for task, experience in enumerate(stream.train_stream):
        size = state_bytes(model)
        began = time.process_time()
        strategy.train(experience, eval_streams=[stream.valid_stream[task]])
        total = time.process_time() - began
        if task + 1 in shown:
            print(
                f"task {task + 1}: {strategy.epochs_seconds:.2f} s of epochs, "
                f"{total - strategy.epochs_seconds:.2f} s "
                f"at its beginning and end, {mask_bytes(model, task)} bytes of masks, "
                f"{(state_bytes(model) - size) / 1024:.1f} KiB of state in all, "
                f"layers {list(model.layers.values())}"
            )
    first = fresh(model, x.shape[1])
    steps = [
        MaskedStep(model, arguments.tasks, x[:64], y[:64] % 5),
        MaskedStep(first, 0, x[:64], y[:64] % 5),
    ]
    last, one = in_turn([repeated(step) for step in steps], arguments.rounds)
    print(
        f"a step at task {arguments.tasks + 1}: {100 * last:.2f} ms, "
        f"at task 1, as many neurons: {100 * one:.2f} ms"
    )
    print(f"ratio: {last / one:.3f}")


class Timed(DSN):
    """DSN that knows how long the epochs of its last task took, in CPU seconds."""

    epochs_seconds = 0.0

    def _train_exp(self, *args: Any, **kwargs: Any) -> None:
        self.epochs_seconds = 0.0
        super()._train_exp(*args, **kwargs)

    def training_epoch(self, **kwargs: Any) -> None:
        """Avalanche's, timed."""
        began = time.process_time()
        super().training_epoch(**kwargs)
        self.epochs_seconds += time.process_time() - began


def make_strategy(size: int, widths: list[int]) -> Timed:
    """The strategy with a fresh network."""
    model = mask_neurons(backbones.mlp(size, widths), example_input=torch.zeros(1, size))
    return Timed(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        train_epochs=3,
        train_mb_size=64,
        selection=Selection(growth=40),
        evaluator=None,
    )


def fresh(model: MaskedModel, size: int) -> MaskedModel:
    """A network of the same widths that has learnt nothing."""
    return mask_neurons(backbones.mlp(size, list(model.layers.values())), example_input=torch.zeros(1, size))


def repeated(step: MaskedStep) -> Any:
    """Ten steps at once: one is too short for the clock."""

    def steps() -> None:
        for _ in range(10):
            step()

    return steps


def state_bytes(model: MaskedModel) -> int:
    """Bytes of everything the model keeps."""
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


if __name__ == "__main__":
    main()
