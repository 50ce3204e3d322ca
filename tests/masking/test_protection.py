import pytest
import torch

from dsn import InputError, ProtectedWeights, grow
from dsn.masking.reach import live_inputs
from tests.nets import NETS, learn, logits, make, same


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("net", NETS)
def test_exactly_the_weights_with_both_ends_used_are_protected(net: str) -> None:
    """The block form against a readable twin: a full-size boolean a weight."""
    model, x = make(net)
    learn(model, x, 0)
    learn(model, x, 1)
    used = model.used()
    inputs, _ = live_inputs(model, used)
    before = {path: (layer.weight.clone(), layer.bias.clone()) for path, layer in model.layer_modules()}
    with ProtectedWeights(model), torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(1.0)
    for path, layer in model.layer_modules():
        both = used[path][:, None] & inputs[path][None, :]
        kept = layer.weight == before[path][0]
        assert torch.equal(kept, both.view(*both.shape, *[1] * (kept.dim() - 2)).expand_as(kept))
        assert torch.equal(layer.bias == before[path][1], used[path])


def test_values_are_put_back_even_if_the_step_fails() -> None:
    model, x = make("mlp")
    learn(model, x, 0)
    before = logits(model, x)
    with pytest.raises(ZeroDivisionError), ProtectedWeights(model), torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.mul_(2.0)
        raise ZeroDivisionError
    assert same(before, logits(model, x))


def test_nothing_is_protected_before_the_first_commit() -> None:
    model, _ = make("mlp")
    model.add_task(2)
    weight = model.layer("1").weight
    before = weight.clone()
    with ProtectedWeights(model), torch.no_grad():
        weight.add_(1.0)
    assert (weight != before).all()


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("net", NETS)
def test_growth_leaves_old_logits_bit_identical(net: str) -> None:
    model, x = make(net)
    learn(model, x, 0)
    before, sizes = logits(model, x), model.layers
    grown = grow(model, by=4, below=10**6)
    assert set(grown) == set(sizes)
    assert all(model.layers[path] == n + grown[path] for path, n in sizes.items())
    assert same(before, logits(model, x))
    learn(model, x, 1)
    assert same(before, logits(model, x))
    assert all(model.masks(1)[path].numel() == n for path, n in model.layers.items())

    loaded, _ = make(net)  # a fresh, ungrown model takes the grown state
    loaded.load_state_dict(model.state_dict())
    assert same(logits(model, x), logits(loaded, x))


def test_only_full_layers_grow_and_those_they_are_summed_with() -> None:
    model, x = make("resnet18")
    model.add_task(2)
    for path, gate in model.gates_by_path.items():
        torch.nn.init.constant_(gate.logits, 1.0 if path in ("blocks.0.conv1", "blocks.1.conv2") else -1.0)
    model.commit(0)
    assert set(grow(model, by=3)) == {"blocks.0.conv1", "conv1", "blocks.0.conv2", "blocks.1.conv2"}
    assert grow(model, by=3) == {}


def test_growth_waits_for_the_end_of_a_task() -> None:
    model, _ = make("mlp")
    model.add_task(2)
    with pytest.raises(InputError, match="grow before add_task or after commit"):
        grow(model, by=3)
    model.commit(0)
    with pytest.raises(InputError, match="at least 1"):
        grow(model, by=0)
