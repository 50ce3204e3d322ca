"""A task in a file of its own: the same logits in any model of the backbone, or a refusal by name."""

import pytest
import torch

from dsn import InputError, backbones, mask_neurons
from dsn.masking.records import Lateral
from dsn.masking.state.task_file import FORMAT, VERSION
from dsn.storage import read_tree, write_tree
from tests.masking.spoiled import deeper, fewer, inf, nan, whole
from tests.nets import NETS, learn, logits, make, same

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


def fresh(net, seed=5, bias=True):
    build, shape = NETS[net]
    torch.manual_seed(seed)
    return mask_neurons(build(bias), example_input=torch.zeros(1, *shape))


def taught(net, tasks=2, bias=True):
    model, x = make(net, bias)
    for task in range(tasks):
        learn(model, x, task)
    return model, x


@pytest.mark.parametrize("net", ["mlp", "small_cnn", "concatenation"])
def test_a_loaded_task_has_the_same_logits_bit_for_bit(tmp_path, net):
    model, x = taught(net, bias=net != "small_cnn")
    head = model.heads["0"]
    read = [torch.tensor(0.5), torch.randn(3, head.in_features), torch.randn(3)]
    model.lateral_heads(1).append(Lateral(0, *read))
    before = logits(model, x)
    for task in (0, 1):
        model.save_task(task, tmp_path / f"task{task}")
    other = fresh(net, bias=net != "small_cnn")
    drawn = torch.get_rng_state()
    with pytest.raises(InputError, match="reads from task 0, which is not here"):
        other.load_task(tmp_path / "task1")
    assert other.tasks == []
    assert [other.load_task(tmp_path / f"task{task}") for task in (0, 1)] == [0, 1]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert same(logits(other, x), before)
    assert all(torch.equal(other.masks(t)[p], m) for t in (0, 1) for p, m in model.masks(t).items())
    learn(other, x, 2)  # and they are protected as ever
    assert same({t: v for t, v in logits(other, x).items() if t < 2}, before)


def test_a_task_that_would_change_another_is_refused_and_changes_nothing(tmp_path):
    model, x = taught("mlp", tasks=1)
    model.save_task(0, tmp_path / "task")
    other = fresh("mlp")
    learn(other, x, 0)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(
        InputError, match=r"task: the weight of layer '1' from input \d+ to neuron \d+ differs"
    ):
        other.load_task(tmp_path / "task", task=7)
    with pytest.raises(InputError, match="task 0 is there already"):
        other.load_task(tmp_path / "task")
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert model.load_task(tmp_path / "task", task=7) == 7  # its own weights are no others
    assert torch.equal(logits(model, x)[7], logits(model, x)[0])


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: backbones.mlp(48, (30, 21)), "layer '3' has 20 neurons there, 21 here"),
        (lambda: backbones.mlp(48, (30,)), "layers is"),
        (lambda: backbones.mlp(48, (30, 20), False), "layer '1' has a bias there"),
        (lambda: backbones.mlp(48, (30, 20)).double(), "type of weights is torch.float32 there"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_first_difference(tmp_path, other, named):
    model, _ = taught("mlp", tasks=1)
    model.save_task(0, tmp_path / "task")
    net = other()
    example = torch.zeros(1, 3, 4, 4, dtype=next(net.parameters()).dtype)
    with pytest.raises(InputError, match=named):
        mask_neurons(net, example_input=example).load_task(tmp_path / "task")


def changed(tree, place, value):
    """``tree`` with ``value``, or what it makes of what was there, at ``place``; DROP: without it."""
    *inner, last = place
    part = tree
    for key in inner:
        part = part[key]
    if value is DROP:
        del part[last]
    else:
        part[last] = value(part[last]) if callable(value) else value


DROP = object()
NAN, INF = float("nan"), float("inf")


FORGED = {
    "task": [True, -1, "1", None, 1.5, DROP],
    "masks.1": [lambda m: m.float(), deeper, lambda m: m.long() * 7, DROP, None],
    "weights.1": [
        nan,
        inf,
        lambda w: w.double(),
        fewer,
        lambda w: w + 1e30,
    ],
    "weights.3": [lambda w: w.fill_(3e38), whole, DROP, "x", lambda w: w[:, :, None]],
    "biases.1": [nan, fewer, deeper, lambda b: b.half(), DROP, 3],
    "head.weight": [nan, lambda w: w[:, 1:], lambda w: w[:0], lambda w: w[0], DROP],
    "head.bias": [nan, fewer, lambda b: b.repeat(2), whole, None, DROP],
    "head.extra": [torch.zeros(1)],
    "record": [{"put": torch.zeros(1)}, {"a.b": torch.zeros(1)}, {"": torch.zeros(1)}, {"a": 1}, [1]],
    "record.temperature": [torch.tensor(NAN), "hot", torch.tensor(-INF)],
    "norms": [[{}], None, DROP],
    "laterals": [[{}], [None], {"a": 1}, DROP],
    "laterals.0.source": [9, -1, True, "0", None, DROP],
    "laterals.0.scale": [torch.tensor(NAN), torch.ones(3), 1.0, DROP],
    "laterals.0.weight": [inf, lambda w: w[:, 1:], fewer, lambda w: w.double(), DROP],
    "laterals.0.bias": [nan, fewer, DROP],
    "laterals.0.mixture": [
        torch.full((3, 3), NAN),
        -torch.ones(3, 3),
        torch.ones(3, 2),
        torch.ones(2, 3),
        DROP,
    ],
}


@pytest.mark.parametrize("place", FORGED)
def test_a_forged_task_with_a_right_checksum_is_refused_and_changes_nothing(tmp_path, place):
    model, x = taught("mlp")
    head = model.heads["0"]
    read = [torch.tensor(0.5), torch.randn(3, head.in_features), torch.randn(3)]
    model.lateral_heads(1).append(Lateral(0, *read))
    for task in (0, 1):
        model.save_task(task, tmp_path / f"task{task}")
    other = fresh("mlp")
    other.load_task(tmp_path / "task0")
    before, kept = {k: v.clone() for k, v in other.state_dict().items()}, logits(other, x)
    keys = [int(key) if key.isdigit() and place[:5] == "later" else key for key in place.split(".")]
    for value in FORGED[place]:
        tree = read_tree(tmp_path / "task1", format=FORMAT, version=VERSION)
        changed(tree, keys, value)
        write_tree(tmp_path / "forged", tree, format=FORMAT, version=VERSION)
        with pytest.raises(InputError, match="forged: ") as told:
            other.load_task(tmp_path / "forged")
        assert "\n" not in str(told.value)
        assert other.tasks == [0] and other.learning is None
        assert list(other.state_dict()) == list(before)
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert same(logits(other, x), kept)
    assert other.load_task(tmp_path / "task1") == 1  # the file itself fits
    assert same(logits(other, x), logits(model, x))


@pytest.mark.parametrize("name", ["running_var", "running_mean", "weight", "num_batches_tracked"])
def test_a_forged_norm_is_refused(tmp_path, name):
    model, _ = taught("small_cnn", tasks=1)
    model.save_task(0, tmp_path / "task")
    other = fresh("small_cnn")
    before = {key: value.clone() for key, value in other.state_dict().items()}
    bad = [deeper, lambda v: v.double() if v.is_floating_point() else v.float(), DROP, 1]
    bad += [] if name.startswith("num") else [nan, fewer, lambda v: v + 1e30]
    bad += [lambda v: -v] if name == "running_var" else []
    for value in bad:
        tree = read_tree(tmp_path / "task", format=FORMAT, version=VERSION)
        changed(tree, ["norms", 1, name], value)
        write_tree(tmp_path / "forged", tree, format=FORMAT, version=VERSION)
        with pytest.raises(InputError, match="forged: "):
            other.load_task(tmp_path / "forged")
        assert other.tasks == []
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_what_fails_while_it_is_put_in_is_taken_out_again(tmp_path, monkeypatch):
    model, x = taught("small_cnn")
    for task in (0, 1):
        model.save_task(task, tmp_path / f"task{task}")
    other = fresh("small_cnn")
    other.load_task(tmp_path / "task0")
    before, kept = {k: v.clone() for k, v in other.state_dict().items()}, logits(other, x)
    for name in ("add_task", "freeze", "lateral_heads"):
        with monkeypatch.context() as broken:
            broken.setattr(other, name, lambda *_, **_more: 1 / 0)
            with pytest.raises(InputError, match="ZeroDivisionError"):
                other.load_task(tmp_path / "task1")
        assert other.tasks == [0] and list(other.state_dict()) == list(before)
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert same(logits(other, x), kept)
    other.load_task(tmp_path / "task1")
    assert same(logits(other, x), logits(model, x))


def test_a_damaged_file_or_one_of_another_kind_is_refused(tmp_path):
    model, _ = taught("mlp", tasks=1)
    model.save_task(0, tmp_path / "task")
    content = bytearray((tmp_path / "task").read_bytes())
    content[-5] ^= 1
    (tmp_path / "task").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        fresh("mlp").load_task(tmp_path / "task")
    with pytest.raises(InputError, match="no such file"):
        fresh("mlp").load_task(tmp_path / "none")
