"""What a worker does for a comparison: a run, or a trial that sees no test data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import streams
from dsn.errors import InputError
from dsn.evaluation.metrics import acc
from dsn.storage import first_difference

from ..base.console import make_console
from ..base.own_files import FIGURES, LOGS, REPORT, RUN, others_in, remove_written
from ..config.experiment import Config
from ..config.machine import set_up
from ..result.key import key_of, read_key, write_key
from ..result.result import RESULT
from ..run.checkpoint import has_checkpoint, owner_of, read_owner
from ..run.learn import Session, learn
from ..run.run import run
from ..run.run_folder import checkpoint_of, drop, wait_until_free
from .job import RunJob, TrialJob

NAMES = (*RUN, LOGS, *REPORT, *FIGURES)
"""what a run has in its folder, and a report of it"""


def make_run(job: RunJob, config: Config) -> None:
    """Make the run of ``job``, or go on with it; one that is there already, of the same key, stays."""
    key = job.out.with_name(f"{job.out.name}.json")
    wait_until_free(job.out, job.patience)
    if (job.out / RESULT).is_file() and read_key(key).get("key") == key_of(job.identity):
        print("the run is there already")  # an engine may do a job twice
        return
    remove_stale(job.out, key)
    drop_unfit(job.out, config)
    run(config, job.out, resume=has_checkpoint(checkpoint_of(job.out)))
    write_key(key, job.identity)


def make_trial(job: TrialJob, config: Config) -> float:
    """The accuracy of a trial."""
    return trial(config, job.tasks)


def remove_stale(out: Path, key: Path) -> None:
    """Remove an old run in the place of ``out``, its result first, so that no half of it is taken for one.

    Raises InputError where others have put files there; all of it stays then.
    """
    if others := others_in(out, NAMES):
        raise InputError(f"{out}: is not empty: {others[0]} is not from the run; move it away")
    if out.is_dir():
        key.unlink(missing_ok=True)
        (out / RESULT).unlink(missing_ok=True)
        remove_written(out, NAMES)


def drop_unfit(out: Path, config: Config) -> None:
    """Remove an interrupted run in the place of ``out`` that this config or code cannot go on with."""
    folder = checkpoint_of(out)
    if not has_checkpoint(folder):
        return
    try:
        said = first_difference(read_owner(folder), owner_of(config))
    except InputError as error:
        said = str(error)
    if said is not None:
        print(f"an interrupted run is begun again: {said}")
        drop(folder)


def trial(config: Config, tasks: int) -> float:
    """Mean validation accuracy, in [0, 1], of the first ``tasks`` tasks after learning the last of them."""
    device = set_up(config)
    benchmark = FirstTasks.of(streams.build(config.stream, config.seed), tasks)
    return acc(learn(Session(config, benchmark, device, make_console())).matrix)


@dataclass(frozen=True)
class FirstTasks:
    """A benchmark cut to its first tasks, with their validation images in the place of the test images."""

    train_stream: Any
    valid_stream: Any
    test_stream: Any
    pixel_range: Any
    task_classes: list[list[str]]

    @staticmethod
    def of(benchmark: Any, tasks: int) -> "FirstTasks":
        """Cut ``benchmark``, which must have a validation stream."""
        if benchmark.valid_stream is None:
            raise InputError("stream.validation: is 0, but --tune judges by validation data; set e.g. 0.1")
        valid = benchmark.valid_stream[:tasks]
        return FirstTasks(
            benchmark.train_stream[:tasks],
            valid,
            valid,
            benchmark.pixel_range,
            benchmark.task_classes[:tasks],
        )
