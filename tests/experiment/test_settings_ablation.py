"""Variants of a config, paired by seed."""

import json

import pytest
from rich.console import Console

import run as command_line
from dsn.experiment.labs.ablation import AS_IT_IS
from dsn.experiment.labs.settings import load_settings
from dsn.experiment.run.run import run

CONFIG = """
stream: {name: split_digits, tasks: 2, classes_per_task: 2, train_per_class: 40}
backbone: {name: mlp, widths: [24, 16]}
train: {epochs: 2, batch_size: 16, lr: 0.1, momentum: 0.9}
transfer: {tasks: 0, forward: 0}
threads: 1
device: cpu
"""
NPB = "selection.initial.choice=npb selection.initial.share=0.3 selection.initial.he=true"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


def test_variants_are_whole_runs_paired_by_seed(config, tmp_path):
    out = tmp_path / "out"
    arguments = [
        "settings-ablation",
        config,
        "--seeds",
        "0,1",
        "--vary",
        NPB,
        "--vary",
        "train.lr=0.1",
        "--out",
        out,
    ]
    assert command_line.main([str(argument) for argument in arguments]) == 0
    found = json.loads((out / "settings.json").read_text())
    variants = {variant["name"]: variant for variant in found["variants"]}
    assert list(variants) == [AS_IT_IS, NPB, "train.lr=0.1"]
    assert variants["train.lr=0.1"]["acc"] == variants[AS_IT_IS]["acc"]
    assert variants["train.lr=0.1"]["above"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert 0 <= variants[NPB]["free"] <= 1
    text = (out / "settings.md").read_text()
    assert text.startswith("```console\n$ python run.py settings-ablation") and f"| {NPB} |" in text
    alone = load_settings(config, ["seed=1"], [NPB])[NPB]
    result, _ = run(alone, tmp_path / "alone", console=Console(quiet=True))
    assert result.metrics.acc == variants[NPB]["acc"][1]


def test_bad_variants_are_refused(config, tmp_path, capsys):
    for vary in ("seed=3", "stream.tasks=1", "selection.initial.choice=some", ""):
        arguments = ["settings-ablation", str(config), "--vary", vary, "--out", str(tmp_path / "out")]
        assert command_line.main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "out").exists()
