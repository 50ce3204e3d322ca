"""What a file of a run claims about itself decides over nothing before it is found to fit."""

import json
import tracemalloc

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dsn.errors import InputError
from dsn.experiment.config.experiment import Config
from dsn.experiment.config.network import build_model
from dsn.experiment.result.files import MODEL, load_model, save_model
from dsn.experiment.result.subnetwork import export_subnetwork
from dsn.experiment.result.subnetwork_files import load_subnetwork
from dsn.storage import checksum
from tests.experiment.resuming import tiny

QUIET = Console(quiet=True)


def finished(folder, backbone, shape):
    """What is left of a run with two tasks."""
    config = tiny(folder)
    config = Config.model_validate(config.model_dump() | {"backbone": backbone})
    torch.manual_seed(0)
    model = build_model(config, torch.Size(shape))
    for task in range(2):
        model.add_task(3, budget=0.5, logit_mean=3.0)
        model.commit(task)
    (folder / "run").mkdir()
    save_model(model, folder / "run" / MODEL, config)
    return folder / "run"


@pytest.fixture
def run(tmp_path):
    return finished(tmp_path, {"name": "mlp", "widths": [24, 16]}, (64,))


def claim(path, key, change):
    """Change the JSON that stands under ``key`` in a file's metadata; a checksum in it is right again."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[key])
    state = load_file(path)
    change(about)
    if about.pop("sha256", None):
        about["sha256"] = checksum({}, about, state)
    save_file(state, path, metadata={key: json.dumps(about)})


def setting(place, value):
    def change(about):
        *inner, last = place.split(".")
        for name in inner:
            about = about[int(name) if name.isdigit() else name]
        about[int(last) if last.isdigit() else last] = value

    return change


@pytest.mark.parametrize(("name", "value"), [("threads", 1000), ("device", "meta"), ("device", "xla:7")])
def test_threads_and_devices_that_are_not_here_are_not_asked_for(run, tmp_path, name, value):
    before = torch.get_num_threads()
    claim(run / MODEL, "run", setting(f"config.{name}", value))
    model, config, _ = load_model(run)
    assert model.committed == [0, 1]
    assert getattr(config, name) in (None, "auto")
    export_subnetwork(run, 0, tmp_path / "cut.safetensors", console=QUIET)
    assert torch.get_num_threads() == before


SIZES = [
    ("config.backbone.widths", [10**6, 10**6]),
    ("config.backbone.widths", [10**9, 10**10]),
    ("config.backbone.widths", [10**15]),
    ("config.backbone", {"name": "small_cnn", "width": 10**6}),
    ("config.backbone", {"name": "torchvision", "model": "resnet18", "options": {"num_classes": 10**9}}),
    ("config.backbone", {"name": "torchvision", "model": "resnet18", "options": {"norm_layer": "x"}}),
    ("input_shape", [10**9]),
    ("input_shape", [3, 10**6, 10**6]),
    ("input_shape", [-1]),
    ("input_shape", [64.0]),
    ("input_shape", [True, 8, 8]),
    ("input_shape", []),
    ("input_shape", "64"),
]


@pytest.mark.parametrize(("place", "value"), SIZES)
def test_sizes_that_the_tensors_have_not_take_no_memory(run, place, value):
    claim(run / MODEL, "run", setting(place, value))
    with pytest.raises(InputError, match=r"model\.safetensors: ") as told:
        load_model(run)
    assert "\n" not in str(told.value)


NAN, INF = float("nan"), float("inf")
RANGES = [
    [[0.0], [NAN]],
    [[-INF], [INF]],
    [[0.0], [10**400]],
    [[-1e300], [1e300]],
    [[1.0], [0.0]],
    [[0.0], [0.0]],
    [[0.0, 0.0], [1.0]],
    [[], []],
    [[0.0]],
    [[0.0], [1.0], [2.0]],
    [[[0.0]], [[1.0]]],
    [["0"], ["1"]],
    [[True], [False]],
    [0.0, 1.0],
    {"0": [0.0], "1": [1.0]},
    [],
    "01",
    5,
]


@pytest.mark.parametrize("value", RANGES)
def test_a_pixel_range_that_is_none_is_refused_where_it_stands(run, value):
    claim(run / MODEL, "run", setting("pixel_range", value))
    with pytest.raises(InputError, match=r"model\.safetensors: was not written by run.py run") as told:
        load_model(run)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", [[8], [65], [1, 8, 8], [64, 1, 1], [1, 64, 1], [16, 16, 3], [3, 8, 8]])
def test_the_input_shape_of_another_network_is_refused_or_says_the_same(run, value):
    claim(run / MODEL, "run", setting("input_shape", value))
    if torch.Size(value).numel() != 64:
        with pytest.raises(InputError, match=r"model\.safetensors: does not fit its own config"):
            load_model(run)
    else:  # an MLP flattens its input
        model, _, _ = load_model(run)
        assert model.eval()(torch.zeros(2, *value), 0).shape == (2, 3)


CLAIMS = [
    ("branches.0.head.out_features", 10**9),
    ("branches.0.head.in_features", 10**12),
    ("branches.0.head.kind", "Sequential"),
    ("branches.0.head.kind", "__class__"),
    ("branches.0.head", {"kind": "Select", "size": 10**9, "width": 1, "dim": 1, "zeros": False}),
    ("branches.0.head", 7),
    ("branches.0.not.there", {}),
    ("branches", []),
    ("branches", [{}]),
    ("pools", [{"shape": [10**6, 10**6], "added": True}]),
    ("pools", [{"shape": "x", "added": 1}]),
]


@pytest.mark.parametrize(("place", "value"), CLAIMS)
def test_a_subnetwork_is_as_large_as_its_tensors(run, tmp_path, place, value):
    cut = tmp_path / "cut.safetensors"
    export_subnetwork(run, 0, cut, console=QUIET)

    def change(about):
        about["branches"][0]["not"] = {}
        setting(place, value)(about)
        if place != "branches.0.not.there" and about["branches"] and isinstance(about["branches"][0], dict):
            about["branches"][0].pop("not", None)

    claim(cut, "subnetwork", change)
    tracemalloc.start()
    with pytest.raises(InputError, match="was not written by run.py subnetwork"):
        load_subnetwork(cut)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_what_a_subnetwork_selects_is_there(tmp_path):
    run = finished(tmp_path, {"name": "resnet18", "width": 4}, (3, 16, 16))
    cut = tmp_path / "cut.safetensors"
    export_subnetwork(run, 0, cut, console=QUIET)
    with safe_open(cut, "pt") as file:
        metadata = file.metadata()
    state = load_file(cut)
    name = next(name for name in state if name.endswith(".index"))
    state[name][0] = 10**6
    save_file(state, cut, metadata=metadata)
    with pytest.raises(InputError, match="it selects neurons that are not among"):
        load_subnetwork(cut)
