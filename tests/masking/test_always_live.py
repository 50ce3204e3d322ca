"""What masked zeros turn into, and what free norms give, is live whatever is masked: nothing forgets.

A probe that ran free norms and own tensors with the values they begin with would take columns for dead here.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsn import InputError, MaskedModel, ProtectedWeights, grow, mask_neurons
from dsn.masking.reach import live_inputs
from tests.masking.test_wrapping import Free
from tests.nets import OPTIMIZERS, learn, logits, same


class Mixer(nn.Module):
    """Tokens mixed and neurons mixed in turn, each behind a norm, as in an MLP-mixer or a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(4, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.tokens = nn.ModuleList([nn.Linear(3, 6), nn.Linear(6, 3)])
        self.mlp = nn.ModuleList([nn.Linear(8, 12), nn.Linear(12, 8)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x)
        up, down = self.tokens
        h = h + down(F.gelu(up(self.norms[0](h).transpose(1, 2)))).transpose(1, 2)
        up, down = self.mlp
        h = h + down(F.gelu(up(self.norms[1](h))))
        return self.norms[2](h).mean(1)


class PreActivation(nn.Module):
    """Norm and ReLU before each convolution of a residual block, whose shortcut passes them by."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        inner = self.convs[0](F.relu(self.norms[0](h)))
        h = h + self.convs[1](F.relu(self.norms[1](inner)))
        return F.relu(self.norms[2](h)).mean((2, 3))


class Dense(nn.Module):
    """What all layers before gave, side by side behind a norm, as in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 4 * i) for i in range(4))

    def forward(self, h: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=False):
            h = torch.cat([h, conv(F.relu(norm(h)))], 1)
        return self.norms[3](h).mean((2, 3))


def mlp(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), *between, nn.Linear(6, 5), nn.ReLU())


def two_places(self: nn.Module, x: Tensor) -> Tensor:
    return F.relu(self.b(F.relu(self.norm(self.a(x)))) + self.norm(self.a(x)))


NETS = {
    "sigmoid": (lambda: mlp(nn.Sigmoid()), (4,)),
    "softplus": (lambda: mlp(nn.Softplus()), (4,)),
    "softmax": (lambda: mlp(nn.Softmax(1)), (4,)),
    "added constant": (
        lambda: Free(lambda s, x: s.b(s.a(x) + 1), a=nn.Linear(4, 6), b=nn.Linear(6, 5)), (4,)
    ),
    "gate": (
        lambda: Free(
            lambda s, x: s.c(torch.sigmoid(s.a(x)) * s.b(x)),
            a=nn.Linear(4, 6), b=nn.Linear(4, 6), c=nn.Linear(6, 5),
        ),
        (4,),
    ),
    "relu, layer norm, relu": (lambda: mlp(nn.ReLU(), nn.LayerNorm(6), nn.ReLU()), (4,)),
    "relu, batch norm, relu": (lambda: mlp(nn.ReLU(), nn.BatchNorm1d(6), nn.ReLU()), (4,)),
    "relu, group norm, relu": (lambda: mlp(nn.ReLU(), nn.GroupNorm(2, 6), nn.ReLU()), (4,)),
    "two norms": (lambda: mlp(nn.BatchNorm1d(6), nn.LayerNorm(6), nn.ReLU()), (4,)),
    "norm along places": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)),
        (3, 4, 4),
    ),
    "past the norm": (
        lambda: Free(
            lambda s, x: s.c(torch.relu(s.norm(h := s.a(x))) + h),
            a=nn.Linear(4, 6), norm=nn.BatchNorm1d(6), c=nn.Linear(6, 5),
        ),
        (4,),
    ),
    "in-place residual past the norm": (
        lambda: Free(
            lambda s, x: s.b(s.a(x).add_(0.0) + torch.relu(s.norm(s.a(x)))),
            a=nn.Linear(4, 6), norm=nn.BatchNorm1d(6), b=nn.Linear(6, 5),
        ),
        (4,),
    ),
    "past the norm, to another norm": (
        lambda: Free(
            lambda s, x: s.c(torch.relu(s.norm(h := s.a(x))) + s.other(h * 1)),
            a=nn.Linear(4, 6), norm=nn.BatchNorm1d(6), other=nn.LayerNorm(6), c=nn.Linear(6, 5),
        ),
        (4,),
    ),
    "norm at two places": (
        lambda: Free(two_places, a=nn.Linear(4, 5), norm=nn.LayerNorm(5), b=nn.Linear(5, 5)), (4,)
    ),
    "norm of the input": (lambda: nn.Sequential(nn.LayerNorm(4), mlp(nn.ReLU())), (4,)),
    "mixer": (Mixer, (3, 4)),
    "pre-activation": (PreActivation, (3, 6, 6)),
    "dense": (Dense, (3, 6, 6)),
}  # fmt: skip


def make(net: str, edges: str = "none") -> tuple[MaskedModel, Tensor]:
    build, shape = NETS[net]
    torch.manual_seed(0)
    return mask_neurons(build(), example_input=torch.zeros(1, *shape), edges=edges), torch.randn(12, *shape)


def shake(model: MaskedModel) -> None:
    """All that protection allows, as :class:`ProtectedWeights` would let an optimizer do it."""
    own = {id(p) for task in model.committed for p in model.own_parameters(task)}
    with ProtectedWeights(model), torch.no_grad():
        for parameter in model.backbone.parameters():
            if id(parameter) not in own:
                parameter.add_(torch.randn_like(parameter))


def steep(model: MaskedModel, task: int) -> None:
    """Norm state that a task may have learnt: shifts that lift what is 0 at the start over a ReLU."""
    with torch.no_grad():
        for parameter in model.own_parameters(task):
            parameter.add_(2 * torch.randn_like(parameter))


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", NETS)
def test_nothing_is_forgotten(net: str, optimizer: str) -> None:
    model, x = make(net)
    learn(model, x, 0, optimizer)
    steep(model, 0)
    before = logits(model, x)
    for task in (1, 2):
        learn(model, x, task, optimizer)
        assert same(before, logits(model, x))
    shake(model)
    assert same(before, logits(model, x))


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("net", NETS)
def test_nothing_is_forgotten_with_edges(net: str) -> None:
    model, x = make(net, "own_and_read")
    learn(model, x, 0, planned_tasks=3)
    before = logits(model, x)
    learn(model, x, 1, planned_tasks=3)
    shake(model)
    assert same(before, logits(model, x))


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("net", NETS)
def test_a_subnetwork_and_a_task_file_compute_the_same(net: str, tmp_path) -> None:
    model, x = make(net)
    learn(model, x, 0)
    steep(model, 0)
    model.eval()
    expected = model(x, 0)
    cut = model.subnetwork(0)
    assert torch.allclose(cut(x), expected, atol=1e-5)
    model.save_task(0, tmp_path / "task.pt")
    other, _ = make(net)
    other.load_task(tmp_path / "task.pt")
    assert torch.equal(other.eval()(x, 0), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", NETS)
def test_growth_keeps_every_task_or_is_refused(net: str) -> None:
    model, x = make(net)
    learn(model, x, 0)
    before = logits(model, x)
    try:
        grow(model, by=3, below=100)
    except InputError as error:
        assert "cannot grow" in str(error)  # a norm has as many neurons as it was built for
    assert same(before, logits(model, x))
    learn(model, x, 1)
    shake(model)
    assert same(before, logits(model, x))


@pytest.mark.parametrize("net", ["relu, layer norm, relu", "relu, batch norm, relu", "sigmoid", "softmax"])
def test_columns_behind_them_are_live_whatever_is_masked(net: str) -> None:
    model, _ = make(net)
    none = {path: torch.zeros(n, dtype=torch.bool) for path, n in model.layers.items()}
    live, features = live_inputs(model, none)
    assert bool(live[list(live)[1]].all())
    assert not bool(features.any())


def test_an_own_tensor_may_be_anything_while_values_are_sent() -> None:
    """A shift that begins at 0: what it brings once a task has learnt it is live."""
    net = Free(lambda s, x: s.c(F.relu(s.a(x)) + s.shift), a=nn.Linear(4, 6), c=nn.Linear(6, 5))
    net.register_parameter("shift", nn.Parameter(torch.zeros(6)))
    model = mask_neurons(net, example_input=torch.zeros(1, 4))
    none = {path: torch.zeros(n, dtype=torch.bool) for path, n in model.layers.items()}
    assert bool(live_inputs(model, none)[0]["c"].all())
    assert torch.equal(net.shift, torch.zeros(6))
