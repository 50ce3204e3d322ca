"""A run that is interrupted anywhere goes on to the same result, to the last bit."""

import importlib.util
import json
import os
import random
import re
import shlex
import signal
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from benchmarks import kills
from dsn.errors import Stopped
from dsn.experiment.run.checkpoint import LATEST, Checkpoints
from dsn.experiment.run.run import run
from tests.experiment.resuming import TINY, Killed, assert_same_result, killed_at, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:task .* no free neuron"),
    pytest.mark.usefixtures("quick_pictures"),
]
ROOT = Path(__file__).parents[2]
EVERY = "checkpoint.iterations=3"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Of each kind of config, the folder of an uninterrupted run, and the rests that it came by."""
    made = {}

    def make(*overrides):
        if overrides not in made:
            folder = tmp_path_factory.mktemp("whole")
            with killed_at(None) as rests:
                run(tiny(folder, *overrides), folder / "out", console=Console(quiet=True))
            made[overrides] = folder / "out", list(rests)
        return made[overrides]

    return make


def finish(config, out, **options):
    console = Console(file=open(out.parent / "log.txt", "w"), width=200)  # noqa: SIM115
    result, target = run(config, out, console=console, resume=True, **options)
    console.file.close()
    assert target == out
    return (out.parent / "log.txt").read_text()


CASES = {
    "in a task": ((), "iteration", 0.4),
    "at its end": (("transfer.forward=1",), "end", 0.5),
    "between two tasks": ((), "training", 0.7),
    "before the result": ((), "result", 0),
    "hat": (("strategy=hat",), "iteration", 0.7),
    "references": (("evaluation={independent: true, random: true}",), "iteration", 0.9),
}


@pytest.mark.parametrize("name", list(CASES))
def test_a_killed_run_goes_on_to_the_same_result(whole, tmp_path, name):
    overrides, before, where = CASES[name]
    reference, rests = whole(*overrides)
    places = [i for i, rest in enumerate(rests) if rest == before]
    config = tiny(tmp_path, *overrides, EVERY)
    with pytest.raises(Killed), killed_at(places[int(where * len(places))]):
        run(config, tmp_path / "out", console=Console(quiet=True))
    assert (tmp_path / "out.checkpoint" / LATEST).is_file() and not (tmp_path / "out").exists()
    text = finish(config, tmp_path / "out")
    assert "going on at task" in text or name == "before the result"
    assert_same_result(tmp_path / "out", reference)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.txt", "out"]


def test_three_real_kills(tmp_path, capsys):
    shorter = ("stream.tasks=2", "stream.angles=[0, 9]", "replay={images: 10, steps: 3}")
    config = tiny(tmp_path, EVERY, *shorter, "transfer.acceptance=held_out_impressions")
    assert kills.kill_all(config, 3, random.Random(1), tmp_path) == 0
    said = capsys.readouterr().out.splitlines()
    made = re.fullmatch("kills: ([0-9]+), resumes: 3, losses: 0", said[-1])
    assert made and int(made[1]) >= 2


def test_a_kill_that_loses_something_is_seen(tmp_path):
    for name, matrix in (("one", [[0.5]]), ("other", [[0.6]])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps({"accuracy_matrix": matrix}))
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    assert "accuracy_matrix" in kills.compare(tmp_path / "one", tmp_path / "other")
    (tmp_path / "one" / "result.json").write_bytes((tmp_path / "other" / "result.json").read_bytes())
    assert "model" in kills.compare(tmp_path / "one", tmp_path / "other")
    (tmp_path / "one" / "result.json").unlink()
    assert "no result" in kills.compare(tmp_path / "one", tmp_path / "other")


# ---- signals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "where"),
    [(signal.SIGINT, "iteration"), (signal.SIGTERM, "end"), (signal.SIGTERM, "evaluation")],
)
def test_a_signal_keeps_the_run_and_resuming_ends_the_same(whole, tmp_path, monkeypatch, number, where):
    reference, rests = whole()
    place = [i for i, rest in enumerate(rests) if rest == where][1]
    monkeypatch.setattr(Checkpoints, "rest", signalled_at(place, number))
    config = tiny(tmp_path)  # nothing is due but the signal
    with pytest.raises(Stopped) as stopped:
        run(config, tmp_path / "out", console=Console(quiet=True))
    assert (stopped.value.signal, stopped.value.out, stopped.value.kept) == (
        number,
        str(tmp_path / "out"),
        True,
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    finish(config, tmp_path / "out")
    assert_same_result(tmp_path / "out", reference)


def signalled_at(place, number):
    rest, calls = Checkpoints.rest, []

    def signalling(self, before, make):
        calls.append(before)
        if before == "iteration" and len(calls) - 1 == place:
            os.kill(os.getpid(), number)  # arrives while the iteration is still going on
        rest(self, before, make)
        if before != "iteration" and len(calls) - 1 == place:
            os.kill(os.getpid(), number)  # arrives in what takes long

    return signalling


def test_the_line_that_says_how_to_go_on_can_be_typed(whole, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "rest", signalled_at(3, signal.SIGTERM))
            assert module.main(["run", "tiny.yaml", "--seed", "0", "--set", EVERY]) == 143
        said = capsys.readouterr().err.splitlines()[-1]
        command = said.removeprefix("stopped; go on with: python run.py ")
        assert command == f"run tiny.yaml --seed 0 --set {EVERY} --out results/tiny-seed0 --resume"
        assert module.main([*shlex.split(command), "--set", "train.lr=0.5"]) == 2
        assert "train.lr was 0.03, is 0.5" in capsys.readouterr().err
        assert module.main(shlex.split(command)) == 0
        assert_same_result(tmp_path / "results" / "tiny-seed0", whole()[0])
        assert module.main(shlex.split(command)) == 0
        assert "finished, nothing is left to do" in capsys.readouterr().out
    finally:
        signal.signal(signal.SIGTERM, before)
