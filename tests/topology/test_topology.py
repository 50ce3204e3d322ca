"""Path counting against hand-made oracles and against enumerating every path of small random networks."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsn import backbones, grow, mask_neurons
from dsn.errors import InputError
from dsn.masking.reach import live_inputs
from dsn.topology.measures import topology
from dsn.topology.tasks import task_topologies, task_topology
from dsn.topology.wiring import find_wiring

MORE = settings(max_examples=100, deadline=None)
pytestmark = pytest.mark.filterwarnings("ignore:task .. no free neuron")


class Residual(nn.Module):
    """head(h + w2 relu(w1 h)), h = w0 x; a norm on the way."""

    def __init__(self, n: int, inner: int) -> None:
        super().__init__()
        self.w0, self.w1, self.w2 = nn.Linear(3, n), nn.Linear(n, inner), nn.Linear(inner, n)
        self.norm, self.head = nn.BatchNorm1d(n), nn.Linear(n, 2)

    def forward(self, x):
        h = torch.relu(self.norm(self.w0(x)))
        return self.head(h + self.w2(torch.relu(self.w1(h))))


class Concatenation(nn.Module):
    """Two convolutions side by side, then a third, pooled and flattened."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, a, 3, padding=1), nn.Conv2d(2, b, 1)
        self.joint, self.last = nn.Conv2d(a + b, 2, 2), nn.Linear(8, 2)

    def forward(self, x):
        h = torch.tanh(torch.cat([self.left(x), self.right(x)], 1))
        return self.last(nn.functional.max_pool2d(torch.relu(self.joint(h)), 2).flatten(1))


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.c(self.a(x) * self.b(x))


class Halves(nn.Module):
    """Two neurons of one layer meet in each input of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(3, 2)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.b(h[:, :3] + h[:, 3:])


def plain(layer, n, repeat=1):
    """Each neuron of ``layer`` is read ``repeat`` times in a row."""
    return [[(layer, i)] for i in range(n) for _ in range(repeat)]


def random_net(data):
    """A small net, the shape of its input, and what each layer's inputs read: layer -> [d] of neurons."""
    a, b = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    kind = data.draw(st.sampled_from(["mlp", "conv", "residual", "concatenation", "halves"]))
    x3 = plain("x", 3)
    if kind == "mlp":
        net = nn.Sequential(nn.Linear(3, a), nn.ReLU(), nn.Linear(a, b), nn.Tanh(), nn.Linear(b, 2))
        return net, (1, 3), {"0": x3, "2": plain("0", a), "4": plain("2", b)}
    if kind == "conv":
        net = nn.Sequential(
            nn.Conv2d(2, a, 2, bias=False), nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 2), nn.ReLU(),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * b, 2),
        )  # fmt: skip
        return net, (1, 2, 6, 6), {"0": plain("x", 2), "3": plain("0", a), "7": plain("3", b, 4)}
    if kind == "residual":
        both = [[("w0", i), ("w2", i)] for i in range(a)]
        reads = {"w0": x3, "w1": plain("w0", a), "w2": plain("w1", b), "head": both}
        return Residual(a, b), (1, 3), reads
    if kind == "halves":
        return Halves(), (1, 3), {"a": x3, "b": [[("a", i), ("a", i + 3)] for i in range(3)]}
    reads = {"left": plain("x", 2), "right": plain("x", 2)}
    reads |= {"joint": plain("left", a) + plain("right", b), "last": plain("joint", 2, 4)}
    return Concatenation(a, b), (1, 2, 6, 6), reads


def random_masks(net, density, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {p: m.weight for p, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    return {p: torch.rand(w.shape, generator=generator) < density for p, w in weights.items()}


def every_path(reads, taps):
    """All paths, one by one: a path is (input channel, (layer, neuron, column, tap), ...)."""

    def to(node):
        layer, j = node
        if layer == "x":
            yield (node,)
            return
        for column, sources in enumerate(reads[layer]):
            for tap in range(int(taps[layer][j, column])):
                for source in sources:
                    for path in to(source):
                        yield (*path, (layer, j, column, tap))

    last = list(reads)[-1]
    return [path for j in range(len(taps[last])) for path in to((last, j))]


@MORE
@given(st.data(), st.floats(0.1, 0.9), st.integers(0, 10**6))
def test_equal_to_enumerating_every_path(data, density, seed):
    net, shape, reads = random_net(data)
    masks = random_masks(net, density, seed)
    taps = {path: mask.flatten(2).sum(2) if mask.dim() > 2 else mask.long() for path, mask in masks.items()}
    paths = every_path(reads, taps)
    nodes = {node[:2] for path in paths for node in path}
    kernels = {hop[:3] for path in paths for hop in path[1:]}
    found = topology(net, masks, shape)
    assert found.effective_nodes == len(nodes)
    assert found.effective_kernels == len(kernels)
    assert found.effective_parameters == sum(int(taps[layer][j, i]) for layer, j, i in kernels)
    assert found.live_parameters == sum(int(mask.sum()) for mask in masks.values())
    assert (found.log10_paths is None) == (not paths)
    if paths:
        assert 10**found.log10_paths == pytest.approx(len(paths), rel=1e-12)
    for path, layer in found.layers.items():
        assert layer.effective_neurons == len({node for node in nodes if node[0] == path})
        assert (path in found.collapsed) == (layer.effective_neurons == 0)


def test_oracle_of_a_small_mlp():
    rows = ["110 011 001 000", "1100 0101 0001 1000", "1110 0100"]
    masks = {str(2 * i): bits(text) for i, text in enumerate(rows)}
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    found = topology(net, masks, (1, 3))
    assert paths_of(found) == 8
    assert (found.effective_nodes, found.nodes) == (9, 13)
    assert (found.effective_kernels, found.live_kernels) == (10, 15)


def test_paths_to_and_from_every_node_of_the_oracle():
    from dsn.topology.measures import count_paths, taps_of
    from dsn.topology.wiring import INPUT

    rows = ["110 011 001 000", "1100 0101 0001 1000", "1110 0100"]
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    taps = taps_of(net, {str(2 * i): bits(text) for i, text in enumerate(rows)})
    flow = count_paths(find_wiring(net, (1, 3)), taps)
    stages = [INPUT, ("0", 0), ("2", 0), ("4", 0)]
    p = [[1, 1, 1], [2, 2, 1, 0], [4, 2, 0, 2], [6, 2]]
    q = [[1, 4, 3], [1, 3, 0, 3], [1, 2, 1, 0], [1, 1]]
    for stage, forward, backward in zip(stages, p, q, strict=True):
        assert flow.forward[stage].exp().tolist() == pytest.approx(forward, rel=1e-13, abs=0)
        assert flow.backward[stage].exp().tolist() == pytest.approx(backward, rel=1e-13, abs=0)


def test_oracle_of_a_residual_sum():
    net = Residual(2, 2)
    masks = {"w0": bits("110 001"), "w1": bits("10 00"), "w2": bits("00 10")}
    masks["head"] = torch.ones(2, 2, dtype=torch.bool)
    masks["head"][1] = False  # the oracle has one output
    assert paths_of(topology(net, masks, (1, 3))) == 5


def test_oracle_of_a_subnetwork():
    model = mask_neurons(backbones.mlp(in_features=3, widths=(4, 4)), example_input=torch.zeros(1, 3))
    commit(model, {"1": [1, 1, 0, 0], "3": [1, 0, 0, 1]})
    commit(model, {"1": [1, 1, 1, 0], "3": [1, 1, 1, 0]})
    found = task_topology(model, 1)
    assert round(10**found.log10_paths, 9) == 54
    assert found.frozen_paths * 54 == pytest.approx(12, rel=1e-12)
    assert found.free_paths * 54 == pytest.approx(18, rel=1e-12)
    assert list(found.plastic_edges.values()) == [3, 7, 6]
    assert (found.narrowest_layer, found.narrowest_neurons) == ("1", 3)
    assert (found.effective_nodes, found.effective_kernels) == (3 + 3 + 3 + 2, 9 + 9 + 6)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["mlp", "small_cnn", "residual", "concatenation"]), st.integers(0, 10**6))
def test_sums_over_neurons_equal_the_counts_of_weight_masks(kind, seed):
    """The short cut for subnetworks against their masks written out as masks of weights."""
    torch.manual_seed(seed)
    nets = {
        "mlp": (backbones.mlp(5, (6, 5)), (1, 5)),
        "small_cnn": (backbones.small_cnn(2, 8, width=3, features=5), (1, 2, 8, 8)),
        "residual": (nn.Sequential(Residual(5, 4), nn.ReLU()), (1, 3)),
        "concatenation": (Concatenation(3, 4), (1, 2, 6, 6)),
    }
    net, shape = nets[kind]
    model = mask_neurons(net, example_input=torch.zeros(shape), rehearse=False)
    for _ in range(2):
        model.add_task(3)
        model.commit(model.learning)
    used, masks = model.masks(0), model.masks(1)
    here, before = live_inputs(model, masks)[0], live_inputs(model, used)[0]
    wired = nn.Sequential(model.backbone, nn.Linear(model.heads["1"].in_features, 3))
    model.select(None)

    def written_out(keep):
        weights = {}
        for path, layer in model.layer_modules():
            block = masks[path][:, None] & here[path][None]
            block = block & keep(used[path][:, None] & before[path][None])
            weights[f"0.{path}"] = block.view(*block.shape, *[1] * (layer.weight.dim() - 2)).expand_as(
                layer.weight
            )
        return topology(wired, weights, shape)

    whole = written_out(lambda protected: torch.ones_like(protected))
    frozen, free = written_out(lambda protected: protected), written_out(lambda protected: ~protected)
    found = task_topology(model, 1)
    assert found.log10_paths == pytest.approx(whole.log10_paths, abs=1e-9)
    assert found.effective_nodes == whole.effective_nodes
    assert found.effective_kernels == whole.effective_kernels
    assert found.effective_parameters == whole.effective_parameters
    for share, part in ((found.frozen_paths, frozen), (found.free_paths, free)):
        expected = 0 if part.log10_paths is None else 10 ** (part.log10_paths - whole.log10_paths)
        assert share == pytest.approx(expected, rel=1e-9)
    assert (
        list(found.plastic_edges.values())[:-1] == [layer.live_kernels for layer in free.layers.values()][:-1]
    )


def test_no_overflow_in_a_network_of_a_hundred_layers():
    widths = [200] * 101
    net = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths)))
    found = topology(net, {}, (1, 200))
    assert found.log10_paths == pytest.approx(101 * math.log10(200), rel=1e-12)
    assert found.effective_nodes == 101 * 200


def test_a_single_path_is_not_lost_beside_a_dead_end_of_1e400():
    """Layers of 100 neurons that end nowhere, beside a chain of one neuron that carries the only path."""
    depth, n = 200, 101
    taps = torch.ones(n, n, dtype=torch.bool)
    taps[0, :], taps[:, 0], taps[0, 0] = False, False, True
    net = nn.Sequential(*[nn.Linear(n, n, bias=False)] * depth)  # one layer, called again and again
    net.append(nn.Linear(n, 1, bias=False))
    last = torch.zeros(1, n, dtype=torch.bool)
    last[0, 0] = True
    found = topology(net, {"0": taps, str(depth): last}, (1, n))
    assert found.log10_paths == pytest.approx(0.0, abs=1e-12)
    assert found.layers["0"].effective_neurons == 1


def test_products_of_branches_are_refused_by_name():
    with pytest.raises(InputError, match="'c'.*product"):
        topology(Product(), {}, (1, 3))
    model = mask_neurons(nn.Sequential(Product()), example_input=torch.zeros(1, 3))
    model.add_task(2)
    model.commit(0)
    assert task_topologies(model) is None


def test_masks_that_fit_no_layer_are_refused():
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(InputError, match="'9': no such layer"):
        topology(net, {"9": torch.ones(2, 3, dtype=torch.bool)}, (1, 3))
    with pytest.raises(InputError, match=r"shape \[3, 2\]"):
        topology(net, {"0": torch.ones(3, 2, dtype=torch.bool)}, (1, 3))


def test_collapsed_and_saturated_layers_are_named_and_growth_changes_no_earlier_task():
    model = mask_neurons(backbones.mlp(in_features=3, widths=(4, 3)), example_input=torch.zeros(1, 3))
    commit(model, {"1": [1, 1, 0, 0], "3": [1, 0, 0]})
    commit(model, {"1": [0, 1, 1, 1], "3": [0, 1, 1]})
    commit(model, {"1": [0, 1, 1, 1], "3": [0, 1, 1]})
    found = task_topologies(model)
    assert [found[k].collapsed for k in range(3)] == [["3"], [], []]
    assert [found[k].saturated for k in range(3)] == [[], ["1", "3"], []]
    grow(model, by=5)
    assert task_topologies(model) == found


def test_a_mask_that_has_changed_is_measured_anew():
    model = mask_neurons(backbones.mlp(in_features=3, widths=(4, 3)), example_input=torch.zeros(1, 3))
    commit(model, {"1": [1, 1, 0, 0], "3": [1, 0, 0]})
    commit(model, {"1": [0, 1, 1, 0], "3": [1, 1, 0]})
    before = task_topologies(model)
    assert task_topology(model, 0) is before[0]
    model.gates_by_path["1"].replace(0, torch.tensor([True, True, True, False]))
    after = task_topologies(model)
    assert after == task_topologies(copy.deepcopy(model))
    assert after[0].effective_nodes == before[0].effective_nodes + 1
    assert after[1].frozen_paths > before[1].frozen_paths  # task 0 uses more of it now


def commit(model, masks):
    task = model.add_task(num_classes=2)
    for path, gate in model.gates_by_path.items():
        gate.logits.data = torch.tensor(masks[path]) - 0.5
    model.commit(task)


def bits(text):
    return torch.tensor([[int(c) for c in row] for row in text.split()], dtype=torch.bool)


def paths_of(found):
    assert 10**found.log10_paths == pytest.approx(round(10**found.log10_paths), rel=1e-13)
    return round(10**found.log10_paths)
