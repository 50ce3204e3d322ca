"""The state of a comparison: what is planned, which of it is there, and ``comparison.json``."""

from pathlib import Path

from ..base.folder import partial_of, remove_dead
from ..base.own_files import is_temporary, remove_if_empty
from ..base.paths import shortened
from ..config.experiment import Config
from ..engine.job import Outcome
from ..result.key import changes, code_version, identity, key_of, read_key
from ..result.result import Result, read_result
from .comparison import Comparison, RunEntry, StreamComparison, Tuning, write_comparison
from .job import RUN, RunJob
from .plan import INDEPENDENT, Plan
from .summary import corrected, differences_to, measures, over_all, summarise_runs


class Board:
    """What is planned, what is there, and the comparison that follows from it."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.failed: dict[Path, str] = {}
        """by log, the error of each run that failed now"""
        self.tuning: dict[str, list[Tuning]] = {}
        self._results: dict[Path, Result] = {}
        self._plan_jobs()

    def choose(self, stream: str, configs: dict[str, Config], tuning: list[Tuning]) -> None:
        """Take tuned configs in the place of those of the plan."""
        self.plan = self.plan.with_configs(stream, configs)
        self.tuning[stream] = tuning
        self._plan_jobs()

    def stale(self, job: RunJob) -> str | None:
        """None where the run is there and up to date; else why an old one is not, or nothing if none is."""
        if not (job.out / "result.json").is_file():
            return ""
        key = read_key(_key_file(job.out))
        return None if key.get("key") == key_of(job.identity) else changes(key, job.identity)

    def end(self, job: RunJob, outcome: Outcome) -> None:
        """``job`` was run just now."""
        self._results.pop(job.out, None)
        if outcome.error is None:
            self.failed.pop(job.log, None)
        else:
            self.failed[job.log] = outcome.error

    def count_done(self) -> int:
        """How many runs are there and up to date."""
        return sum(self.stale(job) is None for job in self.jobs)

    def clean(self) -> None:
        """Remove what stopped runs left half made."""
        places = [(self.folder, "comparison.json")]
        for stream in self.plan.streams:
            runs = self.folder / stream.name / "runs"
            remove_dead(runs)
            places += [(runs, "*-seed[0-9]*.json"), (runs.with_name("tuning"), "*.json")]
        for folder, name in places:
            for path in folder.glob(".*.partial-*"):
                if is_temporary(path, name) and path.is_file():
                    path.unlink()
        for job in self.jobs:
            if not partial_of(job.out).exists():  # a run that goes on without its driver has it
                remove_if_empty(job.out)

    def write(self) -> Comparison:
        """``comparison.json`` as things stand."""
        plan = self.plan
        streams = []
        for stream in plan.streams:
            runs = self._entries(stream.name)
            streams.append(
                StreamComparison(
                    name=stream.name,
                    config=shortened(str(stream.path)),
                    stream=next(iter(stream.configs.values())).stream.name,
                    tasks=stream.tasks,
                    runs=runs,
                    summaries=summarise_runs(runs, plan.strategies),
                    differences=differences_to(plan.reference, runs, plan.strategies),
                    tuning=self.tuning.get(stream.name, []),
                )
            )
        comparison = Comparison(
            command=plan.command,
            strategies=plan.strategies,
            seeds=plan.seeds,
            reference=plan.reference,
            overrides=plan.overrides,
            code=code_version(),
            streams=corrected(streams),
            statistics=over_all(streams, plan.strategies),
        )
        write_comparison(comparison, self.folder)
        return comparison

    def _plan_jobs(self) -> None:
        self._runs: dict[tuple[str, str, int], RunJob] = {}
        for stream, config in self.plan.runs():
            name = f"{config.strategy}-seed{config.seed}"
            out = self.folder / stream.name / "runs" / name
            self._runs[stream.name, config.strategy, config.seed] = RunJob(
                name=f"{stream.name}: {config.strategy} seed {config.seed}",
                config=config.model_dump_json(),
                log=out.with_name(f"{name}.log"),
                call=RUN,
                out=out,
                identity=identity(config),
            )

    @property
    def jobs(self) -> list[RunJob]:
        """One a run."""
        return list(self._runs.values())

    def _entries(self, stream: str) -> list[RunEntry]:
        entries = []
        for strategy in self.plan.strategies:
            for seed in self.plan.seeds:
                job = self._runs[stream, strategy, seed]
                result = self._result(job)
                independent = self._runs.get((stream, INDEPENDENT, seed))
                references = None if independent is None else self._result(independent)
                error = self.failed.get(job.log)
                entries.append(
                    RunEntry(
                        strategy=strategy,
                        seed=seed,
                        key=key_of(job.identity),
                        folder=job.out.relative_to(self.folder).as_posix(),
                        log=job.log.relative_to(self.folder).as_posix(),
                        status="done" if result else "failed" if error is not None else "missing",
                        error=None if result else error,
                        measures=measures(result, references) if result else {},
                    )
                )
        return entries

    def _result(self, job: RunJob) -> Result | None:
        if self.stale(job) is not None:
            return None
        if job.out not in self._results:
            self._results[job.out] = read_result(job.out / "result.json")
        return self._results[job.out]


def _key_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")
