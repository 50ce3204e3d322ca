"""The parts of a lab, one a seed: in this process one after the other, or as jobs of an engine."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from dsn.errors import InputError

from ..base.console import say
from ..config.experiment import Config
from ..engine.attempt import called
from ..engine.choice import open_engine
from ..engine.job import Job, Outcome
from ..engine.options import Choice
from ..engine.pool import Pool
from ..engine.progress import JobProgress
from ..result.key import code_version
from ..result.result import write_whole


@dataclass(frozen=True)
class SeedJob(Job):
    """What a lab measures with one seed; ``arguments``: beside the config, as JSON has them.

    ``call`` is given the part, its config and the console to print to.
    """

    arguments: dict[str, Any] = field(hash=False)

    @property
    def key(self) -> str:
        """What its value depends on."""
        parts = (code_version(), self.call, self.config, json.dumps(self.arguments, sort_keys=True))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def parts_of(
    call: str, config: Config, seeds: Sequence[int], target: Path, **arguments: Any
) -> list[SeedJob]:
    """A part for each seed."""
    folder = jobs_folder(target)
    return [
        SeedJob(
            name=f"seed {seed}",
            config=config.model_copy(update={"seed": seed}).model_dump_json(),
            log=folder / f"seed{seed}.log",
            call=call,
            arguments=arguments,
        )
        for seed in seeds
    ]


def jobs_folder(target: Path) -> Path:
    """Beside what a lab writes: the logs of its jobs, and values of those that have ended."""
    return Path(f"{target.absolute()}.jobs")


def measured(parts: list[SeedJob], engine: Choice | None, target: Path, console: Console) -> list[Any]:
    """The value of each part.

    Through an engine, a value is kept until the lab is done, so that the same command goes on from there.

    Raises InputError where a part fails; the others are made first.
    """
    if engine is None or engine.is_plain:
        return [called(part.call)(part, Config.model_validate_json(part.config), console) for part in parts]
    folder = jobs_folder(target)
    folder.mkdir(parents=True, exist_ok=True)
    values = {part: _kept(part) for part in parts}
    missing = [part for part in parts if values[part] is None]
    failed: list[str] = []
    with (
        Pool(open_engine(engine, folder)) as pool,
        JobProgress(console, "parts", len(parts), len(parts) - len(missing)) as progress,
    ):

        def ended(part: Job, outcome: Outcome) -> list[Job]:
            assert isinstance(part, SeedJob)
            if outcome.error is None:
                values[part] = outcome.value
                write_whole(_file(part), json.dumps(outcome.value) + "\n")
            else:
                failed.append(f"{part.name}: {outcome.error} (see {part.log})")
            progress.end(f"{part.name}: {outcome.error or 'done'}  {outcome.seconds:.1f} s")
            return []

        pool.do(missing, ended, progress.tick)
    if failed:
        raise InputError("\n".join([*failed, f"what is done stays in {folder}, the same command goes on"]))
    for part in parts:
        _file(part).unlink(missing_ok=True)
    say(console, f"logs are in {folder}")
    return [values[part] for part in parts]


def _kept(part: SeedJob) -> Any:
    try:
        return json.loads(_file(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _file(part: SeedJob) -> Path:
    return part.log.with_name(f"{part.key}.value.json")
