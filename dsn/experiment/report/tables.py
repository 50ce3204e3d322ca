"""The tables of a report."""

import numpy as np

from ..compare.comparison import Comparison
from ..result.result import Result
from .figures.curves import backward, forgotten
from .measures import MEASURES, Measure, estimate, shown_measures, winners
from .numbers import MISSING, shown, shown_bytes, shown_estimate, shown_seconds, signed
from .source import StreamRuns
from .table import Cell, Column, Table, number, words

EXPLAINED = {
    "acc": "mean accuracy at the end",
    "bwt": "backward transfer: at the end minus right after learning",
    "forgetting": "best accuracy ever minus that at the end",
    "learning_accuracy": "mean accuracy of a task right after it was learnt",
    "fwt_random": "accuracy before learning a task minus that of an untrained network",
    "fwt_independent": "accuracy right after learning minus that of a network trained on the task alone",
    "trans": "accuracy at the end minus that of a network trained on the task alone",
    "cil_acc": "mean accuracy at the end where nobody says which task an input is of, by the combined score",
    "task_inference": "how often the task is found there",
    "stored_bytes": "kept beside the backbone's weights",
    "capacity": "bits of used weights and of all kept beside them, percent of one dense network's",
    "parameters": "the same as so many numbers of 32 bits",
    "seconds": "wall clock, learning and evaluating",
}
UNITS = {"percent": "%", "points": "points"}


def strategies_table(stream: StreamRuns, key: str) -> Table:
    """A row a strategy that was asked for, those without a finished run too."""
    measures = shown_measures(stream)
    best = {m.key: winners(stream, m) for m in measures}
    seeds = {name: len(stream.results(name)) for name in stream.strategies}
    several, compared = max(seeds.values()) > 1, len(stream.strategies) > 1
    columns = [Column("strategy", numeric=False)]
    columns += [Column("seeds")] if compared else []
    columns += [Column(_headed(m), title=EXPLAINED[m.key]) for m in measures]
    rows = []
    for name in stream.strategies:
        row = [words(name)]
        if compared:
            asked = sum(run.strategy == name for run in stream.runs)
            all_there = seeds[name] == asked
            row.append(number(str(asked) if all_there else f"{seeds[name]} of {asked}", seeds[name]))
        row += [_measured(stream, name, m, name in best[m.key]) for m in measures]
        rows.append(row)
    caption = f"{stream.name}, {stream.tasks} tasks: " if compared else ""
    caption += "mean ± half the 95% t-interval over seeds. " if several else "one seed. " if compared else ""
    if compared:
        caption += (
            "Bold: the best of a column, and what is not significantly worse than it by a paired t-test over "
            "seeds at 5%, Holm-corrected within the column; with one seed nothing can be tested and the best "
            "alone is bold."
        )
    else:
        caption = f"{stream.name}, {stream.tasks} tasks, one seed."
    return Table(key, caption.strip(), columns, rows)


def csv_rows(stream: StreamRuns) -> list[dict[str, str]]:
    """One row a strategy for ``comparison.csv``: means and limits at full precision, empty where unknown."""
    rows = []
    for name in stream.strategies:
        row = {"stream": stream.name, "strategy": name, "seeds": str(len(stream.results(name)))}
        row["missing"] = str(sum(run.strategy == name for run in stream.missing))
        for measure in MEASURES:
            found = estimate(stream, name, measure)
            for part in ("mean", "low", "high"):
                value = None if found is None else getattr(found, part)
                row[f"{measure.key}_{part}"] = "" if value is None else repr(float(value))
        rows.append(row)
    return rows


def differences_table(stream: StreamRuns, reference: str, key: str) -> Table | None:
    """Accuracy of each strategy minus that of the reference."""
    if stream.compared is None or not stream.compared.differences:
        return None
    rows = []
    for d in sorted(stream.compared.differences, key=lambda d: -d.mean):
        interval = MISSING
        if d.low is not None and d.high is not None:
            interval = f"{signed(100 * d.low)} to {signed(100 * d.high)}"
        rows.append(
            [
                words(d.strategy),
                number(str(len(d.seeds)), len(d.seeds)),
                number(signed(100 * d.mean), d.mean),
                number(interval, d.low),
                number(_p(d.p), d.p),
                number(_p(d.p_holm), d.p_holm),
            ]
        )
    names = ["strategy", "seeds", "difference", "95% interval", "p", "p, Holm"]
    caption = (
        f"ACC minus that of {reference}, points, paired by seed; paired t-test, p corrected by Holm over all "
        "comparisons of this report. A dash: one seed, or no spread between seeds."
    )
    return Table(key, caption, [Column(name, numeric=i > 0) for i, name in enumerate(names)], rows)


def ranks_table(comparison: Comparison) -> Table | None:
    """Mean ranks over several streams."""
    ranks = comparison.statistics.ranks
    if not ranks or len(comparison.streams) < 2:
        return None
    rows = [
        [words(r.strategy), number(f"{r.rank:.2f}", r.rank), number(str(r.streams), r.streams)] for r in ranks
    ]
    caption = "Mean rank by ACC over the streams on which every strategy has a finished run; 1 is best."
    return Table(
        "ranks", caption, [Column("strategy", numeric=False), Column("rank"), Column("streams")], rows
    )


def tuning_table(stream: StreamRuns, key: str) -> Table | None:
    """The hyper-parameters that were chosen, where they were."""
    if stream.compared is None or not stream.compared.tuning:
        return None
    rows = []
    for tuning in stream.compared.tuning:
        chosen = "none: every trial failed" if tuning.chosen is None else ""
        chosen = chosen or ", ".join(f"{name}={value}" for name, value in (tuning.chosen or {}).items())
        best = max((t.accuracy for t in tuning.trials if t.accuracy is not None), default=None)
        rows.append([
            words(tuning.strategy), number(str(len(tuning.trials)), len(tuning.trials)),
            number(shown(None if best is None else 100 * best, "percent"), best), words(chosen),
        ])  # fmt: skip
    columns = [Column("strategy", numeric=False), Column("trials"), Column("validation %")]
    columns += [Column("chosen", numeric=False, long=True)]
    return Table(key, "Hyper-parameters, chosen by validation accuracy on the first tasks.", columns, rows)


def runs_table(stream: StreamRuns, key: str) -> Table:
    """Every run that was asked for: its numbers, or why there are none."""
    measures = shown_measures(stream)
    columns = [Column("strategy", numeric=False), Column("seed"), Column("state", numeric=False, long=True)]
    columns += [Column(_headed(m), title=EXPLAINED[m.key]) for m in measures]
    rows = []
    for run in sorted(stream.runs, key=lambda run: (stream.strategies.index(run.strategy), run.seed)):
        cells = [words(run.strategy), number(str(run.seed), run.seed), words(run.problem or "done")]
        for measure in measures:
            value = None if run.result is None else measure.of(run.result)
            cells.append(number(shown(value, measure.unit), value))
        rows.append(cells)
    return Table(key, "Every run that was asked for; a dash where there is no number.", columns, rows)


def tasks_table(result: Result, key: str) -> Table:
    """A row a task of one run."""
    r = 100 * result.matrix
    tasks = len(r)
    lost, gained = forgotten(result), backward(result)
    memory = result.memory.bytes_per_task if result.memory else []
    columns = [Column("task"), Column("learnt %", title="right after learning"), Column("at the end %")]
    columns += [Column("BWT", title="points"), Column("forgetting", title="points")]
    columns += [Column("fresh", title="neurons"), Column("reused", title="neurons")] if result.tasks else []
    columns += [Column("stored")] if len(memory) == tasks else []
    columns += [Column("training"), Column("evaluation")] if len(result.timings.tasks) == tasks else []
    rows = []
    for k in range(tasks):
        row = [number(str(k), k), _points(r[k, k]), _points(r[-1, k])]
        row += (
            [_points(gained[k], sign=True), _points(lost[k])]
            if k < tasks - 1
            else [number(MISSING, None)] * 2
        )
        if result.tasks:
            for name in ("fresh", "reused"):
                count = sum(getattr(n, name) for n in result.tasks[k].neurons.values())
                row.append(number(str(count), count))
        if len(memory) == tasks:
            row.append(number(shown_bytes(memory[k]), memory[k]))
        if len(result.timings.tasks) == tasks:
            time = result.timings.tasks[k]
            row += [number(shown_seconds(s), s) for s in (time.train, time.evaluate)]
        rows.append(row)
    return Table(key, "Each task, in the order of learning.", columns, rows)


def transfers_table(stream: StreamRuns, key: str) -> Table | None:
    """Every attempt at backward transfer; None where there was none."""
    several = len(stream.runs) > 1
    columns = [Column("strategy", numeric=False), Column("seed")] if several else []
    columns += [Column("task"), Column("from"), Column("similarity"), Column("neurons")]
    columns += [Column("accepted", numeric=False), Column("why", numeric=False, long=True)]
    rows = []
    for name in stream.finished:
        for result in stream.results(name):
            for t in result.transfers:
                row = [words(name), number(str(result.seed), result.seed)] if several else []
                row += [number(str(t.task), t.task), number(str(t.source), t.source)]
                row += [number(f"{t.similarity:.2f}", t.similarity), number(str(t.neurons), t.neurons)]
                row += [Cell("accepted" if t.accepted else "no", str(not t.accepted), best=t.accepted)]
                rows.append([*row, words(t.reason)])
    if not rows:
        return None
    caption = (
        "Every attempt: the earlier task that may gain, the later one that it may gain from, the similarity "
        "of their masks, and the neurons that it would read and did not before."
    )
    return Table(key, caption, columns, rows)


def _headed(measure: Measure) -> str:
    return f"{measure.name} %" if measure.unit == "percent" else measure.name


def _measured(stream: StreamRuns, strategy: str, measure: Measure, best: bool) -> Cell:
    found = estimate(stream, strategy, measure)
    return number(shown_estimate(found, measure.unit), found and found.mean, best=best)


def _points(value: float | np.floating, *, sign: bool = False) -> Cell:
    number_ = float(value)
    return number(signed(number_) if sign else shown(number_, "points"), number_)


def _p(p: float | None) -> str:
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
