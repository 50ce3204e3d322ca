"""Impressions of a finished run, through the command line's function."""

import json

import pytest
import torch
import yaml
from rich.console import Console

from dsn.errors import InputError
from dsn.experiment.config.experiment import load
from dsn.experiment.result.files import load_model
from dsn.experiment.result.impressions import show_impressions
from dsn.experiment.run.run import run

QUIET = Console(quiet=True)


@pytest.fixture(scope="module", params=[True, False], ids=["vectors", "images"])
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("impressions")
    backbone = {"name": "mlp", "widths": [40]} if request.param else {"name": "small_cnn", "width": 4}
    stream = {"name": "split_digits", "tasks": 2, "validation": 0.2, "train_per_class": 40}
    values = {
        "stream": {**stream, "flatten": request.param},
        "backbone": backbone,
        "train": {"epochs": 8, "batch_size": 16, "lr": 0.05, "momentum": 0.9},
        "selection": {"sparsity": 0.1},  # or a task may be left with one channel, and learn nothing
        "replay": {"steps": 40, "jitter": 0, "tv_weight": 0.0},
        "threads": 1,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    run(load(path), folder / "run", console=QUIET)
    return folder / "run"


def test_a_run_is_loaded_as_it_was(finished):
    model, config, pixel_range = load_model(finished)
    assert model.committed == [0, 1]
    assert config.stream.name == "split_digits"
    low, high = pixel_range
    assert bool((low < high).all())
    x = torch.zeros(1, *model.input_shape[1:])
    assert model.eval()(x, 1).shape == (1, 2)


def test_impressions_are_judged_and_pictured(finished, tmp_path):
    found = show_impressions(finished, tmp_path / "out", images=12, console=QUIET)
    assert set(found) == {0, 1}
    assert all(quality.agreement >= 0.9 for quality in found.values())
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    images = len(load_model(finished)[0].input_shape) == 4
    assert names == ["quality.csv"] + (["task000.png", "task001.png"] if images else [])
    rows = (tmp_path / "out" / "quality.csv").read_text().splitlines()
    assert len(rows) == 3
    assert rows[0] == "task,agreement,distance,duplicates,balance"
    assert float(rows[1].split(",")[1]) == found[0].agreement


def test_what_is_no_run_is_refused(finished, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        show_impressions(tmp_path, console=QUIET)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04not a safetensors file")
    with pytest.raises(InputError, match="was not written by run.py run"):
        show_impressions(tmp_path, console=QUIET)
    assert json.loads((finished / "result.json").read_text())["format_version"] == 1
    with pytest.raises(InputError, match="generator is 'magic'"):
        show_impressions(finished, tmp_path / "out", generator="magic", console=QUIET)
    assert not (tmp_path / "out").exists()
