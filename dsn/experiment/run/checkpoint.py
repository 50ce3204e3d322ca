"""When a run keeps its state, in which files, and which of them it goes on from. docs/checkpoint.md.

``latest.safetensors`` is the last checkpoint, ``previous.safetensors`` the one before. A new one is complete
on the disk before either is touched, so that a good one is there at every moment.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from dsn.errors import InputError
from dsn.ranks import Ranks
from dsn.storage import Damaged, Tree, first_difference, pack, read_tree, sync_folder, write_bytes

from ..base.console import say
from ..base.interrupts import Interrupts
from ..config.experiment import WITHOUT_INFLUENCE, Config
from ..result.key import code_version

FORMAT, VERSION = "dsn-run", 2
LATEST, PREVIOUS, NEXT = "latest.safetensors", "previous.safetensors", "next.safetensors"


def has_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` has a checkpoint, good or damaged."""
    return any((folder / name).is_file() for name in (LATEST, PREVIOUS))


def owner_of(config: Config) -> dict[str, Any]:
    """What has to be the same to go on: the config but for how it is made, and the code."""
    values = config.model_dump(mode="json")
    for block in WITHOUT_INFLUENCE:
        del values[block]
    return {"config": values, "code": code_version()}


def read_newest(folder: Path) -> tuple[Tree, str | None]:
    """The newest good checkpoint in ``folder``, and what is wrong with a newer one.

    Raises:
        InputError: all are damaged, or of another format or version.
    """
    wrong: list[str] = []
    for name in (LATEST, PREVIOUS):
        try:
            tree = read_tree(folder / name, format=FORMAT, version=VERSION)
            if not _is_whole(tree):
                raise Damaged(f"{folder / name}: damaged (it has not the fields of a checkpoint)")
            return tree, wrong[0] if wrong else None
        except Damaged as error:
            if (folder / name).exists():
                wrong.append(str(error))
    raise InputError("\n".join(f"{line}; remove {folder} to start afresh" for line in wrong))


def _is_whole(tree: Tree) -> bool:
    """Whether a tree has what every checkpoint has."""
    if not isinstance(tree, dict) or not all(isinstance(tree.get(part), dict) for part in ("owner", "state")):
        return False
    return all(name in tree["owner"] for name in ("config", "code", "device"))


def read_owner(folder: Path) -> dict[str, Any]:
    """:func:`owner_of` the config that the newest good checkpoint was made with. Raises as it does."""
    tree, _ = read_newest(folder)
    return {name: tree["owner"][name] for name in ("config", "code")}


def is_of(folder: Path, config: Config) -> bool:
    """Whether ``folder`` has a checkpoint that was made with ``config``, of whatever code."""
    try:
        return has_checkpoint(folder) and read_owner(folder)["config"] == owner_of(config)["config"]
    except InputError:
        return False


class Checkpoints:
    """The checkpoints of one run in ``folder``, which is there and nobody else's."""

    def __init__(
        self, folder: Path, config: Config, device: str, interrupts: Interrupts, console: Console
    ) -> None:
        self.folder, self.every = folder, config.checkpoint
        self._owner = owner_of(config) | {"device": device}
        self._interrupts, self._console = interrupts, console
        self._ranks = Ranks()
        self._waiting: Callable[[], Tree] | None = None
        self._latest_is_bad = False
        self.came_by = False
        """whether the run has come to a rest since it began or went on"""
        self._began_again()

    def rest(self, before: str, make: Callable[[], Tree]) -> None:
        """The run can be kept here: ``make`` gives its state. Written if due, or if a signal came.

        Args:
            before: what follows. An "iteration" is short: signals wait for its end, as they do while a task
                is in "training". Everything else takes long, and signals end it at once: then :meth:`flush`
                writes this state. The "end" of a task changes it, so it is taken beforehand; during an
                "evaluation" and the writing of the "result" it stays as it is.

        Where several processes make the run, a signal that came to one of them stops all, at the same rest.

        Raises:
            Stopped: a signal came.
        """
        self._waiting = None
        self.came_by = True
        self._iterations += before == "iteration"
        stopping = self._ranks.most(self._interrupts.requested or 0)
        if stopping or self._due():
            self._write(make())
        elif before == "end":
            taken = make()
            self._waiting = lambda: taken
        elif before in ("evaluation", "result"):
            self._waiting = make
        if stopping:
            self._ranks.meet()  # the first has written its state
            self._interrupts.requested = stopping
        if stopping or self._ranks.count == 1:  # otherwise the others are asked first, at the next rest
            self._interrupts.stop_if_requested()
        self._interrupts.deferred = before in ("iteration", "training")

    def flush(self) -> None:
        """Write the state as it was at the last rest, where that is at hand and not on the disk."""
        if self._waiting is not None:
            self._write(self._waiting())

    @property
    def there(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return has_checkpoint(self.folder)

    def load(self) -> Tree:
        """The state to go on from; None where nothing was kept yet.

        Raises:
            InputError: all are damaged, or of another config, device or format.
        """
        if not self.there:
            return None
        tree, wrong = read_newest(self.folder)
        self._refuse_other_owner(tree["owner"])
        if wrong is not None:
            self._latest_is_bad = True
            say(self._console, f"{wrong}; going on from {PREVIOUS}")
        return tree["state"]

    def _refuse_other_owner(self, owner: dict[str, Any]) -> None:
        if (found := first_difference(owner["config"], self._owner["config"])) is not None:
            raise InputError(
                f"{self.folder}: another run was interrupted there: {found}; set it as it was, choose "
                "another --out, or remove the folder"
            )
        if (before := owner["device"]) != (now := self._owner["device"]):  # as device: auto may find them
            say(
                self._console,
                f"the checkpoint was made on {before}, the run goes on on {now}: last digits of the result "
                "may differ from those of a run that was never interrupted",
            )
        if owner["code"] != self._owner["code"]:
            say(
                self._console,
                "the code has changed since the checkpoint: the result may differ from that of a run that "
                "was never interrupted",
            )

    def _due(self) -> bool:
        minutes, iterations = self.every.minutes, self.every.iterations
        if iterations is not None and self._iterations >= iterations:
            return True
        return minutes is not None and time.monotonic() - self._written >= 60 * minutes

    def _write(self, state: Tree) -> None:
        """Write ``state``. A disk that refuses does not end the run: the last good one stays."""
        self._waiting = None
        self._began_again()
        try:
            content = pack({"owner": self._owner, "state": state}, format=FORMAT, version=VERSION)
            write_bytes(self.folder / NEXT, content)
            if (self.folder / LATEST).is_file() and not self._latest_is_bad:
                os.replace(self.folder / LATEST, self.folder / PREVIOUS)
            os.replace(self.folder / NEXT, self.folder / LATEST)
            sync_folder(self.folder)
            self._latest_is_bad = False
        except OSError as error:
            kept = "the last one stays" if self.there else "there is none yet"
            say(
                self._console,
                f"warning: {self.folder}: no checkpoint could be written ({error.strerror or error}); "
                f"{kept}, the run goes on",
            )

    def _began_again(self) -> None:
        self._written, self._iterations = time.monotonic(), 0


class NoCheckpoints(Checkpoints):
    """Of a process beside the first of several: it rests where that one does, and writes nothing."""

    def __init__(self, config: Config, interrupts: Interrupts, console: Console) -> None:
        super().__init__(Path(), config, "", interrupts, console)

    def load(self) -> Tree:
        return None

    def _due(self) -> bool:
        return False

    def _write(self, state: Tree) -> None:
        self._waiting = None
