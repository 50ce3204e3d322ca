"""Small trainings in parts, for any number of processes.

``python -m tests.training.sharded STORE RANK OF DEVICE`` prints, as JSON, a hash of everything after each of
``CASES``. On a GPU all processes share one, which NCCL refuses: they exchange through the CPU, by gloo.
"""

import hashlib
import json
import random
import subprocess
import sys
import warnings
from datetime import timedelta

import numpy as np
import torch
from avalanche.core import SupervisedPlugin
from torch import nn

from benchmarks import split_digits
from dsn import backbones, mask_neurons
from dsn.baselines import STRATEGIES, Setting
from dsn.ranks import Ranks
from dsn.storage import add_tensor, pack
from dsn.training.shards import ShardedUpdate
from tests.training.flat import dsn

SHARDS = 4
LEARNT = {
    "replay": {"images": 4, "steps": 2},
    "transfer_tasks": 2,
    "forward_tasks": 2,
    "acceptance": "always",
}


def mlp():
    return backbones.mlp(64, [12, 8])


def cnn():
    return backbones.small_cnn(1, 8, width=4, features=10, dropout=0.2)


def alexnet():
    """With batch norm behind dropout."""
    return nn.Sequential(nn.Upsample(scale_factor=2), backbones.alexnet(1, 16, hidden=12, norm=True))


def vit():
    return backbones.vit(1, 8, dim=8, depth=1, heads=2, dropout=0.1)


CASES = {
    "mlp": (mlp, LEARNT | {"average_epochs": 0.7}),
    "batch norm, dropout, growth, phases": (
        cnn,
        LEARNT
        | {"growth": 3, "warmup_epochs": 1, "consolidation_epochs": 1, "schedule": "plateau"}
        | {"restore_best": True, "patience": 2, "norm_samples": 12},
    ),
    "alexnet": (alexnet, LEARNT | {"norm_samples": 12}),
    "vit": (vit, LEARNT),
    "edges": (cnn, {"edges": "own_and_read", "planned_tasks": 2, "transfer_tasks": 0, "forward_tasks": 0}),
}
BASELINES = ("naive", "si", "gem", "wsn", "packnet", "pnn", "hat", "random")


class Draws(SupervisedPlugin):
    """Draws from all global generators between two batches, as plugins may."""

    def after_training_iteration(self, strategy, **_kwargs):
        strategy.drawn = random.random() + np.random.rand() + float(torch.rand(()))


class Staged(Ranks):
    """Processes that share a GPU."""

    def send(self, tensor, to):
        super().send(tensor.cpu(), to)

    def receive(self, tensor, source):
        return tensor.copy_(super().receive(tensor.cpu(), source))

    def of_first(self, tensor):
        return tensor.copy_(super().of_first(tensor.cpu()))


def stream(flat=False):
    config = split_digits.SplitDigitsConfig(tasks=2, train_per_class=11, validation=0.25, flatten=flat)
    return split_digits.build(config, 0)


def seed():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)


def make(name, shards=SHARDS, device="cpu", **more):
    seed()
    backbone, settings = CASES[name]
    settings = settings | more
    edges = settings.pop("edges", "none")
    shape = (1, 64) if backbone is mlp else (1, 1, 8, 8)
    model = mask_neurons(backbone(), example_input=torch.zeros(shape), edges=edges).to(device)
    return dsn(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        **{"train_epochs": 2, "train_mb_size": 9, "evaluator": None, "shards": shards} | settings,
        plugins=[Draws()],
        device=torch.device(device),
    )


def learn(strategy, data):
    for task in range(2):
        strategy.train(data.train_stream[task], eval_streams=[data.valid_stream[task]])
    return strategy


def hash_of(strategy):
    state = strategy.take_state()
    return hashlib.sha256(pack([state, strategy.drawn], format="test", version=1)).hexdigest()


def baseline(name, shards=SHARDS):
    seed()
    shared = {"train_epochs": 2, "train_mb_size": 9, "evaluator": None, "shards": shards}
    setting = Setting(
        make_backbone=lambda: (cnn(), None),
        make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        input_shape=torch.Size((1, 8, 8)),
        tasks=2,
        shared=shared,
    )
    from dsn.experiment.config.baselines import BaselinesConfig

    options = getattr(BaselinesConfig(), name).model_dump()
    options.pop("lr")
    return STRATEGIES[name](setting, **options)


def hash_of_model(strategy):
    digest = hashlib.sha256()
    for name, value in sorted(strategy.model.state_dict().items()):
        digest.update(name.encode())
        add_tensor(digest, value)
    return digest.hexdigest()


def hashes(baselines, device="cpu"):
    images, flat = stream(), stream(flat=True)
    found = {}
    for name, (backbone, _) in CASES.items():
        found[name] = hash_of(learn(make(name, device=device), flat if backbone is mlp else images))
    for name in baselines:
        found[name] = hash_of_model(learn(baseline(name), images))
    return found


def by_processes(count, store, device="cpu"):
    """What each of ``count`` processes has found."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.sharded", store, str(rank), str(count), device],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    told = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0] * count
    return [json.loads(text.splitlines()[-1]) for text in told]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    store, rank, count, device = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    if device != "cpu":
        torch.backends.cudnn.deterministic = True
        ShardedUpdate.ranks = property(lambda _strategy: Staged())
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=timedelta(minutes=5)
    )
    print(json.dumps(hashes(BASELINES if count == 2 and device == "cpu" else (), device)))
