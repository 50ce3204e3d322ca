"""A depthwise convolution follows the mask of the layer whose neurons its channels are."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsn import MaskedModel, mask_neurons
from dsn.masking.reach import live_inputs
from tests.masking.test_wrapping import Free
from tests.nets import OPTIMIZERS, learn, logits, same


def depthwise(n: int) -> nn.Conv2d:
    return nn.Conv2d(n, n, 3, padding=1, groups=n)


def inverted() -> nn.Module:
    return Free(
        lambda s, x: s.project(s.act(s.depth_norm(s.depth(s.act(s.norm(s.expand(x))))))).mean((2, 3)),
        expand=nn.Conv2d(2, 8, 1, bias=False),
        norm=nn.BatchNorm2d(8),
        act=nn.ReLU6(),
        depth=depthwise(8),
        depth_norm=nn.BatchNorm2d(8),
        project=nn.Conv2d(8, 30, 1),
    )


def twice() -> nn.Module:
    return Free(
        lambda s, x: s.project(s.second_norm(s.second(F.silu(s.first(s.expand(x)))))).mean((2, 3)),
        expand=nn.Conv2d(2, 8, 1),
        first=depthwise(8),
        second=depthwise(8),
        second_norm=nn.BatchNorm2d(8),
        project=nn.Conv2d(8, 30, 1),
    )


def mixed() -> nn.Module:
    """Tokens through a Linear, a depthwise convolution over their places, and a Linear."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        tokens = s.up(x.flatten(2).transpose(1, 2))
        places = s.depth(tokens.transpose(1, 2).unflatten(2, (4, 4)))
        return s.project(F.gelu(places.flatten(2).transpose(1, 2))).mean(1)

    return Free(forward, up=nn.Linear(2, 8), depth=depthwise(8), project=nn.Linear(8, 30))


def stream() -> nn.Module:
    """Two layers meet before the convolution, which therefore follows none."""
    return Free(
        lambda s, x: s.project(s.depth(s.one(x) + s.other(x))).mean((2, 3)),
        one=nn.Conv2d(2, 8, 1),
        other=nn.Conv2d(2, 8, 1),
        depth=depthwise(8),
        project=nn.Conv2d(8, 30, 1),
    )


def shuffled() -> nn.Module:
    """The channels are the layer's neurons in another order."""
    return Free(
        lambda s, x: s.project(s.depth(s.expand(x).flip(1))).mean((2, 3)),
        expand=nn.Conv2d(2, 8, 1),
        depth=depthwise(8),
        project=nn.Conv2d(8, 30, 1),
    )


NETS = {"inverted": inverted, "twice": twice, "mixed": mixed, "stream": stream, "shuffled": shuffled}
SITES = {
    "inverted": [("depth_norm", "expand")],
    "twice": [("first", "expand"), ("second_norm", "expand")],
    "mixed": [("depth", "up")],
    "stream": [],
    "shuffled": [],
}


def wrapped(net: str) -> tuple[MaskedModel, Tensor]:
    torch.manual_seed(0)
    model = mask_neurons(NETS[net](), example_input=torch.zeros(1, 2, 4, 4))
    return model, torch.randn(12, 2, 4, 4)


@pytest.mark.parametrize("net", NETS)
def test_what_is_made_of_one_layer_in_its_order_follows_it(net: str) -> None:
    model, _ = wrapped(net)
    assert [(follower.site, follower.leader) for follower in model.followers] == SITES[net]


@pytest.mark.parametrize("net", [net for net, sites in SITES.items() if sites])
def test_what_reads_a_follower_needs_the_used_neurons_alone(net: str) -> None:
    """Without the mask behind it, the shift of the norm makes all of its channels live."""
    model, x = wrapped(net)
    leader = SITES[net][0][1]
    masks = {path: torch.arange(n) % 2 == 0 for path, n in model.layers.items()}
    assert torch.equal(live_inputs(model, masks)[0]["project"], masks[leader])
    learn(model, x, 0)
    model.eval()
    mask = model.masks(0)[leader]
    arrived: list[Tensor] = []
    hook = model.layer("project").register_forward_hook(lambda _m, args, _out: arrived.append(args[0]))
    model(x, 0)
    hook.remove()
    dim = model.gates_by_path["project"].neuron_dim
    assert torch.equal(arrived[0].movedim(dim, 0).flatten(1).ne(0).any(1) & ~mask, torch.zeros_like(mask))


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", NETS)
def test_nothing_is_forgotten(net: str, optimizer: str) -> None:
    model, x = wrapped(net)
    learn(model, x, 0, optimizer)
    before = logits(model, x)
    for task in (1, 2):
        learn(model, x, task, optimizer)
    assert same(before, logits(model, x))
    cut = model.subnetwork(0)
    assert torch.allclose(cut(x), before[0], atol=1e-5)
