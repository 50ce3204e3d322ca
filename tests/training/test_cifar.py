"""The stream that the README names, with Avalanche's default transforms: drawn anew in each epoch."""

import os

import numpy as np
import pytest
import torch
from avalanche.benchmarks.classic import SplitCIFAR100
from avalanche.core import SupervisedPlugin

from dsn import backbones, mask_neurons
from dsn.training.loader import StreamLoader
from dsn.training.samples import is_fixed
from tests.benchmarks.conftest import write_cifar100
from tests.training.flat import dsn


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar")
    write_cifar100(root / "cifar-100-python", np.random.default_rng(0))
    with pytest.MonkeyPatch.context() as patch:
        # the real files' MD5 sums cannot hold for small ones
        patch.setattr(
            "torchvision.datasets.cifar.check_integrity", lambda path, md5=None: os.path.isfile(path)
        )
        yield SplitCIFAR100(
            20, return_task_id=True, class_ids_from_zero_in_each_exp=True, seed=0, dataset_root=root
        )


class Watch(SupervisedPlugin):
    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[torch.Tensor] = []

    def after_training_iteration(self, strategy, **kwargs):
        self.epochs.append(strategy.mb_x.clone())
        self.loader = strategy.dataloader


def test_crops_and_flips_are_drawn_anew(stream) -> None:
    torch.manual_seed(0)
    watch = Watch()
    model = mask_neurons(
        backbones.small_cnn(3, 32, width=4, features=8), example_input=torch.zeros(1, 3, 32, 32)
    )
    strategy = dsn(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01), train_epochs=4, plugins=[watch],
        evaluator=None, transfer_tasks=0, forward_tasks=0,
    )  # fmt: skip
    experience = stream.train_stream[0]
    strategy.train(experience, eval_streams=[], shuffle=False)
    assert isinstance(watch.loader, StreamLoader)
    assert len({float(epoch.sum()) for epoch in watch.epochs}) == 4
    different = [(watch.epochs[0][i] != watch.epochs[1][i]).any() for i in range(len(watch.epochs[0]))]
    assert sum(map(bool, different)) > 0.8 * len(different)
    strategy.eval(stream.test_stream[:1])


def test_its_evaluation_transforms_draw_nothing(stream) -> None:
    experience = stream.train_stream[1]
    assert not is_fixed(experience.dataset.train())
    assert is_fixed(experience.dataset.eval()) and is_fixed(stream.test_stream[1].dataset.eval())
