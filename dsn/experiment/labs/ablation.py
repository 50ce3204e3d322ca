"""What each setting of replay and transfer is worth: variants of one config, on the same learnt networks."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from dsn.errors import InputError
from dsn.evaluation.metrics import bwt

from ..base.console import make_console, say
from ..config.experiment import Config, load
from ..config.machine import environment, set_up
from ..result.interval import Interval
from ..result.result import Part
from .frame import lab_folder, show_lab, table_of, write_lab
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
    name: str = "run",
    command: str = "",
    console: Console | None = None,
) -> tuple[AblationResult, Path]:
    """Learn the stream once a seed and replay the run with each variant; return the result and its folder.

    Args:
        variants: from :func:`load_variants`.
        out: the folder to write, new or empty; by default a fresh ``results/<name>-ablation``.
    """
    config = variants[AS_IT_IS]
    for settings in variants.values():
        refuse_nothing_to_measure(settings, seeds)
    console = console or make_console()
    started = time.perf_counter()
    scores: dict[str, list[float]] = {variant: [] for variant in variants}
    counts: dict[str, list[bool]] = {variant: [] for variant in variants}
    with lab_folder(out, f"{name}-ablation", config) as (folder, target):
        for seed in seeds:
            base = learn_base(config.model_copy(update={"seed": seed}), console)
            for variant, settings in variants.items():
                settings = settings.model_copy(update={"seed": seed})
                matrix, outcomes = whole_run(base, settings, settings.transfer.mechanism)
                scores[variant].append(known(bwt(matrix)))
                counts[variant] += [outcome.accepted for outcome in outcomes]
                say(console, f"  seed {seed}, {variant}: BWT {100 * scores[variant][-1]:+.2f}")
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


HEAD = ("variant", "BWT in points", "95% interval", "difference", "95% interval", "accepted")


def rows(result: AblationResult) -> list[tuple[str, ...]]:
    """The table, in percentage points."""
    return [
        (v.name, *v.mean.shown(), *v.above.shown(), f"{v.accepted} of {v.tried}") for v in result.variants
    ]
