"""Measures of trained networks, a file each, so that a lab can go on where it stopped."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..result.result import write_whole
from .topology_result import PrunedRun


class RunStore:
    """The files of one seed's settings ``what`` in ``folder``; without a folder it keeps nothing."""

    def __init__(self, folder: Path | None, what: dict[str, Any]) -> None:
        self.folder = folder
        self.key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]

    def get(self, seed: int, pruner: str, density: float) -> PrunedRun | None:
        """What is known of that network; None where there is no file, or one that holds something else."""
        file = self._file(seed, pruner, density)
        if file is None or not file.is_file():
            return None
        try:
            return PrunedRun.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError:
            return None

    def put(self, run: PrunedRun) -> None:
        """Keep ``run``; another process may do the same."""
        if (file := self._file(run.seed, run.pruner, run.density)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, run.model_dump_json(indent=2) + "\n")

    def _file(self, seed: int, pruner: str, density: float) -> Path | None:
        name = f"{self.key}-{seed}-{pruner}-{density:g}.json"
        return None if self.folder is None else self.folder / name
