"""How many more tasks the free neurons last for, if tasks go on taking as many as they did."""

from dataclasses import dataclass

from ...result.result import TaskUse
from ..table import Column, Table, number, words


@dataclass(frozen=True)
class LayerForecast:
    """``rate``: neurons newly used a task, mean over the later half of the tasks, at least one task."""

    layer: str
    total: int
    free: int
    rate: float

    @property
    def tasks_left(self) -> float | None:
        """Free neurons over the rate; None where no task takes new ones: at that rate they last for ever."""
        return self.free / self.rate if self.rate > 0 else None


def forecast(tasks: list[TaskUse]) -> list[LayerForecast]:
    """One forecast a layer, in forward order; ``tasks`` not empty.

    Early tasks take more than later ones, which reuse; hence the later half is what tells the present rate.
    """
    recent = tasks[len(tasks) // 2 :]
    return [
        LayerForecast(
            layer, last.total, last.free, sum(task.neurons[layer].fresh for task in recent) / len(recent)
        )
        for layer, last in tasks[-1].neurons.items()
    ]


def scarcest(forecasts: list[LayerForecast]) -> LayerForecast | None:
    """The layer that runs out first; None where none does."""
    ending = [(f.tasks_left, place) for place, f in enumerate(forecasts) if f.tasks_left is not None]
    return forecasts[min(ending)[1]] if ending else None


def forecast_table(tasks: list[TaskUse], key: str) -> Table:
    """Free neurons, the present rate and the tasks left, a row a layer."""
    rows = []
    for f in forecast(tasks):
        left = f.tasks_left
        rows.append(
            [
                words(f.layer),
                number(str(f.total), f.total),
                number(str(f.total - f.free), f.total - f.free),
                number(str(f.free), f.free),
                number(f"{f.rate:.1f}", f.rate),
                number("no end" if left is None else f"{left:.1f}", float("inf") if left is None else left),
            ]
        )
    names = ["layer", "neurons", "used", "free", "fresh a task", "tasks left"]
    caption = (
        f"Tasks left: free neurons over the mean of fresh neurons a task, over tasks {len(tasks) // 2} to "
        f"{len(tasks) - 1}. A layer without free neurons does not stop learning: new tasks reuse, and "
        "selection.growth can add neurons."
    )
    return Table(key, caption, [Column(name, numeric=i > 0) for i, name in enumerate(names)], rows)
