"""One strategy learns a stream task by task, evaluated after each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console

from dsn.baselines import masked_model_memory
from dsn.evaluation.experiences import task_label
from dsn.evaluation.metrics import Matrix
from dsn.evaluation.plugin import TransferMetrics, evaluator
from dsn.evaluation.trackers import Tracker
from dsn.masking import MaskedModel
from dsn.masking.state.carried import CarriedFingerprints
from dsn.masking.state.fingerprint import Fingerprints

from ..base.console import say
from ..config.experiment import Config, EvaluationConfig
from ..config.machine import seed_everything
from ..result.certificate import row_of
from ..result.result import Forward, Transfer, UnlabelledRow
from .build import build_strategy, can_transfer, total_epochs
from .course import Course, Saved
from .learnt import Learnt
from .terminal import TaskProgress, show_transfers
from .topology_lines import TopologyLines
from .unlabelled import Unlabelled


@dataclass(frozen=True)
class Session:
    """What is learnt, where, and where it is said.

    benchmark: the stream of ``config``, as ``benchmarks.streams.build`` makes it
    verbose: also show the loss of every epoch and the topology of every task
    tracker: where curves and results go as well
    """

    config: Config
    benchmark: Any
    device: torch.device
    console: Console
    verbose: bool = False
    tracker: Tracker | None = None

    @property
    def tasks(self) -> int:
        """How many the stream has."""
        return len(self.benchmark.train_stream)

    @property
    def at_once(self) -> bool:
        """Whether nothing is learnt before the last task has been seen: joint training."""
        return self.config.strategy == "joint"


def learn(session: Session, saved: Saved | None = None) -> Learnt:
    """Train the tasks of the stream in order with one strategy; after each, a row of the accuracy matrix.

    A strategy is anything that has Avalanche's ``train`` and ``eval``, and ``memory``. Joint training is
    evaluated once, and that row stands in the place of the earlier ones too. ``saved``: where to keep the
    state, and the one to go on from.
    """
    config, benchmark, console = session.config, session.benchmark, session.console
    seed_everything(config.seed)
    metrics = TransferMetrics(benchmark.test_stream.name)
    _say_whether_transfer_is_off(session)
    with make_progress(session) as progress:
        tracker = session.tracker
        loggers = [progress] if tracker is None else [progress, tracker.logger]
        observer = evaluator(metrics, loggers, curves=tracker is not None)
        strategy = build_strategy(
            config,
            sample_shape(benchmark),
            session.device,
            observer,
            tasks=session.tasks,
            pixel_range=benchmark.pixel_range,
        )
        _say_what_is_fresh(console, strategy.model)
        course = Course(strategy, metrics, progress, saved)
        if saved is not None and saved.state is not None:
            say(console, f"going on {course}")
        elif config.evaluation.random:
            strategy.eval(benchmark.test_stream)
        _follow(course, session)
    return _learnt(course, session)


def _follow(course: Course, session: Session) -> None:
    """Learn and evaluate what is left of the tasks."""
    benchmark, strategy = session.benchmark, course.strategy
    ahead = 1 if session.config.evaluation.random else 0  # forward transfer looks at the next task too
    model = masked(strategy)
    carried: Fingerprints | None = None if model is None else CarriedFingerprints(model)
    unlabelled = None
    if session.config.evaluation.class_incremental:
        unlabelled = Unlabelled(strategy, benchmark, session.device)
    show_topology = TopologyLines(session.console, strategy.model, session.verbose)
    tests: dict[int, Any] = {}  # Avalanche makes an experience in a time that grows with the stream
    while course.place.task < session.tasks:
        task = course.place.task
        tests |= {task_label(one): one for one in benchmark.test_stream[len(tests) : task + 1 + ahead]}
        course.train(benchmark.train_stream[task], validation(benchmark, task))
        evaluated = not session.at_once or task == session.tasks - 1
        seen = _unlabelled(unlabelled, session, task) if evaluated else None
        if carried is not None and task == session.tasks - 1:
            carried = Fingerprints(carried.model)  # in the end, nothing is taken on trust
        row = None if carried is None else partial(row_of, carried)
        course.evaluate(tests if evaluated else None, row, seen)
        _show_transfers(course, session)
        show_topology()
    course.end()


def _show_transfers(course: Course, session: Session) -> None:
    """What the task that was just learnt and evaluated reads and gives."""
    strategy, order = course.strategy, course.metrics.order
    rows = course.metrics.rows(range(max(0, len(order) - 2), len(order))).tolist()
    show_transfers(
        session.console,
        [outcome for outcome in getattr(strategy, "forward_transfers", []) if outcome.task == order[-1]],
        [outcome for outcome in getattr(strategy, "transfers", []) if outcome.source == order[-1]],
        dict(zip(order, zip(rows[0], rows[-1], strict=True), strict=True)),
        session.verbose,
    )


def _unlabelled(
    unlabelled: Unlabelled | None, session: Session, task: int
) -> Callable[[], UnlabelledRow] | None:
    """What gives the row after ``task`` of an evaluation without task labels, where it is wanted."""
    if unlabelled is None:
        return None

    def row() -> UnlabelledRow:
        for place in range(task + 1) if session.at_once else (task,):
            unlabelled.learn(place)
        return unlabelled.row(task)

    return row


def _learnt(course: Course, session: Session) -> Learnt:
    strategy, metrics, model = course.strategy, course.metrics, masked(course.strategy)
    matrix: Matrix = metrics.matrix
    if session.at_once:
        matrix = np.where(np.tri(session.tasks) == 1, matrix[-1], np.nan)
    transfers, forward = getattr(strategy, "transfers", []), getattr(strategy, "forward_transfers", [])
    return Learnt(
        matrix=matrix,
        random=metrics.random,
        model=model,
        times=list(course.place.times),
        memory=strategy.memory() if model is None else masked_model_memory(model),
        transfers=[Transfer.model_validate(asdict(outcome)) for outcome in transfers],
        forward_transfers=[Forward.model_validate(asdict(outcome)) for outcome in forward],
        certificate=None if model is None else list(course.place.certificate),
        class_incremental=list(course.place.unlabelled) or None,
    )


def masked(strategy: Any) -> MaskedModel | None:
    """Its network, if that has masks over neurons."""
    return strategy.model if isinstance(strategy.model, MaskedModel) else None


def _say_whether_transfer_is_off(session: Session) -> None:
    config = session.config
    wanted = config.transfer.tasks or config.transfer.forward
    if config.strategy == "dsn" and wanted and not can_transfer(config):
        say(
            session.console,
            "transfer is off: there are no validation data to judge it by; set stream.validation, e.g. 0.1, "
            "or transfer.tasks=0 and transfer.forward=0",
        )


def _say_what_is_fresh(console: Console, model: object) -> None:
    """Which layers of a kept, pretrained backbone tasks can learn neurons in."""
    if not isinstance(model, MaskedModel) or not model.pretrained:
        return
    grown = ", ".join(f"{path} +{count}" for path, count in model.fresh.items())
    say(
        console,
        f"the pretrained network is kept: {len(model.fresh)} of its {len(model.layers)} layers have fresh "
        f"neurons{': ' if grown else ''}{grown}",
    )


def learn_independent(session: Session, saved: Saved | None = None) -> list[float]:
    """Test accuracy of one dense network a task, of the same backbone and as many epochs in all."""
    change = {"strategy": "independent", "evaluation": EvaluationConfig()}
    alone = replace(session, config=session.config.model_copy(update=change), tracker=None)
    return [float(value) for value in learn(alone, saved).matrix[-1]]


def make_progress(session: Session, *, evaluated: bool | None = None) -> TaskProgress:
    """The logger of one strategy's training; ``evaluated``: after each task, by default unless at once."""
    return TaskProgress(
        session.console,
        tasks=session.tasks,
        epochs=total_epochs(session.config),
        evaluated=not session.at_once if evaluated is None else evaluated,
        verbose=session.verbose,
    )


def validation(benchmark: Any, task: int) -> list[Any]:
    """The validation experience of ``task`` in a list, which is empty where there is none."""
    return [] if benchmark.valid_stream is None else [benchmark.valid_stream[task]]


def sample_shape(benchmark: Any) -> torch.Size:
    """[C, H, W] or [D] of every sample."""
    x, *_ = benchmark.train_stream[0].dataset[0]
    return x.shape
