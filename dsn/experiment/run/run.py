"""One run: begin or go on, learn task by task, write the result."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import streams
from dsn.errors import InputError, Stopped
from dsn.evaluation.metrics import all_metrics
from dsn.evaluation.trackers import start_tracker
from dsn.ranks import RankLost, Ranks
from dsn.storage import Tree, first_difference

from ..base.console import make_console, say
from ..base.folder import output_folder
from ..base.interrupts import Interrupts
from ..config.experiment import WITHOUT_INFLUENCE, Config, without_old_names
from ..config.faults import explain, explained
from ..config.machine import environment, set_up
from ..result.files import task_uses, write
from ..result.result import (
    RESULT,
    Memory,
    Metrics,
    Result,
    Timings,
    matrix_as_lists,
    read_result,
    unlabelled_metrics,
)
from .checkpoint import Checkpoints, NoCheckpoints, has_checkpoint, is_of
from .course import Saved
from .learn import Session, learn, learn_independent, sample_shape
from .learnt import Learnt, learnt_of, tree_of
from .run_folder import drop, held
from .stopwatch import Stopwatch
from .terminal import show_result
from .tracking import Page, open_until_done, tell

TENSORBOARD = "tensorboard"


def run(
    config: Config,
    out: Path | None = None,
    *,
    name: str = "run",
    console: Console | None = None,
    verbose: bool = False,
    resume: bool = False,
    page: Page | None = None,
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
        page: makes the page that a tracker gets beside the result's files.

    Sets torch's seeds, number of threads and deterministic kernels for the whole process.

    Raises:
        InputError: what the config asks for cannot be done, or the folder holds another run. Nothing is left
            behind then but checkpoints, if any were made.
        Stopped: a signal came. Its checkpoint, where the strategy can be kept, is in ``<out>.checkpoint``.
    """
    console = console or make_console()
    ranks = Ranks()
    folder_name = f"{name}-seed{config.seed}"
    with held(out, folder_name, resume=resume) as (out, folder), Interrupts() as interrupts:
        if resume and (out / RESULT).is_file():
            result = finished(config, out, console)
            ranks.tree_of_first({"finished": True, "saved": None})
            if is_of(folder, config):  # the run was killed between its last two steps
                drop(folder)
            return result, out
        try:
            with ExitStack() as until_done:
                with output_folder(out, folder_name) as (unfinished, target):
                    device = set_up(config)
                    checkpoints = Checkpoints(folder, config, str(device), interrupts, console)
                    saved = checkpoints.load() if resume else None
                    if resume and saved is None:
                        say(console, "nothing to resume, the run begins")
                    ranks.tree_of_first({"finished": False, "saved": saved})
                    begun = begin(config, device, checkpoints, saved, console, verbose)
                    tracker = begun.session.tracker
                    until_done.enter_context(open_until_done(tracker))
                    result = finish(begun, unfinished)
                if tracker is not None:
                    tell(tracker, result, target, page, console)
            drop(folder)
        except (KeyboardInterrupt, SystemExit) as error:
            number = error.signal if isinstance(error, Stopped) else signal.SIGINT
            kept = has_checkpoint(folder) or (out / RESULT).is_file()
            raise Stopped(number, str(out), kept) from error
    show_result(console, result)
    say(console, f"written to {target}")
    return result, target


def follow(config: Config) -> None:
    """Learn beside the first of several processes, which is in :func:`run`; nothing is read, written or said.

    Raises as :func:`run` does.
    """
    console = Console(quiet=True)
    with Interrupts(quiet=True) as interrupts:
        device = set_up(config)
        told = Ranks().tree_of_first(None)
        if not told["finished"]:
            checkpoints = NoCheckpoints(config, interrupts, console)
            learn_all(begin(config, device, checkpoints, told["saved"], console, verbose=False))


def finished(config: Config, out: Path, console: Console) -> Result:
    """The result that is in ``out`` already. Raises InputError where it is one of another config."""
    result = read_result(out / RESULT)
    old, new = without_old_names(result.config), config.model_dump(mode="json")
    for block in WITHOUT_INFLUENCE:
        old.pop(block, None), new.pop(block)
    if (found := first_difference(old, new)) is not None:
        raise InputError(f"{out}: another run is finished there: {found}; choose another --out")
    say(console, f"the run in {out} is finished, nothing is left to do")
    return result


@dataclass
class Unfinished:
    """A run in progress.

    saved: what it goes on from, a tree with its "seconds", by what id "trackers" know it and, each None where
        it has not come so far, its "course", what it has "learnt", and the course of its "references"
    """

    session: Session
    checkpoints: Checkpoints
    saved: dict[str, Any]
    watch: Stopwatch
    resumed: bool

    def course(self, part: str, learnt: Tree = None) -> Saved:
        """Where the course called ``part`` goes on, and how it is kept, beside what is ``learnt`` already."""

        def at_rest(before: str, make: Callable[[], Tree]) -> None:
            self.checkpoints.rest(before, lambda: self._state() | {"learnt": learnt, part: make()})

        return Saved(at_rest, self.saved[part])

    def _state(self) -> dict[str, Any]:
        tracker = self.session.tracker
        ids = {} if tracker is None else {self.session.config.tracker: tracker.id}
        return {"seconds": self.watch(), "trackers": ids}


def begin(
    config: Config,
    device: torch.device,
    checkpoints: Checkpoints,
    saved: Tree,
    console: Console,
    verbose: bool,
) -> Unfinished:
    """The run of ``config``, from ``saved`` on, None for the start."""
    state: dict[str, Any] = {"seconds": 0.0, "trackers": {}}
    state |= dict.fromkeys(("learnt", "course", "references")) | (saved or {})
    ranks, tracker = Ranks(), None
    with explained(config), ranks.first_before_others():  # it may fetch data
        benchmark = streams.build(config.stream, config.seed)
    if ranks.number == 0:
        logs = checkpoints.folder / TENSORBOARD  # they outlive an interruption
        made_with = config.model_dump(mode="json")
        known = state["trackers"].get(config.tracker)
        tracker = start_tracker(config.tracker, checkpoints.folder.stem, made_with, logs, known)
    session = Session(config, benchmark, device, console, verbose, tracker)
    say(console, f"{config.stream.name}, {config.strategy} on {device}")
    watch = Stopwatch(state["seconds"] if isinstance(state["seconds"], float) else 0.0)
    return Unfinished(session, checkpoints, state, watch, resumed=saved is not None)


def finish(run: Unfinished, folder: Path) -> Result:
    """Learn what is left, and write the result's files into ``folder``."""
    session, config = run.session, run.session.config
    learnt, learnt_at, independent = learn_all(run)
    with _faults_explained(run):
        result = result_of(session, learnt, independent, learnt_at, run.watch())
        result = write(result, config, learnt.model, session.benchmark.pixel_range, folder)
        if session.tracker is not None and config.tracker == "tensorboard":
            session.tracker.close(finished=True)
            shutil.move(run.checkpoints.folder / TENSORBOARD, folder / TENSORBOARD)
    return result


def learn_all(run: Unfinished) -> tuple[Learnt, float, list[float] | None]:
    """Learn what is left: what that gives, the seconds until it was learnt, and the references, if wanted."""
    session, config = run.session, run.session.config
    with _faults_explained(run):
        if run.saved["learnt"] is None:
            learnt, learnt_at = learn(session, run.course("course")), run.watch()
        else:
            shape = sample_shape(session.benchmark)
            learnt, learnt_at = learnt_of(run.saved["learnt"], config, shape, session.device)
        independent = None
        if config.evaluation.independent:
            say(session.console, "independent networks, one a task, for comparison")
            course = run.course("references", tree_of(learnt, learnt_at))
            independent = learn_independent(session, course)
    return learnt, learnt_at, independent


def result_of(
    session: Session, learnt: Learnt, independent: list[float] | None, learnt_at: float, ended: float
) -> Result:
    """All numbers of a run; ``learnt_at``, ``ended``: seconds since its start."""
    return Result(
        config=session.config.model_dump(mode="json"),
        seed=session.config.seed,
        accuracy_matrix=matrix_as_lists(learnt.matrix),
        metrics=Metrics.model_validate(
            all_metrics(learnt.matrix, independent, learnt.random)
            | unlabelled_metrics(learnt.class_incremental)
        ),
        independent=independent,
        tasks=[] if learnt.model is None else task_uses(learnt.model),
        transfers=learnt.transfers,
        forward_transfers=learnt.forward_transfers,
        memory=Memory.model_validate(asdict(learnt.memory)),
        certificate=learnt.certificate,
        class_incremental=learnt.class_incremental,
        timings=Timings(total=ended, references=ended - learnt_at, tasks=learnt.times),
        environment=environment(session.device),
    )


@contextmanager
def _faults_explained(run: Unfinished) -> Iterator[None]:
    """Keep what can be kept, and say in an InputError what a known fault means."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        run.checkpoints.flush()
        if isinstance(error, RankLost):
            raise
        if run.resumed and not run.checkpoints.came_by and isinstance(error, Exception):
            raise InputError(
                f"{run.checkpoints.folder}: does not fit this run ({type(error).__name__}: "
                f"{str(error).partition(chr(10))[0]}); remove it to start afresh"
            ) from error
        if (told := explain(error, run.session.config)) is not None:
            raise InputError(told) from error
        raise
