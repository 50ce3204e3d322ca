"""What each setting of replay and transfer is worth: variants of one config, on the same learnt networks."""

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from dsn.errors import InputError
from dsn.evaluation.metrics import bwt

from ..base.console import make_console, say
from ..config.experiment import Config, load
from ..config.machine import environment, set_up
from ..engine.options import Choice
from ..result.interval import Interval
from ..result.result import Part
from .frame import lab_folder, show_lab, table_of, write_lab
from .parts import SeedJob, measured, parts_of
from .transfer import known, learn_base, refuse_nothing_to_measure, whole_run

AS_IT_IS = "the config as it is"
BLOCKS = ("transfer", "replay")


class VariantResult(Part):
    """One variant: BWT of its run with each seed, in [-1, 1], and how many transfers were accepted in all."""

    name: str
    bwt: list[float]
    mean: Interval
    above: Interval
    """paired difference to the config as it is"""
    accepted: int
    tried: int


class AblationResult(Part):
    """A finished ablation."""

    command: str
    config: dict[str, Any]
    seeds: list[int]
    variants: list[VariantResult]
    seconds: float
    environment: dict[str, Any]


def load_variants(path: Path, overrides: list[str], varied: list[str]) -> dict[str, Config]:
    """The config as it is, and one for each entry of ``varied``: settings ``key=value``, parted by spaces.

    Raises InputError for a wrong setting, or one outside the blocks ``transfer`` and ``replay``: those alone
    leave the learnt network as it is.
    """
    variants = {AS_IT_IS: load(path, overrides)}
    for entry in varied:
        settings = entry.split()
        outside = [setting for setting in settings if setting.split(".")[0] not in BLOCKS]
        if outside or not settings:
            raise InputError(f"--vary '{entry}': give settings of transfer and replay, e.g. transfer.tasks=1")
        variants[entry] = load(path, [*overrides, *settings])
    return variants


def ablation(
    variants: dict[str, Config],
    seeds: list[int],
    out: Path | None = None,
    *,
    engine: Choice | None = None,
    name: str = "run",
    command: str = "",
    console: Console | None = None,
) -> tuple[AblationResult, Path]:
    """Learn the stream once a seed and replay the run with each variant; return the result and its folder.

    Args:
        variants: from :func:`load_variants`.
        out: the folder to write, new or empty; by default a fresh ``results/<name>-ablation``.
        engine: what measures the seeds, by default this process, one after the other.
    """
    config = variants[AS_IT_IS]
    for settings in variants.values():
        refuse_nothing_to_measure(settings, seeds)
    console = console or make_console()
    started = time.perf_counter()
    scores: dict[str, list[float]] = {variant: [] for variant in variants}
    counts: dict[str, list[bool]] = {variant: [] for variant in variants}
    with lab_folder(out, f"{name}-ablation", config) as (folder, target):
        tried = {variant: settings.model_dump(mode="json") for variant, settings in variants.items()}
        parts = parts_of(f"{__name__}:measure_seed", config, seeds, target, variants=tried)
        for found in measured(parts, engine, target, console):
            for variant, (score, accepted) in found.items():
                scores[variant].append(score)
                counts[variant] += accepted
        result = AblationResult(
            command=command,
            config=config.model_dump(mode="json"),
            seeds=seeds,
            variants=[
                VariantResult(
                    name=variant,
                    bwt=values,
                    mean=Interval.of(values),
                    above=Interval.of([a - b for a, b in zip(values, scores[AS_IT_IS], strict=True)]),
                    accepted=sum(counts[variant]),
                    tried=len(counts[variant]),
                )
                for variant, values in scores.items()
            ],
            seconds=time.perf_counter() - started,
            environment=environment(set_up(config)),
        )
        write_lab(result, config, folder, "ablation", table_of(command, HEAD, rows(result)))
    show_lab(console, HEAD, rows(result), target)
    return result, target


def measure_seed(job: SeedJob, config: Config, console: Console | None = None) -> dict[str, Any]:
    """BWT, and which transfers were accepted, of each variant on the network of ``config.seed``."""
    console = console or make_console()
    base = learn_base(config, console)
    found: dict[str, Any] = {}
    for variant, values in job.arguments["variants"].items():
        settings = Config.model_validate_json(json.dumps(values)).model_copy(update={"seed": config.seed})
        matrix, outcomes = whole_run(base, settings, settings.transfer.mechanism)
        found[variant] = known(bwt(matrix)), [outcome.accepted for outcome in outcomes]
        say(console, f"  seed {config.seed}, {variant}: BWT {100 * found[variant][0]:+.2f}")
    return found


HEAD = ("variant", "BWT in points", "95% interval", "difference", "95% interval", "accepted")


def rows(result: AblationResult) -> list[tuple[str, ...]]:
    """The table, in percentage points."""
    return [
        (v.name, *v.mean.shown(), *v.above.shown(), f"{v.accepted} of {v.tried}") for v in result.variants
    ]
