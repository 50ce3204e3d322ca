"""What masking a network costs, once in its life: `python -m benchmarks.speed.wrap`.

``mask_neurons`` on torchvision's networks for square images, the rehearsal on a copy included: CPU seconds of
one thread, and seconds on the wall with a thread a core.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
import torchvision

from dsn import mask_neurons


def main() -> None:
    """Wrap, time, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["resnet50", "vit_b_16"])
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    given = parser.parse_args()

    before, threads = torch.get_num_threads(), os.cpu_count() or 1
    try:
        for name in given.networks:
            torch.set_num_threads(1)
            processor, _ = seconds(name, given.side)
            torch.set_num_threads(threads)
            _, wall = seconds(name, given.side)
            print(f"{name}: {processor:.1f} CPU s; {wall:.1f} s of the wall, {threads} threads", flush=True)
    finally:
        torch.set_num_threads(before)


def seconds(name: str, side: int) -> tuple[float, float]:
    """CPU time, and time on the wall, to wrap torchvision's network ``name``."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name)
    x = torch.zeros(1, 3, side, side)
    processor, wall = time.process_time(), time.perf_counter()
    mask_neurons(network, example_input=x)
    return time.process_time() - processor, time.perf_counter() - wall


if __name__ == "__main__":
    main()
