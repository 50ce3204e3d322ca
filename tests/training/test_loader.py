"""Cached and streamed batches are the same, so a run's weights do not depend on which it used."""

import pytest
import torch
from torch.utils.data import TensorDataset

from benchmarks import split_digits
from dsn import backbones, mask_neurons
from dsn.training.loader import StreamLoader, TensorLoader, read_compact, read_samples
from dsn.training.samples import read_some
from tests.training.flat import dsn


@pytest.fixture(scope="module")
def stream():
    return split_digits.build(split_digits.SplitDigitsConfig(tasks=3, train_per_class=33), 0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [13, 64])  # 66 or 99 samples: with and without a lone last one
def test_same_samples_in_the_same_order(stream, batch_size: int, shuffle: bool, workers: int) -> None:
    dataset = stream.train_stream[1].dataset
    settings = {"batch_size": batch_size, "shuffle": shuffle}
    kept, y, finish = read_compact(dataset)
    assert kept.dtype == torch.uint8
    fast = TensorLoader(kept, y, 1, finish=finish, **settings)
    whole = TensorLoader(*read_samples(dataset), 1, **settings)
    slow = StreamLoader(dataset, 1, workers=workers, **settings)
    assert len(fast) == len(whole) == len(slow)
    batches, states = [], []
    for loader in (fast, whole, slow):
        torch.manual_seed(3)
        batches.append([batch for _ in range(2) for batch in loader])
        states.append(torch.get_rng_state())
    assert len(batches[0]) == 2 * len(fast)
    for one, *others in zip(*batches, strict=True):
        for other in others:
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))
    assert all(torch.equal(states[0], state) for state in states[1:])


@pytest.mark.parametrize("settings", [{"cache": False}, {"cache_bytes": 100}])
def test_weights_do_not_depend_on_the_loader(stream, settings: dict) -> None:
    states, made = [], []
    for extra in ({}, settings):
        torch.manual_seed(0)
        model = mask_neurons(backbones.mlp(64, (20,)), example_input=torch.zeros(1, 64))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        cl = dsn(
            model=model, optimizer=optimizer, train_epochs=2, evaluator=None,
            transfer_tasks=0, forward_tasks=0, **extra,
        )  # fmt: skip
        make = cl.make_train_dataloader
        cl.make_train_dataloader = lambda make=make, cl=cl, **kw: (
            make(**kw),
            made.append(type(cl.dataloader)),
        )
        for experience in stream.train_stream[:2]:
            cl.train(experience, eval_streams=[])
            cl.eval(stream.test_stream[:1])
        states.append(cl.model.state_dict())
    assert made == [TensorLoader] * 2 + [StreamLoader] * 2
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_the_end_of_a_task_looks_at_no_more_samples_than_allowed() -> None:
    x = torch.arange(40.0).view(20, 2)
    dataset = TensorDataset(x, torch.arange(20) % 3)
    assert torch.equal(read_some(dataset, 20, 0)[0], x)
    some, labels = read_some(dataset, 7, 0)
    assert len(some) == 7 and torch.equal(labels, (some[:, 0] / 2).long() % 3)
    assert torch.equal(some[:, 0], some[:, 0].sort().values) and len(some[:, 0].unique()) == 7
    assert torch.equal(read_some(dataset, 7, 0)[0], some)
    assert not torch.equal(read_some(dataset, 7, 1)[0], some)
    assert len(read_some(dataset, 0, 0)[0]) == 1
