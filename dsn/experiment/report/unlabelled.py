"""How well each strategy does where nobody says which task an input is of, score by score."""

import numpy as np

from dsn.evaluation.statistics import mean_interval
from dsn.masking.recognition import SCORES

from .numbers import shown_estimate
from .source import StreamRuns
from .table import Column, Table, number, words


def unlabelled_table(stream: StreamRuns, key: str) -> Table | None:
    """A row a strategy and score; None where no run was evaluated in this way."""
    rows = []
    for name in stream.finished:
        last = [r.class_incremental[-1] for r in stream.results(name) if r.class_incremental]
        for score in SCORES if last else ():
            found = [
                mean_interval([100 * float(np.mean(part[score])) for part in parts])
                for parts in ([row.accuracy for row in last], [row.inference for row in last])
            ]
            cells = (number(shown_estimate(e, "percent"), e.mean) for e in found)
            rows.append([words(name), words(score), *cells])
    if not rows:
        return None
    caption = (
        "Means over tasks at the end, percent, ± half the 95% t-interval over seeds: task and class right, "
        "and the task right, by each score. confidence: the most confident head; energy: of its logits, "
        "calibrated a task; distance: of its features from those of its classes; combined: the sum of the "
        "last two."
    )
    columns = [Column("strategy", numeric=False), Column("score", numeric=False)]
    return Table(key, caption, [*columns, Column("accuracy"), Column("task found")], rows)
