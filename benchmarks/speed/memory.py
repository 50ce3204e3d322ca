"""How much memory a run takes of images that do not fit into it: `python -m benchmarks.speed.memory`.

For each size a folder of images is made that decode to so many megabytes, two tasks of half of them; a
process of its own decodes it, learns both tasks with DSN and evaluates. What it takes for itself (RssAnon:
pages of no file, since those of a mapped file the system drops at will) is looked at all the while. Images of
more than ``--allowed`` megabytes are mapped, and a task of more is read item by item, so that the peak does
not grow with the folder. Linux only.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SIDE, CLASSES = 64, 4
IMAGE = 3 * SIDE * SIDE  # bytes


def main() -> None:
    """Measure each size in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", default="20,50,500", help="sizes of the folder; default: %(default)s")
    parser.add_argument("--allowed", type=float, default=50, help="megabytes; default: %(default)s")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        measure(options.child, options.allowed * 1e6)
        return
    for megabytes in map(float, options.megabytes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            make_images(Path(folder) / "images", int(megabytes * 1e6 / IMAGE / CLASSES))
            print(f"{megabytes:g} MB of images, {options.allowed:g} MB allowed:", flush=True)
            arguments = ["--child", folder, "--allowed", str(options.allowed)]
            subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.speed.memory", *arguments], check=True
            )


def make_images(root: Path, of_class: int) -> None:
    """Noise around a grey level of its own for each class; four test images a class."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for part, count in (("train", of_class), ("test", 4)):
        for label in range(CLASSES):
            folder = root / part / str(label)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(40 * label, 40 * label + 90, (SIDE, SIDE, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:06}.bmp")


def measure(folder: Path, allowed: float) -> None:
    """Decode, learn two tasks, evaluate; print what was taken beyond what imports take."""
    import torch
    from avalanche.training.plugins import EvaluationPlugin

    import dsn
    from benchmarks import image_folder
    from benchmarks.images import decoding

    decoding._MAPPED = int(allowed)
    decoding._AT_ONCE = int(allowed / 10)
    example = torch.zeros(1, 3, SIDE, SIDE)
    model = dsn.mask_neurons(dsn.backbones.small_cnn(3, SIDE, width=8), example_input=example)
    strategy = dsn.DSN(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        evaluator=EvaluationPlugin(loggers=[]),
        compute=dsn.Compute(cache_bytes=int(allowed)),
    )
    before, began = own_memory(), time.perf_counter()
    with Peak() as peak:
        config = image_folder.ImageFolderConfig(
            root=folder / "images", cache=folder / "cache", tasks=2, image_size=SIDE, validation=0.01
        )
        stream = image_folder.build(config, 0)
        decoded = peak.most - before
        for task, experience in enumerate(stream.train_stream):
            strategy.train(experience, eval_streams=[stream.valid_stream[task]])
        strategy.eval(stream.test_stream)
    print(
        f"  decoding took {decoded / 1e6:.0f} MB, all {(peak.most - before) / 1e6:.0f} MB, "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )


def own_memory() -> float:
    """Bytes of this process in memory that belong to no file."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    if found is None:
        raise SystemExit("this system does not tell RssAnon")
    return 1024.0 * int(found[1])


class Peak:
    """The most that :func:`own_memory` has been inside the block, looked at a hundred times a second."""

    def __enter__(self) -> Peak:
        self.most, self._ended = own_memory(), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            self.most = max(self.most, own_memory())


if __name__ == "__main__":
    main()
