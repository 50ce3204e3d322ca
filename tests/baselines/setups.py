"""Tiny streams of digits and strategies on them, made as run.py makes them."""

import functools
import io
from typing import Any

import torch
from rich.console import Console

from benchmarks import streams
from dsn.evaluation.plugin import TransferMetrics, evaluator
from dsn.experiment.config.baselines import NAMES
from dsn.experiment.config.experiment import Config
from dsn.experiment.config.machine import seed_everything
from dsn.experiment.run.build import build_strategy
from dsn.experiment.run.learn import Session, learn, make_progress, sample_shape, validation
from dsn.experiment.run.learnt import Learnt

BASELINES = [name for name in NAMES if name != "dsn"]
NEVER_FORGET = ["hat", "wsn", "supsup", "packnet", "pnn", "independent", "random"]
TASKS = 3
CONV = {"name": "small_cnn", "width": 4, "features": 16, "dropout": 0.2}
DECAYING_SGD = {"epochs": 2, "batch_size": 16, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.05}
ADAMW = {"epochs": 2, "batch_size": 16, "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1}


def config(name: str, *, images: bool = False, validation: float = 0.0, **blocks: Any) -> Config:
    values: dict[str, Any] = {
        "stream": {"name": "split_digits", "tasks": TASKS, "train_per_class": 40, "flatten": not images},
        "backbone": {"name": "mlp", "widths": [24, 16]},
        "train": {"epochs": 8, "batch_size": 8, "lr": 0.05, "momentum": 0.9},
        "strategy": name,
        "threads": 1,
    }
    values["stream"]["validation"] = validation
    return Config.model_validate(values | blocks)


@functools.cache
def benchmark(images: bool = False, validation: float = 0.0) -> Any:
    made = config("naive", images=images, validation=validation)
    return streams.build(made.stream, made.seed)


def learnt(setup: Config, device: str = "cpu", **stream: Any) -> Learnt:
    quiet = Console(file=io.StringIO())
    return learn(Session(setup, benchmark(**stream), torch.device(device), quiet))


@functools.cache
def learnt_once(name: str) -> Learnt:
    return learnt(config(name))


class Trained:
    """A strategy that learns the stream, and the logits of every task so far after each."""

    def __init__(self, setup: Config, images: bool = False, valid: float = 0.0) -> None:
        made = benchmark(images=images, validation=valid)
        seed_everything(setup.seed)
        progress = make_progress(Session(setup, made, torch.device("cpu"), Console(file=io.StringIO())))
        self.strategy = build_strategy(
            setup,
            sample_shape(made),
            torch.device("cpu"),
            evaluator(TransferMetrics(), [progress]),
            tasks=TASKS,
        )
        self.after: list[dict[int, torch.Tensor]] = []
        x = torch.stack([made.test_stream[0].dataset[i][0] for i in range(32)])
        for task, experience in enumerate(made.train_stream):
            self.strategy.train(experience, eval_streams=validation(made, task))
            model = self.strategy.model.eval()
            with torch.no_grad():
                self.after.append({k: model(x, k) for k in range(task + 1)})
