"""Augmentation: for training alone, by every strategy, each sample with its own draws, resumable."""

import json

import pytest
import torch
from rich.console import Console

from dsn.augment import PRESETS, Augment
from dsn.baselines import STRATEGIES
from dsn.cli.main import main
from dsn.errors import InputError
from dsn.experiment.run.run import run
from tests.experiment.resuming import Killed, assert_same_result, killed_at, tiny

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")
QUIET = Console(quiet=True)
LOW, HIGH = torch.tensor([-2.0, -1.0, 0.0]), torch.tensor([2.0, 3.0, 1.0])


def images(n: int = 16) -> torch.Tensor:
    low, high = (limit.view(3, 1, 1) for limit in (LOW, HIGH))
    return low + torch.rand(n, 3, 12, 10) * (high - low)


@pytest.mark.parametrize("transforms", [*PRESETS, ["RandomGrayscale", {"RandomAffine": {"degrees": 30}}]])
def test_images_keep_shape_and_range_and_draws_are_each_ones_own(transforms) -> None:
    augment, x = Augment(transforms, (LOW, HIGH)), images(1).expand(16, -1, -1, -1)
    before = x.clone()
    torch.manual_seed(0)
    one = augment(x)
    torch.manual_seed(0)
    assert torch.equal(one, augment(x)) and torch.equal(x, before)
    assert one.shape == x.shape and one.dtype == x.dtype
    assert len({sample.numpy().tobytes() for sample in one}) > 3
    for channel, (low, high) in enumerate(zip(LOW, HIGH, strict=True)):
        assert bool((one[:, channel] >= low - 1e-5).all() and (one[:, channel] <= high + 1e-5).all())
    assert not torch.equal(one, augment(x))


def test_a_flip_is_a_flip() -> None:
    x = images()
    flipped = Augment([{"RandomHorizontalFlip": {"p": 1.0}}], (LOW, HIGH))(x)
    assert torch.allclose(flipped, x.flip(3), atol=1e-5)


@pytest.mark.parametrize(
    ("transforms", "said"),
    [
        ("flips", "unknown 'flips': choose one of none, crop_flip, trivial"),
        (["RandomHorizontalFlop"], "no such transform, nearest is 'RandomHorizontalFlip'"),
        ([{"RandomCrop": {"sizes": 3}}], "RandomCrop: .*sizes.*; it takes size, padding"),
        (["RandomCrop"], "RandomCrop: .*size"),
        ([{"RandomCrop": 3}], "3 is no block of arguments"),
        ([{"a": {}, "b": {}}], "is no transform: write its name"),
        ([{"RandomHorizontalFlip": {"p": 7}}], "RandomHorizontalFlip: .*p"),
    ],
)
def test_what_torchvision_does_not_know_is_refused(transforms, said: str, tmp_path) -> None:
    with pytest.raises(InputError, match=said):
        Augment(transforms)
    with pytest.raises(InputError, match=r"train.augment"):
        tiny(tmp_path, f"train.augment={json.dumps(transforms)}")


def test_what_shows_when_it_is_called_is_refused() -> None:
    with pytest.raises(InputError, match=r"makes \[3, 4, 4\] of images \[3, 12, 10\]: their size must stay"):
        Augment([{"CenterCrop": {"size": 4}}])(images())
    with pytest.raises(InputError, match=r"samples have the shape \[5\].*train.augment to none"):
        Augment("trivial")(torch.randn(3, 5))


ON = ("stream.flatten=false", "train.epochs=2", "transfer.tasks=0", "train.augment=crop_flip")


@pytest.mark.parametrize("strategy", ["dsn", *sorted(STRATEGIES)])
def test_every_strategy_augments_training_alone(strategy: str, tmp_path, monkeypatch) -> None:
    seen, call = [], Augment.__call__

    def watched(self, x):
        seen.append(len(x))
        return call(self, x)

    monkeypatch.setattr(Augment, "__call__", watched)
    config = tiny(tmp_path, *ON[1:], "stream.flatten=false", f"strategy={strategy}", "stream.tasks=2",
                  "stream.angles=[0,9]")  # fmt: skip
    result, _ = run(config, tmp_path / "run", console=QUIET)
    training = 2 * 140  # samples of two tasks
    epochs = 3 if strategy == "cumulative" else 2  # it learns the first task's samples twice
    assert training * 0.9 <= sum(seen) / epochs <= training * 2.1
    assert len(result.accuracy_matrix) == 2


def test_it_goes_on_within_an_epoch_to_the_bit(tmp_path) -> None:
    run(tiny(tmp_path, *ON), tmp_path / "whole", console=QUIET)
    plain, _ = run(tiny(tmp_path, *ON[:3]), tmp_path / "plain", console=QUIET)
    config = tiny(tmp_path, *ON, "checkpoint.iterations=1")
    with killed_at(None) as rests:
        run(config, tmp_path / "again", console=QUIET)
    middle = [place for place, what in enumerate(rests) if what == "iteration"][3::9]
    for place in middle[:2]:
        out = tmp_path / f"killed{place}"
        with pytest.raises(Killed), killed_at(place):
            run(config, out, console=QUIET)
        run(config, out, console=QUIET, resume=True)
        assert_same_result(out, tmp_path / "whole")
    assert plain.accuracy_matrix


def test_vectors_are_refused_from_the_command_line(tmp_path, capsys) -> None:
    arguments = [
        "run",
        "configs/quickstart.yaml",
        "--set",
        "train.augment=crop_flip",
        "--out",
        str(tmp_path / "x"),
    ]
    assert main(arguments) == 2
    assert "train.augment to none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
