"""Impressions in the report of a run that left a model."""

import io

import pytest
import yaml
from PIL import Image
from rich.console import Console

from dsn.experiment.config.experiment import load
from dsn.experiment.report.figures.impressions import make_pictures
from dsn.experiment.run.run import run

TINY = {
    "stream": {"name": "split_digits", "tasks": 2, "train_per_class": 40},
    "train": {"epochs": 15, "batch_size": 8, "lr": 0.1, "momentum": 0.9},
    "selection": {"sparsity": 0.0},  # no layer without neurons, so that every task has impressions
    "replay": {"steps": 3},
    "threads": 1,
}
BACKBONES = {
    "vectors": {"backbone": {"name": "mlp", "widths": [24, 16]}},
    "pictures": {"backbone": {"name": "small_cnn", "width": 4, "features": 16}},
}


@pytest.fixture(scope="module", params=BACKBONES)
def folder(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny")
    values = {**TINY, **BACKBONES[request.param]}
    values["stream"] = {**TINY["stream"], "flatten": request.param == "vectors"}
    (place / "tiny.yaml").write_text(yaml.safe_dump(values))
    _, written = run(load(place / "tiny.yaml"), place / "run", console=Console(quiet=True))
    return written


def test_each_task_has_a_strip_of_as_many_pictures_as_asked_for(folder):
    pictures = make_pictures(folder, 7, "i")
    assert [strip.task for strip in pictures.strips] == [0, 1] and pictures.steps == 3
    for strip in pictures.strips:
        assert strip.shown == len(strip.uris) == 7
        with Image.open(io.BytesIO(strip.png)) as sheet:
            assert sheet.width == 7 * sheet.height
        assert len(set(strip.uris)) > 1
        assert f"task {strip.task}" in strip.alt


def test_every_class_is_shown_and_0_switches_them_off(folder):
    strip = make_pictures(folder, 1, "i").strips[0]
    assert strip.shown == strip.classes == 2
    assert make_pictures(folder, 0, "i").strips == []


def test_a_model_that_cannot_be_read_is_no_reason_to_fail(folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"no")
    pictures = make_pictures(tmp_path, 3, "i")
    assert pictures.strips == [] and "model.safetensors" in pictures.note
