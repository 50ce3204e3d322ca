"""One run by several processes: the files of one, whoever of them is stopped, killed or started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from dsn.errors import InputError
from dsn.experiment.base.ranks import started_together
from dsn.experiment.config import machine
from dsn.experiment.config.experiment import dump
from dsn.experiment.run.checkpoint import LATEST
from dsn.experiment.run.run import run
from dsn.experiment.run.run_folder import checkpoint_of
from dsn.ranks import Ranks
from tests.experiment.resuming import assert_same_result, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:task .* no free neuron"),
    pytest.mark.usefixtures("quick_pictures"),
]
ROOT = Path(__file__).parents[2]
SETTINGS = ("stream.tasks=2", "stream.angles=[0, 9]", "train.epochs=6", "train.shards=4", "device=cpu")
EVERY = "checkpoint.iterations=2"
LINE = "error: "


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump(tiny(tmp_path, *SETTINGS)))
    return path


@pytest.fixture
def here(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def command(config, *more):
    return ["run.py", "run", str(config), "--set", EVERY, "--out", str(config.parent / "out"), *more]


def start(config, count, *more):
    """The processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *command(config, *more)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def wait_for_another(path, processes):
    """Wait for a checkpoint that was not there yet."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    while all(process.poll() is None for process in processes):
        if path.exists() and path.stat().st_mtime_ns != before:
            return
        time.sleep(0.02)
    raise AssertionError([process.communicate() for process in processes])


def test_a_run_whose_processes_are_killed_and_stopped_ends_as_that_of_one(config, tmp_path, here):
    latest = checkpoint_of(tmp_path / "out") / LATEST
    ranks = start(config, 2)
    wait_for_another(latest, ranks)
    ranks[1].kill()
    _, told = ranks[0].communicate(timeout=300)
    ranks[1].communicate()
    assert ranks[0].returncode == 2
    assert [line for line in told.splitlines() if line.startswith(LINE)] == [told.splitlines()[-1]]
    assert "rank 0 of 2 cannot reach another process" in told
    assert "--resume goes on" in told
    assert not (tmp_path / "out").exists() and latest.is_file()

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    both = subprocess.Popen(
        [*torchrun, *command(config, "--resume")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_another(latest, [both])
    both.send_signal(signal.SIGTERM)
    said, told = both.communicate(timeout=300)
    assert said.count("going on at task") == 1
    assert told.count("stopped; go on with: ") == 1

    expected = tiny(tmp_path, *SETTINGS, EVERY)
    run(expected, tmp_path / "out", console=Console(quiet=True), resume=True)
    run(expected, tmp_path / "alone", console=Console(quiet=True))
    assert_same_result(tmp_path / "out", tmp_path / "alone")
    assert not checkpoint_of(tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.shards=3", "train.shards is 3, and 2 processes cannot share so many parts evenly"),
        ("strategy=ewc", "acts before_backward"),
    ],
)
def test_what_is_wrong_is_said_once(config, tmp_path, here, override, words):
    ranks = start(config, 2, "--set", override)
    told = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [2, 2]
    assert words in told[0] and len(told[0].splitlines()) == 1
    assert told[1] == ""
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


class Two(Ranks):
    """The second of two processes that are not there."""

    def __init__(self):
        self.number, self.count = 1, 2


@pytest.mark.parametrize(
    ("device", "gpus", "words"),
    [
        ("cuda", 1, "2 processes on this machine, but 1 GPUs"),
        ("cuda:1", 2, "cuda:1 is one GPU for 2 processes"),
        ("mps", 0, "mps is for one process"),
    ],
)
def test_processes_that_cannot_have_a_device_each_are_refused(tmp_path, monkeypatch, device, gpus, words):
    monkeypatch.setattr(machine, "Ranks", lambda: Two())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    config = tiny(tmp_path, *SETTINGS, f"device={device}")
    with pytest.raises(InputError, match=words):
        machine._share(config, torch.device(device))


def test_variables_of_other_programs_start_nothing(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "2")
    assert not started_together()
    assert (Ranks().number, Ranks().count) == (0, 1)


def test_the_key_is_in_the_config_that_is_written(config):
    assert yaml.safe_load(config.read_text())["train"]["shards"] == 4
