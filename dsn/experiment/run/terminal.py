"""What a run shows: progress while it trains, a table at its end; plain lines where there is no terminal."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

from dsn.transfer import ForwardOutcome, TransferOutcome

from ..base.console import say, show_table
from ..result.result import Result

MOST_COLUMNS = 30
"""tasks of an accuracy matrix that is shown"""


class TaskProgress:
    """An Avalanche logger: bars in a terminal, else a line a task, and with ``verbose`` a line an epoch.

    ``evaluated``: the test stream is evaluated after each task, by a strategy with ``TransferMetrics``.
    The loss is summed on its device and read once an epoch, so training never waits for it.
    """

    def __init__(
        self, console: Console, *, tasks: int, epochs: int, evaluated: bool = True, verbose: bool = False
    ) -> None:
        self.tasks, self.epochs = tasks, epochs
        self.evaluated, self.verbose = evaluated, verbose
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("tasks", total=tasks, note="")
        self._one = self._bars.add_task("epochs", total=epochs, note="")
        self._task = -1
        self._loss: Tensor | float = 0.0
        self._iterations = 0
        self._carried = (0.0, 0)  # loss and iterations of an epoch that is gone on with
        self._mean_loss = float("nan")
        self._started = time.perf_counter()

    def __enter__(self) -> "TaskProgress":
        self._bars.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._bars.stop()

    def take_state(self) -> dict[str, Any]:
        """The losses that were not shown yet."""
        return {"loss": float(self._loss), "iterations": self._iterations, "mean_loss": self._mean_loss}

    def put_state(self, state: dict[str, Any], tasks: int) -> None:
        """Put back what :meth:`take_state` took when ``tasks`` tasks had been learnt."""
        self._task = tasks - 1
        self._carried = (state["loss"], state["iterations"])
        self._mean_loss = state["mean_loss"]

    def log_metrics(self, _values: list[Any]) -> None:
        """Each callback gets the metrics of its own."""

    def before_training_exp(self, _strategy: Any, _values: list[Any]) -> None:
        self._task += 1
        self._started = time.perf_counter()
        self._bars.reset(self._one, total=self.epochs, note="")
        self._bars.update(self._all, completed=self._task)

    def before_training_epoch(self, _strategy: Any, _values: list[Any]) -> None:
        self._loss, self._iterations = self._carried
        self._carried = (0.0, 0)

    def after_training_iteration(self, strategy: Any, _values: list[Any]) -> None:
        self._loss = self._loss + strategy.loss.detach()
        self._iterations += 1

    def after_training_epoch(self, strategy: Any, _values: list[Any]) -> None:
        self._mean_loss = float(self._loss) / max(self._iterations, 1)
        epoch = strategy.clock.train_exp_epochs + 1
        self._bars.update(self._one, completed=epoch, note=f"loss {self._mean_loss:.4f}")
        if self.verbose:
            self._say(f"{self._name}  epoch {epoch}/{self.epochs}  loss {self._mean_loss:.4f}")

    def after_training_exp(self, _strategy: Any, _values: list[Any]) -> None:
        if not self.evaluated and self._iterations:
            self._end_task("")

    def after_eval(self, _strategy: Any, values: list[Any]) -> None:
        metrics = [value.origin for value in values if value.name.startswith("acc/")]
        if metrics:
            [row] = metrics[0].rows([len(metrics[0].order) - 1])
            self._end_task(f"  accuracy {row[-1]:.2%}  mean so far {row.mean():.2%}")

    def _end_task(self, accuracy: str) -> None:
        seconds = time.perf_counter() - self._started
        self._say(f"{self._name}  loss {self._mean_loss:.4f}{accuracy}  {seconds:.1f} s")
        self._bars.update(self._all, completed=self._task + 1)

    @property
    def _name(self) -> str:
        return f"task {self._task} ({self._task + 1}/{self.tasks})"

    def _say(self, line: str) -> None:
        say(self._bars.console, line)


def show_transfers(
    console: Console,
    forward: Iterable[ForwardOutcome],
    backward: Iterable[TransferOutcome],
    accuracy: Mapping[int, tuple[float, float]],
    verbose: bool = False,
) -> None:
    """A line for what the task just learnt reads, for each task it gives to, and for all that it does not.

    Args:
        accuracy: of each earlier task on its test data, before and after; they decide nothing.
        verbose: a line for each attempt, with the numbers that decided it.
    """
    for read in forward:
        if read.weight or verbose:
            say(console, f"  {'+' if read.weight else '-'} {read}")
    refused: dict[str, list[str]] = {}
    for outcome in backward:
        if verbose:
            say(console, f"  {'+' if outcome.accepted else '-'} {outcome}")
        elif outcome.accepted:
            before, after = accuracy[outcome.task]
            gains = (
                f"task {outcome.task} gains from task {outcome.source}, accuracy {before:.2%} to {after:.2%}"
            )
            say(console, f"  + {gains} ({outcome.why})")
        else:
            refused.setdefault(outcome.why, []).append(str(outcome.task))
    if refused:
        told = [f"{'tasks' if len(t) > 1 else 'task'} {', '.join(t)} ({why})" for why, t in refused.items()]
        say(console, f"  - unchanged: {', '.join(told)}")


def show_result(console: Console, result: Result) -> None:
    """The accuracy matrix in percent, where it is not too large to look at, and the metrics in points."""
    console.print()
    if len(result.accuracy_matrix) <= MOST_COLUMNS:
        show_table(console, _matrix_table(result, console))
    show_table(console, _metrics_table(result))


def _matrix_table(result: Result, console: Console) -> Table:
    tasks = len(result.accuracy_matrix)
    digits = 1 if 12 + 7 * tasks <= console.width else 0
    table = Table(title="accuracy in percent", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("after task", justify="right", no_wrap=True)
    for k in range(tasks):
        table.add_column(str(k), justify="right", no_wrap=True)
    for i, row in enumerate(result.accuracy_matrix):
        table.add_row(str(i), *("" if value is None else f"{100 * value:.{digits}f}" for value in row))
    return table


def _metrics_table(result: Result) -> Table:
    table = Table(
        title="metrics in percentage points", title_justify="left", box=box.SIMPLE, show_header=False
    )
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, value in result.metrics.model_dump().items():
        if value is not None:
            table.add_row(name, f"{100 * value:.2f}")
    return table
