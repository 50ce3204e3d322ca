"""What the transfer lab measured: pairs of tasks, runs, and what follows from them. ``lab.json`` holds it.

Accuracies and gains are in [-1, 1] here; tables and pictures show percentage points.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal

import numpy as np

from dsn.transfer.lab import Trial

from ..result.interval import Interval
from ..result.result import Part, Transfer

ARMS: dict[str, tuple[str, Callable[[Trial], float]]] = {
    "transfer": ("transfer, every one kept", lambda trial: trial.transfer),
    "policy": ("transfer, as the policy decides", lambda trial: trial.policy),
    "own_features": ("own-features control", lambda trial: trial.own_features),
    "random_features": ("random-features control", lambda trial: trial.random_features),
    "oracle": ("oracle: real old data", lambda trial: trial.oracle),
    "transfer_above_own": (
        "transfer above own features, every one kept",
        lambda trial: trial.transfer - trial.own_features,
    ),
    "policy_above_own": (
        "transfer above own features, as the policy decides",
        lambda trial: trial.policy - trial.own_policy,
    ),
    "transfer_above_random": (
        "transfer above random features, every one kept",
        lambda trial: trial.transfer - trial.random_features,
    ),
    "policy_above_random": (
        "transfer above random features, as the policy decides",
        lambda trial: trial.policy - trial.random_policy,
    ),
}
"""By name: what a table calls it, and its value for one pair."""

RUNS = {
    "bwt": "BWT of the whole run",
    "bwt_own": "BWT with own features alone",
    "bwt_above_own": "BWT above own features",
    "forgetting": "forgetting of the whole run",
    "forgetting_own": "forgetting with own features alone",
}


class Acceptance(Part):
    """How well the policy predicts the true sign, over the pairs of all seeds; a gain of 0 is not above 0."""

    accepted_gain: int
    accepted_no_gain: int
    refused_gain: int
    refused_no_gain: int

    @staticmethod
    def of(trials: Sequence[Trial]) -> "Acceptance":
        """Count the pairs."""

        def count(accepted: bool, gain: bool) -> int:
            return sum(t.accepted == accepted and (t.transfer > 0) == gain for t in trials)

        return Acceptance(
            accepted_gain=count(True, True),
            accepted_no_gain=count(True, False),
            refused_gain=count(False, True),
            refused_no_gain=count(False, False),
        )

    @property
    def precision(self) -> float | None:
        """Share of the accepted transfers that gain; None where none is accepted."""
        return _ratio(self.accepted_gain, self.accepted_gain + self.accepted_no_gain)

    @property
    def recall(self) -> float | None:
        """Share of the gains that are accepted; None where there is none."""
        return _ratio(self.accepted_gain, self.accepted_gain + self.refused_gain)


class SeedRun(Part):
    """One seed: the accuracy matrices of the whole run with transfer, and with the own-features mechanism."""

    seed: int
    bwt: float
    forgetting: float
    bwt_own: float
    forgetting_own: float
    accuracy_matrix: list[list[float | None]]
    accuracy_matrix_own: list[list[float | None]]
    transfers: list[Transfer]
    seconds: float

    @property
    def bwt_above_own(self) -> float:
        """What the later tasks' features add to BWT."""
        return self.bwt - self.bwt_own


class Pair(Part):
    """One trial of one seed; ``dsn.transfer.lab.Trial`` says what the fields mean."""

    seed: int
    task: int
    source: int
    similarity: float
    neurons: int
    accuracy: float
    transfer: float
    policy: float
    own_features: float
    random_features: float
    oracle: float
    accepted: bool
    reason: str
    measures: dict[str, float | None]

    @staticmethod
    def of(seed: int, trial: Trial) -> "Pair":
        """The pair of a trial."""
        measures = {name: value if np.isfinite(value) else None for name, value in trial.measures.items()}
        return Pair.model_validate(
            {**asdict(trial), "seed": seed, "policy": trial.policy, "measures": measures}
        )

    @property
    def trial(self) -> Trial:
        """The trial it was made of."""
        return Trial(**{field.name: getattr(self, field.name) for field in fields(Trial)})


class LabResult(Part):
    """A finished lab. ``gains``: the arms, mean over pairs within a seed, then over seeds; ``runs``: the
    whole runs; ``share``, ``policy_share``: sum of the gains over sum of the oracle's, None where that is
    not above 0."""

    format_version: Literal[1] = 1
    command: str
    config: dict[str, Any]
    seeds: list[int]
    gains: dict[str, Interval]
    runs: dict[str, Interval]
    share: float | None
    policy_share: float | None
    acceptance: Acceptance
    precision: float | None
    recall: float | None
    seed_runs: list[SeedRun]
    pairs: list[Pair]
    seconds: float
    environment: dict[str, Any]


def summarise(
    pairs: list[Pair],
    seed_runs: list[SeedRun],
    *,
    command: str,
    config: dict[str, Any],
    seconds: float,
    environment: dict[str, Any],
) -> LabResult:
    """All statistics of the pairs and runs."""
    seeds = [run.seed for run in seed_runs]
    trials = [pair.trial for pair in pairs]
    acceptance = Acceptance.of(trials)
    headroom = sum(trial.oracle for trial in trials)

    def over_seeds(value: Callable[[Trial], float]) -> Interval:
        by_seed = [[value(pair.trial) for pair in pairs if pair.seed == seed] for seed in seeds]
        return Interval.of([float(np.mean(values)) for values in by_seed])

    def share(value: Callable[[Trial], float]) -> float | None:
        return sum(map(value, trials)) / headroom if headroom > 0 else None

    return LabResult(
        command=command,
        config=config,
        seeds=seeds,
        gains={name: over_seeds(value) for name, (_, value) in ARMS.items()},
        runs={name: Interval.of([getattr(run, name) for run in seed_runs]) for name in RUNS},
        share=share(lambda trial: trial.transfer),
        policy_share=share(lambda trial: trial.policy),
        acceptance=acceptance,
        precision=acceptance.precision,
        recall=acceptance.recall,
        seed_runs=seed_runs,
        pairs=pairs,
        seconds=seconds,
        environment=environment,
    )


def rows(result: LabResult) -> list[tuple[str, str, str, str]]:
    """The table: what, mean, 95% interval and share of the oracle's headroom, in points and percent."""
    shares = {"transfer": result.share, "policy": result.policy_share, "oracle": 1.0}
    if result.share is None:
        shares["oracle"] = None
    table = [
        (label, *result.gains[name].shown(), percent(shares[name]) if name in shares else "")
        for name, (label, _) in ARMS.items()
    ]
    return table + [(label, *result.runs[name].shown(), "") for name, label in RUNS.items()]


def sentences(result: LabResult) -> list[str]:
    """What stands below the table."""
    counts, transfer = result.acceptance, result.config["transfer"]
    accepted = counts.accepted_gain + counts.accepted_no_gain
    gains = counts.accepted_gain + counts.refused_gain
    return [
        f"{_number(len(result.pairs), 'pair')} of an earlier and a later task, "
        f"{_number(len(result.seeds), 'seed')}; mechanism {transfer['mechanism']}, up to {transfer['tasks']} "
        "earlier tasks for each later one.",
        f"Acceptance ({transfer['acceptance']}): {accepted} of {len(result.pairs)} accepted, {gains} gain; "
        f"precision {percent(result.precision)} ({counts.accepted_gain}/{accepted}), "
        f"recall {percent(result.recall)} ({counts.accepted_gain}/{gains}).",
    ]


def markdown(result: LabResult) -> str:
    """The table with its command, to paste into a document."""
    head = ["points", "mean", "95% interval over seeds", "share of the oracle's headroom"]
    lines = [
        "```console",
        f"$ {result.command}",
        "```",
        "",
        f"| {' | '.join(head)} |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows(result)]
    return "\n".join([*lines, "", *sentences(result), ""])


def pairs_csv(result: LabResult) -> str:
    """One line a pair, everything but the policy's measures."""
    text = io.StringIO()
    names = [name for name in Pair.model_fields if name != "measures"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(pair.model_dump() for pair in result.pairs)
    return text.getvalue()


def percent(share: float | None) -> str:
    """``71%``, or ``-`` where it is not known."""
    return "-" if share is None else f"{share:.0%}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
