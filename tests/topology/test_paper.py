"""Node-Path Balancing as its authors have it: each of its own rules shows, and so do their masks' figures."""

import numpy as np
import pytest
import torch
from torch import nn

from dsn import backbones
from dsn.topology import prune
from dsn.topology.balancing import balance
from dsn.topology.measures import topology
from dsn.topology.paper import tune
from dsn.topology.wiring import find_wiring

SHAPE = (1, 3, 16, 16)


@pytest.fixture(scope="module")
def network():
    return nn.Sequential(backbones.resnet20(3, 32), nn.Linear(64, 10))


def found(network, density, **options):
    return topology(network, prune(network, density, "npb_paper", input_shape=SHAPE, **options), SHAPE)


def test_all_inputs_below_one_makes_nodes_win_where_budgets_are_small(network):
    with_all, without = found(network, 0.01), found(network, 0.01, all_inputs_below_one=False)
    assert with_all.effective_nodes > 1.2 * without.effective_nodes
    assert with_all.log10_paths < without.log10_paths
    masks = [
        prune(network, 0.1, "npb_paper", input_shape=SHAPE, all_inputs_below_one=a) for a in (True, False)
    ]
    assert all(torch.equal(mask, masks[1][path]) for path, mask in masks[0].items())


def test_tuning_leaves_only_weights_on_a_path_in_convolutions(network):
    plain, tuned = found(network, 0.01, tuned=False), found(network, 0.01)
    assert plain.effective_parameters < 0.95 * plain.live_parameters
    for path, layer in tuned.layers.items():
        if path != "1":
            assert layer.effective_parameters == layer.live_parameters, path


def test_tuning_fills_the_fullest_kernels():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1))
    first, second = torch.zeros(3, 2, 3, 3, dtype=torch.bool), torch.zeros(2, 3, 3, 3, dtype=torch.bool)
    first[0, 0, 0, :2] = True  # on a path, the fullest
    first[1, 1, 0, 0] = True  # on a path
    first[2, 0, 0, :3] = True  # leads nowhere
    second[:, :2, 1, 1] = True
    masks = tune(find_wiring(net, (1, 2, 4, 4)), {"0": first, "1": second})
    assert masks["0"][0, 0].all()  # seven more than it had, for the three that were lost
    assert masks["0"].sum() == 10 and not masks["0"][2].any()
    assert torch.equal(masks["1"], second)


def test_chunks_do_not_know_of_each_other_and_round_up(network):
    masks = prune(network, 0.0316, "npb_paper", input_shape=SHAPE, tuned=False)
    last = masks["0.blocks.8.conv2"]  # 64 outputs: two chunks of 32
    assert last[:32].sum() == last[32:].sum()
    halves = [part.flatten(2).any(2).any(0) for part in (last[:32], last[32:])]
    assert (halves[0] & halves[1]).sum() > 0.8 * halves[0].sum()  # the same inputs, twice


def test_kernels_hold_at_most_the_cap_and_fewer_behind_shortcuts(network):
    masks = prune(network, 0.3, "npb_paper", input_shape=SHAPE, beta=0.0, tuned=False, cap=9)
    most = {path: int(mask.flatten(2).sum(2).max()) for path, mask in masks.items() if mask.dim() > 2}
    assert most["0.conv1"] == 9
    assert most["0.blocks.4.conv1"] <= 7 and most["0.blocks.8.conv2"] <= 5


def test_an_input_that_no_path_reaches_counts_as_a_node_only_here():
    logs = np.array([0.0, 0.0, -np.inf])
    random = np.random.default_rng(0)
    plain = balance(logs, 4, 1, 4, alpha=1.0, beta=0.0, random=random)
    credited = balance(logs, 4, 1, 4, alpha=1.0, beta=0.0, random=random, credit_unreached=True)
    assert plain[:, 2].sum() == 0 and credited[:, 2].sum() >= 1


def test_nodes_and_paths_are_those_of_the_authors_code(network):
    """Their code, with cvxpy and HiGHS, seeds 0 and 1: at 96.84% sparsity 578 and 579 nodes, 10^25.5 and
    10^26.0 paths, 8610 and 8601 weights; at 99% 695 and 668, 10^15.4 and 10^15.8, 2736 and 2755."""
    for density, nodes, paths, weights in ((0.0316, 578, 25.7, 8605), (0.01, 682, 15.6, 2745)):
        masks = [found(network, density, seed=seed) for seed in range(4)]
        assert np.mean([mask.effective_nodes for mask in masks]) == pytest.approx(nodes, rel=0.11)
        assert np.mean([mask.log10_paths for mask in masks]) == pytest.approx(paths, abs=0.5)
        assert np.mean([mask.live_parameters for mask in masks]) == pytest.approx(weights, rel=0.01)
