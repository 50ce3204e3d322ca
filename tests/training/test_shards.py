"""A batch in parts: the same to the last bit by any number of processes, and nearly what it is in one."""

import queue
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsn import InputError
from dsn.ranks import Ranks
from dsn.training.shards import TreeSum, cut
from tests.training.sharded import BASELINES, baseline, by_processes, hashes, make, stream

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


class ThreadRanks(Ranks):
    """Threads in the place of processes."""

    def __init__(self, number, count, lines):
        self.number, self.count, self._lines = number, count, lines

    def send(self, tensor, to):
        self._lines[self.number, to].put(tensor.clone())

    def receive(self, tensor, source):
        return tensor.copy_(self._lines[source, self.number].get(timeout=60))

    def most(self, number):
        numbers = [number]
        if self.number:
            self.send(torch.tensor(number), 0)
        else:
            numbers += [int(self.receive(torch.tensor(0), other)) for other in range(1, self.count)]
        return int(self.of_first(torch.tensor(max(numbers))))

    def of_first(self, tensor):
        for other in range(1, self.count) if self.number == 0 else ():
            self.send(tensor, other)
        return tensor if self.number == 0 else self.receive(tensor, 0)


def in_threads(count, work):
    """What ``work`` gives in each of ``count`` processes."""
    lines = {(a, b): queue.Queue() for a in range(count) for b in range(count)}
    ranks = [ThreadRanks(number, count, lines) for number in range(count)]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, ranks))


def summed(vectors, shards, count):
    """The total that each of ``count`` processes gets."""

    def work(ranks):
        tree = TreeSum(len(vectors), shards // count, ranks)
        for part in tree.own:
            tree.add(part, vectors[part].clone())
        return tree.total(torch.empty_like(vectors[0]))

    return in_threads(count, work)


@settings(deadline=None)
@given(share=st.integers(1, 5), count=st.integers(1, 6), missing=st.integers(0, 29), seed=st.integers(0, 99))
def test_a_sum_depends_on_the_parts_alone(share, count, missing, seed):
    shards = share * count
    parts = max(1, shards - missing)
    generator = torch.Generator().manual_seed(seed)
    vectors = list(torch.randn(parts, 7, generator=generator) * 10.0 ** torch.arange(7))
    (alone,) = summed(vectors, shards, 1)
    assert all(torch.equal(total, alone) for total in summed(vectors, shards, count))
    torch.testing.assert_close(alone, torch.stack(vectors).sum(0), rtol=1e-4, atol=1.0)


@pytest.mark.parametrize("other", [2, 0, None])
def test_processes_that_differ_all_end_and_say_who_does(other):
    def work(ranks):
        value = torch.tensor([0.0 if ranks.number != other else -0.0])
        try:
            ranks.refuse_different("task 3", {"weight": value})
        except InputError as error:
            return str(error)
        return None

    said = in_threads(3, work)
    expected = {2: "task 3: rank 2 has computed other bits", 0: "task 3: rank 2 has", None: None}[other]
    assert all(text == expected if expected is None else text.startswith(expected) for text in said)


@given(n=st.integers(1, 200), parts=st.integers(1, 40))
def test_parts_cover_a_batch_and_have_two_samples(n, parts):
    rows = cut(n, parts)
    sizes = [len(range(n)[part]) for part in rows]
    assert [row for part in rows for row in range(n)[part]] == list(range(n))
    assert min(sizes) >= min(2, n) and max(sizes) - min(sizes) <= 1
    assert len(rows) == parts or n < 2 * parts


@pytest.fixture(scope="module")
def alone():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield hashes(BASELINES)
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_processes_computes_the_same_bits(alone, tmp_path, count):
    for found in by_processes(count, tmp_path / "store"):
        assert found == {name: alone[name] for name in found}
        assert len(found) >= 3
    assert len(set(alone.values())) == len(alone)


def test_without_norms_and_dropout_parts_are_nearly_the_whole():
    """Prices are counted once, gradients are those of the mean: only the order of sums differs."""
    data = stream(flat=True)
    changes = {"sparsity": 0.5, "transfer_tasks": 0, "forward_tasks": 0, "train_epochs": 1}
    states = []
    for shards in (1, 3):
        strategy = make("mlp", shards, **changes)
        strategy.train(data.train_stream[0], eval_streams=[])
        states.append(strategy.model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-5)


def test_norms_keep_the_weighted_mean_over_the_parts():
    strategy = make("edges", 2, train_mb_size=9)
    data = stream()
    seen = []
    norm = next(iter(strategy.model.norms()))
    put = strategy.optimizer_step

    def step():
        seen.append([buffer.clone() for buffer in norm.of(0).buffers()])
        put()

    strategy.optimizer_step = step
    inputs = []
    norm.register_forward_pre_hook(lambda _m, args: inputs.append(args[0]) if norm.training else None)
    strategy.train(data.train_stream[0], eval_streams=[data.valid_stream[0]])
    first = [(len(x), x.mean((0, 2, 3))) for x in inputs[:2]]
    assert [n for n, _ in first] == [4, 5]
    mean = 0.1 * sum(n / 9 * value for n, value in first)
    torch.testing.assert_close(seen[0][0], mean.detach())
    assert int(seen[0][2]) == 1  # batches, not parts


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: make("mlp", 5), "a batch of 9 has not 2 samples for each part"),
        (lambda: make("mlp", 0), "shards is 0"),
        (lambda: make("mlp", 2, compile=True), "leave out train.compile or train.shards"),
        *[
            (lambda name=name: baseline(name), f"{kind} mixes samples of several tasks")
            for name, kind in (("replay", "Replay"), ("cumulative", "Cumulative"), ("joint", "Joint"))
        ],
        *[
            (lambda name=name: baseline(name), f"of {kind} acts before_backward")
            for name, kind in (("ewc", "EWC"), ("mas", "MAS"), ("lwf", "LwF"))
        ],
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(build, words):
    with pytest.raises(InputError, match=words):
        build()


def test_norms_that_ask_other_processes_are_refused(monkeypatch):
    monkeypatch.setattr(
        "tests.training.sharded.cnn",
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.SyncBatchNorm(4), nn.Flatten(), nn.Linear(144, 4)),
    )
    with pytest.raises(InputError, match="is a SyncBatchNorm"):
        baseline("naive")
