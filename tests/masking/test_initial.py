"""Where a new task starts: widths, their split, the scale of plastic weights; nothing earlier changes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsn import ProtectedWeights, backbones, mask_neurons
from dsn.errors import InputError
from dsn.masking.initial import WIDTHS, edges, fans_of, same_share, split, start_task
from dsn.masking.reach import live_inputs
from tests.nets import NETS, learn, logits, make, same

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


def begin(net):
    """A model with one task committed and a second one begun."""
    model, x = make(net)
    learn(model, x, 0)
    model.add_task(3)
    return model, x


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("choice", ["all", *WIDTHS])
def test_earlier_logits_stay_the_same_bit_for_bit(net, choice):
    model, x = begin(net)
    before = logits(model, x)
    start_task(model, ProtectedWeights(model), choice=choice, share=0.4, he=True)
    assert same(before, logits(model, x))


def test_all_changes_nothing_and_draws_nothing():
    model, _ = begin("mlp")
    before, state = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    start_task(model, ProtectedWeights(model))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("choice", WIDTHS)
def test_gates_open_for_the_widths_and_no_more_edges_than_the_share_costs(net, choice):
    model, _ = begin(net)
    start_task(model, ProtectedWeights(model), choice=choice, share=0.5)
    fans = fans_of(model)
    widths = WIDTHS[choice](model.layers, fans, 0.5)
    opened = {path: int(gate.selection().sum()) for path, gate in model.gates_by_path.items()}
    assert opened == widths
    assert all(1 <= width <= model.layers[path] for path, width in widths.items())
    limit = edges(same_share(model.layers, fans, 0.5), fans)
    assert edges(widths, fans) <= limit
    assert edges(dict(model.layers), fans) == sum(layer.weight.numel() for _, layer in model.layer_modules())
    if choice == "npb":  # no neuron more would fit
        assert all(edges(widths | {p: w + 1}, fans) > limit for p, w in widths.items() if w < model.layers[p])


def test_regular_widths_are_equal_and_balanced_ones_have_more_paths():
    sizes, fans = {"a": 60, "b": 20, "c": 100}, {"a": 4.0, "b": 1.0, "c": 1.0}
    found = {name: choose(sizes, fans, 0.3) for name, choose in WIDTHS.items()}
    assert found["regular"]["a"] == found["regular"]["c"] >= found["regular"]["b"]
    assert found["widths"] == {"a": 18, "b": 6, "c": 30}
    paths = {name: torch.tensor(list(widths.values())).double().log().sum() for name, widths in found.items()}
    assert paths["npb"] >= paths["widths"]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.data(), st.floats(0, 1))
def test_the_split_takes_the_share_from_used_neurons_as_far_as_there_are(n, data, reuse):
    used = torch.arange(n) < data.draw(st.integers(0, n))
    width = data.draw(st.integers(1, n))
    chosen = split(used, width, reuse)
    reused, free = int((chosen & used).sum()), int((~used).sum())
    assert int(chosen.sum()) == width
    assert reused == max(min(round(reuse * width), int(used.sum())), width - free)


def wide_model():
    torch.manual_seed(0)
    return mask_neurons(backbones.mlp(40, (300, 300)), example_input=torch.zeros(1, 40))


def test_plastic_weights_of_chosen_neurons_get_the_scale_of_their_active_fan_in():
    model = wide_model()
    model.add_task(2)
    old = model.layer("3").weight.detach().clone()
    start_task(model, ProtectedWeights(model), choice="widths", share=0.4, he=True)
    chosen = {path: gate.selection() for path, gate in model.gates_by_path.items()}
    weight, block = model.layer("3").weight.detach(), chosen["3"][:, None] & chosen["1"]
    assert torch.equal(weight[~block], old[~block])
    assert float(weight[block].std()) == pytest.approx((2 / 120) ** 0.5, rel=0.05)
    assert float(model.layer("1").weight.detach()[chosen["1"]].std()) == pytest.approx(
        (2 / 40) ** 0.5, rel=0.05
    )


@pytest.mark.parametrize("loud", [1.0, 8.0])
def test_neurons_keep_the_scale_of_their_signal_however_loud_the_reused_ones_are(loud):
    model = wide_model()
    learn(model, torch.randn(12, 40), 0)
    used = model.used()
    protected = used["3"][:, None] & used["1"]
    with torch.no_grad():
        model.layer("1").weight[used["1"]] *= loud
        model.layer("3").weight[protected] *= loud
    old = model.layer("3").weight.detach().clone()
    model.add_task(2)
    start_task(model, ProtectedWeights(model), choice="widths", share=0.4, he=True)
    chosen = {path: gate.selection() for path, gate in model.gates_by_path.items()}
    weight = model.layer("3").weight.detach()
    assert torch.equal(weight[protected], old[protected])
    with torch.no_grad():
        h = torch.relu(torch.randn(4000, 40) @ model.layer("1").weight.T)[:, chosen["1"]]
        z = h @ weight[:, chosen["1"]].T  # [samples, n]
    fresh, reused = chosen["3"] & ~used["3"], chosen["3"] & used["3"]
    assert float(z[:, fresh].square().mean()) == pytest.approx(
        2, rel=0.15
    )  # He: what comes in, doubled by ReLU
    alone = (h * used["1"][chosen["1"]]) @ weight[:, chosen["1"]].T
    if loud > 1:  # they have no room left, so they compute what they have learnt, and nothing beside
        assert torch.equal(z[:, reused], alone[:, reused])
    else:
        assert float(z[:, reused].square().mean()) == pytest.approx(2, rel=0.5)


@pytest.mark.parametrize("net", NETS)
def test_without_earlier_tasks_the_scale_is_that_of_he_in_every_net(net):
    """Counts are sent through the net: sums, tanh and pooling on their way must not matter."""
    model, _ = make(net)
    model.add_task(3)
    start_task(model, ProtectedWeights(model), choice="widths", share=0.7, he=True)
    chosen = {path: gate.selection() for path, gate in model.gates_by_path.items()}
    live, _ = live_inputs(model, chosen)
    for path, layer in model.layer_modules():
        drawn = layer.weight.detach()[chosen[path]][:, live[path]]
        fan_in, count = drawn[0].numel(), drawn.numel()
        assert float(drawn.square().mean()) * fan_in == pytest.approx(2, abs=12 / count**0.5), path


def test_bad_settings_are_refused():
    model, _ = begin("mlp")
    for wrong in ({"choice": "some"}, {"share": 0.0}, {"reuse": 1.5}):
        with pytest.raises(InputError, match="initial"):
            start_task(model, ProtectedWeights(model), **wrong)
