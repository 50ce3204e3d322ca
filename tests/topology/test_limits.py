"""What is said to be the most: no mask of a small net has more, dense ones have just that."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.npb_gap import chain, every_mask, measured, networks
from dsn import backbones
from dsn.topology import prune
from dsn.topology.limits import most_log10_paths, most_nodes
from dsn.topology.measures import topology
from dsn.topology.wiring import find_wiring


def test_in_chains_the_most_nodes_are_those_of_the_best_mask_and_paths_are_never_more():
    for widths, counts in networks(80, seed=2):
        kept, taps = (
            {str(i): value for i, value in enumerate(values)} for values in (counts, [1] * len(counts))
        )
        nodes, paths, _ = measured(every_mask(widths, counts))
        limit = most_nodes(chain(widths), kept)
        assert nodes.max() == limit or paths.max() == 0 or nodes.max() <= limit
        assert paths.max() <= 10 ** most_log10_paths(chain(widths), kept, taps) * (1 + 1e-9)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_dense_chains_have_just_the_most(widths):
    kept = {str(i): n * d for i, (n, d) in enumerate(zip(widths[1:], widths, strict=False))}
    assert most_nodes(chain(widths), kept) == sum(widths)
    paths = most_log10_paths(chain(widths), kept, dict.fromkeys(kept, 1))
    assert 10**paths == pytest.approx(np.prod(widths, dtype=float))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["random", "npb", "narrow"]), st.sampled_from([0.3, 0.1, 0.05]), st.integers(0, 9))
def test_no_mask_of_a_residual_network_has_more(pruner, density, seed):
    network, shape = nn.Sequential(backbones.resnet20(3, 8, 6), nn.Linear(24, 4)), (1, 3, 8, 8)
    masks = prune(network, density, pruner, input_shape=shape, seed=seed)
    found, wiring = topology(network, masks, shape), find_wiring(network, shape)
    kept = {path: layer.effective_parameters for path, layer in found.layers.items()}
    taps = {path: int(mask[0, 0].numel()) for path, mask in masks.items()}
    assert found.effective_nodes <= most_nodes(wiring, kept)
    limit = most_log10_paths(wiring, kept, taps)
    assert found.log10_paths is None or found.log10_paths <= limit + 1e-9


def test_no_path_where_a_layer_keeps_nothing():
    assert most_log10_paths(chain([2, 2, 2]), {"0": 4, "1": 0}, {"0": 1, "1": 1}) is None
    assert torch.tensor(most_nodes(chain([2, 2, 2]), {"0": 4, "1": 1})).item() == 1 + 2 + 1
