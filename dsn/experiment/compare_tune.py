"""Hyper-parameters by validation accuracy on the first tasks, with as many trials for every strategy.

The search is optuna's TPE (Bergstra et al. 2011). Its sampler is seeded anew for each trial from the trial's
number, and is told all trials before: so a search that was stopped goes on as if it had not been, and the
order in which strategies take turns does not matter. The first trial is the config as it is.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter, ValidationError

from .compare_key import identity, key_of
from .compare_spaces import Space, space_of, value_at, with_values
from .compare_worker import Job, Outcome
from .comparison import Trial, Tuning
from .config import Config
from .result import write_whole

DIGITS = 3
TRIALS: TypeAdapter[list[Trial]] = TypeAdapter(list[Trial])


@dataclass
class Search:
    """The trials of one strategy on one stream, kept in the file ``path``.

    config: as given; its seed is that of every trial
    tasks: how many of the first tasks a trial learns
    wanted: number of trials
    """

    config: Config
    path: Path
    tasks: int
    wanted: int
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.space: Space = space_of(self.config)
        bounds = {name: repr(distribution) for name, distribution in self.space.items()}
        self.key = key_of({**identity(self.config), "tasks": self.tasks, "space": bounds})

    def resume(self) -> str | None:
        """Take over the trials of the file; says so where it has others, which do not count any more."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            known, trials = values["key"], TRIALS.validate_python(values["trials"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            known, trials = None, []
        if known != self.key:
            return f"{self.config.strategy}: config or code changed since its trials, they are made again"
        self.trials = trials[: self.wanted]
        return None

    def next_job(self) -> Job | None:
        """The next trial; None when all are made."""
        if len(self.trials) >= self.wanted:
            return None
        number = len(self.trials)
        tried = with_values(self.config, self.suggest(number))
        return Job(
            name=f"{self.config.strategy} trial {number + 1}/{self.wanted}",
            config=tried.model_dump_json(),
            log=self.path.with_name(f"{self.config.strategy}-trial{number + 1}.log"),
            tune_tasks=self.tasks,
        )

    def suggest(self, number: int) -> dict[str, float]:
        """The values of trial ``number``, from those before it."""
        if number == 0:
            return {key: value_at(self.config, key) for key in self.space}
        seed = int(np.random.SeedSequence([self.config.seed, number]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([self._known(trial) for trial in self.trials[:number]])
        asked = study.ask(dict(self.space))
        return {key: _rounded(asked.params[key], self.space[key]) for key in self.space}

    def add(self, outcome: Outcome) -> Trial:
        """Keep how the next trial ended."""
        trial = Trial(
            values=self.suggest(len(self.trials)),
            accuracy=outcome.accuracy if outcome.error is None else None,
            seconds=outcome.seconds,
            error=outcome.error,
        )
        self.trials.append(trial)
        kept = {"key": self.key, "trials": TRIALS.dump_python(self.trials, mode="json")}
        write_whole(self.path, json.dumps(kept, indent=2, allow_nan=False) + "\n")
        return trial

    @property
    def chosen(self) -> dict[str, float] | None:
        """The values of the best trial, of equal ones the first; None where all failed."""
        ended = [trial for trial in self.trials if trial.accuracy is not None]
        return max(ended, key=lambda trial: trial.accuracy or 0.0).values if ended else None

    def tuned(self) -> Config:
        """The config with the chosen values; as it was where there are none."""
        return self.config if self.chosen is None else with_values(self.config, self.chosen)

    def tuning(self) -> Tuning:
        """For ``comparison.json``."""
        return Tuning(
            strategy=self.config.strategy,
            seed=self.config.seed,
            tasks=self.tasks,
            trials=self.trials,
            chosen=self.chosen if len(self.trials) >= self.wanted else None,
        )

    def _known(self, trial: Trial) -> FrozenTrial:
        inside = {
            key: value
            for key, value in trial.values.items()
            if self.space[key].low <= value <= self.space[key].high  # the config's own may lie outside
        }
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if trial.accuracy is not None else TrialState.FAIL,
            params=inside,
            distributions={key: self.space[key] for key in inside},
            value=trial.accuracy,
        )


def search_all(
    searches: Iterable[Search],
    do: Callable[[list[Job], Callable[[Job, Outcome], list[Job]]], Any],
    told: Callable[[Job, Trial], Any],
) -> None:
    """Make the missing trials of all searches; those of one search follow each other."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    waiting = {job.log: search for search in searches if (job := search.next_job()) is not None}
    first = [job for search in waiting.values() if (job := search.next_job()) is not None]

    def ended(job: Job, outcome: Outcome) -> list[Job]:
        search = waiting.pop(job.log)
        told(job, search.add(outcome))
        following = search.next_job()
        if following is None:
            return []
        waiting[following.log] = search
        return [following]

    do(first, ended)


def _rounded(value: float, distribution: FloatDistribution) -> float:
    """Three significant digits are enough, and can be read."""
    short = float(f"{value:.{DIGITS}g}")
    return min(max(short, distribution.low), distribution.high)
