"""One run by several processes, as ``torchrun`` starts them; docs/scale.md.

All compute the same run, each of them some parts of every batch. The first alone has the folder, reads and
writes files, and says what is to be said; a signal to one of them stops all.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib import import_module
from signal import SIGINT
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from dsn.errors import InputError, Stopped
from dsn.ranks import PATIENCE, RankLost, Ranks

from .quiet import importing_avalanche

ENDED = "ended/"
"""before a rank's number: the key under which it says why it ends"""
FIRST_SPEAKS = timedelta(seconds=10)
"""how long others wait until the first has said what all have found: torchrun ends all when one ends"""


def started_together() -> bool:
    """Whether torchrun has started this process, and others beside it."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined() -> Iterator[Ranks]:
    """Within ``with``, the processes that torchrun has started are one run's; one alone is as ever.

    Of what ends it, the first process says what is to be said; where that is gone, each says so itself.

    Raises:
        InputError: as the block does; another process is dead or does not answer.
        SystemExit: in the place of an error or a signal that the first process tells of.
    """
    if not started_together():
        yield Ranks()
        return
    with importing_avalanche():
        import_module("dsn.training")  # Avalanche refuses to be imported once there are several processes
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, number, count = next(rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    ranks = Ranks()
    try:
        with warnings.catch_warnings():
            if ranks.number:
                warnings.simplefilter("ignore")
            yield ranks
    except RankLost as error:
        if ranks.number and _said(store, 0) is not None:
            raise SystemExit(2) from error
        raise InputError(f"{_why(store, ranks, error)}; when that is mended, --resume goes on") from error
    except (InputError, KeyboardInterrupt) as error:
        with suppress(RuntimeError):  # where the store is gone, so are the others
            store.set(f"{ENDED}{ranks.number}", str(error))
        if not ranks.number:
            raise
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(128 + (error.signal if isinstance(error, Stopped) else SIGINT)) from error
        _let_the_first_speak(store)
        raise SystemExit(2) from error
    dist.destroy_process_group()


def _said(store: Any, rank: int) -> str | None:
    """Why ``rank`` has said that it ends, if it has."""
    with suppress(RuntimeError):
        if store.check([f"{ENDED}{rank}"]):
            return str(store.get(f"{ENDED}{rank}").decode())
    return None


def _why(store: Any, ranks: Ranks, error: RankLost) -> str:
    """What another process has said that it ends for, or that one is gone."""
    for rank in range(ranks.count):
        if rank != ranks.number and (said := _said(store, rank)) is not None:
            return f"rank {rank}: {said}"
    return str(error)


def _let_the_first_speak(store: Any) -> None:
    with suppress(RuntimeError):
        store.wait([f"{ENDED}0"], FIRST_SPEAKS)
    time.sleep(1.0)
