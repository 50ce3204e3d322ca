"""Threads that ask one model for different tasks: each gets its own task's logits, to the last bit."""

import copy
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional as F

from dsn import ProtectedWeights, grow, mask_neurons
from dsn.masking.records import Lateral
from dsn.masking.state.fingerprint import Fingerprints
from tests.nets import NETS, learn, logits, make

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")
TASKS, ROUNDS = 4, 25


@pytest.fixture(autouse=True)
def switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def taught(net):
    """Tasks of several widths; the first reads from two others."""
    model, x = make(net)
    for task in range(TASKS):
        learn(model, x, task, steps=2)
        if task == 1:
            grow(model, by=4, below=10**6)
    for source in (1, 2):
        size = model.heads[str(source)].in_features
        lateral = Lateral(source, torch.tensor(0.5), torch.randn(3, size), torch.randn(3))
        model.lateral_heads(0).append(lateral)
    return model.eval(), x


def wrong_outputs(model, x, expected, others=()):
    """How many wrong logits three threads get, each going through the tasks in another order."""
    begin = threading.Barrier(3 + len(others))

    def work(thread):
        begin.wait(20)
        wrong = 0
        with torch.no_grad():
            for i in range(ROUNDS):
                task = (i * (thread + 1) + thread) % TASKS
                wrong += not torch.equal(model(x, task), expected[task])
        return wrong

    def beside(other):
        begin.wait(20)
        other()
        return 0

    with ThreadPoolExecutor(3 + len(others)) as pool:
        started = [pool.submit(work, thread) for thread in range(3)]
        started += [pool.submit(beside, other) for other in others]
        return sum(one.result(120) for one in started)


@pytest.mark.parametrize("net", ["mlp", "small_cnn", "concatenation"])
def test_three_threads_get_the_logits_of_their_tasks(net):
    model, x = taught(net)
    assert wrong_outputs(model, x, logits(model, x)) == 0


def test_what_looks_at_a_model_disturbs_no_pass_beside_it():
    """Fingerprints, cutting out and loading set modes and hooks for a while."""
    model, x = taught("small_cnn")
    expected = logits(model, x)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    beside = [
        lambda: [Fingerprints(model).of(task % TASKS) for task in range(10)],
        lambda: [model.subnetwork(task) for task in range(2)],
        lambda: [model.load_state_dict(state) for _ in range(5)],
    ]
    for other in beside:
        assert wrong_outputs(model, x, expected, [other]) == 0


def test_a_step_that_moves_protected_weights_is_seen_by_no_other_thread():
    model, x = make("mlp")
    for task in range(TASKS):
        learn(model, x, task, steps=2)
    expected = logits(model, x)
    model.add_task(3)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5, weight_decay=0.1)
    protected = ProtectedWeights(model)

    def train():
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(model(x, TASKS), torch.arange(len(x)) % 3).backward()
            with protected:
                optimizer.step()

    assert wrong_outputs(model, x, expected, [train]) == 0


def test_copies_have_locks_of_their_own():
    model, x = taught("mlp")
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model.eval()))]
    expected = logits(model, x)
    with model.lock, ThreadPoolExecutor(1) as pool:
        for twin in twins:
            assert twin.lock is not model.lock
            assert torch.equal(pool.submit(lambda t: t(x, 2), twin).result(20), expected[2])
    assert copy.copy(model).lock is model.lock


def test_an_error_in_a_pass_leaves_the_lock_free():
    model, x = taught("mlp")
    with pytest.raises(RuntimeError):
        model(x[:, :1], 0)
    with pytest.raises(KeyError), ProtectedWeights(model):
        raise KeyError
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(lambda: model(x, 1)).result(20), logits(model, x)[1])


def test_a_compiled_model_computes_the_same():
    torch.manual_seed(0)
    model = mask_neurons(NETS["mlp"][0](True), example_input=torch.zeros(1, *NETS["mlp"][1]))
    x = torch.randn(5, *NETS["mlp"][1])
    for task in range(2):
        learn(model, x, task)
    compiled = torch.compile(model.eval(), backend="eager")
    for task in (0, 1):
        assert torch.equal(compiled(x, task), model(x, task))
