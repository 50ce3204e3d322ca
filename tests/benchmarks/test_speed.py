"""Every speed script runs, at a small size, and prints what docs/speed.md is made of."""

from __future__ import annotations

import gc
import importlib
import re
import sys
from pathlib import Path

import pytest

from benchmarks.speed import __main__ as table
from benchmarks.speed import checkpoint, step

SMALL = {
    "checkpoint": "",
    "engines": "--runs 3",
    "epoch": "--images 64 --widths 8 --rounds 1 --naive",
    "impressions": "--images 8 --steps 2 --epochs 1 --hidden 16 --reference-steps-run 1",
    "imagenet": "--images 8 --side 32",
    "many_tasks": "--one 2",
    "memory": "--megabytes 1 --allowed 1",
    "protection": "--size 32 --rounds 1",
    "start": "--rounds 1",
    "step": "--tasks 2 --batch 2 --networks 1 --rounds 1",
    "subnetwork": "--batch 2 --rounds 1",
    "tasks": "--tasks 2 --widths 8 8 --train-per-class 4 --rounds 1",
    "topology": "--set train.epochs=1 --rounds 1",
    "transfer": "--set train.epochs=1",
    "wrap": "--networks squeezenet1_1 shufflenet_v2_x0_5 --side 64",
}
SIZES = {
    "tasks": {"task 100": "task 2"},
    "step": {"task 5": "task 2"},
    "wrap": {"resnet50": "squeezenet1_1", "vit_b_16": "shufflenet_v2_x0_5"},
}
"""what a claim names that is another at the small size"""


def test_every_script_is_here():
    scripts = {path.stem for path in Path(table.__file__).parent.glob("*.py")}
    assert set(SMALL) == scripts - {"__init__", "__main__", "timing"} and set(table.CLAIMS) <= set(SMALL)


@pytest.mark.parametrize("script", SMALL)
def test_a_script_prints_what_its_claims_ask_for(script, capsys, monkeypatch):
    small = {
        name: ["train.epochs=1", "checkpoint={minutes: null, iterations: 2}"] for name in checkpoint.RUNS
    }
    monkeypatch.setattr(checkpoint, "RUNS", small)
    monkeypatch.setattr(step, "keep_freed_memory", lambda: None)  # for the whole process
    monkeypatch.setattr(gc, "collect", lambda: 0)  # between rounds; slow in a process of many tests
    monkeypatch.setattr(sys, "argv", [script, *SMALL[script].split()])
    importlib.import_module(f"benchmarks.speed.{script}").main()
    said = capsys.readouterr().out
    assert re.search("[0-9]", said)
    for claim in table.CLAIMS.get(script, []):
        pattern = claim.pattern
        for name, small_name in SIZES.get(script, {}).items():
            pattern = pattern.replace(name, small_name)
        found = re.search(pattern, said, re.MULTILINE)
        assert found and float(found[1]) >= 0, f"nothing like {pattern} in:\n{said}"
