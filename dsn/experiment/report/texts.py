"""The summary of a report in words."""

from ..result.result import Result
from .figures.forecast import forecast, scarcest
from .measures import ACC, MEASURES, STORED, estimate, seconds, stored_bytes, winners
from .numbers import (
    counted,
    listed,
    shown,
    shown_bytes,
    shown_estimate,
    shown_seconds,
    signed,
    tried_and_accepted,
)
from .source import StreamRuns

FORGETTING = next(measure for measure in MEASURES if measure.key == "forgetting")
FEW = 5
Fact = tuple[str, str]
"""a number and what it is"""


def run_summary(name: str, strategy: str, result: Result) -> list[str]:
    """What one run came to, a paragraph an entry."""
    metrics, tasks = result.metrics, len(result.accuracy_matrix)
    first = (
        f"{strategy} learnt {counted(tasks, 'task')} of {name} in {shown_seconds(seconds(result))} and ends "
        f"with a mean accuracy of {shown(100 * metrics.acc, 'percent')}%."
    )
    if metrics.forgetting is not None and metrics.bwt is not None:
        forgot = 100 * metrics.forgetting
        first += (
            " It forgot nothing: no task is worse at the end than it ever was."
            if forgot == 0
            else f" On average a task lost {shown(forgot, 'points')} points from its best accuracy."
        )
        if abs(metrics.bwt) > 0:
            direction = "gained" if metrics.bwt > 0 else "lost"
            first += f" Against right after learning, tasks {direction} {abs(100 * metrics.bwt):.2f} points."
    if metrics.trans is not None:
        trans = signed(100 * metrics.trans)
        first += f" Against a network of its own for each task that makes {trans} points."
    return [part for part in (first, _capacity(result), _transfers(result)) if part]


def run_facts(result: Result) -> list[Fact]:
    """The main numbers of one run."""
    metrics = result.metrics
    facts = [(f"{shown(100 * metrics.acc, 'percent')}%", "mean accuracy at the end")]
    if metrics.forgetting is not None and metrics.bwt is not None:
        facts.append((shown(100 * metrics.forgetting, "points"), "points forgotten"))
        facts.append((signed(100 * metrics.bwt), "points of backward transfer"))
    if result.tasks:
        used, total = _used(result)
        facts.append((f"{used / total:.0%}", "of the neurons used"))
    stored = stored_bytes(result)
    if stored is not None:
        facts.append((shown_bytes(stored), "stored beside the backbone"))
    return [*facts, (shown_seconds(seconds(result)), "learning and evaluating")]


def stream_summary(stream: StreamRuns, reference: str) -> list[str]:
    """What the comparison on one stream came to."""
    if not stream.finished:
        return [f"None of the {counted(len(stream.runs), 'run')} on {stream.name} has finished."]
    paragraphs = [_ranking(stream)]
    found = {name: estimate(stream, name, FORGETTING) for name in stream.finished}
    lost = {name: e.mean for name, e in found.items() if e is not None}
    none = [name for name, mean in lost.items() if mean == 0]
    some = {name: mean for name, mean in lost.items() if mean != 0}
    sentences = []
    if none:
        sentences.append(f"{listed(none)} {'forgets' if len(none) == 1 else 'forget'} nothing.")
    if some:
        worst = max(some, key=some.__getitem__)
        sentences.append(
            f"{worst} forgets {'most' if len(some) > 1 else ''}".rstrip()
            + f": {shown(some[worst], 'points')} points of a task on average."
        )
    stored = {name: e.mean for name in stream.finished if (e := estimate(stream, name, STORED))}
    if reference in stored:
        sentences.append(f"{reference} keeps {shown_bytes(stored[reference])} beside the backbone's weights.")
    paragraphs.append(" ".join(sentences))
    if stream.missing:
        verb = "is" if len(stream.missing) == 1 else "are"
        paragraphs.append(
            f"{counted(len(stream.missing), 'run')} of {len(stream.runs)} {verb} missing: see Runs. Means "
            "are over the others."
        )
    return [part for part in paragraphs if part]


def _ranking(stream: StreamRuns) -> str:
    means = {name: e.mean for name in stream.finished if (e := estimate(stream, name, ACC))}
    best = max(means, key=means.__getitem__)
    text = f"{shown_estimate(estimate(stream, best, ACC), 'percent')}%"
    if len(means) == 1:
        return f"{best} ends with a mean accuracy of {text}."
    tied = [name for name in winners(stream, ACC) if name != best]
    sentence = f"{best} has the highest mean accuracy at the end, {text}"
    if not tied:
        return f"{sentence}."
    seeds = max(len(stream.results(name)) for name in tied)
    few = f" With {seeds} seeds only large and steady differences can be significant." if seeds < FEW else ""
    verb = "is" if len(tied) == 1 else "are"
    return f"{sentence}; {listed(sorted(tied))} {verb} not significantly worse.{few}"


def _capacity(result: Result) -> str:
    if not result.tasks:
        return ""
    used, total = _used(result)
    text = f"{used} of the network's {total} neurons are used."
    first = scarcest(forecast(result.tasks))
    if first is None or first.tasks_left is None:
        return f"{text} The latest tasks took no fresh ones: at that rate the free ones last for ever."
    if first.tasks_left < 1:
        left = counted(first.free, "free neuron")
        return f"{text} Layer {first.layer} has {left}, not enough for a task more at the present rate."
    return (
        f"{text} At the present rate layer {first.layer} runs out first, after about "
        f"{counted(round(first.tasks_left), 'more task')}."
    )


def _transfers(result: Result) -> str:
    if not result.transfers:
        return ""
    return f"Backward transfer: {tried_and_accepted([t.accepted for t in result.transfers])}."


def _used(result: Result) -> tuple[int, int]:
    last = result.tasks[-1].neurons.values()
    return sum(n.total - n.free for n in last), sum(n.total for n in last)
