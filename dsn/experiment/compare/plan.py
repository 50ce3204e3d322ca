"""What a comparison is to run, read and checked before anything is written."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsn.errors import InputError

from ..config.experiment import Config, load
from ..config.problems import nearest
from ..config.seeds import parse_seeds

DEFAULT_REFERENCE = "dsn"
INDEPENDENT = "independent"
WITHOUT_ORDER = (INDEPENDENT, "joint")  # these have no forward transfer to measure
TUNE_TASKS = 2
TAKEN = ("", "comparison.json", "comparison.csv", "comparison.tex", "report.html", "report.md", "figures")
"""names in the folder of a comparison"""
LONGEST_NAME = 200


@dataclass(frozen=True)
class PlannedStream:
    """One config file: ``configs`` by strategy, each with the first seed."""

    name: str
    path: Path
    configs: dict[str, Config]

    @property
    def tasks(self) -> int:
        """Tasks of the stream."""
        return next(iter(self.configs.values())).stream.tasks


@dataclass(frozen=True)
class Plan:
    """A comparison. ``tune``: trials a strategy, None for none; ``command``: as it can be typed again.

    tune_seeds: every trial is made with each of them
    tune_only: no run is made with what was chosen
    """

    streams: list[PlannedStream]
    strategies: list[str]
    seeds: list[int]
    reference: str
    overrides: list[str]
    tune: int | None = None
    tune_tasks: int = TUNE_TASKS
    tune_seeds: Sequence[int] = ()
    tune_only: bool = False
    command: str = ""

    def runs(self) -> Iterator[tuple[PlannedStream, Config]]:
        """Every run: a stream after the other, all strategies of a seed together."""
        for stream in self.streams:
            for seed in self.seeds:
                for config in stream.configs.values():
                    yield stream, config.model_copy(update={"seed": seed})

    def with_configs(self, name: str, configs: dict[str, Config]) -> "Plan":
        """The plan with other configs for the stream ``name``."""
        streams = [replace(s, configs=configs) if s.name == name else s for s in self.streams]
        return replace(self, streams=streams)


def make_plan(
    paths: list[Path],
    strategies: str,
    seeds: str,
    overrides: list[str],
    *,
    reference: str | None = None,
    tune: int | None = None,
    tune_tasks: int = TUNE_TASKS,
    tune_seeds: str | None = None,
    tune_only: bool = False,
    command: str = "",
) -> Plan:
    """The plan of a command line. Raises InputError, a line for each thing that is wrong."""
    numbers = parse_seeds(seeds)
    trials = numbers[:1] if tune_seeds is None else parse_seeds(tune_seeds, "--tune-seeds")
    names = parse_strategies(strategies)
    chosen = reference or (DEFAULT_REFERENCE if DEFAULT_REFERENCE in names else names[0])
    if chosen not in names:
        raise InputError(f"--reference {chosen}: is not among --strategies{nearest(chosen, names)}")
    stems = [path.stem for path in paths]
    for path in paths:
        _refuse_folder(path)
    for stem in stems:
        if stems.count(stem) > 1:
            raise InputError(f"{stem}: two configs of that name; their runs would share one folder")
    streams, wrong = [], []
    for path in paths:
        configs = {}
        for name in names:
            try:
                configs[name] = _load(path, overrides, name, names, numbers[0])
            except InputError as error:
                wrong += [line for line in str(error).splitlines() if line not in wrong]
        streams.append(PlannedStream(path.stem, path, configs))
    if wrong:
        raise InputError("\n".join(wrong))
    plan = Plan(streams, names, numbers, chosen, overrides, tune, tune_tasks, trials, tune_only, command)
    _refuse_impossible_tuning(plan)
    return plan


def parse_strategies(text: str) -> list[str]:
    """The strategies in ``dsn,ewc``; whether each is known is for the config to say."""
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise InputError(f"--strategies {text}: must be names with commas between, e.g. dsn,ewc,independent")
    if len(set(names)) < len(names):
        raise InputError(f"--strategies {text}: a strategy stands twice")
    return names


def _refuse_folder(path: Path) -> None:
    """Raise InputError where the config's name cannot be that of a folder inside the comparison's."""
    stem = path.stem
    if stem in TAKEN or stem.startswith(".") or len(os.fsencode(stem)) > LONGEST_NAME:
        raise InputError(
            f"{path}: its runs go into a folder of that name, which cannot be {stem[:80]!r}; rename it"
        )


def _load(path: Path, overrides: list[str], strategy: str, strategies: list[str], seed: int) -> Config:
    """The config of one strategy; independent networks are those of their own run, where there is one."""
    own = [f"strategy={strategy}", f"seed={seed}"]
    if INDEPENDENT in strategies:
        own.append("evaluation.independent=false")
    if strategy in WITHOUT_ORDER:
        own.append("evaluation.random=false")
    try:
        return load(path, [*overrides, *own])
    except InputError as error:
        said = f"--set strategy={strategy}: strategy:"
        raise InputError(str(error).replace(said, f"--strategies {strategy}:")) from error


def _refuse_impossible_tuning(plan: Plan) -> None:
    if plan.tune is None:
        if plan.tune_only:
            raise InputError("--tune-only: needs --tune N, the number of trials a strategy")
        return
    if plan.tune < 1 or plan.tune_tasks < 1:
        raise InputError("--tune and --tune-tasks: must be 1 or more")
    for stream in plan.streams:
        config = next(iter(stream.configs.values()))
        if config.stream.validation == 0:
            raise InputError(
                f"{stream.path}: stream.validation: is 0, but --tune judges by validation data; set e.g. 0.1"
            )
        if plan.tune_tasks > stream.tasks:
            raise InputError(f"--tune-tasks {plan.tune_tasks}: {stream.path} has {stream.tasks} tasks only")
