"""On a GPU: all strategies learn, nobody forgets a bit, a step never waits, and states move between devices.

Skipped where there is none.
"""

import copy
import warnings

import numpy as np
import pytest
import torch
import yaml

from benchmarks import split_digits
from dsn import DSN, backbones, mask_neurons
from dsn.cli.main import main
from dsn.experiment.config.baselines import NAMES
from dsn.replay import synthesise
from tests.baselines.setups import CONV, NEVER_FORGET, config, learnt
from tests.training.flat import dsn
from tests.training.sharded import by_processes, hashes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda")
EDGES = ("none", "own", "own_and_read", "own_and_sign")
SETTINGS = {
    "defaults": {},
    "every phase": {"budget": 0.5, "warmup_epochs": 1, "consolidation_epochs": 1, "average_epochs": 1.0},
    "bfloat16, channels last, growth": {"precision": "bfloat16", "channels_last": True, "growth": 2},
    "own": {"edges": "own", "planned_tasks": 3},
    "own and read": {"edges": "own_and_read", "planned_tasks": 3},
    "own and sign": {"edges": "own_and_sign", "planned_tasks": 3},
}


class Waiting(DSN):
    """Keeps where the host waited for the device in each training epoch, and how many batches it had."""

    waits: list[tuple[list[str], int]]

    def training_epoch(self, **kwargs) -> None:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                super().training_epoch(**kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        asked = [f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)]
        self.waits = [*getattr(self, "waits", []), (asked, len(self.dataloader))]


def stream(tasks: int = 3, per_class: int = 40):
    """Digits as images."""
    made = split_digits.SplitDigitsConfig(
        tasks=tasks, train_per_class=per_class, flatten=False, validation=0.2
    )
    return split_digits.build(made, 0)


def make(settings: dict, device: torch.device = GPU, kind: type[DSN] = DSN, **more):
    torch.manual_seed(0)
    settings = {"transfer_tasks": 0, "forward_tasks": 0} | settings | more
    model = mask_neurons(
        backbones.small_cnn(1, 8, width=8, features=16, dropout=0.1),
        example_input=torch.zeros(1, 1, 8, 8),
        edges=settings.pop("edges", "none"),
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    defaults = {"train_mb_size": 16, "train_epochs": 4, "evaluator": None}
    return dsn(kind, model=model, optimizer=optimizer, device=device, **defaults | settings)


def logits(model, x: torch.Tensor) -> dict[int, torch.Tensor]:
    model.eval()
    with torch.no_grad():
        return {task: model(x, task) for task in model.committed}


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_learns(name, images):
    settings = {"images": True, "backbone": CONV} if images else {}
    result = learnt(config(name, **settings), device="cuda", images=images)
    assert images or np.diag(result.matrix).mean() > 0.75  # chance is 0.5
    if name in NEVER_FORGET:
        assert all(len(set(result.matrix[task:, task])) == 1 for task in range(len(result.matrix)))


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_task_changes_by_a_bit(settings):
    cl, made = make(SETTINGS[settings]), stream()
    x = torch.randn(32, 1, 8, 8, device=GPU)
    before: dict[int, torch.Tensor] = {}
    for experience, valid in zip(made.train_stream, made.valid_stream, strict=True):
        cl.train(experience, eval_streams=[valid])
        now = logits(cl.model, x)
        assert all(torch.equal(now[task], before[task]) for task in before)
        before = now
    assert len(before) == 3


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_host_waits_no_more_often_in_a_longer_epoch(settings):
    seen = []
    for per_class in (24, 96):
        cl = make(SETTINGS[settings], kind=Waiting)
        made = stream(tasks=2, per_class=per_class)
        for experience, valid in zip(made.train_stream, made.valid_stream, strict=True):
            cl.train(experience, eval_streams=[valid])
        seen.append(cl.waits)
    short, long = seen
    assert all(b[1] > 2 * a[1] for a, b in zip(short, long, strict=True))
    for (few, _), (many, _) in zip(short, long, strict=True):
        assert sorted(many) == sorted(few)


def test_a_question_in_a_step_is_noticed():
    class Asking(Waiting):
        def criterion(self):
            loss = super().criterion()
            float(loss)
            return loss

    cl = make({}, kind=Asking)
    cl.train(stream().train_stream[0], eval_streams=[])
    assert all(len(asked) >= batches for asked, batches in cl.waits)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("here", "there"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_strategy_goes_on_on_the_other_device(here, there, settings):
    made = stream()
    first = make(SETTINGS[settings], torch.device(here))
    first.train(made.train_stream[0], eval_streams=[made.valid_stream[0]])
    second = make(SETTINGS[settings], torch.device(there))
    second.put_state(copy.deepcopy(first.take_state()))
    second.train(made.train_stream[1], eval_streams=[made.valid_stream[1]])
    x = torch.randn(32, 1, 8, 8)
    ours = logits(first.model, x.to(here))[0].cpu()
    theirs = logits(second.model, x.to(there))
    assert torch.allclose(ours, theirs[0].cpu(), rtol=1e-2, atol=1e-2)  # tf32 in convolutions
    assert len(theirs) == 2


def test_replay_and_transfer_run_and_a_task_improves_or_stays():
    cl, made = make({"transfer_tasks": 2, "forward_tasks": 2, "planned_tasks": 3}), stream(per_class=80)
    x = torch.randn(16, 1, 8, 8, device=GPU)
    for experience, valid in zip(made.train_stream, made.valid_stream, strict=True):
        before = logits(cl.model, x)
        seen = len(cl.transfers)
        cl.train(experience, eval_streams=[valid])
        accepted = {outcome.task for outcome in cl.transfers[seen:] if outcome.accepted}
        now = logits(cl.model, x)
        assert all(torch.equal(now[task], before[task]) == (task not in accepted) for task in before)
    assert cl.transfers
    made_up = synthesise(cl.model, 0, 8, steps=10)
    assert made_up.x.device.type == "cuda" and bool(made_up.x.isfinite().all())


@pytest.mark.parametrize("edges", EDGES)
def test_a_subnetwork_computes_what_its_task_does(edges):
    cl, made = make({"edges": edges, "planned_tasks": 3}), stream()
    for experience, valid in zip(made.train_stream, made.valid_stream, strict=True):
        cl.train(experience, eval_streams=[valid])
    x = torch.randn(32, 1, 8, 8, device=GPU)
    for task, expected in logits(cl.model, x).items():
        small = cl.model.subnetwork(task).eval()
        with torch.no_grad():
            assert torch.allclose(small(x), expected, rtol=1e-2, atol=1e-2)


@pytest.fixture(scope="module")
def alone():
    """What one process learns of batches in parts."""
    before = torch.backends.cudnn.deterministic, torch.get_num_threads()
    torch.backends.cudnn.deterministic = True
    torch.set_num_threads(1)
    yield hashes((), "cuda")
    torch.backends.cudnn.deterministic = before[0]
    torch.set_num_threads(before[1])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_share_a_gpu_compute_the_bits_of_one(alone, tmp_path, count):
    assert by_processes(count, tmp_path / "store", "cuda") == [alone] * count
    assert len(set(alone.values())) == len(alone) >= 5


@pytest.mark.parametrize("edges", EDGES)
def test_a_run_is_verified(edges, tmp_path):
    path = tmp_path / "gpu.yaml"
    values = {
        "stream": {"name": "split_digits", "tasks": 3, "validation": 0.2, "flatten": False},
        "backbone": CONV,
        "train": {"epochs": 3, "batch_size": 32, "lr": 0.05, "momentum": 0.9},
        "selection": {"edges": edges, "planned_tasks": "stream", "sparsity": 0.0},
        "device": "cuda",
    }
    path.write_text(yaml.safe_dump(values))
    out = str(tmp_path / "out")
    assert main(["run", str(path), "--out", out]) == 0
    assert main(["verify", out]) == 0
