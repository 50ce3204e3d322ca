"""Fingerprints that are carried over equal those that are made anew, whatever changed in between."""

import pytest
import torch
from torch.nn import functional as F

from dsn import ProtectedWeights, backbones, grow, mask_neurons
from dsn.masking.records import Lateral
from dsn.masking.state import snapshot
from dsn.masking.state.carried import CarriedFingerprints
from dsn.masking.state.fingerprint import Fingerprints

TASKS = 4


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(snapshot, "BLOCK", 2)


def network(name):
    torch.manual_seed(0)
    if name == "conv":
        return mask_neurons(backbones.small_cnn(3, width=4), example_input=torch.zeros(1, 3, 32, 32))
    edges = "own_and_read" if name == "edges" else "none"
    return mask_neurons(backbones.mlp(12, widths=(16, 16)), example_input=torch.zeros(1, 12), edges=edges)


def learn(model, task, **plan):
    plan = plan or ({"planned_tasks": TASKS} if model.edges is not None else {"budget": 0.5})
    model.add_task(3, task, **plan)
    protected = ProtectedWeights(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    x = torch.randn(8, *model.input_shape[1:])
    model.train()
    for step in range(3):
        model.anneal(step / 2)
        optimizer.zero_grad()
        F.cross_entropy(model(x, task), torch.arange(8) % 3).backward()
        with protected:
            optimizer.step()
    model.commit(task)
    model.eval()


def counted(prints, monkeypatch):
    made = []
    one = prints._one
    monkeypatch.setattr(prints, "_one", lambda task: made.append(task) or one(task))
    return made


@pytest.mark.parametrize("name", ["mlp", "conv", "edges"])
def test_each_task_is_hashed_once_and_all_rows_are_those_of_hashing_all(name, monkeypatch):
    model = network(name)
    prints = CarriedFingerprints(model)
    made = counted(prints, monkeypatch)
    for task in range(TASKS):
        learn(model, task)
        assert prints.of(*model.committed) == Fingerprints(model).of(*model.committed)
    assert made == list(range(TASKS))


def test_growth_takes_all_hashes_anew_and_they_are_the_same(monkeypatch):
    model = network("mlp")
    prints = CarriedFingerprints(model)
    learn(model, 0, logit_mean=5.0, logit_std=0.0)
    before, widths = prints.of(0), model.layers
    grow(model, by=4)
    assert model.layers != widths
    made = counted(prints, monkeypatch)
    assert prints.of(0) == Fingerprints(model).of(0) == before and made == [0]


def lateral(model):
    size = model.feature_size
    tensors = (torch.tensor(0.5), torch.randn(3, size), torch.zeros(3))
    model.lateral_heads(0).append(Lateral(1, *tensors))


def block(model):
    path, layer = list(model.layer_modules())[-1]
    rows, columns = model.masks(0)[path], model.masks(0)[list(model.layers)[-2]]
    row, column = rows.nonzero()[0].item(), columns.nonzero()[0].item()
    with torch.no_grad():
        layer.weight[row, column] += 1


def other_norm(model):
    norm = next(iter(model.norms())).of(1)
    with torch.no_grad():
        norm.running_mean += 0.1


def head(model):
    with torch.no_grad():
        next(model.heads["0"].parameters()).add_(1)


def own_edges(model):
    with torch.no_grad():
        next(values for _, edges in model.edges.by_path() for values in edges.of(0)).add_(1)


@pytest.mark.parametrize(
    ("name", "change", "read"),
    [
        ("mlp", block, False),
        ("mlp", head, False),
        ("mlp", lateral, False),
        ("conv", other_norm, True),
        ("edges", own_edges, False),
    ],
)
def test_whatever_changes_is_seen_also_in_what_a_task_reads_from(name, change, read):
    model = network(name)
    prints = CarriedFingerprints(model)
    for task in range(2):
        learn(model, task)
    if read:
        lateral(model)
    before = prints.of(0, 1)
    assert prints.of(0, 1) == before
    change(model)
    after = prints.of(0, 1)
    assert after == Fingerprints(model).of(0, 1) and after[0] != before[0]
