"""Subnetworks of weights: how many, kept how, and what stays fixed."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsn import backbones
from dsn.baselines.network import TaskNetwork
from dsn.baselines.subnetworks import PackNetNetwork, unchanged
from dsn.baselines.weight_masks import WeightMaskedNetwork, how_many, top_k
from dsn.topology.measures import topology

from .setups import ADAMW, CONV, TASKS, Trained, config


def network(widths, density, fixed=False):
    sizes = [5, *widths]
    layers = [m for a, b in zip(sizes, widths, strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
    return WeightMaskedNetwork(nn.Sequential(*layers), torch.Size([5]), density=density, fixed=fixed)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(1, 100),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_a_task_keeps_exactly_its_share_of_the_best_weights_as_bits(widths, percent, fixed, seed):
    torch.manual_seed(seed)
    model = network(widths, percent / 100, fixed)
    model.add_task(2, 7)
    scores = {path: model.scores[path].detach().abs() for path in model.layers}
    x = torch.randn(4, 5)
    model.eval()
    before = model(x, 7)
    model.end_task(7)
    for path, layer in model.layers.items():
        n = layer.weight.numel()
        mask = model.mask(7, path)
        assert int(mask.sum()) == math.ceil(Fraction(percent, 100) * n)
        kept, left = scores[path][mask], scores[path][~mask]
        assert not len(left) or kept.min() >= left.max()
    assert sum(bits.numel() for bits in model.packed_masks(7)) == sum(
        -(-layer.weight.numel() // 8) for layer in model.layers.values()
    )
    assert len(model.scores) == 0
    assert torch.equal(model(x, 7), before)


@pytest.mark.parametrize("name, block", [("wsn", {"signed_constants": True}), ("wsn", {}), ("supsup", {})])
def test_weights_begin_as_signed_constants_and_learn_in_wsn_alone(name, block):
    given = {"density": 0.5, "fixed": name == "supsup", "signed": bool(block)}
    untrained = WeightMaskedNetwork(backbones.mlp(64, (24, 16)), torch.Size([64]), **given)
    trained = Trained(config(name, train={"epochs": 1, "batch_size": 32}, baselines={name: block}))
    for model, constant in ((untrained, name == "supsup" or bool(block)), (trained.strategy.model, False)):
        for layer in model.layers.values():
            found = layer.weight.detach().abs().unique()
            assert (len(found) == 1) == (constant or name == "supsup")


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_shares_in_decimals_are_counted_exactly(thousandths, n):
    assert how_many(thousandths / 1000, n) == math.ceil(Fraction(thousandths, 1000) * n)


@given(st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=1, max_size=20), st.data())
def test_ties_do_not_make_the_mask_larger(values, data):
    k = data.draw(st.integers(1, len(values)))
    assert int(top_k(torch.tensor(values), k).sum()) == k


def test_scores_take_the_gradient_of_their_mask_as_it_is():
    model = network([3], 0.5)
    model.add_task(2, 0)
    model(torch.randn(6, 5), 0).pow(2).sum().backward()
    layer = model.layers["0"]
    mask = top_k(model.scores["0"].detach().abs(), how_many(0.5, 15))
    # d L / d mask = d L / d (weight * mask) * weight, and weights get theirs only where the mask is 1
    assert torch.equal(layer.weight.grad.ne(0) & ~mask, torch.zeros_like(mask))
    assert model.scores["0"].grad[~mask].abs().sum() > 0
    inside = (layer.weight.grad * layer.weight)[mask] * model.scores["0"].detach().sign()[mask]
    assert torch.allclose(model.scores["0"].grad[mask], inside)


@pytest.mark.parametrize("name", ["wsn", "packnet"])
def test_free_weights_learn_while_those_of_earlier_tasks_are_fixed(name):
    strategy = Trained(config(name, images=True, backbone=CONV, train=ADAMW), images=True).strategy
    frozen = strategy.model.frozen()
    assert any(bool(mask.any()) for _, mask in frozen)
    if name == "wsn":
        parts = [mask.float().mean() for _, mask in frozen]
        assert max(parts) > 0.5  # the tasks chose different weights
        assert len({tuple(strategy.model.mask(t, "0").flatten().tolist()) for t in range(TASKS)}) == TASKS


def test_carried_scores_go_on_and_tasks_share_more_weights():
    used, kept = {}, {}
    for carry in (False, True):
        block = {"density": 0.3, "carry_scores": carry}
        strategy = Trained(
            config("wsn", train={"epochs": 1, "batch_size": 32}, baselines={"wsn": block})
        ).strategy
        frozen = [mask for _, mask in strategy.model.frozen()]
        used[carry] = sum(int(mask.sum()) for mask in frozen)
        kept[carry] = strategy.memory().shared_bytes
        weights = sum(mask.numel() for mask in frozen)
    assert used[True] < used[False]
    assert kept == {False: 0, True: 4 * weights}


def test_a_task_begins_with_the_scores_that_the_one_before_ended_with():
    model = WeightMaskedNetwork(backbones.mlp(64, (24, 16)), torch.Size([64]), density=0.5, carry=True)
    model.add_task(2, 0)
    with torch.no_grad():
        for scores in model.scores.values():
            scores.normal_()
    before = {path: scores.detach().clone() for path, scores in model.scores.items()}
    mask = model._chosen(next(iter(model.layers)))
    model.end_task(0)
    model.add_task(2, 1)
    assert all(torch.equal(model.scores[path], scores) for path, scores in before.items())
    assert torch.equal(model.mask(0, next(iter(model.layers))), mask)


def test_supsup_never_touches_its_signed_constants():
    setup = config("supsup", images=True, backbone=CONV, train=ADAMW)
    model = Trained(setup, images=True).strategy.model
    for layer in model.layers.values():
        constant = math.sqrt(2 / layer.weight[0].numel())
        assert torch.equal(layer.weight.abs(), torch.full_like(layer.weight, constant))
        assert layer.weight.min() < 0 < layer.weight.max()
        assert layer.bias.count_nonzero() == 0
    assert all(not list(norm.of(0).parameters()) for norm in model.norms())


def test_packnet_shares_the_weights_evenly_and_keeps_layers_without_bias():
    model = Trained(
        config("packnet", backbone={"name": "mlp", "widths": [24, 16], "bias": False})
    ).strategy.model
    for layer in model.packed_layers():
        shares = [int(layer.task_index.eq(task).sum()) for task in range(TASKS)]
        assert sum(shares) == layer.task_index.numel()
        assert max(shares) - min(shares) <= 2


@given(st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_values_are_put_back_whatever_the_optimizer_does(seed):
    torch.manual_seed(seed)
    parameter, mask = nn.Parameter(torch.randn(3, 4)), torch.rand(3, 4) < 0.5
    before = parameter.detach().clone()
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.5)
    parameter.grad = torch.randn(3, 4)
    with unchanged([(parameter, mask)]):
        optimizer.step()
    assert torch.equal(parameter[mask], before[mask])
    assert not (parameter[~mask] == before[~mask]).any()


@pytest.mark.parametrize("kind", [PackNetNetwork, WeightMaskedNetwork])
def test_parameters_that_no_mask_covers_are_a_tasks_own(kind):
    backbone = nn.Sequential(nn.Linear(5, 4), nn.PReLU())
    options = {"density": 0.5} if kind is WeightMaskedNetwork else {}
    model = kind(backbone, torch.Size([5]), **options)
    for task in range(2):
        model.add_task(3, task)
    first, second = (next(norm.parameters() for norm in [model.norms()[0].of(task)]) for task in range(2))
    slope, other = next(first), next(second)
    assert any(parameter is slope for parameter in model.own_parameters(0))
    assert not any(parameter is other for parameter in model.own_parameters(0))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_samples_of_several_tasks_get_the_logits_of_their_own(labels, seed):
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU())
    model = TaskNetwork(backbone, torch.Size([5]))
    for task, classes in enumerate((2, 4, 3)):
        model.add_task(classes, task)
    model.eval()
    x, y = torch.randn(len(labels), 5), torch.zeros(len(labels), dtype=torch.long)
    together = model(x, torch.tensor(labels))
    loss = nn.functional.cross_entropy(together, y)
    alone = [nn.functional.cross_entropy(model(x[i : i + 1], t), y[:1]) for i, t in enumerate(labels)]
    assert torch.allclose(loss, torch.stack(alone).mean(), atol=1e-6)
    for i, task in enumerate(labels):
        own = model(x[i : i + 1], task)[0]
        assert torch.allclose(together[i, : len(own)], own, atol=1e-6)


def test_a_single_sample_of_a_task_uses_its_running_statistics_and_leaves_them():
    model = TaskNetwork(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), torch.Size([5]))
    model.add_task(2, 0)
    model.add_task(2, 1)
    model.train()
    before = [buffer.clone() for buffer in model.task_buffers(1)]
    model(torch.randn(5, 5), torch.tensor([0, 0, 0, 0, 1]))
    assert all(torch.equal(a, b) for a, b in zip(before, model.task_buffers(1), strict=True))
    assert model.norms()[0].of(0).num_batches_tracked == 1
    assert model.norms()[0].of(1).training


@pytest.mark.parametrize(
    "make, shape",
    [(lambda: backbones.mlp(48, (30, 20)), (48,)), (lambda: backbones.resnet18(3, 8, 4), (3, 8, 8))],
)
def test_the_topology_of_a_weight_mask_is_counted_weight_by_weight(make, shape):
    torch.manual_seed(0)
    model = WeightMaskedNetwork(make(), torch.Size(shape), density=0.05)
    model.add_task(2, 0)
    model.end_task(0)
    masks = {path: model.mask(0, path) for path in model.layers}
    found = topology(model.backbone, masks, (1, *shape))
    kept = sum(how_many(0.05, layer.weight.numel()) for layer in model.layers.values())
    assert found.live_parameters == kept > found.effective_parameters > 0
    assert found.log10_paths is not None and found.effective_nodes < found.nodes
