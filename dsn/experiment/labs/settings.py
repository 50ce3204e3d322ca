"""What any settings are worth: variants of one config, each a whole run a seed, paired by seed."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import streams
from dsn.errors import InputError
from dsn.evaluation.capacity import neurons
from dsn.evaluation.metrics import acc

from ..base.console import make_console, say
from ..config.experiment import Config, load
from ..config.machine import environment, set_up
from ..engine.options import Choice
from ..result.interval import Interval
from ..result.result import Part
from ..run.learn import Session, learn
from ..run.learnt import Learnt
from .ablation import AS_IT_IS
from .frame import lab_folder, show_lab, table_of, write_lab
from .parts import SeedJob, measured, parts_of

HEAD = ("variant", "ACC, %", "95% interval", "difference", "95% interval", "free neurons", "seconds a run")

Measured = tuple[float, float | None, float]
"""ACC, share of free neurons at the end, seconds"""


class SettingsVariant(Part):
    """One variant: ACC with each seed, in [0, 1], and its paired difference to the config as it is."""

    name: str
    acc: list[float]
    mean: Interval
    above: Interval
    free: float | None
    """share of the neurons that no task uses at the end, mean over layers and seeds; None without masks"""
    seconds: float
    """of a run, mean over seeds"""


class SettingsResult(Part):
    """A finished ablation."""

    command: str
    config: dict[str, Any]
    seeds: list[int]
    variants: list[SettingsVariant]
    environment: dict[str, Any]


def load_settings(path: Path, overrides: list[str], varied: list[str]) -> dict[str, Config]:
    """The config as it is, and one for each entry of ``varied``: settings ``key=value``, parted by spaces.

    Raises InputError for a wrong setting, one that changes the stream or the seed, and one that stands twice.
    """
    variants = {AS_IT_IS: load(path, overrides)}
    for entry in varied:
        settings = entry.split()
        if not settings or entry in variants:
            raise InputError(f"--vary '{entry}': is empty or stands twice; give settings, e.g. train.lr=0.1")
        if any(setting.split("=")[0].split(".")[0] in ("stream", "seed") for setting in settings):
            raise InputError(f"--vary '{entry}': runs are paired by seed on one stream, which stay the same")
        variants[entry] = load(path, [*overrides, *settings])
    return variants


def settings_ablation(
    variants: dict[str, Config],
    seeds: list[int],
    out: Path | None = None,
    *,
    engine: Choice | None = None,
    name: str = "run",
    command: str = "",
    console: Console | None = None,
) -> tuple[SettingsResult, Path]:
    """Run every variant with every seed; return the result and its folder.

    Args:
        variants: from :func:`load_settings`.
        out: the folder to write, new or empty; by default a fresh ``results/<name>-settings``.
        engine: what measures the seeds, by default this process, one after the other.
    """
    config, console = variants[AS_IT_IS], console or make_console()
    found: dict[str, list[Measured]] = {variant: [] for variant in variants}
    with lab_folder(out, f"{name}-settings", config) as (folder, target):
        tried = {variant: settings.model_dump(mode="json") for variant, settings in variants.items()}
        parts = parts_of(f"{__name__}:measure_seed", config, seeds, target, variants=tried)
        for measures in measured(parts, engine, target, console):
            for variant, run in measures.items():
                found[variant].append(tuple(run))
        result = SettingsResult(
            command=command,
            config=config.model_dump(mode="json"),
            seeds=seeds,
            variants=[_variant(variant, runs, found[AS_IT_IS]) for variant, runs in found.items()],
            environment=environment(set_up(config)),
        )
        write_lab(result, config, folder, "settings", table_of(command, HEAD, rows(result)))
    show_lab(console, HEAD, rows(result), target)
    return result, target


def measure_seed(job: SeedJob, config: Config, console: Console | None = None) -> dict[str, Measured]:
    """What each variant gives with ``config.seed``."""
    console = console or make_console()
    benchmark = streams.build(config.stream, config.seed)
    found = {}
    for variant, values in job.arguments["variants"].items():
        started = time.perf_counter()
        settings = Config.model_validate_json(json.dumps(values)).model_copy(update={"seed": config.seed})
        learnt = learn(Session(settings, benchmark, set_up(settings), Console(quiet=True)))
        found[variant] = acc(learnt.matrix), _free(learnt), time.perf_counter() - started
        say(console, f"seed {config.seed}, {variant}: ACC {found[variant][0]:.2%}")
    return found


def rows(result: SettingsResult) -> list[tuple[str, ...]]:
    """The table, in percent and percentage points."""
    lines: list[tuple[str, ...]] = []
    for variant in result.variants:
        mean, limits = (text.replace("+", "") for text in variant.mean.shown())
        above = ("", "") if variant.name == AS_IT_IS else variant.above.shown()
        free = "" if variant.free is None else f"{variant.free:.0%}"
        lines.append((variant.name, mean, limits, *above, free, f"{variant.seconds:.1f}"))
    return lines


def _variant(name: str, runs: list[Measured], reference: list[Measured]) -> SettingsVariant:
    known = [free for _, free, _ in runs if free is not None]
    return SettingsVariant(
        name=name,
        acc=[value for value, _, _ in runs],
        mean=Interval.of([value for value, _, _ in runs]),
        above=Interval.of([run[0] - other[0] for run, other in zip(runs, reference, strict=True)]),
        free=float(np.mean(known)) if known else None,
        seconds=float(np.mean([seconds for _, _, seconds in runs])),
    )


def _free(learnt: Learnt) -> float | None:
    if learnt.model is None:
        return None
    last = neurons(learnt.model)[learnt.model.committed[-1]]
    return float(np.mean([layer.free / layer.total for layer in last.values()]))
