"""Inference of a task's subnetwork beside the full masked network: `python -m benchmarks.speed.subnetwork`.

Each network has one task with random masks of half the neurons of every layer, drawn layer by layer, so
that what meets in a residual sum agrees by chance alone. Full and cut network compute the same batch in
turn, in one process and on one thread; medians of CPU time. The full network is timed in both of torch's
memory formats, and the faster one counts. The last line is the smallest speed-up.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dsn import MaskedModel, backbones, mask_neurons
from dsn.experiment.result.costs import flops, interleaved

NETS: dict[str, Callable[[], nn.Module]] = {"small_cnn": backbones.small_cnn, "resnet18": backbones.resnet18}
CLASSES, SIZE = 10, 32


def main() -> None:
    """Cut, compare, time, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=list(NETS), action="append", help="default: all; may be repeated")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--share", type=float, default=0.5, help="of the neurons of a layer")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    speedups = []
    for name in arguments.net or NETS:
        torch.manual_seed(0)
        model = mask_neurons(NETS[name](), example_input=torch.zeros(1, 3, SIZE, SIZE))
        take_share(model, arguments.share)
        began = time.perf_counter()
        cut = model.subnetwork(0)
        seconds = time.perf_counter() - began
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        x = torch.randn(arguments.batch, 3, SIZE, SIZE)
        with torch.no_grad():
            error = distance(cut(x), model(x, 0))
        calls = [partial(model, x, 0), partial(last, x, 0), partial(cut, x)]
        contiguous, channels_last, cut_time = interleaved(calls, arguments.rounds, time.process_time)
        flops_ratio = flops(calls[0]) / flops(calls[2])
        speedups.append(min(contiguous, channels_last) / cut_time)
        print(f"{name}: cut out in {seconds:.2f} s, largest difference {error:.1e} of the largest logit")
        print(
            f"{name}: {1e3 * contiguous:.1f} ms ({1e3 * channels_last:.1f} ms channels last) -> "
            f"{1e3 * cut_time:.1f} ms a batch of {arguments.batch}, "
            f"speed-up {speedups[-1]:.2f}, FLOPs ratio {flops_ratio:.2f}, "
            f"FLOPs ratio over speed-up {flops_ratio / speedups[-1]:.2f}"
        )
    print(f"ratio: {min(speedups):.2f}")


def take_share(model: MaskedModel, share: float) -> None:
    """Commit a task that uses a random ``share`` of every layer; its batch norms have statistics of noise."""
    model.add_task(CLASSES, 0, budget=share, logit_mean=3.0)
    model.commit(0)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, *model.input_shape[1:]), 0)
    model.eval()


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest logit. Raises RuntimeError where a class would differ."""
    if not torch.equal(found.argmax(1), expected.argmax(1)):
        raise RuntimeError("the subnetwork predicts other classes than the full network")
    return float((found - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    main()
