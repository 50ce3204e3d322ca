"""One run: a stream is learnt task by task, evaluated after each, and its result written."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks import streams
from dsn.baselines import MemoryUse, masked_model_memory
from dsn.evaluation.metrics import Matrix, all_metrics
from dsn.evaluation.plugin import TransferMetrics, evaluator
from dsn.masking import MaskedModel

from .build import build_strategy, can_transfer, total_epochs
from .config import Config, EvaluationConfig
from .files import task_uses, write
from .folder import output_folder
from .machine import environment, seed_everything, set_up
from .result import Forward, Memory, Metrics, Result, TaskTime, Timings, Transfer, matrix_as_lists
from .terminal import TaskProgress, make_console, show_result, show_transfers
from .topology_lines import TopologyLines


@dataclass(frozen=True)
class Learnt:
    """What training gives, before anything is written."""

    matrix: Matrix
    random: list[float] | None
    """accuracy of each task before any training, where that was evaluated"""
    model: MaskedModel | None
    """None where the strategy's network has no masks over neurons"""
    times: list[TaskTime]
    memory: MemoryUse
    transfers: list[Transfer] = field(default_factory=list)
    forward_transfers: list[Forward] = field(default_factory=list)


def run(
    config: Config,
    out: Path | None = None,
    *,
    name: str = "run",
    console: Console | None = None,
    verbose: bool = False,
) -> tuple[Result, Path]:
    """Learn the stream of ``config``; return the result and the folder it was written to.

    Args:
        config: from :func:`dsn.experiment.config.load`.
        out: the folder to write, new or empty; by default a fresh ``results/<name>-seed<seed>``.
        name: see ``out``.
        console: where progress and tables go; by default standard output.
        verbose: also show the loss of every epoch and the topology of every task.

    Sets torch's seeds, number of threads and deterministic kernels for the whole process.

    Raises:
        InputError: what the config asks for cannot be done. Nothing is left behind then, nor when the run
            is interrupted.
    """
    console = console or make_console()
    with output_folder(out, f"{name}-seed{config.seed}") as (partial, target):
        device = set_up(config)
        started = time.perf_counter()
        benchmark = streams.build(config.stream, config.seed)
        console.print(f"{config.stream.name}, {config.strategy} on {device}")
        learnt = learn(config, benchmark, device, console, verbose)
        learnt_at = time.perf_counter()
        independent = None
        if config.evaluation.independent:
            console.print("independent networks, one a task, for comparison")
            independent = train_independent(config, benchmark, device, console, verbose)
        ended = time.perf_counter()
        result = Result(
            config=config.model_dump(mode="json"),
            seed=config.seed,
            accuracy_matrix=matrix_as_lists(learnt.matrix),
            metrics=Metrics.model_validate(all_metrics(learnt.matrix, independent, learnt.random)),
            independent=independent,
            tasks=[] if learnt.model is None else task_uses(learnt.model),
            transfers=learnt.transfers,
            forward_transfers=learnt.forward_transfers,
            memory=Memory.model_validate(asdict(learnt.memory)),
            timings=Timings(total=ended - started, references=ended - learnt_at, tasks=learnt.times),
            environment=environment(device),
        )
        write(result, config, learnt.model, benchmark.pixel_range, partial)
    show_result(console, result)
    console.print(f"written to {target}", soft_wrap=True)
    return result, target


def learn(config: Config, benchmark: Any, device: torch.device, console: Console, verbose: bool) -> Learnt:
    """Train the tasks of ``benchmark`` in order with one strategy; after each, a row of the accuracy matrix.

    A strategy is anything that has Avalanche's ``train`` and ``eval``, and ``memory``. Joint training learns
    nothing before it has seen the last task: it is evaluated once, and that row stands in the place of the
    earlier ones too.
    """
    seed_everything(config.seed)
    metrics, times = TransferMetrics(benchmark.test_stream.name), []
    wanted = config.transfer.tasks or config.transfer.forward
    if config.strategy == "dsn" and wanted and not can_transfer(config):
        console.print(
            "transfer is off: there are no validation data to judge it by; set stream.validation, e.g. 0.1, "
            "or transfer.tasks=0 and transfer.forward=0",
            soft_wrap=True,
        )
    tasks, at_once = len(benchmark.train_stream), config.strategy == "joint"
    with make_progress(config, benchmark, console, verbose=verbose, evaluated=not at_once) as progress:
        strategy = build_strategy(
            config,
            sample_shape(benchmark),
            device,
            evaluator(metrics, [progress]),
            tasks=tasks,
            pixel_range=benchmark.pixel_range,
        )
        transfers = getattr(strategy, "transfers", [])
        forwards = getattr(strategy, "forward_transfers", [])
        show_topology = TopologyLines(console, strategy.model, verbose)
        if config.evaluation.random:
            strategy.eval(benchmark.test_stream)
        ahead = 1 if config.evaluation.random else 0  # forward transfer looks at the next task too
        for task, experience in enumerate(benchmark.train_stream):
            started, known, read = time.perf_counter(), len(transfers), len(forwards)
            strategy.train(experience, eval_streams=validation(benchmark, task))
            trained = time.perf_counter()
            if not at_once or task == tasks - 1:
                strategy.eval(benchmark.test_stream[: task + 1 + ahead])
            times.append(TaskTime(train=trained - started, evaluate=time.perf_counter() - trained))
            show_transfers(console, forwards[read:], transfers[known:])
            show_topology()
    matrix = np.where(np.tri(tasks) == 1, metrics.matrix[-1], np.nan) if at_once else metrics.matrix
    model = strategy.model if isinstance(strategy.model, MaskedModel) else None
    return Learnt(
        matrix=matrix,
        random=metrics.random,
        model=model,
        times=times,
        memory=strategy.memory() if model is None else masked_model_memory(model),
        transfers=[Transfer.model_validate(asdict(outcome)) for outcome in transfers],
        forward_transfers=[Forward.model_validate(asdict(outcome)) for outcome in forwards],
    )


def train_independent(
    config: Config, benchmark: Any, device: torch.device, console: Console, verbose: bool
) -> list[float]:
    """Test accuracy of one dense network a task, of the same backbone and as many epochs in all."""
    alone = config.model_copy(update={"strategy": "independent", "evaluation": EvaluationConfig()})
    return [float(value) for value in learn(alone, benchmark, device, console, verbose).matrix[-1]]


def make_progress(
    config: Config, benchmark: Any, console: Console, *, verbose: bool = False, evaluated: bool = True
) -> TaskProgress:
    """The logger of one strategy's training."""
    return TaskProgress(
        console,
        tasks=len(benchmark.train_stream),
        epochs=total_epochs(config),
        evaluated=evaluated,
        verbose=verbose,
    )


def validation(benchmark: Any, task: int) -> list[Any]:
    """The validation experience of ``task`` in a list, which is empty where there is none."""
    return [] if benchmark.valid_stream is None else [benchmark.valid_stream[task]]


def sample_shape(benchmark: Any) -> torch.Size:
    """[C, H, W] or [D] of every sample."""
    x, *_ = benchmark.train_stream[0].dataset[0]
    return x.shape
