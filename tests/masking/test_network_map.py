"""The map says what sending values under each mask says, and no less in networks that nobody sees through."""

import random
import warnings

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dsn import MaskedModel, mask_neurons
from dsn.masking.layers import evaluating
from dsn.masking.map import NONE, SEVERAL, network_map
from dsn.masking.reach import live_inputs, map_of, read_inputs, tried_masks
from dsn.masking.reach.codes import code, read, sources_felt
from dsn.masking.reach.mapping import arrived_under
from tests.masking.grammar import CHANNELS, SIZE, Backbone, forgets, random_net, wrapped
from tests.masking.sent import sent_live_inputs
from tests.masking.test_wrapping import Free
from tests.nets import NETS, make


def squeezed(self: nn.Module, x: Tensor) -> Tensor:
    h = self.a(x)
    return self.d(F.relu(h) * torch.sigmoid(self.c(F.relu(self.b(h.mean((2, 3))))))[:, :, None, None])


OTHERS = {
    "squeeze and excite": lambda: nn.Sequential(
        Free(
            squeezed, a=nn.Conv2d(3, 8, 3), b=nn.Linear(8, 4), c=nn.Linear(4, 8), d=nn.Conv2d(8, 5, 1)
        ),
        nn.Flatten(),
    ),
    "gated halves": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.GLU(), nn.Linear(6, 5)),
    "softmax": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.Softmax(1), nn.Linear(12, 5)),
    "pre-activation": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten()
    ),
}  # fmt: skip


def made(net: str) -> MaskedModel:
    torch.manual_seed(0)
    return make(net)[0] if net in NETS else mask_neurons(OTHERS[net](), example_input=torch.zeros(1, 3, 8, 8))


def random_masks(model: MaskedModel, seed: int, share: float) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return {path: torch.rand(n, generator=drawn) < share for path, n in model.layers.items()}


@pytest.mark.parametrize("net", [*NETS, *OTHERS])
def test_the_map_says_what_sending_says(net: str) -> None:
    model = made(net)
    for seed, share in enumerate((0.0, 0.1, 0.5, 0.5, 0.9, 1.0)):
        masks = random_masks(model, seed, share)
        live, features = live_inputs(model, masks)
        sent = sent_live_inputs(model, masks)
        assert {*live, "features"} == set(sent)
        for place, flags in (live | {"features": features}).items():
            assert torch.equal(flags, sent[place]), place


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 2**16), st.sampled_from((0.2, 0.5, 0.8)))
def test_in_odd_networks_the_map_says_no_less(seed: int, share: float) -> None:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = wrapped(random_net(random.Random(seed)))
        if isinstance(model, str):
            return
        masks = random_masks(model, seed, share)
        live, features = live_inputs(model, masks)
        for place, flags in sent_live_inputs(model, masks).items():
            assert not bool((flags & ~(live | {"features": features})[place]).any())


def test_a_column_that_feels_only_two_neurons_together_makes_its_place_live() -> None:
    """NaN does not pass, and one neuron alone brings nothing: no code tells, random masks do."""

    def pairs(self: nn.Module, x: Tensor) -> Tensor:
        h = torch.where(self.a(x).abs() > 2.5, self.a(x), torch.zeros(()))
        return self.b(h * torch.where(self.c(x).abs() > 2.5, self.c(x), torch.zeros(())))

    net = Free(pairs, a=nn.Linear(4, 20), c=nn.Linear(4, 20), b=nn.Linear(20, 5))
    model = mask_neurons(net, example_input=torch.zeros(1, 4))
    assert bool(live_inputs(model, random_masks(model, 0, 0.0))[0]["b"].all())


@given(st.integers(1, 300), st.data())
@settings(deadline=None)
def test_a_column_spells_the_neuron_it_feels(n: int, data: st.DataObject) -> None:
    words = code(n)
    one, other = (data.draw(st.integers(0, n - 1)) for _ in range(2))
    spelled = torch.stack([words[one], words[one] | words[other], torch.zeros(words.shape[1]).bool()], 1)
    link = read(spelled, words)
    assert link.neurons.tolist() == [one, one if one == other else SEVERAL, NONE]
    assert len(link.sets) == (one != other)


@example(12, 1, 0.0625, True, 13)  # two whose rows, with 0 in one of each, are those of another
@given(st.integers(1, 40), st.integers(1, 12), st.floats(0, 0.4), st.booleans(), st.integers(0, 2**16))
@settings(deadline=None)
def test_many_sources_are_told_apart_as_one_by_one(
    count: int, columns: int, share: float, one_silences: bool, seed: int
) -> None:
    """Of columns that feel whatever is on; where source 0 silences the others, no column loses them all."""
    drawn = torch.Generator().manual_seed(seed)
    reach = torch.rand(count, columns, generator=drawn) < share
    rows_sent = []

    def changed(on: dict[int, Tensor]) -> dict[str, Tensor]:
        rows = torch.stack([on[source][:, 0] for source in range(count)], 1)
        rows_sent.append(len(rows))
        felt = (rows[:, :, None] & reach).any(1)
        return {"place": felt & ~(rows[:, :1] & one_silences)}

    found = sources_felt(dict.fromkeys(range(count), 2), changed)["place"]
    alone = reach & ~(torch.eye(count, dtype=torch.bool)[:, :1] & one_silences)
    assert torch.equal(found, alone) if not one_silences else torch.equal(found.any(0), alone.any(0))
    assert not bool((found & ~alone).any())
    if not one_silences and count > 20 and share == 0:
        assert sum(rows_sent) < count


@pytest.mark.parametrize("net", NETS)
def test_what_arrived_under_the_masks_that_a_map_is_tried_under_is_kept(net: str) -> None:
    model = made(net)
    masks = next(tried_masks(model.layers))
    kept = map_of(model).arrived_under(masks)
    assert kept is not None and list(map_of(model).arrived) == [
        tuple(m.numpy().tobytes() for m in masks.values())
    ]
    with evaluating(model):
        found = arrived_under(model, masks)
    assert all(torch.equal(kept[place], flags) for place, flags in found.items())


def test_what_arrived_is_kept_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(next(iter(NETS)))
    map_of(model).arrived.clear()
    masks = [random_masks(model, seed, 0.5) for seed in range(8)]
    found = [read_inputs(model, one) for one in masks]
    arrived = map_of(model).arrived
    assert len(arrived) == len(masks)
    key, flags = next(iter(arrived.items()))
    entry = sum(map(len, key)) + sum(len(columns) for columns in flags.values())
    arrived.clear()
    monkeypatch.setattr(network_map, "ARRIVED_BYTES", 3 * entry + 1)
    for one, before in zip([*masks, *masks], [*found, *found], strict=True):
        again = read_inputs(model, one)
        assert len(arrived) <= 3 and all(torch.equal(again[path], before[path]) for path in before)


def test_large_images_are_probed_small_and_verified_as_they_are() -> None:
    """A network that does something else to large images than to small ones."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        if h.shape[2] > 100:
            h = h + h.mean(1, keepdim=True)
        return self.b(h.mean((2, 3)))

    torch.manual_seed(0)
    net = Free(forward, a=nn.Conv2d(3, 16, 1), b=nn.Linear(16, 5))
    small = mask_neurons(net, example_input=torch.zeros(1, 3, 80, 80))
    assert not bool(map_of(small).always["b"].any())
    large = mask_neurons(small.unmask(), example_input=torch.zeros(1, 3, 160, 160))
    assert large.size.shape == (1, 3, 64, 64)
    assert bool(map_of(large).always["b"].all())


ESCAPED = {
    5: (["gelu", "flipped"], "median of places", ["if large", "neighbour sample", "called twice", "gelu"], 4),
    4: (["squash", "neighbour sample"], "variance and mean", ["log1p"], 3),
}
"""by seed: networks in which several neurons together bring what codes and random masks did not show"""


@pytest.mark.parametrize("seed", ESCAPED)
def test_what_only_the_masks_in_use_bring_is_protected(seed: int) -> None:
    torch.manual_seed(seed)
    model = wrapped(Backbone(*ESCAPED[seed]))
    assert not isinstance(model, str)
    assert not forgets(model, torch.randn(12, CHANNELS, SIZE, SIZE))
