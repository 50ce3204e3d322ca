"""Ways to put protected weights back: `python -m benchmarks.speed.protection`.

A weight of ``--size`` x ``--size``, several shares of it protected; the block has the same share of rows and
columns, drawn at random. ``dsn`` sweeps: W <- kept where protected, with the whole weight and a byte an entry
beside it. The others write the block by two indices, its entries by one, or copy the whole weight back and
write the free entries by index. Medians of CPU time, in turn. The last line is the sweep's time over that of
the fastest, at its worst.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.speed.timing import in_turn

SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)


def main() -> None:
    """Time, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    weight = torch.randn(arguments.size, arguments.size)
    worst = 1.0
    for share in SHARES:
        rows, columns = (torch.rand(arguments.size) < share**0.5 for _ in range(2))
        ways = {name: way(weight, rows, columns) for name, way in WAYS.items()}
        times = dict(zip(ways, in_turn(list(ways.values()), arguments.rounds), strict=True))
        worst = max(worst, times["sweep"] / min(times.values()))
        print(f"{share:.0%} protected: " + ", ".join(f"{name} {1e3 * t:.2f} ms" for name, t in times.items()))
    print(f"ratio: {worst:.2f}")


def sweep(weight: Tensor, rows: Tensor, columns: Tensor) -> Callable[[], object]:
    """One pass over the weight."""
    kept, protected = weight.clone(), rows[:, None] & columns
    return lambda: torch.where(protected, kept, weight, out=weight)


def block(weight: Tensor, rows: Tensor, columns: Tensor) -> Callable[[], object]:
    """W[rows][:, columns] by two indices."""
    index = rows.nonzero(), columns.nonzero().flatten()
    kept = weight[index]
    return lambda: weight.__setitem__(index, kept)


def entries(weight: Tensor, rows: Tensor, columns: Tensor) -> Callable[[], object]:
    """The protected entries of the flat weight by one index."""
    flat, index = weight.view(-1), (rows[:, None] & columns).view(-1).nonzero().flatten()
    kept = flat[index]
    return lambda: flat.index_copy_(0, index, kept)


def around(weight: Tensor, rows: Tensor, columns: Tensor) -> Callable[[], object]:
    """The whole weight copied back, the free entries by index."""
    flat, kept = weight.view(-1), weight.view(-1).clone()
    free = (~(rows[:, None] & columns)).view(-1).nonzero().flatten()

    def restore() -> None:
        learnt = flat.index_select(0, free)
        flat.copy_(kept)
        flat.index_copy_(0, free, learnt)

    return restore


WAYS = {"sweep": sweep, "block": block, "entries": entries, "around": around}


if __name__ == "__main__":
    main()
