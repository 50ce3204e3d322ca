"""The processes that compute one run together: what one tells the others, over torch's process group.

Every method is called by all of them, at the same place; where there is one process alone it does nothing.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import InputError
from .storage import Tree, add_tensor, pack, read_tree

PATIENCE = timedelta(minutes=30)
"""how long one waits for another that is alive but does not answer"""
FORMAT, VERSION = "dsn-ranks", 1


class RankLost(RuntimeError):
    """Another process of the run is dead, or does not answer."""


class Ranks:
    """This process's ``number`` among ``count``, 0 of 1 where torch has no process group.

    Raises, in every method: RankLost.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized()
        self.number = dist.get_rank() if several else 0
        self.count = dist.get_world_size() if several else 1

    def send(self, tensor: Tensor, to: int) -> None:
        """Give ``tensor`` to the process ``to``, which calls :meth:`receive`."""
        with self._reaching():
            dist.send(tensor.contiguous(), to)

    def receive(self, tensor: Tensor, source: int) -> Tensor:
        """``tensor`` filled with what ``source`` sends, which has its shape and type."""
        with self._reaching():
            dist.recv(tensor, source)
        return tensor

    def of_first(self, tensor: Tensor) -> Tensor:
        """``tensor`` filled with the first process's, which has its shape and type."""
        if self.count > 1:
            with self._reaching():
                dist.broadcast(tensor, 0)
        return tensor

    def number_of_first(self, number: float) -> float:
        """The first process's ``number``."""
        return float(self.of_first(torch.tensor(number, dtype=torch.float64))) if self.count > 1 else number

    def tree_of_first(self, tree: Tree) -> Tree:
        """The first process's ``tree`` of ``dsn.storage``; the others' does not matter."""
        if self.count == 1:
            return tree
        content = pack(tree, format=FORMAT, version=VERSION) if self.number == 0 else b""
        size = int(self.of_first(torch.tensor(len(content))))
        sent = torch.empty(size, dtype=torch.uint8)
        if self.number == 0:
            sent.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self.of_first(sent)
        if self.number == 0:
            return tree
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tree"
            path.write_bytes(sent.numpy().tobytes())
            return read_tree(path, format=FORMAT, version=VERSION)

    def most(self, number: int) -> int:
        """The largest ``number`` of all."""
        if self.count == 1:
            return number
        found = torch.tensor(number)
        with self._reaching():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def share_of(self, shards: int) -> int:
        """How many of a batch's ``shards`` parts each process has. Raises InputError where that is uneven."""
        if shards % self.count:
            raise InputError(
                f"train.shards is {shards}, and {self.count} processes cannot share so many parts evenly: "
                f"set it to a multiple of {self.count}, or start fewer processes"
            )
        return shards // self.count

    def meet(self) -> None:
        """Wait until all are here."""
        self.most(0)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first process does the block alone, then all others."""
        if self.number:
            self.meet()
        yield
        if not self.number:
            self.meet()

    def refuse_different(self, what: str, tensors: Mapping[str, Tensor], text: str = "") -> None:
        """Raise InputError, in all processes, where ``what`` is not the same in all, bit for bit."""
        if self.count == 1:
            return
        digest = hashlib.sha256(text.encode())
        for name in sorted(tensors):
            digest.update(f"\n{name} ".encode())
            add_tensor(digest, tensors[name])
        own = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
        differs = not torch.equal(self.of_first(own.clone()), own)
        if (rank := self.most(self.number if differs else 0)) > 0:
            raise InputError(
                f"{what}: rank {rank} has computed other bits than rank 0: on different processors or GPUs, "
                "or with other versions or numbers of threads, ranks do not stay the same; start them on "
                "equal machines"
            )

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RankLost(
                f"rank {self.number} of {self.count} cannot reach another process of this run, it is dead or "
                f"does not answer ({said})"
            ) from error
