"""The wiring that the map gives is what sending values source by source gives."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsn import InputError, backbones, mask_neurons
from dsn.topology.wiring import Stage, Wiring, find_wiring, wiring_of
from tests.masking.test_wrapping import Free
from tests.nets import NETS, make
from tests.topology.sent import sent_wiring


def block(channels: int) -> nn.Module:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.a(F.relu(self.norm(x)))))

    return Free(
        forward,
        norm=nn.BatchNorm2d(channels),
        a=nn.Conv2d(channels, 7, 3, padding=1),
        b=nn.Conv2d(7, channels, 1),
    )


def twice(self: nn.Module, x: Tensor) -> Tensor:
    h = F.relu(self.a(x))
    return self.b(torch.cat([h, F.relu(self.c(F.relu(self.c(h))))], 1))


def tokens(self: nn.Module, x: Tensor) -> Tensor:
    h = self.a(x).flatten(2).transpose(1, 2)
    return (h + self.c(F.gelu(self.b(self.norm(h))))).mean(1)


OTHERS = {
    "pre-activation": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3), block(4), block(4), nn.MaxPool2d(3), nn.Flatten()),
        (1, 3, 8, 8),
    ),
    "called twice": lambda: (
        Free(twice, a=nn.Linear(6, 5), c=nn.Linear(5, 5), b=nn.Linear(10, 3)),
        (1, 6),
    ),
    "tokens": lambda: (
        Free(
            tokens, a=nn.Conv2d(3, 6, 4, 4), norm=nn.LayerNorm(6), b=nn.Linear(6, 9), c=nn.Linear(9, 6)
        ),
        (1, 3, 8, 8),
    ),
    "several meet": lambda: (
        nn.Sequential(nn.Linear(4, 6), nn.MaxPool1d(2), nn.Linear(3, 8), nn.Softmax(1), nn.Linear(8, 2)),
        (1, 4),
    ),
    "alexnet": lambda: (backbones.alexnet(), (1, 3, 32, 32)),
    "resnet18": lambda: (backbones.resnet18(width=8), (1, 3, 32, 32)),
}  # fmt: skip


def pairs(wiring: Wiring) -> dict[tuple[Stage, Stage], list[list[int]]]:
    """By stage and source: neuron and column, in order."""
    return {
        (stage, wire.source): sorted(torch.stack([wire.neurons, wire.columns], 1).tolist())
        for stage, wires in wiring.links.items()
        for wire in wires
    }


def assert_alike(found: Wiring, sent: Wiring) -> None:
    assert (found.stages, found.widths, found.inputs) == (sent.stages, sent.widths, sent.inputs)
    assert pairs(found) == pairs(sent)


@pytest.mark.parametrize("net", OTHERS)
def test_a_plain_network_is_wired_as_sending_says_and_left_alone(net: str) -> None:
    torch.manual_seed(0)
    network, shape = OTHERS[net]()
    before = copy.deepcopy(network.state_dict())
    assert_alike(find_wiring(network, shape), sent_wiring(network, shape))
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize("net", [*NETS, *OTHERS])
def test_a_masked_model_is_wired_as_its_plain_backbone(net: str) -> None:
    torch.manual_seed(0)
    if net in NETS:
        model = make(net)[0]
    else:
        backbone, shape = OTHERS[net]()
        model = mask_neurons(backbone, example_input=torch.zeros(shape))
    model.select(None)
    try:
        sent = sent_wiring(model.backbone, model.input_shape)
    except InputError:
        with pytest.raises(InputError, match="product"):
            wiring_of(model)
        return
    assert_alike(wiring_of(model), sent)
    assert wiring_of(model) is wiring_of(model)


@pytest.mark.parametrize("seed", range(3))
def test_depthwise_convolutions_with_weights_of_any_sign_are_no_products(seed: int) -> None:
    torch.manual_seed(seed)
    backbone = backbones.mobilenet(image_size=16, width=0.5)
    model = mask_neurons(backbone, example_input=torch.zeros(1, 3, 16, 16))
    assert wiring_of(model).products == ()
