"""Hyper-parameters by validation accuracy on the first tasks, with as many trials for every strategy.

The search is optuna's TPE (Bergstra et al. 2011). Its sampler is seeded anew for each trial from the trial's
number, and is told all trials before: so a search that was stopped goes on as if it had not been, and the
order in which strategies take turns does not matter. The first trial is the config as it is. TPE looks at
others from its eleventh on: the first ten can be made at once, and so can all seeds of a trial.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter, ValidationError

from ..config.experiment import Config
from ..config.yaml_file import read_yaml
from ..engine.job import Job, Outcome
from ..result.key import identity, key_of
from ..result.result import write_whole
from .comparison import Trial, Tuning
from .job import TRIAL, TrialJob
from .spaces import Space, lies_in, put_values, rounded, space_of, value_at, with_values

AT_ONCE = 10
"""trials of a search that depend on no other: optuna's ``n_startup_trials``"""
TRIALS: TypeAdapter[list[Trial]] = TypeAdapter(list[Trial])


@dataclass
class Search:
    """The trials of one strategy on one stream, kept in the file ``path``.

    config: as given
    tasks: how many of the first tasks a trial learns
    wanted: number of trials
    seeds: a trial learns the tasks once with each of them
    """

    config: Config
    path: Path
    tasks: int
    wanted: int
    seeds: list[int]
    trials: list[Trial] = field(default_factory=list)
    outcomes: dict[int, dict[int, Outcome]] = field(default_factory=dict)
    """of the trials that are being made, by number and seed"""
    begun: int = 0
    """how many trials were handed out, or are there"""

    def __post_init__(self) -> None:
        seeded = self.config.model_copy(update={"seed": self.seeds[0]})
        self.space: Space = space_of(self.config)
        bounds = {name: repr(distribution) for name, distribution in self.space.items()}
        self.key = key_of({**identity(seeded), "tasks": self.tasks, "seeds": self.seeds, "space": bounds})

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

    def next_jobs(self) -> list[TrialJob]:
        """The trials that can begin now, each with all its seeds."""
        first = max(self.begun, len(self.trials))
        self.begun = max(first, min(self.wanted, max(AT_ONCE, len(self.trials) + 1)))
        return [self._job(number, seed) for number in range(first, self.begun) for seed in self.seeds]

    def _job(self, number: int, seed: int) -> TrialJob:
        tried = with_values(self.config, {**self.suggest(number), "seed": seed})
        name, file = f"{self.config.strategy} trial {number + 1}/{self.wanted}", f"trial{number + 1}"
        if len(self.seeds) > 1:
            name, file = f"{name} seed {seed}", f"{file}-seed{seed}"
        return TrialJob(
            name=name,
            config=tried.model_dump_json(),
            log=self.path.with_name(f"{self.config.strategy}-{file}.log"),
            call=TRIAL,
            tasks=self.tasks,
            number=number,
            seed=seed,
        )

    def suggest(self, number: int) -> dict[str, Any]:
        """The values of trial ``number``, from those before it."""
        if number == 0:
            return {key: value_at(self.config, key) for key in self.space}
        seed = int(np.random.SeedSequence([self.seeds[0], number]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=AT_ONCE)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([self._known(trial) for trial in self.trials[:number]])
        asked = study.ask(dict(self.space))
        return {key: rounded(self.space[key], asked.params[key]) for key in self.space}

    def add(self, job: TrialJob, outcome: Outcome) -> Trial | None:
        """Keep how a job ended; its trial, once all its seeds have. The file has those before any gap."""
        self.outcomes.setdefault(job.number, {})[job.seed] = outcome
        ended = self._ended(job.number)
        while (trial := self._ended(len(self.trials))) is not None:
            del self.outcomes[len(self.trials)]
            self.trials.append(trial)
            kept = {"key": self.key, "trials": TRIALS.dump_python(self.trials, mode="json")}
            write_whole(self.path, json.dumps(kept, indent=2, allow_nan=False) + "\n")
        return ended

    def _ended(self, number: int) -> Trial | None:
        """Trial ``number`` where all its seeds have ended; one that failed with any has failed."""
        outcomes = self.outcomes.get(number, {})
        if len(outcomes) < len(self.seeds):
            return None
        done = [outcomes[seed] for seed in self.seeds]
        error = next((one.error for one in done if one.error is not None), None)
        return Trial(
            values=self.suggest(number),
            accuracy=sum(one.value for one in done) / len(done) if error is None else None,
            seconds=sum(one.seconds for one in done),
            error=error,
        )

    @property
    def chosen(self) -> dict[str, Any] | None:
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
            seed=self.seeds[0],
            seeds=self.seeds,
            tasks=self.tasks,
            trials=self.trials,
            chosen=self.chosen if len(self.trials) >= self.wanted else None,
        )

    def _known(self, trial: Trial) -> FrozenTrial:
        inside = {
            key: value
            for key, value in trial.values.items()
            if lies_in(self.space[key], value)  # the config's own may lie outside
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
    """Make the missing trials of all searches, as many at once as do not depend on each other."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    waiting: dict[Job, Search] = {}

    def begin(search: Search) -> list[Job]:
        jobs = search.next_jobs()
        waiting.update(dict.fromkeys(jobs, search))
        return list(jobs)

    def ended(job: Job, outcome: Outcome) -> list[Job]:
        assert isinstance(job, TrialJob)
        search = waiting.pop(job)
        if (trial := search.add(job, outcome)) is not None:
            told(job, trial)
        return begin(search)

    do([job for search in searches for job in begin(search)], ended)


def write_tuned(file: Path, config: Path, command: str, searches: Iterable[Search]) -> None:
    """Write the config file ``config`` into ``file``, with what the searches chose for their strategies.

    Nothing of ``--set`` is in it. DSN's learning rate is ``train.lr``, and so that of every baseline that
    was not searched.
    """
    values = read_yaml(config)
    for search in searches:
        put_values(values, search.chosen or {})
    said = [f"{config.name} with what `{command}`", "chose by validation accuracy."]
    comment = "".join(f"# {line}\n" for line in said)
    write_whole(file, comment + yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110))
