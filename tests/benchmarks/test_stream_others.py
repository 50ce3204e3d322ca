"""Streams from elsewhere: every classic benchmark of Avalanche that its data allow, data sets, functions."""

import inspect
import sys

import numpy as np
import pytest
import torch
from avalanche.benchmarks import classic
from PIL import Image
from pydantic import ValidationError

from benchmarks.others.avalanche_classic import AvalancheConfig
from benchmarks.others.data_sets import DataSetsConfig
from benchmarks.others.python import PythonConfig
from benchmarks.streams import build
from dsn.errors import InputError
from tests.benchmarks.conftest import write_class_folders
from tests.benchmarks.test_stream_invariants import streams_of, tensors


@pytest.fixture
def root(blocks):
    """The folder that holds all the small data sets."""
    return blocks["cifar10"]["root"]


CLASSIC = {
    "SplitMNIST": (5, (1, 28, 28)),
    "PermutedMNIST": (3, (1, 28, 28)),
    "RotatedMNIST": (3, (1, 28, 28)),
    "SplitFMNIST": (5, (1, 28, 28)),
    "SplitCIFAR10": (5, (3, 32, 32)),
    "SplitCIFAR100": (10, (3, 32, 32)),
    "SplitTinyImageNet": (10, (3, 64, 64)),
    "SplitCIFAR110": (11, (3, 32, 32)),
}
OPTIONS = {"RotatedMNIST": {"rotations_list": [0, 30, 60]}}


def make_classic(name, root, **changes):
    options = OPTIONS.get(name, {})
    if name == "SplitCIFAR110":
        options = {"dataset_root_cifar10": root, "dataset_root_cifar100": root}
    block = {
        "benchmark": name,
        "tasks": CLASSIC[name][0],
        "options": options,
        "root": root,
        "validation": 0.5,
    }
    return build(AvalancheConfig(**block | changes), 0)


def check(benchmark, tasks, shape):
    """One labelled task an experience, its classes numbered from 0, the same in all its streams."""
    assert [stream.name for stream in streams_of(benchmark)] == ["train", "valid", "test"]
    low, high = benchmark.pixel_range
    assert len(low) == len(high) == (shape[0] if len(shape) == 3 else 1) and bool((low < high).all())
    for stream in streams_of(benchmark):
        assert len(stream) == tasks
        for index, experience in enumerate(stream):
            assert experience.task_label == index
            x, y = tensors(experience)
            assert x.dtype == torch.float32 and x.shape[1:] == shape and len(x) == len(y) > 0
            assert y.unique().tolist() == list(range(len(benchmark.task_classes[index])))
            one, label, task = experience.dataset[0]
            assert torch.equal(one, x[0]) and label == int(y[0]) and task == index


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_benchmarks_become_labelled_tasks(name, root):
    check(make_classic(name, root), *CLASSIC[name])


def test_a_seed_chooses_classes_as_in_avalanche(root):
    benchmark = make_classic("SplitCIFAR10", root, validation=0.0, normalize=False)
    original = classic.SplitCIFAR10(5, seed=0, return_task_id=True, dataset_root=root)
    for ours, theirs in zip(benchmark.test_stream, original.test_stream, strict=True):
        levels = tensors(ours)[0][:, 0].mul(255).round()  # the red channel is the class
        assert sorted(levels.unique().tolist()) == sorted(theirs.classes_in_this_experience)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"benchmark": "SplitCub200"}, "no classic benchmark 'SplitCub200'; near: SplitCUB200"),
        ({"benchmark": "Quatsch"}, "no classic benchmark 'Quatsch'.*there are CLEAR"),
        ({"options": {"seeed": 3}}, "takes no seeed, did you mean seed; it takes n_experiences"),
        ({"tasks": 0}, "needs n_experiences: set stream.tasks"),
        ({"tasks": 3}, "SplitMNIST cannot be built"),
        ({"benchmark": "SplitImageNet", "tasks": 10, "root": None}, "needs dataset_root: set stream.options"),
        ({"benchmark": "SplitOmniglot", "tasks": 4}, "SplitOmniglot cannot be built"),
    ],
)
def test_what_cannot_be_built_says_why(changes, said, root, tmp_path):
    if changes.get("benchmark") == "SplitOmniglot":
        root = tmp_path
    with pytest.raises(InputError, match=said):
        make_classic("SplitMNIST", **{"root": root} | changes | ({} if "root" in changes else {"root": root}))


def test_every_classic_benchmark_is_known():
    """Of those that are left out here, the files are not to be made: they come as archives of many GB."""
    known = {n for n, f in vars(classic).items() if inspect.isfunction(f) and n[0].isupper()}
    left_out = {"SplitCUB200", "SplitImageNet", "SplitInaturalist", "SplitOmniglot", "CORe50", "CLEAR"}
    left_out |= {"OpenLORIS", "CLStream51", "EndlessCLSim"}
    assert known == set(CLASSIC) | left_out


def test_experiences_that_share_classes_need_a_test_set_each(tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="3 training and 1 test experiences, and classes that come back"):
        build(PythonConfig(builder="my_streams:one_test", options={"shared": True}), 0)
    check(build(PythonConfig(builder="my_streams:one_test", validation=0.3), 0), 3, (5,))


# ---- data sets -------------------------------------------------------------------------------------------


def test_data_sets_are_tasks_of_one_size_in_colour(root, tmp_path):
    names = ["cifar10", "mnist", "fashion_mnist", "CIFAR100"]
    benchmark = build(DataSetsConfig(datasets=names, root=root, validation=0.5, image_size=20), 0)
    check(benchmark, 4, (3, 20, 20))
    assert [len(classes) for classes in benchmark.task_classes] == [10, 10, 10, 100]
    grey = tensors(benchmark.test_stream[1])[0]
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    x = tensors(benchmark.train_stream[0])[0]
    assert abs(float(x.mean())) < 0.2 and abs(float(x.std()) - 1) < 0.2  # each by its own statistics


def test_folders_and_any_of_torchvisions(root, tmp_path):
    for part in ("train", "test"):
        write_class_folders(tmp_path / "notmnist" / part, 3, 4, np.random.default_rng(0))
    write_svhn(tmp_path / "svhn")
    benchmark = build(
        DataSetsConfig(
            datasets=["notmnist", "svhn"], root=tmp_path, image_size=16, cache=None, validation=0.3
        ),
        0,
    )
    check(benchmark, 2, (3, 16, 16))
    assert [len(classes) for classes in benchmark.task_classes] == [3, 2]


def write_svhn(folder):
    """In its place: a folder of images, as for any set that torchvision cannot read here."""
    for part in ("train", "test"):
        for label in (0, 1):
            place = folder / part / str(label)
            place.mkdir(parents=True)
            for index in range(4):
                Image.fromarray(np.full((32, 32, 3), 100 * label + index, np.uint8)).save(
                    place / f"{index}.png"
                )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"datasets": ["mnist", "svnh"]}, "torchvision has no 'svnh'.*near: svhn"),
        ({"datasets": ["stl10"]}, "stl10 can neither be read from"),
        ({"datasets": ["kmnist"]}, "kmnist can neither be read from"),
        ({"datasets": ["mnist"], "root": "/nowhere"}, "mnist can neither be read from"),
    ],
)
def test_data_sets_that_are_not_there(changes, said, root, tmp_path):
    with pytest.raises(InputError, match=said):
        build(DataSetsConfig(**{"root": tmp_path if "stl10" in str(changes) else root} | changes), 0)


def test_data_sets_that_make_no_sense():
    for block, said in (
        ({"datasets": []}, "at least 1"),
        ({"datasets": ["mnist"], "tasks": 3}, "tasks is 3, but there are 1 datasets"),
        ({"datasets": ["mnist"], "options": {"emnist": {}}}, "emnist is none of the datasets"),
    ):
        with pytest.raises(ValidationError, match=said):
            DataSetsConfig(**block)


# ---- functions of the user's -----------------------------------------------------------------------------

MODULE = """
import torch
from torch.utils.data import TensorDataset
from avalanche.benchmarks import nc_benchmark

def pair(task, n=12):
    y = torch.arange(n) % 2
    return TensorDataset(torch.randn(n, 5) + y[:, None], y + 10 * task)

def my_stream(seed, tasks=3):
    torch.manual_seed(seed)
    return [(pair(t), pair(t)) for t in range(tasks)]

def avalanche(seed):
    data = TensorDataset(torch.randn(40, 5), torch.arange(40) % 4)
    data.targets = data.tensors[1]
    return nc_benchmark(data, data, n_experiences=2, task_labels=False, seed=seed)

class One:
    def __init__(self, train, test):
        class Exp:
            def __init__(self, dataset): self.dataset = dataset
        self.train_stream, self.test_stream = [Exp(d) for d in train], [Exp(test)]

def one_test(seed, shared=False):
    train = [pair(0 if shared else t) for t in range(3)]
    everything = TensorDataset(*(torch.cat(parts) for parts in zip(*(d.tensors for d in train))))
    return One(train, everything)

def fails(seed): raise RuntimeError("no disk")
def wrong(seed): return 7
def shapes(seed): return [(pair(0), pair(0)), (TensorDataset(torch.randn(4, 6), torch.arange(4)),) * 2]
def empty(seed): return []
def none(seed): return [(pair(0, 0), pair(0))]
"""


def write_module(folder, monkeypatch):
    (folder / "my_streams.py").write_text(MODULE)
    (folder / "broken.py").write_text("import nothing_of_that_name")
    monkeypatch.chdir(folder)
    for name in ("my_streams", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_function_makes_a_stream(tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch)
    path = list(sys.path)
    benchmark = build(PythonConfig(builder="my_streams:my_stream", options={"tasks": 4}, validation=0.25), 3)
    check(benchmark, 4, (5,))
    assert sys.path == path
    check(build(PythonConfig(builder="my_streams:avalanche", validation=0.25, tasks=2), 0), 2, (5,))
    again = build(PythonConfig(builder="my_streams:my_stream", options={"tasks": 4}, validation=0.25), 3)
    assert torch.equal(tensors(again.train_stream[0])[0], tensors(benchmark.train_stream[0])[0])


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"builder": "nothing_here:f"}, "the module nothing_here cannot be imported from"),
        ({"builder": "broken:f"}, "broken cannot be imported.*nothing_of_that_name"),
        ({"builder": "my_streams:my_steam"}, "no function my_steam; did you mean my_stream"),
        ({"builder": "my_streams:fails"}, "my_streams:fails fails: RuntimeError: no disk"),
        ({"builder": "my_streams:my_stream", "options": {"x": 1}}, "fails: TypeError.*unexpected"),
        ({"builder": "my_streams:wrong"}, "gives a int: an Avalanche benchmark is wanted"),
        ({"builder": "my_streams:shapes"}, r"task 1: its training samples have the shape \[6\]"),
        ({"builder": "my_streams:empty"}, "gives no task"),
        ({"builder": "my_streams:none"}, "training data of task 0: has no samples"),
        ({"builder": "my_streams:my_stream", "tasks": 9}, "stream.tasks is 9, but .* gives 3 tasks"),
    ],
)
def test_functions_that_make_no_stream(block, said, tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch)
    with pytest.raises(InputError, match=said):
        build(PythonConfig(**block), 0)


def test_a_builder_is_a_module_and_a_function():
    for builder in ("my_module", ":f", "a b:f", "m:", "m:f()"):
        with pytest.raises(ValidationError, match="write module:function"):
            PythonConfig(builder=builder)
