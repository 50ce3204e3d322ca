"""Transformers, depthwise nets, modules with tensors of their own: nothing is forgotten, state goes along."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsn import InputError, MaskedModel, grow, mask_neurons
from dsn.baselines.memory import masked_model_memory
from dsn.masking.foreign import OwnModule, OwnTensor, close_attention, open_attention
from dsn.masking.state.fingerprint import Fingerprints
from tests.masking.test_wrapping import Free
from tests.nets import OPTIMIZERS, learn, logits, same


class RunningMean(nn.Module):
    """Takes a running mean away, which it keeps by hand."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().flatten(0, -2).mean(0), 0.1)
        return x - self.mean


class Tokens(nn.Module):
    """A class token, positions that begin at 0, pre-norm blocks scaled from 1e-6 on, PReLU, RMSNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.places = nn.Parameter(torch.zeros(1, 5, 12))
        self.scale = nn.Parameter(torch.full((12,), 1e-6))
        self.norm, self.last = nn.LayerNorm(12), nn.RMSNorm(12)
        self.up, self.act, self.down = nn.Linear(12, 20), nn.PReLU(), nn.Linear(20, 12)
        self.mean = RunningMean(12)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x.view(len(x), 4, 8))], 1) + self.places
        h = h + self.scale * self.down(self.act(self.up(self.norm(h))))
        return self.mean(self.last(h))[:, 0] + h.mean(1)


class Encoder(nn.Module):
    """torch's own transformer layers."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 12)
        layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True, norm_first=norm_first)
        self.layers = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.embed(x.view(len(x), 4, 8))).mean(1)


class Inverted(nn.Module):
    """An inverted residual: expand, a depthwise and a grouped convolution, project."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.expand, self.norm = nn.Conv2d(6, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.depth, self.depth_norm = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.grouped, self.even = (
            nn.Conv2d(12, 12, 1, groups=3),
            nn.InstanceNorm2d(6, track_running_stats=True),
        )
        self.project, self.project_norm = nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.even(self.stem(x.view(len(x), 2, 4, 4))))
        inner = F.relu6(self.norm(self.expand(h)))
        inner = F.relu6(self.depth_norm(self.depth(inner)))
        return (h + self.project_norm(self.project(self.grouped(inner)))).mean((2, 3))


NETS = {
    "tokens": Tokens,
    "encoder": lambda: Encoder(False),
    "encoder, norm first": lambda: Encoder(True),
    "inverted residual": Inverted,
}
pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


def make(net: str, edges: str = "none") -> tuple[MaskedModel, Tensor]:
    torch.manual_seed(0)
    model = mask_neurons(NETS[net](), example_input=torch.zeros(1, 32), edges=edges)
    return model, torch.randn(12, 32)


def taught(
    net: str, edges: str = "none", optimizer: str = "sgd", tasks: int = 2
) -> tuple[MaskedModel, Tensor]:
    model, x = make(net, edges)
    for task in range(tasks):
        learn(model, x, task, optimizer, planned_tasks=None if edges == "none" else 3)
    return model, x


@pytest.mark.parametrize("edges", ["none", "own_and_read", "own_and_sign"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", NETS)
def test_nothing_is_forgotten(net: str, optimizer: str, edges: str) -> None:
    model, x = taught(net, edges, optimizer, tasks=1)
    before = logits(model, x)
    shown = Fingerprints(model).of(0)
    for task in (1, 2):
        learn(model, x, task, optimizer, planned_tasks=None if edges == "none" else 3)
        assert same(before, logits(model, x))
    assert Fingerprints(model).of(0) == shown


@pytest.mark.parametrize("net", ["tokens", "inverted residual"])
def test_every_task_has_its_own(net: str) -> None:
    model, x = taught(net)
    own = [module for module in model.backbone.modules() if isinstance(module, OwnModule)]
    assert own
    for module in own:
        pairs = zip(module.of(0).state_dict().values(), module.of(1).state_dict().values(), strict=True)
        assert any(not torch.equal(one, other) for one, other in pairs)
    tensors = [
        *model.heads["0"].parameters(),
        *(t for norm in model.norms() for t in (*norm.of(0).parameters(), *norm.of(0).buffers())),
    ]
    masks = sum(-(-n // 8) for n in model.layers.values())
    assert masked_model_memory(model).bytes_per_task[0] == masks + sum(t.nbytes for t in tensors)


@pytest.mark.parametrize("edges", ["none", "own_and_read"])
@pytest.mark.parametrize("net", NETS)
def test_state_copies_files_and_subnetworks_compute_the_same(net: str, edges: str, tmp_path) -> None:
    model, x = taught(net, edges)
    before = logits(model, x)
    assert same(before, logits(copy.deepcopy(model), x))
    other, _ = make(net, edges)
    other.load_state_dict(model.state_dict())
    assert same(before, logits(other, x))
    model.save_task(0, tmp_path / "task")
    third, _ = make(net, edges)
    third.load_task(tmp_path / "task")
    assert torch.equal(third.eval()(x, 0), before[0])
    for task, expected in before.items():
        cut = model.subnetwork(task)
        assert torch.allclose(cut(x), expected, atol=1e-4)
        assert not any(isinstance(module, OwnModule) for module in cut.modules())
    assert same(before, logits(model, x))  # cutting a copy leaves the model as it was


@pytest.mark.parametrize("net", NETS)
def test_unmask_gives_the_backbone_back(net: str) -> None:
    torch.manual_seed(0)
    backbone = NETS[net]()
    x, kinds = torch.randn(3, 32), [(path, type(module)) for path, module in backbone.named_modules()]
    state, expected = copy.deepcopy(backbone.state_dict()), backbone.eval()(x)
    plain = mask_neurons(backbone, example_input=x[:1]).unmask()
    assert [(path, type(module)) for path, module in plain.named_modules()] == kinds
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    assert sorted(plain.state_dict()) == sorted(state)
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert torch.allclose(plain(x), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", NETS)
def test_growth_keeps_every_task_or_is_refused(net: str) -> None:
    model, x = taught(net)
    before = logits(model, x)
    try:
        grow(model, by=2, below=100)
    except InputError as error:
        assert "cannot grow" in str(error)
    learn(model, x, 2)
    assert same(before, logits(model, x))


def test_a_dropped_task_leaves_nothing_behind() -> None:
    model, x = taught("tokens")
    names = set(model.state_dict())
    model.add_task(3, 2)
    model.drop_task(2)
    assert set(model.state_dict()) == names


def test_a_backbone_that_is_hardly_anything_else_is_refused() -> None:
    net = Free(lambda s, x: s.c(s.a(x[:, None])[:, 0]), a=nn.ConvTranspose1d(1, 9, 3), c=nn.Linear(6, 2))
    net.register_parameter("shift", nn.Parameter(torch.zeros(40)))
    kinds = [type(module) for module in net.modules()]
    with pytest.raises(InputError, match="76 of the backbone's 90 numbers .*ConvTranspose1d, Free"):
        mask_neurons(net, example_input=torch.zeros(1, 4))
    assert [type(module) for module in net.modules()] == kinds


def test_a_parametrized_module_is_refused() -> None:
    net = Free(lambda s, x: s.c(s.a(x)), a=nn.PReLU(), c=nn.Linear(4, 60))
    nn.utils.parametrize.register_parametrization(net.a, "weight", nn.Softplus(), unsafe=True)
    with pytest.raises(InputError, match="'weight' of layer 'a' .* is parametrized"):
        mask_neurons(net, example_input=torch.zeros(1, 4))


def test_what_is_only_read_stays_shared() -> None:
    """A constant buffer costs a task nothing."""
    net = Free(lambda s, x: s.c(s.a(x) * s.constant), a=nn.Linear(4, 6), c=nn.Linear(6, 5))
    net.register_buffer("constant", torch.ones(6))
    model = mask_neurons(net, example_input=torch.zeros(1, 4))
    assert not any(isinstance(module, OwnTensor | OwnModule) for module in model.modules())


@pytest.mark.parametrize("mask", [None, "bool", "float", "a head"])
@pytest.mark.parametrize("sizes", [None, 6])
def test_opened_attention_computes_what_it_was_made_from(mask: str | None, sizes: int | None) -> None:
    torch.manual_seed(0)
    for first, bias, padded, weights in itertools.product((False, True), repeat=4):
        closed = nn.Sequential(
            nn.MultiheadAttention(8, 2, batch_first=first, bias=bias, kdim=sizes, vdim=sizes)
        )
        q, k = torch.randn(3, 5, 8), torch.randn(3, 4, sizes or 8)
        if not first:
            q, k = q.transpose(0, 1), k.transpose(0, 1)
        given = {
            None: None,
            "bool": torch.rand(5, 4) < 0.3,
            "float": torch.randn(5, 4),
            "a head": torch.randn(6, 5, 4),
        }[mask]
        padding = torch.rand(3, 4) < 0.3 if padded else None
        for hidden in (given, padding):
            if hidden is not None and hidden.dtype == torch.bool:
                hidden[:, 0] = False
        options = {"attn_mask": given, "key_padding_mask": padding, "need_weights": weights}
        opened = copy.deepcopy(closed)
        open_attention(opened)
        expected, found = closed[0](q, k, k, **options), opened[0](q, k, k, **options)
        assert torch.allclose(found[0], expected[0], atol=1e-6)
        assert found[1] is expected[1] or torch.allclose(found[1], expected[1], atol=1e-6)
        close_attention(opened)
        assert type(opened[0]) is nn.MultiheadAttention
        assert all(map(torch.equal, opened.state_dict().values(), closed.state_dict().values()))


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_that_cannot_be_opened_is_refused_and_left(options: dict[str, bool]) -> None:
    net = Encoder(False)
    net.layers.layers[1].self_attn = nn.MultiheadAttention(12, 2, batch_first=True, **options)
    with pytest.raises(InputError, match="layers.layers.1.self_attn.* has add_bias_kv or add_zero_attn"):
        mask_neurons(net, example_input=torch.zeros(1, 32))
    assert type(net.layers.layers[0].self_attn) is nn.MultiheadAttention
