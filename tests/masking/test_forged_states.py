"""A state that is no state of such a model is refused as a whole: load_state_dict changes all, or nothing."""

import pytest
import torch

from dsn import InputError, grow
from dsn.masking.records import Lateral
from tests.masking.spoiled import deeper, fewer, inf, nan, whole
from tests.nets import learn, logits, make, same

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")
NAN, DROP = float("nan"), object()


def taught(learning=False, grown=False):
    model, x = make("small_cnn")
    for task in range(3):
        learn(model, x, task, steps=2)
        if grown and task == 0:
            grow(model, by=4, below=10**6)
    size = [model.heads[str(task)].in_features for task in range(3)]
    model.lateral_heads(0).append(Lateral(1, torch.tensor(0.5), torch.randn(3, size[1]), torch.randn(3)))
    opinion = torch.randn(4, size[2]), torch.randn(4), torch.rand(4, 3)
    model.lateral_heads(0).append(Lateral(2, torch.tensor(0.5), *opinion))
    model.record(1).put("temperature", torch.tensor(1.5))
    if learning:
        model.add_task(3)
    return model, x


def flipped(masks):
    """A bit behind the width of a layer of 6 neurons."""
    return masks ^ torch.tensor([1], dtype=torch.uint8)


FORGED = {
    "task_ids": [
        lambda v: v[:2],
        lambda v: v.float(),
        lambda v: v * 0,
        lambda v: v - 1,
        deeper,
        DROP,
    ],
    "backbone.0.weight": [
        nan,
        lambda v: v + 1e30,
        fewer,
        whole,
        DROP,
        1,
    ],
    "backbone.0.bias": [lambda v: v / 0, deeper, DROP],
    "backbone.1.original.running_var": [lambda v: -v, nan, DROP],
    "backbone.1.tasks.0.running_var": [lambda v: -v, fewer, lambda v: v.double(), DROP],
    "backbone.1.tasks.1.weight": [inf, deeper, DROP],
    "backbone.1.tasks.7.weight": [torch.ones(6)],
    "gates.0.masks": [lambda v: v[:2], lambda v: v.float(), lambda v: v.repeat(1, 2), flipped, DROP],
    "gates.0.commit_widths": [
        lambda v: v + 1,
        lambda v: v - 6,
        lambda v: v.flip(0) - torch.arange(3),
        lambda v: v[:2],
        lambda v: v.float(),
        DROP,
    ],
    "gates.0.logits": [torch.zeros(6)],
    "heads.0.weight": [
        nan,
        lambda v: v[:, 1:],
        lambda v: v[0],
        lambda v: v[:0],
        whole,
        DROP,
    ],
    "heads.1.bias": [inf, fewer, deeper, DROP],
    "heads.7.bias": [torch.zeros(3)],
    "records.1.put": [torch.zeros(1)],
    "records.1.a.b": [torch.zeros(1)],
    "records.1.temperature": [nan],
    "records.7.temperature": [torch.ones(())],
    "laterals.0.0.source": [lambda v: v + 6, lambda v: v - 9, lambda v: v.float(), deeper, DROP],
    "laterals.0.0.scale": [nan, deeper, DROP],
    "laterals.0.0.weight": [inf, fewer, lambda v: v[:, 1:], whole, DROP],
    "laterals.0.1.bias": [nan, fewer, DROP],
    "laterals.0.1.mixture": [
        lambda v: -v,
        nan,
        lambda v: v[:, 1:],
        fewer,
        lambda v: v[:0],
        DROP,
    ],
    "laterals.0.7.bias": [torch.zeros(3)],
    "nothing.of.it": [torch.zeros(1)],
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_state_is_refused_and_changes_nothing(name):
    model, x = taught()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    other, _ = make("small_cnn")
    learn(other, x, 0, steps=2)
    before, kept = {k: v.clone() for k, v in other.state_dict().items()}, logits(other, x)
    for change in FORGED[name]:
        forged = dict(state)
        if change is DROP:
            del forged[name]
        else:
            forged[name] = change(forged[name].clone()) if callable(change) else change
        with pytest.raises(InputError) as told:
            other.load_state_dict(forged)
        assert "\n" not in str(told.value)
        assert other.tasks == [0] and list(other.state_dict()) == list(before)
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert same(logits(other, x), kept)
    other.load_state_dict(state)
    assert same(logits(model, x), logits(other, x))


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("learning", [False, True])
def test_a_state_of_a_model_is_taken(learning, grown):
    model, x = taught(learning, grown)
    other, _ = make("small_cnn")
    if grown:
        learn(other, x, 9, steps=2)
        grow(other, by=2, below=10**6)  # what it had is forgotten
        other, _ = make("small_cnn")
    for _ in range(2):
        other.load_state_dict(model.state_dict())
        assert same(logits(model, x), logits(other, x))
        assert other.learning == model.learning
    outer = torch.nn.ModuleDict({"a": other})
    outer.load_state_dict({f"a.{key}": value for key, value in model.state_dict().items()})
    assert same(logits(model, x), logits(other, x))


def test_a_state_while_learning_needs_all_gate_logits():
    model, _ = taught(learning=True)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for change in (fewer, nan, whole, DROP):
        forged = dict(state)
        forged["gates.5.logits"] = None if change is DROP else change(forged["gates.5.logits"])
        if change is DROP:
            del forged["gates.5.logits"]
        with pytest.raises(InputError, match="gates.5.logits"):
            make("small_cnn")[0].load_state_dict(forged)


def test_another_precision_is_taken_as_torch_does():
    model, _ = taught()
    other = make("small_cnn")[0].double()
    other.load_state_dict(model.state_dict())
    assert other.tasks == [0, 1, 2] and other.dtype == torch.float64
