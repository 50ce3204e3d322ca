"""``run.py forget``: a finished run without one of its tasks, in a folder of its own."""

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import streams
from dsn.baselines import masked_model_memory
from dsn.errors import InputError
from dsn.evaluation.experiences import task_label
from dsn.evaluation.metrics import Matrix, all_metrics
from dsn.masking import MaskedModel
from dsn.masking.state.fingerprint import Fingerprint, Fingerprints
from dsn.masking.state.removal import Removal, remove_task
from dsn.training.samples import read_samples
from dsn.transfer.assessment import predict

from ..base.console import make_console, say
from ..base.folder import output_folder
from ..config.experiment import Config
from ..config.faults import explained
from .certificate import changes, whole
from .files import load_model, task_uses, write
from .result import RESULT, Forgotten, Forward, Memory, Metrics, Result, Row, matrix_as_lists, read_result
from .verify import as_it_ran, verify


def forget_task(
    run: Path,
    task: int,
    out: Path | None = None,
    *,
    cascade: bool = False,
    keep_shared: bool = False,
    console: Console | None = None,
) -> tuple[Result, Path]:
    """Write the run in the folder ``run`` without ``task`` to ``out``; the folder ``run`` stays as it is.

    Hashes of the tasks that stay are those that the run took, so that ``verify`` proves them unchanged. Where
    one of them read features of a removed task, it answers by its own subnetwork from now on: its hashes of
    what it reads and of its logits are taken anew, and its accuracies measured, on the run's test stream.

    Args:
        out: new or empty; by default a fresh ``results/<run>-without-<task>``.
        cascade, keep_shared: see :meth:`dsn.MaskedModel.forget`.

    Returns the new result and its folder.

    Raises:
        InputError: ``run`` is no finished run of strategy dsn or hat, or not what it was when it ended; no
            such task, or the only one; others stand in the way; the test stream is needed and not there.
    """
    console = console or make_console()
    result = read_result(run / RESULT)
    if verify(run).status == "BROKEN":
        raise InputError(
            f"{run}: is not what it was when it ended: run.py verify says where; nothing was done"
        )
    model, here, pixel_range = load_model(run)
    config = Config.model_validate(result.config)
    with output_folder(out, f"{run.name}-without-{task}") as (folder, target):
        with as_it_ran(result, here, model):
            removal = remove_task(
                model,
                task,
                cascade=cascade,
                keep_shared=keep_shared,
                seed=config.seed,
                bound=[(t.task, t.source) for t in result.transfers if t.accepted and t.mechanism == "gates"],
            )
            if not model.committed:
                raise InputError(f"no task would be left: remove the folder {run} itself")
            anew = _measured(model, config, removal.unread)
            prints = dict(zip(removal.unread, Fingerprints(model).of(*removal.unread), strict=True))
        # with what the config of an older run does not say, as the model's file has it
        said = result.model_copy(update={"config": config.model_dump(mode="json")})
        new = write(_without(said, model, removal, anew, prints), config, model, pixel_range, folder)
    _tell(console, removal, result, anew, run, target)
    return new, target


def _measured(model: MaskedModel, config: Config, tasks: list[int]) -> dict[int, float]:
    """Test accuracy of ``tasks`` as they are now."""
    if not tasks:
        return {}
    with explained(config):
        benchmark = streams.build(config.stream, config.seed)
    found: dict[int, float] = {}
    for experience in benchmark.test_stream:
        if (label := task_label(experience)) in tasks:
            x, y = read_samples(experience.dataset)
            found[label] = float(predict(model, x, label).argmax(1).cpu().eq(y).double().mean())
    return found


def _without(
    result: Result,
    model: MaskedModel,
    removal: Removal,
    anew: dict[int, float],
    prints: dict[int, Fingerprint],
) -> Result:
    """All numbers of the run but for those of the removed tasks."""
    assert result.certificate is not None  # verify has asked for it
    order = [row.tasks[-1] for row in result.certificate]
    kept = [place for place, task in enumerate(order) if task not in removal.tasks]
    matrix = _matrix(result.matrix, order, kept, anew)
    alone = None if result.independent is None else [result.independent[place] for place in kept]
    memory = masked_model_memory(model)
    gone = set(removal.tasks)
    changes: dict[str, Any] = {
        "accuracy_matrix": matrix_as_lists(matrix),
        "metrics": Metrics.model_validate(all_metrics(matrix, alone, None)),
        "independent": alone,
        "tasks": task_uses(model),
        "transfers": [t for t in result.transfers if not {t.task, t.source} & gone],
        "forward_transfers": _forward(result.forward_transfers, gone),
        "memory": Memory.model_validate(asdict(memory)),
        "certificate": _rows(result.certificate, kept, gone, prints),
        "forgotten": [*result.forgotten, Forgotten.model_validate(asdict(removal))],
        "timings": result.timings.model_copy(
            update={"tasks": [result.timings.tasks[place] for place in kept]}
        ),
        "class_incremental": None,
        "seal": None,
    }
    return result.model_copy(update=changes)


def _matrix(matrix: Matrix, order: list[int], kept: list[int], anew: dict[int, float]) -> Matrix:
    """Rows and columns of the tasks that stay; what was measured anew holds since the task was learnt."""
    matrix = matrix.copy()
    for task, accuracy in anew.items():
        place = order.index(task)
        matrix[place:, place] = accuracy
    return matrix[np.ix_(kept, kept)]


def _rows(
    rows: list[Row], kept: list[int], gone: Collection[int], prints: dict[int, Fingerprint]
) -> list[Row]:
    """The rows at the places ``kept``; what tasks of ``prints`` read and say holds since they were learnt."""
    full, found = whole(rows), list[Row]()
    before: dict[int, Fingerprint] = {}
    for place in kept:
        now = {
            task: replace(prints.get(task, old), weights=old.weights)
            for task, old in full[place].by_task().items()
            if task not in gone
        }
        found.append(changes(before, now))
        before |= now
    return found


def _forward(outcomes: list[Forward], gone: Collection[int]) -> list[Forward]:
    """Without removed tasks, and without readings of several tasks of which one was removed."""
    found = []
    for one in outcomes:
        sources = [source for source in one.sources if source not in gone]
        if one.task in gone or not sources or (one.weight and sources != one.sources):
            continue
        found.append(one.model_copy(update={"sources": sources}))
    return found


def _tell(
    console: Console, removal: Removal, result: Result, anew: dict[int, float], run: Path, target: Path
) -> None:
    names = ", ".join(map(str, removal.tasks))
    said = f"removed: task{'s' if len(removal.tasks) > 1 else ''} {names}; "
    say(console, f"{said}{removal.redrawn} weights and biases have values from the seed")
    if removal.shared:
        say(console, f"{removal.shared} that it trained stay, since other tasks need them")
    assert result.certificate is not None
    order = [row.tasks[-1] for row in result.certificate]
    for task, accuracy in anew.items():
        before = result.matrix[-1, order.index(task)]
        say(
            console,
            f"task {task} read features of it and answers without them now: accuracy {before:.2%} to "
            f"{accuracy:.2%}",
        )
    say(console, f"written to {target}; {run} still holds what was removed: delete it when you are done")
