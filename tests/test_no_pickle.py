"""No file that is read can run code: a pickle that leaves a mark is put under each name."""

import ast
import io
import os
import pickle
from pathlib import Path

import numpy as np
import torch
import yaml
from rich.console import Console

from benchmarks import decoding
from dsn import InputError, backbones, mask_neurons
from dsn.experiment import compare_job
from dsn.experiment.checkpoint import LATEST, PREVIOUS
from dsn.experiment.compare_key import read_key
from dsn.experiment.compare_tune import Search
from dsn.experiment.comparison import load_comparison
from dsn.experiment.config import load
from dsn.experiment.files import load_model
from dsn.experiment.result import read_result
from dsn.experiment.run import run
from dsn.experiment.run_folder import checkpoint_of
from dsn.experiment.subnetwork_files import load_subnetwork
from dsn.experiment.verify import verify
from dsn.training.strategy import STATE_FILE
from tests.experiment.resuming import tiny

ROOT = Path(__file__).parent.parent


class Mark:
    """Makes the folder ``path`` when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def payloads(mark):
    """A bare pickle, torch's archive of one, numpy's file of one, and YAML's way to call."""
    archive, array = io.BytesIO(), io.BytesIO()
    torch.save(Mark(mark), archive)
    np.save(array, np.array([Mark(mark)], dtype=object), allow_pickle=True)
    yield pickle.dumps(Mark(mark))
    yield archive.getvalue()
    yield array.getvalue()
    yield f"!!python/object/apply:os.mkdir [{mark}]".encode()


def readers(folder):
    """By the file's name, what reads it."""
    config, quiet = tiny(folder), Console(quiet=True)
    model = mask_neurons(backbones.mlp(4, (3,)), example_input=torch.zeros(1, 4))
    yield "config.yaml", lambda path: load(path)
    yield "result.json", lambda path: read_result(path)
    yield "result.json", lambda path: verify(path.parent)
    yield "result.json", lambda path: run(config, path.parent, console=quiet, resume=True)
    yield "model.safetensors", lambda path: load_model(path.parent)
    yield "comparison.json", lambda path: load_comparison(path.parent)
    yield "dsn-seed0.json", lambda path: read_key(path)
    yield "dsn.json", lambda path: Search(config, path, 2, 2).resume()
    yield "task3.safetensors", lambda path: load_subnetwork(path)
    yield "task3", lambda path: model.load_task(path)
    yield STATE_FILE, lambda path: strategy_load(model, path.parent)
    yield "cache.npy", lambda path: decoding._load(path, (1, 1, 2, 2))
    for name in (LATEST, PREVIOUS):
        where = checkpoint_of(folder / "out").name
        yield f"{where}/{name}", lambda path: run(config, folder / "out", console=quiet, resume=True)
        yield f"{where}/{name}", lambda path: compare_job.drop_unfit(folder / "out", config)


def strategy_load(model, folder):
    from dsn import DSN

    DSN(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), evaluator=None).load(folder)


def test_the_payloads_do_harm_where_they_are_loaded(tmp_path):
    bare, archive, array, text = payloads(tmp_path / "mark")
    for content, loaded in (
        (bare, lambda: pickle.loads(bare)),
        (archive, lambda: torch.load(io.BytesIO(archive), weights_only=False)),
        (array, lambda: np.load(io.BytesIO(array), allow_pickle=True)),
        (text, lambda: yaml.unsafe_load(text)),
    ):
        assert not (tmp_path / "mark").exists() and content
        loaded()
        (tmp_path / "mark").rmdir()


def test_no_file_that_is_read_runs_it(tmp_path):
    mark, names = tmp_path / "mark", set()
    for number, payload in enumerate(payloads(mark)):
        for place in range(len(list(readers(tmp_path)))):
            folder = tmp_path / f"{number}-{place}"
            folder.mkdir()
            name, read = list(readers(folder))[place]
            names.add(name)
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(payload)
            try:
                read(folder / name)
            except InputError as error:
                assert str(error)
            assert not mark.exists(), name
    assert len(names) >= 12


def test_no_module_calls_what_loads_pickles():
    """But torchvision, which checks the MD5 of CIFAR's files first."""
    unsafe = {("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler"), ("torch", "load")}
    unsafe |= {("joblib", "load"), ("pd", "read_pickle"), ("yaml", "unsafe_load")}
    seen = 0
    for path in [*ROOT.glob("dsn/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), ROOT / "run.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            assert (owner, node.func.attr) not in unsafe, f"{path}, line {node.lineno}"
            if (owner, node.func.attr) == ("np", "load"):
                options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
                assert options.get("allow_pickle") is False, f"{path}, line {node.lineno}"
                seen += 1
    assert seen
