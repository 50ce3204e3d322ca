"""Where the curves and results of a run go beside its folder: TensorBoard, Weights & Biases or MLflow.

TensorBoard by Avalanche's logger. It has none for MLflow, and that for W&B (0.6) asks wandb for names that
newer ones have not. Where a tracker keeps its runs, and under which
project, its own environment variables say: ``WANDB_PROJECT``, ``WANDB_MODE``, ``WANDB_DIR``;
``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from avalanche.evaluation.metric_results import AlternativeValues
from avalanche.logging import BaseLogger, TensorboardLogger

from dsn.errors import InputError

Kind = Literal["none", "tensorboard", "wandb", "mlflow"]
PROJECT = "dsn"  # where WANDB_PROJECT says nothing


class Tracker(Protocol):
    """What a run tells while it learns, and when it is done."""

    logger: Any
    """for an ``EvaluationPlugin``"""
    id: str | None
    """by which an interrupted run is found again; None where its folder is enough"""

    def keep(self, numbers: Mapping[str, float], files: Sequence[Path]) -> None:
        """The results, by name, and files with more of them."""

    def close(self, *, finished: bool) -> None:
        """Write out what is held back; nothing is told afterwards."""


def start_tracker(
    kind: Kind, name: str, settings: Mapping[str, Any], folder: Path, id: str | None = None
) -> Tracker | None:
    """The tracker ``kind``, with a run begun in it; None for "none".

    Args:
        name: of the run.
        settings: what the run is made with: blocks of them, or values.
        folder: where TensorBoard's logs go.
        id: of the run to go on with.

    Raises:
        InputError: it is not installed, or refuses to start.
    """
    if kind == "none":
        return None
    try:
        if kind == "tensorboard":
            return _TensorBoard(folder)
        return (_WandB if kind == "wandb" else _MLflow)(name, settings, id)
    except ImportError:
        raise InputError(f"tracker: {kind} is not installed: pip install {kind}; or leave it out") from None
    except Exception as error:  # each has errors of its own
        raise InputError(
            f"tracker: {kind} does not start ({_first_line(error)}): {REMEDIES[kind]}, or leave it out"
        ) from error


REMEDIES = {
    "tensorboard": "see that the folder can be written",
    "wandb": "set WANDB_MODE=offline, or log in with `wandb login`",
    "mlflow": "set MLFLOW_TRACKING_URI, e.g. to sqlite:///mlflow.db",
}


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        self.logger: Any = TensorboardLogger(str(folder))
        self.id: str | None = None

    def keep(self, numbers: Mapping[str, float], files: Sequence[Path]) -> None:
        """They lie beside its logs already."""

    def close(self, *, finished: bool) -> None:
        self.logger.writer.close()


class _WandB:
    def __init__(self, name: str, settings: Mapping[str, Any], id: str | None) -> None:
        import wandb

        self.id: str | None = id or secrets.token_hex(4)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run: Any = wandb.init(
            project=project, name=name, id=self.id, resume="allow", config=dict(settings), save_code=False
        )
        self.logger: Any = NumberLogger(lambda name, value, step: self._run.log({name: value}, step=step))

    def keep(self, numbers: Mapping[str, float], files: Sequence[Path]) -> None:
        import wandb

        self._run.summary.update(dict(numbers))
        artifact = wandb.Artifact(f"result-{self.id}", type="result")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class _MLflow:
    def __init__(self, name: str, settings: Mapping[str, Any], id: str | None) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        run = mlflow.start_run(run_id=id) if id else mlflow.start_run(run_name=name)
        self.id: str | None = run.info.run_id
        self.logger: Any = NumberLogger(lambda name, value, step: self._mlflow.log_metric(name, value, step))
        try:
            mlflow.log_params(_flat(settings))
        except Exception:
            self.close(finished=False)
            raise

    def keep(self, numbers: Mapping[str, float], files: Sequence[Path]) -> None:
        self._mlflow.log_metrics(dict(numbers))
        for file in files:
            self._mlflow.log_artifact(str(file))

    def close(self, *, finished: bool) -> None:
        self._mlflow.end_run("FINISHED" if finished else "KILLED")


class NumberLogger(BaseLogger):
    """A logger for Avalanche that gives each number to ``log``, as (name, value, step); all else is left out.

    Where ``log`` fails amid a run, that is said once, and the run goes on without it.
    """

    def __init__(self, log: Callable[[str, float, int], Any]) -> None:
        super().__init__()
        self._log: Callable[[str, float, int], Any] | None = log

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """As Avalanche calls it; ``x_plot`` is its step."""
        if isinstance(value, AlternativeValues):
            value = value.best_supported_value(float, int)
        if self._log is None or not isinstance(value, (float, int)):
            return
        try:
            self._log(name, float(value), x_plot)
        except Exception as error:
            self._log = None
            warnings.warn(
                f"the tracker takes no more numbers ({_first_line(error)}): the run goes on without it",
                stacklevel=2,
            )


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """``{"train": {"lr": 1}}`` as ``{"train.lr": 1}``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return flat


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
