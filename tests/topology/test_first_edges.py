"""A task's first edges by Node-Path Balancing: the scores that were drawn, dealt anew."""

import numpy as np
import pytest
import torch

from dsn import backbones, mask_neurons
from dsn.errors import InputError
from dsn.masking import MaskedModel
from dsn.topology.first_edges import balance_first_edges
from dsn.topology.measures import WeightTaps, count_paths
from dsn.topology.wiring import wiring_of

NETS = {
    "mlp": (lambda: backbones.mlp(40, [64, 64, 64]), (1, 40)),
    "residual": (lambda: backbones.resnet18(in_channels=3, width=8), (1, 3, 8, 8)),
}


def begun(name: str, edges: str = "own_and_read") -> MaskedModel:
    torch.manual_seed(0)
    make, shape = NETS[name]
    model = mask_neurons(make(), example_input=torch.zeros(shape), edges=edges)
    model.add_task(3, 0, planned_tasks=4)
    return model


def scores(model: MaskedModel) -> dict[str, torch.Tensor]:
    assert model.edges is not None
    return {path: e.scores.detach().clone() for path, e in model.edges.by_path() if e.scores is not None}


def log_paths(model: MaskedModel) -> float:
    assert model.edges is not None
    taps = {}
    for path, layer in model.layer_modules():
        edges, mask = model.edges.of(path), torch.ones_like(layer.weight, dtype=torch.bool)
        if edges.scores is not None:
            mask[~edges.own] = edges.chosen()
        taps[path] = WeightTaps(mask)
    return count_paths(wiring_of(model), taps).log_paths


@pytest.mark.parametrize("name", NETS)
def test_scores_are_those_drawn_in_another_order_and_more_paths_lead_through_the_larger_half(
    name: str,
) -> None:
    model = begun(name)
    drawn, before = scores(model), log_paths(model)
    balance_first_edges(model, np.random.default_rng(0))
    dealt = scores(model)
    assert drawn.keys() == dealt.keys() and drawn
    for path, values in drawn.items():
        assert torch.equal(values.flatten().sort().values, dealt[path].flatten().sort().values)
        assert not torch.equal(values, dealt[path])
    assert log_paths(model) > before


def test_the_same_generator_deals_the_same_and_the_second_task_is_dealt_its_own() -> None:
    one, other = begun("mlp"), begun("mlp")
    for model in (one, other):
        balance_first_edges(model, np.random.default_rng(3))
    assert all(torch.equal(a, b) for a, b in zip(scores(one).values(), scores(other).values(), strict=True))
    one.commit(0)
    one.add_task(3, 1, planned_tasks=4)
    x = torch.randn(5, 40)
    with torch.no_grad():
        logits = one(x, task=0)
        balance_first_edges(one, np.random.default_rng(4))
        assert torch.equal(one(x, task=0), logits)


@pytest.mark.parametrize("edges", ["none", "own"])
def test_where_no_edge_is_chosen_nothing_changes(edges: str) -> None:
    model = begun("mlp", edges)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    balance_first_edges(model, np.random.default_rng(0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_signs_leave_no_edge_out() -> None:
    with pytest.raises(InputError, match="own_and_read"):
        balance_first_edges(begun("mlp", "own_and_sign"), np.random.default_rng(0))


def test_neurons_that_keep_every_weight_count_as_paths() -> None:
    """Readers of a layer prefer its full neurons."""
    model = begun("mlp")
    balance_first_edges(model, np.random.default_rng(0))
    assert model.edges is not None
    paths = [path for path, _ in model.layer_modules()]
    own, read = model.edges.of(paths[0]).own, model.edges.of(paths[1]).chosen().double().mean(0)
    assert read[own].mean() > read[~own].mean() + 0.2
