"""One run: a stream is learnt task by task, evaluated after each, and its result written."""

import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks import streams
from dsn.baselines import masked_model_memory
from dsn.errors import InputError, Stopped
from dsn.evaluation.metrics import all_metrics
from dsn.evaluation.plugin import TransferMetrics, close_logs, evaluator
from dsn.masking import MaskedModel
from dsn.masking.fingerprint import Fingerprints
from dsn.storage import Tree, first_difference

from ..base.console import make_console, say
from ..base.folder import output_folder
from ..base.interrupts import Interrupts
from ..config.experiment import Config, EvaluationConfig
from ..config.faults import explain, explained
from ..config.machine import environment, seed_everything, set_up
from ..result.certificate import row_of
from ..result.files import task_uses, write
from ..result.result import (
    RESULT,
    Forward,
    Memory,
    Metrics,
    Result,
    Timings,
    Transfer,
    matrix_as_lists,
    read_result,
)
from .build import build_strategy, can_transfer, total_epochs
from .checkpoint import Checkpoints, has_checkpoint, is_of
from .course import Course, Keep, Saved
from .learnt import Learnt, learnt_of, tree_of
from .run_folder import drop, held
from .stopwatch import Stopwatch
from .terminal import TaskProgress, show_result, show_transfers
from .topology_lines import TopologyLines

TENSORBOARD = "tensorboard"


def run(
    config: Config,
    out: Path | None = None,
    *,
    name: str = "run",
    console: Console | None = None,
    verbose: bool = False,
    resume: bool = False,
) -> tuple[Result, Path]:
    """Learn the stream of ``config``; return the result and the folder it was written to.

    Args:
        config: from :func:`dsn.experiment.config.experiment.load`.
        out: the folder to write, new or empty; by default a fresh ``results/<name>-seed<seed>``.
        name: see ``out``.
        console: where progress and tables go; by default standard output.
        verbose: also show the loss of every epoch and the topology of every task.
        resume: go on with the run that was interrupted in ``out``, or by default in the last such folder; a
            finished one is returned as it is, and where there is none, a new one begins.

    Sets torch's seeds, number of threads and deterministic kernels for the whole process.

    Raises:
        InputError: what the config asks for cannot be done, or the folder holds another run. Nothing is left
            behind then but checkpoints, if any were made.
        Stopped: a signal came. Its checkpoint, where the strategy can be kept, is in ``<out>.checkpoint``.
    """
    console = console or make_console()
    folder_name = f"{name}-seed{config.seed}"
    with held(out, folder_name, resume=resume) as (out, folder), Interrupts() as interrupts:
        if resume and (out / RESULT).is_file():
            result = finished(config, out, console)
            if is_of(folder, config):  # the run was killed between its last two steps
                drop(folder)
            return result, out
        try:
            with output_folder(out, folder_name) as (unfinished, target):
                device = set_up(config)
                checkpoints = Checkpoints(folder, config, str(device), interrupts, console)
                saved = checkpoints.load() if resume else None
                if resume and saved is None:
                    say(console, "nothing to resume, the run begins")
                result = run_from(saved, config, device, checkpoints, console, verbose, unfinished)
            drop(folder)
        except (KeyboardInterrupt, SystemExit) as error:
            number = error.signal if isinstance(error, Stopped) else signal.SIGINT
            kept = has_checkpoint(folder) or (out / RESULT).is_file()
            raise Stopped(number, str(out), kept) from error
    show_result(console, result)
    say(console, f"written to {target}")
    return result, target


def finished(config: Config, out: Path, console: Console) -> Result:
    """The result that is in ``out`` already. Raises InputError where it is one of another config."""
    result = read_result(out / RESULT)
    old, new = dict(result.config), config.model_dump(mode="json")
    old.pop("checkpoint", None), new.pop("checkpoint")
    if (found := first_difference(old, new)) is not None:
        raise InputError(f"{out}: another run is finished there: {found}; choose another --out")
    say(console, f"the run in {out} is finished, nothing is left to do")
    return result


def run_from(
    saved: Tree,
    config: Config,
    device: torch.device,
    checkpoints: Checkpoints,
    console: Console,
    verbose: bool,
    folder: Path,
) -> Result:
    """Go on from ``saved``, None for the start, to the result, and write its files into ``folder``."""
    resumed = saved is not None
    saved = {"seconds": 0.0, "learnt": None, "course": None, "references": None} | (saved or {})
    watch = Stopwatch(saved["seconds"] if isinstance(saved["seconds"], float) else 0.0)
    logs = checkpoints.folder / TENSORBOARD if config.tensorboard else None  # they outlive an interruption
    with explained(config):
        benchmark = streams.build(config.stream, config.seed)
    say(console, f"{config.stream.name}, {config.strategy} on {device}")

    def keep(part: str, learnt: Tree) -> Keep:
        def at_rest(before: str, make: Callable[[], Tree]) -> None:
            checkpoints.rest(before, lambda: {"seconds": watch(), "learnt": learnt, part: make()})

        return at_rest

    try:
        if saved["learnt"] is None:
            course = Saved(keep("course", None), saved["course"])
            learnt = learn(config, benchmark, device, console, verbose, course, tensorboard=logs)
            learnt_at = watch()
        else:
            learnt, learnt_at = learnt_of(saved["learnt"], config, sample_shape(benchmark), device)
        independent = None
        if config.evaluation.independent:
            say(console, "independent networks, one a task, for comparison")
            course = Saved(keep("references", tree_of(learnt, learnt_at)), saved["references"])
            independent = train_independent(config, benchmark, device, console, verbose, course)
        ended = watch()
        result = Result(
            config=config.model_dump(mode="json"),
            seed=config.seed,
            accuracy_matrix=matrix_as_lists(learnt.matrix),
            metrics=Metrics.model_validate(all_metrics(learnt.matrix, independent, learnt.random)),
            independent=independent,
            tasks=[] if learnt.model is None else task_uses(learnt.model),
            transfers=learnt.transfers,
            forward_transfers=learnt.forward_transfers,
            memory=Memory.model_validate(asdict(learnt.memory)),
            certificate=learnt.certificate,
            timings=Timings(total=ended, references=ended - learnt_at, tasks=learnt.times),
            environment=environment(device),
        )
        result = write(result, config, learnt.model, benchmark.pixel_range, folder)
        if logs is not None and logs.is_dir():
            shutil.move(logs, folder / TENSORBOARD)
    except InputError:
        raise
    except BaseException as error:
        checkpoints.flush()
        if resumed and not checkpoints.came_by and isinstance(error, Exception):
            raise InputError(
                f"{checkpoints.folder}: does not fit this run ({type(error).__name__}: "
                f"{str(error).partition(chr(10))[0]}); remove it to start afresh"
            ) from error
        if (told := explain(error, config)) is not None:
            raise InputError(told) from error
        raise
    return result


def learn(
    config: Config,
    benchmark: Any,
    device: torch.device,
    console: Console,
    verbose: bool,
    saved: Saved | None = None,
    tensorboard: Path | None = None,
) -> Learnt:
    """Train the tasks of ``benchmark`` in order with one strategy; after each, a row of the accuracy matrix.

    A strategy is anything that has Avalanche's ``train`` and ``eval``, and ``memory``. Joint training learns
    nothing before it has seen the last task: it is evaluated once, and that row stands in the place of the
    earlier ones too. ``saved``: where to keep the state, and the one to go on from. ``tensorboard``: a folder
    for such logs.
    """
    seed_everything(config.seed)
    metrics = TransferMetrics(benchmark.test_stream.name)
    wanted = config.transfer.tasks or config.transfer.forward
    if config.strategy == "dsn" and wanted and not can_transfer(config):
        say(
            console,
            "transfer is off: there are no validation data to judge it by; set stream.validation, e.g. 0.1, "
            "or transfer.tasks=0 and transfer.forward=0",
        )
    tasks, at_once = len(benchmark.train_stream), config.strategy == "joint"
    with make_progress(config, benchmark, console, verbose=verbose, evaluated=not at_once) as progress:
        observer = evaluator(metrics, [progress], tensorboard)
        strategy = build_strategy(
            config,
            sample_shape(benchmark),
            device,
            observer,
            tasks=tasks,
            pixel_range=benchmark.pixel_range,
        )
        transfers = getattr(strategy, "transfers", [])
        forwards = getattr(strategy, "forward_transfers", [])
        show_topology = TopologyLines(console, strategy.model, verbose)
        model = strategy.model if isinstance(strategy.model, MaskedModel) else None
        course = Course(strategy, metrics, progress, saved)
        if saved is not None and saved.state is not None:
            say(console, f"going on {course}")
        elif config.evaluation.random:
            strategy.eval(benchmark.test_stream)
        ahead = 1 if config.evaluation.random else 0  # forward transfer looks at the next task too
        row = None if model is None else partial(row_of, Fingerprints(model))
        while course.place.task < tasks:
            task = course.place.task
            course.train(benchmark.train_stream[task], validation(benchmark, task))
            evaluated = not at_once or task == tasks - 1
            course.evaluate(benchmark.test_stream[: task + 1 + ahead] if evaluated else None, row)
            label = metrics.order[-1]
            show_transfers(
                console,
                [outcome for outcome in forwards if outcome.task == label],
                [outcome for outcome in transfers if outcome.source == label],
            )
            show_topology()
        course.end()
        close_logs(observer)
    matrix = np.where(np.tri(tasks) == 1, metrics.matrix[-1], np.nan) if at_once else metrics.matrix
    return Learnt(
        matrix=matrix,
        random=metrics.random,
        model=model,
        times=list(course.place.times),
        memory=strategy.memory() if model is None else masked_model_memory(model),
        transfers=[Transfer.model_validate(asdict(outcome)) for outcome in transfers],
        forward_transfers=[Forward.model_validate(asdict(outcome)) for outcome in forwards],
        certificate=None if model is None else list(course.place.certificate),
    )


def train_independent(
    config: Config,
    benchmark: Any,
    device: torch.device,
    console: Console,
    verbose: bool,
    saved: Saved | None = None,
) -> list[float]:
    """Test accuracy of one dense network a task, of the same backbone and as many epochs in all."""
    alone = config.model_copy(update={"strategy": "independent", "evaluation": EvaluationConfig()})
    return [float(value) for value in learn(alone, benchmark, device, console, verbose, saved).matrix[-1]]


def make_progress(
    config: Config, benchmark: Any, console: Console, *, verbose: bool = False, evaluated: bool = True
) -> TaskProgress:
    """The logger of one strategy's training."""
    return TaskProgress(
        console,
        tasks=len(benchmark.train_stream),
        epochs=total_epochs(config),
        evaluated=evaluated,
        verbose=verbose,
    )


def validation(benchmark: Any, task: int) -> list[Any]:
    """The validation experience of ``task`` in a list, which is empty where there is none."""
    return [] if benchmark.valid_stream is None else [benchmark.valid_stream[task]]


def sample_shape(benchmark: Any) -> torch.Size:
    """[C, H, W] or [D] of every sample."""
    x, *_ = benchmark.train_stream[0].dataset[0]
    return x.shape
