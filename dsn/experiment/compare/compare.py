"""Strategies side by side: every run of a plan that is not there yet, then their statistics.

``DIR/<config>/runs/<strategy>-seed<N>/`` is a run; its key and log stand beside it. A run whose key is still
the same is taken as it is, so that the same command goes on where it was stopped.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from dsn.errors import InputError

from ..base.console import make_console, say
from ..base.folder import check_name, told
from ..engine.choice import open_engine
from ..engine.job import Job, Outcome
from ..engine.options import Choice
from ..engine.pool import Pool
from ..engine.progress import JobProgress
from ..result.result import read_result
from .board import Board
from .comparison import FILE, Comparison
from .job import RunJob
from .plan import Plan
from .summary import failures
from .table import chosen_values, show_comparison

LOCK = ".lock"


def compare(
    plan: Plan, out: Path, *, engine: Choice | None = None, console: Console | None = None
) -> Comparison:
    """Make the runs of ``plan`` that are missing in ``out``; return the comparison.

    Args:
        engine: what makes the runs, by default this machine, one at a time.
    A run that fails does not stop the others; it is ``failed`` in what is returned. ``comparison.json`` is
    rewritten after each run. Where the processors are shared by several runs each has its part as threads,
    unless ``config.threads`` says otherwise. With ``plan.tune_only`` no run is made.

    Raises:
        InputError: ``out`` holds something else, another comparison is writing there, or the disk refuses.
        KeyboardInterrupt, SystemExit: when stopped; what is finished stays.
    """
    console = console or make_console()
    with _taken(out):
        board = Board(plan, out)
        try:
            board.clean()
            with Pool(open_engine(engine or Choice(), out)) as pool:
                if plan.tune is not None:
                    tune(board, pool, plan.tune, console)
                board.write()
                if not plan.tune_only:
                    run_missing(board, pool, console)
            comparison = board.write()
        except BaseException as error:
            with suppress(OSError):
                board.clean()
            there = f"{board.count_done()} of {len(board.jobs)} runs are done and stay"
            if isinstance(error, OSError):
                mended = "when that is mended, the same command goes on from here"
                raise InputError(f"{told(error, out)}; {there}; {mended}") from error
            say(console, f"stopped; {there}, the same command goes on from here")
            raise
    if not plan.tune_only:
        show_comparison(console, comparison)
    for line in chosen_values(comparison) if plan.tune_only else failures(comparison, out):
        say(console, line)
    say(console, f"written to {out}")
    return comparison


def tune(board: Board, pool: Pool, trials: int, console: Console) -> None:
    """Choose hyper-parameters, ``trials`` a strategy; the plan's configs have them then."""
    from .tune import Search, search_all, write_tuned

    plan = board.plan
    searches: dict[str, list[Search]] = {}
    for stream in plan.streams:
        folder = board.folder / stream.name / "tuning"
        folder.mkdir(parents=True, exist_ok=True)
        for strategy, config in stream.configs.items():
            file = folder / f"{strategy}.json"
            search = Search(config, file, plan.tune_tasks, trials, list(plan.tune_seeds))
            if said := search.resume():
                say(console, f"{stream.name}: {said}")
            searches.setdefault(stream.name, []).append(search)
    every = [search for found in searches.values() for search in found]
    made = sum(len(search.trials) for search in every)
    with JobProgress(console, "trials", len(every) * trials, made) as progress:
        search_all(
            every,
            lambda first, ended: pool.do(first, ended, progress.tick),
            lambda job, trial: progress.end(
                f"{job.name}: failed, {trial.error}"
                if trial.accuracy is None
                else f"{job.name}: validation accuracy {trial.accuracy:.2%}"
            ),
        )
    for stream in plan.streams:
        found = searches.get(stream.name, [])
        configs = dict(stream.configs)
        configs.update({search.config.strategy: search.tuned() for search in found})
        board.choose(stream.name, configs, [search.tuning() for search in found])
        write_tuned(board.folder / stream.name / "tuned.yaml", stream.path, plan.command, found)


def run_missing(board: Board, pool: Pool, console: Console) -> None:
    """Every run that is not there, or not up to date."""
    missing: list[Job] = []
    for job in board.jobs:
        if (stale := board.stale(job)) is not None:
            missing.append(job)
            if stale:
                say(console, f"{job.name} is run again: {stale}")
    there = len(board.jobs) - len(missing)
    say(console, f"{len(board.jobs)} runs, {there} of them there already")
    with JobProgress(console, "runs", len(board.jobs), there) as progress:

        def ended(job: Job, outcome: Outcome) -> list[Job]:
            assert isinstance(job, RunJob)
            board.end(job, outcome)
            progress.end(_told(job, outcome))
            board.write()
            return []

        for waiting in missing:
            waiting.log.parent.mkdir(parents=True, exist_ok=True)
        pool.do(missing, ended, progress.tick)


@contextmanager
def _taken(out: Path) -> Iterator[None]:
    """Have the comparison's folder for this process alone."""
    check_name(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out needs a folder")
    lock_file = out / LOCK
    if lock_file.is_symlink() or (lock_file.exists() and lock_file.stat().st_size):
        raise InputError(f"{lock_file}: is in the way and not from this program; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in (FILE, LOCK)):
        raise InputError(f"{out}: is not empty and holds no comparison; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_file)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{out}: another comparison is running there; wait for it, or stop it") from None
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}; choose another --out") from error
    try:
        yield
    finally:
        lock.release()


def _told(job: RunJob, outcome: Outcome) -> str:
    if outcome.error is not None:
        return f"{job.name} failed after {outcome.seconds:.0f} s: {outcome.error}"
    return f"{job.name}: ACC {read_result(job.out / 'result.json').metrics.acc:.2%}  {outcome.seconds:.1f} s"
