"""A removed task is gone to the last byte, and nobody else feels it."""

import copy
import itertools
import random

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from dsn import InputError, grow, mask_neurons
from dsn.masking.records import Lateral
from dsn.masking.state.removal import in_the_way
from dsn.replay import record_statistics
from tests.nets import NETS, learn, logits, same

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")
MODES = ("none", "own_and_read", "own_and_sign", "own")
TASKS = 4


def wrapped(net: str, mode: str = "none"):
    build, shape = NETS[net]
    torch.manual_seed(0)
    model = mask_neurons(build(True), example_input=torch.zeros(1, *shape), edges=mode)
    return model, torch.randn(12, *shape)


def taught(net: str, mode: str = "none", tasks: int = TASKS):
    model, x = wrapped(net, mode)
    for task in range(tasks):
        learn(model, x, task, "adam", planned_tasks=TASKS)
        record_statistics(model, task, [x + task])
    return model, x


def own_tensors(model, task: int) -> list[Tensor]:
    """All that is kept for ``task`` alone, if it is more than a few bytes, and is not nothing."""
    found = [*model.own_parameters(task), *model.task_buffers(task), *model.record(task).buffers()]
    found += model.laterals[str(task)].buffers()
    if model.edges is not None:
        found += [
            e.bits.get(str(task)) for _, e in model.edges.by_path() if e.bits.get(str(task)) is not None
        ]
    return [
        t.detach().clone() for t in found if t.numel() * t.element_size() >= 24 and t.unique().numel() > 4
    ]


def learnt_by(model, tasks: list[int]) -> dict[str, Tensor]:
    """For each layer, which weights ``tasks`` compute with, found by moving neurons, without the map."""
    found = {}
    for path, layer in model.layer_modules():
        rows = torch.stack([model.masks(task)[path] for task in tasks]).any(0)
        found[path] = rows.view(-1, *[1] * (layer.weight.dim() - 1)).expand_as(layer.weight)
    return found


def file_of(model) -> bytes:
    return save({key: value.detach().clone().contiguous() for key, value in model.state_dict().items()})


CASES = [
    *((net, "none", 2) for net in NETS if net not in ("mlp", "resnet18", "resnet18_2x2")),
    *((net, "own_and_read", 2) for net in ("small_cnn", "concatenation", "strided_cnn")),
    ("resnet18", "none", 1),
    *(("mlp", mode, 10) for mode in MODES),
]


@pytest.mark.parametrize(("net", "mode", "orders"), CASES)
def test_any_order_of_removals_leaves_the_others_as_they_are(net: str, mode: str, orders: int) -> None:
    whole, x = taught(net, mode)
    expected = logits(whole, x)
    for order in random.Random(net + mode).sample(list(itertools.permutations(range(TASKS))), orders):
        model = copy.deepcopy(whole)
        for task in order:
            if task not in model.tasks:
                continue
            mine = [bytes(t.numpy().tobytes()) for t in own_tensors(model, task)]
            assert mine
            way = in_the_way(model, task)
            if way:
                with pytest.raises(InputError, match=f"task {task} cannot be removed alone: .* cascade"):
                    model.forget(task)
            gone = model.forget(task, cascade=True)
            assert gone.tasks[0] == task and set(way) <= set(gone.tasks)
            assert not set(gone.tasks) & set(model.tasks)
            assert same({t: expected[t] for t in model.tasks}, logits(model, x))
            stored = file_of(model)
            assert not any(part in stored for part in mine)
        assert model.tasks == []


@pytest.mark.parametrize(
    ("net", "mode"),
    [*itertools.product(["small_cnn"], MODES), ("concatenation", "none"), ("mlp", "own_and_read")],
)
def test_without_the_last_task_a_model_is_what_it_was_before_it(net: str, mode: str) -> None:
    """With edges: to the last bit. With gates: all that the others compute with; the rest is new, yet the
    same from the same seed."""
    model, x = taught(net, mode, tasks=2)
    before = copy.deepcopy(model.state_dict())
    learn(model, x, 2, "adam", planned_tasks=TASKS)
    learnt = copy.deepcopy(model.state_dict())
    other = copy.deepcopy(model)
    gone = model.forget(2, seed=5)
    assert gone.tasks == [2] and gone.redrawn > 0 or net == "mlp"
    after = model.state_dict()
    assert list(after) == list(before)
    weights = [f"backbone.{path}.weight" for path, _ in model.layer_modules()]
    for key, value in after.items():
        if mode != "none" or not (key in weights or key.endswith(".bias") and "tasks" not in key):
            assert torch.equal(value, before[key]), key
    if mode == "none":
        rows = learnt_by(model, [0, 1])
        for key, (path, _) in zip(weights, model.layer_modules(), strict=True):
            outside = ~rows[path]
            assert not (after[key][outside] == learnt[key][outside]).any()
        other.forget(2, seed=5)
        assert all(torch.equal(other.state_dict()[key], after[key]) for key in after)


@pytest.mark.parametrize("net", ["mlp", "lenet", "small_cnn", "concatenation"])
def test_what_others_share_may_stay(net: str) -> None:
    model, x = taught(net)
    expected = logits(model, x)
    for task in (1, 0, 3):
        others, mine = learnt_by(model, [t for t in model.tasks if t != task]), learnt_by(model, [task])
        outside = {path: mine[path] & ~rows for path, rows in others.items()}
        old = {path: layer.weight.detach().clone() for path, layer in model.layer_modules()}
        model.forget(task, keep_shared=True, seed=task)
        assert same({t: expected[t] for t in model.tasks}, logits(model, x))
        for path, layer in model.layer_modules():
            assert not (layer.weight[outside[path]] == old[path][outside[path]]).any()
    model.forget(2)
    assert model.tasks == []


@pytest.mark.parametrize("mode", MODES)
def test_life_goes_on(mode: str) -> None:
    """Others are learnt, under the same number too, and the state is loaded into a fresh model."""
    model, x = taught("small_cnn", mode, tasks=3)
    model.forget(1, cascade=True)
    kept = logits(model, x)
    for task in (1, 7):
        learn(model, x, task, "sgd", planned_tasks=TASKS)
        assert same(kept, logits(model, x))
        kept = logits(model, x)
    twin, _ = wrapped("small_cnn", mode)
    twin.load_state_dict(model.state_dict())
    assert same(kept, logits(twin, x))


def lateral(model, source: int, seed: int) -> Lateral:
    torch.manual_seed(seed)
    return Lateral(source, torch.tensor(0.5), torch.randn(3, model.feature_size), torch.randn(3))


@pytest.mark.parametrize("mode", ["none", "own_and_read"])
@pytest.mark.parametrize(
    ("reads", "gone", "left"),
    [
        ([3], 3, []),  # a giver
        ([1, 3], 3, []),  # its head on the reader's own features was made with it
        ([1], 3, []),  # on these alone: the giver is not known
        ([0, 1, 3], 3, [0]),  # what was read before it stays
        ([0, 2], 3, [0, 2]),  # not concerned
    ],
)
def test_what_was_read_from_it_is_taken_back(mode: str, reads: list[int], gone: int, left: list[int]) -> None:
    model, x = taught("mlp", mode)
    for number, source in enumerate(reads):
        model.lateral_heads(1).append(lateral(model, source, number))
    model.record(1).put("closeness", torch.tensor(0.7))
    expected = logits(model, x)
    removal = model.forget(gone)
    assert [one.source_task for one in model.lateral_heads(1)] == left
    concerned = left != reads
    assert removal.unread == ([1] if concerned else [])
    assert (model.record(1).get("closeness") is None) == concerned
    after = logits(model, x)
    assert same({t: expected[t] for t in (0, 2) if t in after}, after)
    own = model.heads["1"](model.features(x, 1))
    if not left:
        assert torch.equal(after[1], own)
    assert torch.equal(after[1], expected[1]) != concerned


def test_reading_several_before_it_is_one_change() -> None:
    model, x = taught("mlp")
    for number, source in enumerate((0, 2)):
        model.lateral_heads(3).append(lateral(model, source, number))
    assert model.forget(2, keep_shared=True).unread == [3]
    assert len(model.lateral_heads(3)) == 0


def test_what_cannot_be_removed_changes_nothing() -> None:
    model, x = taught("mlp", "own_and_read", tasks=2)
    for arguments, said in (
        ({"task": 5}, r"task 5 is not in the model: it holds the tasks \[0, 1\]"),
        ({"task": 0}, "task 1 computes with weights that it trained; with cascade task 1 goes too"),
        ({"task": 1, "keep_shared": True}, "with edges the masks say who owns a weight"),
    ):
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(InputError, match=said):
            model.forget(**arguments)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.add_task(3, planned_tasks=TASKS)
    with pytest.raises(InputError, match="task 2 is being learnt"):
        model.forget(1)


def test_a_grown_model_keeps_one_task_that_knows_its_first_width() -> None:
    model, x = taught("mlp", tasks=2)
    grow(model, by=4, below=1000)
    learn(model, x, 2, "adam")
    expected = logits(model, x)
    model.forget(0, keep_shared=True)
    with pytest.raises(InputError, match="task 1 cannot be removed: the network has grown since"):
        model.forget(1, keep_shared=True)
    model.forget(2)
    assert same({1: expected[1]}, logits(model, x))
    twin, _ = wrapped("mlp")
    twin.load_state_dict(model.state_dict())
    assert same({1: expected[1]}, logits(twin, x))
