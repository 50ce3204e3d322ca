"""A run that is interrupted anywhere goes on to the same result, to the last bit; and what it says and leaves."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from dsn.errors import InputError, Stopped
from dsn.experiment import checkpoint as checkpoints
from dsn.experiment.checkpoint import LATEST, PREVIOUS, Checkpoints
from dsn.experiment.config import load
from dsn.experiment.result import read_result
from dsn.experiment.run import run
from tests.experiment.resuming import Killed, assert_same_result, killed_at, tiny

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")
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
    "at its end": ((), "end", 0.5),
    "before evaluating": ((), "evaluation", 0.5),
    "between two tasks": ((), "training", 0.7),
    "before the result": ((), "result", 0),
    "hat": (("strategy=hat",), "iteration", 0.7),
    "independent": (("strategy=independent",), "iteration", 0.6),
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
