"""The transfer lab: what backward transfer is worth on one stream, beside its controls and an oracle.

Subnetworks never change, so a stream is learnt once a seed, and every transfer is tried on that one network.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import streams
from dsn.errors import InputError
from dsn.evaluation.metrics import Matrix, bwt, forgetting
from dsn.evaluation.plugin import TransferMetrics, evaluator
from dsn.masking import MaskedModel
from dsn.masking.layers import evaluating
from dsn.replay import Impressions, synthesise
from dsn.training.loader import read_samples
from dsn.training.settings import Transfer as Wanted
from dsn.training.task_end import end_task
from dsn.transfer import ForwardOutcome, Situation, TransferOutcome, most_similar
from dsn.transfer.assessment import predict
from dsn.transfer.lab import Features, Samples, accuracy, in_parts, measure

from ..base.console import make_console, say, show_table
from ..config.experiment import Config
from ..config.machine import environment, seed_everything, set_up
from ..config.network import build_model, replay_arguments
from ..engine.options import Choice
from ..result.result import Part, Transfer, matrix_as_lists, write_whole
from ..run.build import build_dsn, can_transfer
from ..run.learn import Session, make_progress, sample_shape, validation
from .frame import lab_folder, write_lab
from .parts import SeedJob, measured, parts_of
from .transfer_picture import draw_lab
from .transfer_result import LabResult, Pair, SeedRun, markdown, pairs_csv, rows, sentences, summarise

OWN_FEATURES = "own_features"
RANDOM_NETWORK = 2**31  # added to the seed, so that the untrained network is not the one that was trained


@dataclass(frozen=True)
class Base:
    """A learnt stream: the model without any transfer, and each task's data by its number."""

    model: MaskedModel
    train: dict[int, Samples]
    valid: dict[int, Samples]
    test: dict[int, Samples]
    pixel_range: Any


def lab(
    config: Config,
    seeds: list[int],
    out: Path | None = None,
    *,
    engine: Choice | None = None,
    name: str = "run",
    command: str = "",
    console: Console | None = None,
) -> tuple[LabResult, Path]:
    """Measure the transfers of ``config`` over ``seeds``; return the result and the folder written.

    Args:
        config: from :func:`dsn.experiment.config.experiment.load`; its own seed is not used.
        out: the folder to write, new or empty; by default a fresh ``results/<name>-lab``.
        engine: what measures the seeds, by default this process, one after the other.
        command: stands above the table.

    Raises:
        InputError: a config that has nothing to measure, or that cannot be run. Nothing is left behind then.
    """
    refuse_nothing_to_measure(config, seeds)
    console = console or make_console()
    started = time.perf_counter()
    with lab_folder(out, f"{name}-lab", config) as (folder, target):
        parts = parts_of(f"{__name__}:measure_seed", config, seeds, target)
        found = [SeedPart.model_validate(value) for value in measured(parts, engine, target, console)]
        result = summarise(
            [pair for part in found for pair in part.pairs],
            [part.run for part in found],
            command=command,
            config=config.model_dump(mode="json"),
            seconds=time.perf_counter() - started,
            environment=environment(set_up(config)),
        )
        write_lab(result, config, folder, "lab", markdown(result))
        write_whole(folder / "lab.csv", pairs_csv(result))
        draw_lab(result, folder / "lab.png")
    show_lab(console, result)
    say(console, f"written to {target}")
    return result, target


def refuse_nothing_to_measure(config: Config, seeds: list[int]) -> None:
    """Raise InputError for a config without anything to transfer, or to judge transfers by."""
    if not seeds:
        raise InputError("--seeds: give at least one, e.g. 0,1,2,3,4")
    if config.strategy != "dsn":
        raise InputError(f"strategy: {config.strategy} transfers nothing; the lab needs dsn")
    if config.transfer.tasks == 0:
        raise InputError("transfer.tasks: is 0, so there is nothing to measure; set it to 1 or more")
    if not can_transfer(config):
        raise InputError("stream.validation: is 0, but transfers are judged by validation data; set e.g. 0.1")
    if config.stream.tasks < 2:
        raise InputError("stream.tasks: is 1, but there is transfer from the second task on; set 2 or more")


class SeedPart(Part):
    """What the lab measures with one seed."""

    pairs: list[Pair]
    run: SeedRun


def measure_seed(_job: SeedJob, config: Config, console: Console | None = None) -> dict[str, Any]:
    """The pairs and the whole runs of ``config.seed``: a :class:`SeedPart` as JSON."""
    console = console or make_console()
    started = time.perf_counter()
    say(console, f"seed {config.seed}: {config.stream.name}, without transfer")
    base = learn_base(config, console)
    pairs = try_pairs(base, config, lambda pair: _tell(console, pair))
    matrix, outcomes = whole_run(base, config, config.transfer.mechanism)
    own, _ = whole_run(base, config, OWN_FEATURES)
    run = SeedRun(
        seed=config.seed,
        bwt=known(bwt(matrix)),
        forgetting=known(forgetting(matrix)),
        bwt_own=known(bwt(own)),
        forgetting_own=known(forgetting(own)),
        accuracy_matrix=matrix_as_lists(matrix),
        accuracy_matrix_own=matrix_as_lists(own),
        transfers=[Transfer.model_validate(asdict(outcome)) for outcome in outcomes],
        seconds=time.perf_counter() - started,
    )
    accepted = sum(outcome.accepted for outcome in outcomes)
    say(
        console,
        f"seed {config.seed}: {accepted} of {len(outcomes)} transfers accepted, BWT {100 * run.bwt:+.2f} "
        f"points (own features alone {100 * run.bwt_own:+.2f})  {run.seconds:.0f} s",
    )
    return SeedPart(pairs=pairs, run=run).model_dump(mode="json")


def learn_base(config: Config, console: Console) -> Base:
    """Learn the stream without transfer; each task takes stock of itself as with transfer."""
    device = set_up(config)
    benchmark = streams.build(config.stream, config.seed)
    shape = sample_shape(benchmark)
    off = config.model_copy(
        update={"transfer": config.transfer.model_copy(update={"tasks": 0, "forward": 0})}
    )
    seed_everything(config.seed)
    train, valid, test = {}, {}, {}
    with make_progress(Session(config, benchmark, device, console), evaluated=False) as progress:
        observer = evaluator(TransferMetrics(), [progress])
        strategy = build_dsn(
            off,
            shape,
            device,
            observer,
            tasks=len(benchmark.train_stream),
            pixel_range=benchmark.pixel_range,
        )
        for index, experience in enumerate(benchmark.train_stream):
            judged_by = validation(benchmark, index)
            strategy.train(experience, eval_streams=judged_by)
            task = strategy.model.committed[-1]
            train[task] = read_samples(experience.dataset)
            valid[task] = read_samples(judged_by[0].dataset.eval())
            test[task] = read_samples(benchmark.test_stream[index].dataset.eval())
    base = Base(strategy.model, train, valid, test, benchmark.pixel_range)
    for task in base.model.committed:
        _end_task(base.model, task, base, off, config.transfer.mechanism)
    return base


def try_pairs(base: Base, config: Config, on_pair: Callable[[Pair], None] | None = None) -> list[Pair]:
    """Each later task with each of its most similar earlier ones, always from the same network."""
    seed_everything(config.seed + RANDOM_NETWORK)
    untrained = _features_of_untrained(config, base)
    pairs = []
    for source in base.model.committed:
        for task in most_similar(base.model, source, config.transfer.tasks):
            situation = Situation(
                base.model, task, source, *base.train[source], _replay(base, config), config.seed
            )
            trial = measure(
                situation,
                mechanism=config.transfer.mechanism,
                acceptance=config.transfer.acceptance,
                old=base.train[task],
                test=base.test[task],
                random_features=untrained,
            )
            pairs.append(Pair.of(config.seed, trial))
            if on_pair is not None:
                on_pair(pairs[-1])
    return pairs


def whole_run(base: Base, config: Config, mechanism: str) -> tuple[Matrix, list[TransferOutcome]]:
    """The run with transfer after each task, on a copy of the learnt network: accuracy matrix, attempts.

    A transfer changes earlier tasks alone and later tasks learn the same without it, so this equals the run
    that learns and transfers in turn.
    """
    model = copy.deepcopy(base.model)
    tasks = model.committed
    matrix = np.full((len(tasks), len(tasks)), np.nan)
    outcomes = []
    for row, source in enumerate(tasks):
        _, tried = _end_task(model, source, base, config, mechanism)
        outcomes += tried
        changed = {outcome.task for outcome in tried if outcome.accepted}
        for column, task in enumerate(tasks[: row + 1]):
            if task in changed or task == source:
                x, y = base.test[task]
                matrix[row, column] = accuracy(predict(model, x, task), y)
            else:
                matrix[row, column] = matrix[row - 1, column]
    return matrix, outcomes


def _end_task(
    model: MaskedModel, task: int, base: Base, config: Config, mechanism: str
) -> tuple[ForwardOutcome | None, list[TransferOutcome]]:
    return end_task(
        model,
        task,
        *base.train[task],
        base.valid[task],
        Wanted(**{**config.transfer.model_dump(), "mechanism": mechanism}),
        replay=replay_arguments(config, base.pixel_range),
        seed=config.seed,
    )


def _replay(base: Base, config: Config) -> Callable[[int, int], Impressions]:
    def make(task: int, draw: int) -> Impressions:
        arguments = replay_arguments(config, base.pixel_range)
        return synthesise(base.model, task, seed=config.seed + draw, **arguments)

    return make


def _features_of_untrained(config: Config, base: Base) -> Features:
    """Features of the same backbone as it is before any training."""
    x, _ = next(iter(base.train.values()))
    model = build_model(config, x.shape[1:]).to(base.model.device)

    def features(part: torch.Tensor) -> torch.Tensor:
        with evaluating(model):
            model.select(None)
            return model.backbone(part.to(model.device))

    return partial(in_parts, features)


def _tell(console: Console, pair: Pair) -> None:
    gains = {"transfer": pair.transfer, "own": pair.own_features, "random": pair.random_features}
    told = ", ".join(f"{name} {100 * gain:+.2f}" for name, gain in (gains | {"oracle": pair.oracle}).items())
    verdict = "accepted" if pair.accepted else "refused"
    say(console, f"  task {pair.task} from {pair.source}: {told}; {verdict}: {pair.reason}")


def known(value: float | None) -> float:
    """A metric of several tasks."""
    assert value is not None  # None for a single task, which is refused
    return value


def show_lab(console: Console, result: LabResult) -> None:
    """The lab's table and what stands below it."""
    table = Table(
        title="gain in test accuracy, points", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0)
    )
    table.add_column("")
    for name in ("mean", "95% interval", "of the oracle"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows(result):
        table.add_row(*row)
    console.print()
    show_table(console, table)
    for sentence in sentences(result):
        say(console, sentence)
