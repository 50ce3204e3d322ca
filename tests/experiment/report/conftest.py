"""Runs as run.py run writes them, made up: numbers do not matter to a report, only that they arrive."""

import json

import numpy as np
import pytest

from dsn.evaluation import Neurons, all_metrics
from dsn.experiment.compare.comparison import (
    Comparison,
    RunEntry,
    Statistics,
    StreamComparison,
    write_comparison,
)
from dsn.experiment.report import report
from dsn.experiment.result.result import (
    Memory,
    Metrics,
    Result,
    TaskTime,
    TaskUse,
    Timings,
    Transfer,
    write_result,
)
from dsn.topology.tasks import TaskTopology


@pytest.fixture(scope="session")
def make_result():
    """A result of ``tasks`` tasks; ``loss``: what a task loses with each later one."""

    def make(seed=0, tasks=4, loss=0.0, strategy="dsn", transfers=2, masked=True, stream="split_digits"):
        random = np.random.default_rng(seed)
        learnt = random.uniform(0.8, 0.95, tasks)
        later = np.arange(tasks)[:, None] - np.arange(tasks)
        matrix = [
            [float(learnt[k] - loss * later[i, k]) if k <= i else None for k in range(tasks)]
            for i in range(tasks)
        ]
        return Result(
            config={
                "strategy": strategy,
                "stream": {"name": stream, "tasks": tasks},
                "backbone": {"name": "mlp"},
            },
            seed=seed,
            accuracy_matrix=matrix,
            metrics=Metrics.model_validate(all_metrics(matrix)),
            tasks=[_use(task, tasks) for task in range(tasks)] if masked else [],
            transfers=[_transfer(k) for k in range(transfers)],
            memory=Memory(
                bytes_per_task=[100] * tasks, shared_bytes=7, stored_samples=0, stored_sample_bytes=0
            ),
            timings=Timings(total=3.5, references=0.5, tasks=[TaskTime(train=0.5, evaluate=0.1)] * tasks),
            environment={"python": "3.11", "device": "cpu"},
        )

    return make


def _use(task, tasks):
    neurons = Neurons(active=5, reused=2 if task else 0, fresh=3 if task else 5, free=38 - 3 * task, total=43)
    row = [1.0 if k == task else 0.25 for k in range(tasks)]
    return TaskUse(
        task=task,
        neurons={"features.0": neurons, "classifier_1": neurons},
        mask_bytes=6,
        similarity=row,
        jaccard={"features.0": row, "classifier_1": row},
        topology=_topology(task),
    )


def _topology(task):
    return TaskTopology(
        effective_nodes=20, effective_kernels=60, effective_parameters=60, log10_paths=2.0,
        frozen_paths=0.0625 * task, free_paths=1 - 0.125 * task,
        plastic_edges={"features.0": 30 - task, "classifier_1": 25, "the task's head": 10},
        narrowest_layer="classifier_1", narrowest_neurons=9 - task, collapsed=[],
        saturated=["classifier_1"] if task == 2 else [],
        most_nodes=25, most_log10_paths=2.5,
    )  # fmt: skip


def _transfer(k):
    return Transfer(
        task=k, source=k + 1, mechanism="gates", similarity=0.5, neurons=3, accepted=k == 0,
        reason=f"reason <{k}> & more", measures={},
    )  # fmt: skip


@pytest.fixture(scope="session")
def run_folder(make_result, tmp_path_factory):
    """A folder with one run, without a model."""

    def make(**options):
        folder = tmp_path_factory.mktemp("run")
        write_result(make_result(**options), folder / "result.json")
        (folder / "config.yaml").write_text("seed: 0  # <b>\n")
        return folder

    return make


@pytest.fixture(scope="session")
def comparison_folder(make_result, tmp_path_factory):
    """On each stream: dsn (two seeds), naive (one seed done, one failed), ewc (not run yet)."""

    def make(names=("digits",), masks=True):
        folder = tmp_path_factory.mktemp("comparison")
        streams = []
        for name in names:
            runs = []
            for strategy, seed, status in (
                ("dsn", 0, "done"), ("dsn", 1, "done"), ("naive", 0, "done"), ("naive", 1, "failed"),
                ("ewc", 0, "missing"), ("ewc", 1, "missing"),
            ):  # fmt: skip
                place = f"{name}/runs/{strategy}-seed{seed}"
                if status == "done":
                    (folder / place).mkdir(parents=True)
                    masked, loss = masks and strategy == "dsn", 0.05 * (strategy == "naive")
                    made = make_result(
                        seed, loss=loss, strategy=strategy, masked=masked, transfers=2 * masked
                    )
                    write_result(made, folder / place / "result.json")
                runs.append(
                    RunEntry(
                        strategy=strategy,
                        seed=seed,
                        key="0",
                        folder=place,
                        status=status,
                        log=place + ".log",
                        error="the loss is not finite" if status == "failed" else None,
                    )  # fmt: skip
                )
            streams.append(
                StreamComparison(
                    name=name,
                    config=f"{name}.yaml",
                    stream="split_digits",
                    tasks=4,
                    runs=runs,
                    summaries=[],
                    differences=[],
                )  # fmt: skip
            )
        comparison = Comparison(
            command="python run.py compare",
            strategies=["dsn", "naive", "ewc"],
            seeds=[0, 1],
            reference="dsn",
            overrides=[],
            code="0",
            streams=streams,
            statistics=Statistics(level=0.95, comparisons=0, ranks=[]),
        )
        write_comparison(comparison, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def comparison(comparison_folder):
    """A comparison with its report."""
    folder = comparison_folder()
    report(folder)
    return folder


@pytest.fixture(scope="session")
def edited():
    """Change a JSON file in place."""

    def edit(path, **changes):
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, **changes}))

    return edit
