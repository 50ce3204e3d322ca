"""No file that is read can run code: a pickle that leaves a mark is put under each name."""

import ast
import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from benchmarks.images import decoding
from dsn import InputError, backbones, mask_neurons
from dsn.baselines import MemoryUse
from dsn.experiment.compare import work as compare_job
from dsn.experiment.compare.comparison import load_comparison
from dsn.experiment.compare.tune import Search
from dsn.experiment.config.backbone import TorchvisionConfig
from dsn.experiment.config.experiment import load
from dsn.experiment.config.network import build_model
from dsn.experiment.result.files import load_model, save_model
from dsn.experiment.result.key import read_key
from dsn.experiment.result.result import read_result
from dsn.experiment.result.subnetwork import export_subnetwork
from dsn.experiment.result.subnetwork_files import load_subnetwork
from dsn.experiment.result.verify import verify
from dsn.experiment.run.checkpoint import LATEST, PREVIOUS
from dsn.experiment.run.learnt import Learnt, learnt_of, tree_of
from dsn.experiment.run.run import run
from dsn.experiment.run.run_folder import checkpoint_of
from dsn.training.state import STATE_FILE
from tests.experiment.resuming import tiny
from tests.nets import learn

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
    yield "dsn.json", lambda path: Search(config, path, 2, 2, [0]).resume()
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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The file in which torchvision looks for the pretrained weights of resnet18; nothing is downloaded."""
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("it downloads"))
    url = models.get_model_weights("resnet18").DEFAULT.url
    file = tmp_path / "torch" / "hub" / "checkpoints" / Path(url).name
    file.parent.mkdir(parents=True)
    return file


def torch_files(mark):
    """What torch.load takes: its archive, its older format, a zip of a file, TorchScript; with a pickle."""
    archive, older, script, zipped = (io.BytesIO() for _ in range(4))
    torch.save({"a": Mark(mark)}, archive)
    torch.save({"a": Mark(mark)}, older, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("weights.pth", older.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    return {"archive": archive, "older": older, "zip": zipped, "script": script}


@pytest.mark.parametrize("kind", ["archive", "older", "zip", "script", "none"])
def test_pretrained_weights_are_weights_or_refused(cache, tmp_path, kind, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    files = torch_files(tmp_path / "mark")
    cache.write_bytes(files[kind].getvalue() if kind in files else b"not a file of torch")
    with pytest.raises(InputError, match=r"the pretrained weights of 'resnet18' in .* cannot be used"):
        backbones.torchvision_model("resnet18", pretrained=True)
    assert not (tmp_path / "mark").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_pretrained_weights_are_those_of_the_file(cache):
    from torchvision import models

    own = models.get_model("resnet18")
    torch.save(own.state_dict(), cache)
    net, head = backbones.torchvision_model("resnet18", pretrained=True)
    assert head == "fc"
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in own.state_dict().items())


def test_reading_a_run_builds_its_network_without_pretrained_weights(cache, tmp_path):
    """Each command that reads one; the cache has a pickle, and nothing is there to download."""
    cache.write_bytes(torch_files(tmp_path / "mark")["archive"].getvalue())
    config = tiny(tmp_path)
    config = config.model_copy(update={"backbone": TorchvisionConfig(name="torchvision", model="resnet18")})
    model = build_model(config, torch.Size((3, 32, 32)))
    learn(model, torch.randn(8, 3, 32, 32), 0, steps=2)
    rich = config.model_copy(update={"backbone": config.backbone.model_copy(update={"pretrained": True})})
    run = tmp_path / "run"
    run.mkdir()
    save_model(model, run / "model.safetensors", rich)
    quiet = Console(quiet=True)
    assert load_model(run)[0].committed == [0]
    export_subnetwork(run, 0, tmp_path / "cut.safetensors", console=quiet)
    load_subnetwork(tmp_path / "cut.safetensors")
    learnt = Learnt(
        matrix=np.ones((1, 1)), random=None, model=model, times=[], memory=MemoryUse([0], 0, 0, 0)
    )
    again, _ = learnt_of(tree_of(learnt, 0.0), rich, torch.Size((3, 32, 32)), torch.device("cpu"))
    assert again.model.committed == [0]
    with pytest.raises(InputError, match="cannot be used"):  # but a new run asks for them
        build_model(rich, torch.Size((3, 32, 32)))
    assert not (tmp_path / "mark").exists()


def test_no_module_calls_what_loads_pickles():
    """But torchvision, which checks the MD5 of CIFAR's files first."""
    unsafe = {("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler")}
    unsafe |= {("joblib", "load"), ("pd", "read_pickle"), ("yaml", "unsafe_load")}
    seen = 0
    for path in [*ROOT.glob("dsn/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), ROOT / "run.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            options = {keyword.arg: keyword.value for keyword in node.keywords}
            safe = {("np", "load"): ("allow_pickle", False), ("torch", "load"): ("weights_only", True)}
            if (owner, node.func.attr) in safe:
                name, value = safe[owner, node.func.attr]
                said = options.get(name)
                assert said is not None and ast.literal_eval(said) is value, f"{path}, line {node.lineno}"
                seen += 1
            assert (owner, node.func.attr) not in unsafe, f"{path}, line {node.lineno}"
    assert seen
