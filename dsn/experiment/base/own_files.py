"""What the program wrote into a folder, told by its names: nothing else is ever removed.

A file is known by its name and place; a temporary file of ``dsn.storage.write_bytes`` by that of the file it
was to become. Links are never followed, and never removed.
"""

import os
import re
from collections.abc import Collection
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

MODEL = "model.safetensors"
RUN = ("config.yaml", "matrix.csv", "result.json", "accuracy_matrix.png", "neurons.png", MODEL)
LABS = (
    *(f"lab.{ending}" for ending in ("json", "csv", "md", "png")),
    *(f"{kind}.{ending}" for kind in ("ablation", "settings", "topology") for ending in ("json", "md")),
    "topology.png",
    "quality.csv",
    "task[0-9][0-9][0-9]*.png",
    "tmp????????.png",  # one of those, half written
)
REPORT = ("comparison.csv", "comparison.tex", "report.md", "report.html")
LOGS = "tensorboard/*events.out.tfevents.*"
FIGURES = tuple(f"figures/*.{ending}" for ending in ("svg", "pdf", "png"))
SUBNETWORK = "subnetwork"
WRITTEN = (*RUN, *LABS, *REPORT, *FIGURES, LOGS, SUBNETWORK, f"{SUBNETWORK}.data", "probe")
"""Names in what a command makes, as patterns of fnmatch; / parts folders."""

_TEMPORARY = re.compile(r"\.(.+)\.partial-[0-9]+")


def remove_written(folder: Path, names: Collection[str] = WRITTEN) -> None:
    """Remove from ``folder`` what has one of ``names``, then it and the folders for them where empty.

    What cannot be removed stays; nothing is raised.
    """
    for path in _inside(folder):
        if _is_one_of(path.relative_to(folder), names) and (path.is_symlink() or not path.is_dir()):
            with suppress(OSError):
                path.unlink()
    for place in sorted({_place(name) for name in names}, reverse=True):
        remove_if_empty(folder / place)


def others_in(folder: Path, names: Collection[str] = WRITTEN) -> list[str]:
    """Paths within ``folder`` that have none of ``names``, sorted."""
    places = {_place(name) for name in names}
    found = (path.relative_to(folder).as_posix() for path in _inside(folder))
    return sorted(path for path in found if not _is_one_of(Path(path), names) and path not in places)


def is_temporary(path: Path, name: str) -> bool:
    """Whether ``path`` is a temporary file of one that has ``name``, a pattern."""
    found = _TEMPORARY.fullmatch(path.name)
    return found is not None and fnmatchcase(found[1], name)


def remove_if_empty(folder: Path) -> None:
    """Remove ``folder`` if it is there and holds nothing."""
    with suppress(OSError):  # another run writes there by now
        folder.rmdir()


def _is_one_of(path: Path, names: Collection[str]) -> bool:
    temporary = _TEMPORARY.fullmatch(path.name)
    path = path if temporary is None else path.with_name(temporary[1])
    return any(
        fnmatchcase(path.as_posix(), name) and _place(name) == _place(path.as_posix()) for name in names
    )


def _place(name: str) -> str:
    """The folder that ``name`` lies in; empty at the top."""
    return name.rpartition("/")[0]


def _inside(folder: Path) -> list[Path]:
    """Everything below ``folder``, links as they are."""
    return [Path(here) / name for here, folders, files in os.walk(folder) for name in (*folders, *files)]
