"""What a stream of ImageNet's size costs, from what its parts cost: `python -m benchmarks.speed.imagenet`.

1.28 million images of a thousand classes at 224 x 224, in a hundred tasks, torchvision's ResNet-18. A few
JPEGs that are made here are decoded; two small tasks are learnt through ``DSN``, with transfer, evaluated and
fingerprinted. The table multiplies: nothing of that size was run. Seconds are of wall clock, on ``--device``,
with ``--threads`` threads, in one process. A task's beginning and end are those of so few samples; they look
at no more than ``compute.cache_bytes`` of them. What grows with the square of tasks (docs/scale.md, "Many
tasks") is little at a hundred.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import tensors_benchmark
from PIL import Image
from torchvision.models import resnet18

from benchmarks.images.decoding import decode_images
from dsn import DSN, Compute, Selection, mask_neurons
from dsn.baselines import masked_model_memory
from dsn.masking.state.carried import CarriedFingerprints
from dsn.storage import pack

TRAIN, TEST, TASKS = 1_281_167, 50_000, 100
PHOTO = (400, 500)  # pixels, about as large as those of ImageNet are


def main() -> None:
    """Measure, multiply, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64, help="of a task that is learnt here")
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()

    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    decoding = decoding_seconds(given.images, given.side)
    model = mask_neurons(resnet18(), head="fc", example_input=torch.zeros(1, 3, given.side, given.side))
    strategy = Timed(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        train_mb_size=given.batch,
        eval_mb_size=given.batch,
        selection=Selection(planned_tasks=TASKS),
        compute=Compute(channels_last=True),
        device=given.device,
        evaluator=None,
    )
    stream = made_stream(given.images, given.side)
    prints = CarriedFingerprints(model)
    for task, experience in enumerate(stream.train_stream):
        learning = seconds(lambda: strategy.train(experience, eval_streams=[stream.test_stream[task]]))  # noqa: B023
        evaluating = seconds(lambda: strategy.eval(stream.test_stream[task]))  # noqa: B023
        hashing = seconds(lambda: prints.of(*model.committed))
    epoch, ending = strategy.epoch_seconds, learning - strategy.epoch_seconds
    kept: list[bytes] = []
    writing = seconds(lambda: kept.append(pack(strategy.take_state(), format="measured", version=1)))
    memory = masked_model_memory(model)
    own, dense = memory.bytes_per_task[-1], memory.backbone_bytes or 0
    image = 3 * given.side**2
    print(f"{given.device}, {given.threads} threads, {given.side} x {given.side}, batches of {given.batch}")
    print("| what | one | all |\n|---|---:|---:|")
    per = given.images
    rows = [
        ("images decoded on the disk", f"{image / 1e3:.0f} kB", f"{image * (TRAIN + TEST) / 1e9:.0f} GB"),
        ("decoding them, once", *times(decoding, TRAIN + TEST)),
        ("an epoch of training", *times(epoch / per, TRAIN)),
        ("evaluating each task once", *times(evaluating / per, TEST)),
        (f"a task's beginning and end, {per} samples", *times(ending, TASKS)),
        ("fingerprints after a task", *times(hashing, TASKS)),
        ("weights of the backbone's layers", "", f"{dense / 1e6:.1f} MB"),
        ("what a task keeps for itself", f"{own / 1e3:.0f} kB", f"{own * TASKS / 1e6:.1f} MB"),
        ("a checkpoint of two tasks", f"{len(kept[0]) / 1e6:.0f} MB in {writing:.2f} s", ""),
    ]
    for row in rows:
        print("| " + " | ".join(row) + " |")


class Timed(DSN):
    """DSN that knows how long the last epoch took."""

    epoch_seconds = 0.0

    def training_epoch(self, **kwargs: object) -> None:
        """Avalanche's, timed."""
        self.epoch_seconds = seconds(lambda: super(Timed, self).training_epoch(**kwargs))


def seconds(call: Callable[[], object]) -> float:
    """Wall clock."""
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def times(one: float, count: int) -> tuple[str, str]:
    """Of one and of all."""
    return f"{one:.1f} s" if one >= 1 else f"{1e3 * one:.1f} ms", f"{one * count / 3600:.2f} h"


def decoding_seconds(count: int, side: int) -> float:
    """Of one JPEG: blurred noise, which takes about as many bytes as a photograph does."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(count)]
        for path in paths:
            noise = random.integers(0, 256, (PHOTO[0] // 4, PHOTO[1] // 4, 3), np.uint8)
            Image.fromarray(noise).resize(PHOTO[::-1], Image.Resampling.BICUBIC).save(path, quality=90)
        return seconds(lambda: decode_images(paths, size=side, channels=3, cache=None)) / count


def made_stream(count: int, side: int) -> Any:
    """Two tasks of ten classes: noise."""

    def task(label: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(count, 3, side, side), torch.arange(count) % 10

    return tensors_benchmark(
        train_tensors=[task(0), task(1)],
        test_tensors=[task(0), task(1)],
        task_labels=[0, 1],
        complete_test_set_only=False,
    )


if __name__ == "__main__":
    main()
