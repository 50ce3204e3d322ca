"""The parts of a lab through an engine: the same values in the same order, kept until all are there."""

import io

import pytest
from compare_inline import Inline
from rich.console import Console

from dsn.errors import InputError
from dsn.experiment.config.experiment import Config
from dsn.experiment.engine import choice
from dsn.experiment.engine.options import Choice
from dsn.experiment.labs.parts import jobs_folder, measured, parts_of

CONFIG = Config.model_validate({"stream": {"name": "split_digits"}})
VALUES = [{"seed": seed} for seed in (3, 7, 1)]


def values_of(target, engine, failing=()):
    parts = parts_of("compare_inline:seed_told", CONFIG, [3, 7, 1], target, failing=list(failing))
    return measured(parts, engine, target, Console(file=io.StringIO()))


@pytest.mark.parametrize("engine", [None, Choice(jobs=1), Choice(jobs=2)])
def test_an_engine_gives_what_this_process_gives(tmp_path, monkeypatch, engine):
    monkeypatch.setattr(choice, "LocalEngine", Inline)
    Inline.done, Inline.stop_after = [], None
    assert values_of(tmp_path / "lab", engine) == VALUES
    through_jobs = engine is not None and engine.jobs == 2
    assert jobs_folder(tmp_path / "lab").is_dir() == through_jobs == bool(Inline.done)
    assert not list(tmp_path.rglob("*.value.json"))


def test_a_part_that_fails_is_named_and_the_others_are_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "LocalEngine", Inline)
    Inline.done, Inline.stop_after = [], 2
    with pytest.raises(KeyboardInterrupt):
        values_of(tmp_path / "lab", Choice(jobs=2))
    Inline.stop_after = None
    assert values_of(tmp_path / "lab", Choice(jobs=2)) == VALUES
    assert Inline.done == ["seed 3", "seed 7", "seed 1"]
    with pytest.raises(
        InputError, match=r"seed 7: ValueError: seven \(see .*seed7.log\)\n.*the same command"
    ):
        values_of(tmp_path / "lab", Choice(jobs=2), failing=[7])
