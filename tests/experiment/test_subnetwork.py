"""Subnetworks of a run as files, through the command line."""

import functools
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

import run as command_line
from dsn.errors import InputError
from dsn.experiment.config.experiment import load
from dsn.experiment.config.network import build_model
from dsn.experiment.result.costs import flops
from dsn.experiment.result.files import MODEL, load_model, save_model
from dsn.experiment.result.subnetwork import FORMATS, export_subnetwork
from dsn.experiment.result.subnetwork_files import load_subnetwork, reader
from dsn.masking.records import Lateral
from tests.nets import learn

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
QUIET = Console(quiet=True)
ENDINGS = {"safetensors": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}
BACKBONES = {
    "mlp": ({"name": "mlp", "widths": [24, 16]}, (1, 8, 8)),
    "small_cnn": ({"name": "small_cnn", "width": 6, "features": 20}, (3, 16, 16)),
    "resnet18": ({"name": "resnet18", "width": 6}, (3, 16, 16)),
    "torchvision": ({"name": "torchvision", "model": "resnet18"}, (3, 32, 32)),
}


def make_run(folder: Path, backbone: str) -> Path:
    """What ``run.py run`` leaves of a model of three tasks: the first adds laterals, the third pools them."""
    values, shape = BACKBONES[backbone]
    path = folder / f"{backbone}.yaml"
    path.write_text(yaml.safe_dump({"stream": {"name": "split_digits"}, "backbone": values}))
    config = load(path)
    torch.manual_seed(0)
    model = build_model(config, torch.Size(shape))
    x = torch.randn(12, *shape)
    for task in range(3):
        learn(model, x, task, steps=2)
    size = model.heads["0"].in_features
    for source, scale in ((2, 0.5), (0, 1.5)):
        lateral = Lateral(source, torch.tensor(scale), torch.randn(3, size) / size, torch.randn(3))
        model.lateral_heads(0).append(lateral)
        read = torch.randn(4, size) / size, torch.randn(4)
        model.lateral_heads(2).append(Lateral(source, torch.tensor(scale), *read, torch.rand(4, 3)))
    run = folder / backbone
    run.mkdir()
    save_model(model, run / MODEL, config)
    return run


CASES = [
    ("mlp", 0, "torchscript"),
    ("mlp", 0, "safetensors"),
    ("small_cnn", 0, "torchscript"),
    ("small_cnn", 0, "safetensors"),
    ("small_cnn", 1, "safetensors"),
    ("small_cnn", 2, "torchscript"),
    ("small_cnn", 2, "safetensors"),
    ("mlp", 2, "safetensors"),
    ("resnet18", 0, "torchscript"),
    ("resnet18", 1, "safetensors"),
    ("torchvision", 0, "safetensors"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("subnetwork")
    return functools.cache(lambda backbone: make_run(folder, backbone))


@pytest.fixture(scope="module")
def small(runs: Callable[[str], Path]) -> Path:
    return runs("small_cnn")


def said(path: Path, kind: str, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return reader(path, kind)(x)


@pytest.mark.parametrize(("backbone", "task", "kind"), CASES)
def test_files_compute_what_the_full_network_does(
    runs: Callable[[str], Path], tmp_path: Path, backbone: str, task: int, kind: str
) -> None:
    finished, out = runs(backbone), tmp_path / f"cut{ENDINGS[kind]}"
    full, cut = export_subnetwork(finished, task, out, console=QUIET)
    model = load_model(finished)[0].eval()
    x = torch.randn(7, *model.input_shape[1:])
    with torch.no_grad():
        expected = model(x, task)
    found = said(out, kind, x)
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert (cut.parameters < full.parameters) and (cut.flops < full.flops)
    assert cut.bytes == out.stat().st_size
    assert full.bytes == (finished / MODEL).stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.skipif(not HAS_ONNX, reason="needs the extra: pip install -e '.[export]'")
@pytest.mark.parametrize("task", [0, 1, 2])
def test_onnx_runs_in_onnxruntime(small: Path, tmp_path: Path, task: int) -> None:
    out = tmp_path / "cut.onnx"
    export_subnetwork(small, task, out, console=QUIET)
    model = load_model(small)[0].eval()
    for batch in (1, 5):  # the file takes any batch size
        x = torch.randn(batch, *model.input_shape[1:])
        with torch.no_grad():
            expected = model(x, task)
        found = said(out, "onnx", x)
        assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        assert torch.equal(found.argmax(1), expected.argmax(1))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("task", [0, 2])
def test_safetensors_give_the_very_module_back(small: Path, tmp_path: Path, task: int) -> None:
    export_subnetwork(small, task, tmp_path / "a", kind="safetensors", console=QUIET)
    export_subnetwork(small, task, tmp_path / "b", kind="safetensors", console=QUIET)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    net, expected = load_subnetwork(tmp_path / "a"), load_model(small)[0].subnetwork(task)
    assert str(net) == str(expected)
    assert net.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in net.state_dict().items())


def test_one_line_says_what_it_costs(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cut.safetensors"
    assert command_line.main(["subnetwork", str(small), "--task", "1", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    net = load_subnetwork(out)
    own = sum(p.numel() for p in net.parameters())
    assert f" -> {own:,} (" in lines[0]
    for word in ("parameters", "FLOPs", "latency", "size", str(out)):
        assert word in lines[0]


BAD = {
    "no such file": ["{tmp}", "--task", "0", "--out", "{tmp}/cut.pt"],
    "task 9 has no committed mask": ["{run}", "--task", "9", "--out", "{tmp}/cut.pt"],
    "its ending names no format": ["{run}", "--task", "0", "--out", "{tmp}/cut.bin"],
    "is there already": ["{run}", "--task", "0", "--out", "{run}/" + MODEL],
    "no such folder for --out": ["{run}", "--task", "0", "--out", "{tmp}/not/there.pt"],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    before = (small / MODEL).read_bytes()
    arguments = [argument.format(run=small, tmp=tmp_path) for argument in BAD[message]]
    assert command_line.main(["subnetwork", *arguments]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert not list(tmp_path.iterdir())
    assert (small / MODEL).read_bytes() == before
    assert [path.name for path in small.iterdir()] == [MODEL]


def test_a_file_that_computes_something_else_is_not_left(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dsn.experiment.result.subnetwork.reader",
        lambda path, kind: lambda x: reader(path, kind)(x) * 1.01,
    )
    with pytest.raises(RuntimeError, match="does not compute"):
        export_subnetwork(small, 0, tmp_path / "cut.pt", console=QUIET)
    assert not list(tmp_path.iterdir())


def test_foreign_files_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_subnetwork(tmp_path / "missing")
    with pytest.raises(InputError, match="was not written by run.py subnetwork"):
        load_subnetwork(small / MODEL)
    export_subnetwork(small, 1, tmp_path / "cut.safetensors", console=QUIET)
    save_file(load_file(tmp_path / "cut.safetensors"), tmp_path / "bare")
    with pytest.raises(InputError, match="was not written by run.py subnetwork"):
        load_subnetwork(tmp_path / "bare")
    shutil.copy(tmp_path / "cut.safetensors", tmp_path / "other")
    load_subnetwork(tmp_path / "other")


def test_flops_are_those_of_the_formula() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 16, 7))
    assert flops(lambda: net(torch.zeros(2, 3, 4, 4))) == 2 * 2 * (16 * 5 * 3 * 9 + 80 * 7)


def test_every_format_has_an_ending() -> None:
    assert set(ENDINGS) == set(FORMATS)
