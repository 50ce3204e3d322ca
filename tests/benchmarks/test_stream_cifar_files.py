"""CIFAR from image files instead of its pickles: the same classes, tasks and pixels."""

import shutil

import numpy as np
import pytest
from PIL import Image

from benchmarks.classic_data import load_cifar
from benchmarks.split_cifar import SUPERCLASSES, SplitCIFAR10Config, SplitCIFAR100Config, build
from dsn.errors import InputError

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100 = sorted(" ".join(SUPERCLASSES.values()).split())


def write(root, classes, counts=(2, 1)):
    """Images whose first pixel is the class's number, whose second is the image's."""
    for part, count in zip(("train", "test"), counts, strict=True):
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.zeros((32, 32, 3), np.uint8)
                pixels[0, 0], pixels[0, 1] = label, i
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def root100(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cifar100"), CIFAR100)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_pixels_labels_and_statistics_are_those_of_the_data_set(root100):
    images = load_cifar("cifar100", root100)
    assert images.classes == CIFAR100 and len(images.train_x) == 200 and len(images.test_x) == 100
    assert images.train_x[:, 0, 0, 0].tolist() == images.train_y.tolist()
    assert images.test_x[:, 0, 0, 0].tolist() == images.test_y.tolist()
    assert images.mean == pytest.approx((0.5071, 0.4865, 0.4409))


def test_superclasses_are_tasks(root100):
    benchmark = build(
        SplitCIFAR100Config(by="superclass", tasks=20, class_order="sorted", root=root100, normalize=False), 0
    )
    assert benchmark.task_classes == [names.split() for names in SUPERCLASSES.values()]
    x, *_ = benchmark.train_stream[19].dataset[0]
    assert CIFAR100[round(float(x[0, 0, 0]) * 255)] in SUPERCLASSES["vehicles_2"].split()


def test_cifar10_from_files(tmp_path):
    root = write(tmp_path / "ten", CIFAR10)
    benchmark = build(SplitCIFAR10Config(root=root, class_order="sorted"), 0)
    assert benchmark.task_classes[0] == ["airplane", "automobile"]


@pytest.mark.parametrize("damage", ["missing", "renamed", "another", "other data"])
def test_other_classes_are_refused_by_name(tmp_path, damage):
    root = write(tmp_path / "ten", CIFAR10)
    for part in ("train", "test"):
        if damage == "missing":
            shutil.rmtree(root / part / "frog")
        elif damage == "renamed":
            (root / part / "frog").rename(root / part / "toad")
        elif damage == "another":
            shutil.copytree(root / part / "frog", root / part / "newt")
    name = "cifar100" if damage == "other data" else "cifar10"
    with pytest.raises(InputError, match="stream.root") as error:
        load_cifar(name, root)
    assert {"missing": "frog", "renamed": "toad", "another": "newt", "other data": "apple"}[damage] in str(
        error.value
    )
