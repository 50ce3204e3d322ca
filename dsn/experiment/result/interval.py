"""A mean over seeds with its interval, as results hold it."""

from collections.abc import Sequence

from dsn.evaluation.statistics import mean_interval

from .result import Part


class Interval(Part):
    """Mean over seeds with its 95% t-interval; the limits are None for a single seed."""

    mean: float
    low: float | None
    high: float | None

    @staticmethod
    def of(values: Sequence[float]) -> "Interval":
        """The interval of one value a seed."""
        return Interval(**mean_interval(values)._asdict())

    def shown(self) -> tuple[str, str]:
        """Mean and limits in percentage points, for a table."""
        mean = f"{100 * self.mean:+.2f}"
        if self.low is None or self.high is None:
            return mean, "one seed"
        return mean, f"{100 * self.low:+.2f} to {100 * self.high:+.2f}"
