"""A task's subnetwork: the same logits, only the neurons that it needs, nothing shared with the model."""

import gc
import warnings
import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dsn import InputError, MaskedModel, grow, mask_neurons
from dsn.masking.cut.pieces import Select
from dsn.masking.kinds import is_layer
from dsn.masking.records import Lateral
from tests.masking.test_wrapping import Free
from tests.masking.test_zero_forgetting import random_nets
from tests.nets import NETS, learn, make

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


@torch.no_grad()
def assert_same(cut: nn.Module, model: MaskedModel, x: Tensor, task: int, tolerance: float = 1e-5) -> None:
    expected, found = model.eval()(x, task), cut(x)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= tolerance * scale
    chosen = expected.gather(1, found.argmax(1, keepdim=True))[:, 0]
    assert bool((chosen >= expected.max(1).values - tolerance * scale).all())


def masked(net: nn.Module, x: Tensor, tasks: int = 1, share: float = 0.5) -> MaskedModel:
    """``net`` with tasks of random masks, and norms that are not what they began as."""
    model = mask_neurons(net, example_input=torch.zeros(1, *x.shape[1:], dtype=x.dtype))
    for task in range(tasks):
        model.add_task(3, task, budget=share, logit_mean=3.0)
        model.commit(task)
        with torch.no_grad():
            for norm in model.norms():
                for name, value in (*norm.of(task).named_parameters(), *norm.of(task).named_buffers()):
                    if value.is_floating_point():
                        noise = torch.rand_like(value) + 0.5
                        value.copy_(noise if "var" in name else value + noise - 0.8)
    return model.eval()


def layers(net: nn.Module) -> list[nn.Module]:
    return [module for module in net.modules() if is_layer(module)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_every_task_has_its_logits_with_fewer_neurons(net: str, bias: bool) -> None:
    model, x = make(net, bias)
    for task in range(3):
        learn(model, x, task)
    for task in range(3):
        cut = model.subnetwork(task)
        assert_same(cut, model, x, task)
        with torch.no_grad():
            assert torch.equal(cut(x).argmax(1), model(x, task).argmax(1))
        *small, head = layers(cut)
        for (path, mask), layer in zip(model.masks(task).items(), small, strict=True):
            assert layer.weight.shape[0] <= int(mask.sum()) / 0.9
            assert layer.weight.shape[1] <= model.layer(path).weight.shape[1]
        assert head.weight.shape[0] == 3
        assert not any(p.requires_grad for p in cut.parameters())
        assert not any(isinstance(m, nn.BatchNorm2d) for m in cut.modules())


@settings(max_examples=40, deadline=None)
@given(random_nets(), st.floats(0.05, 1.0), st.integers(0, 2**16))
def test_random_architectures(net: tuple[nn.Module, tuple[int, ...]], share: float, seed: int) -> None:
    backbone, shape = net
    torch.manual_seed(seed)
    # in double precision: a layer norm of few neurons close to 0 magnifies the rounding of float32 past 1e-5
    x = torch.randn(12, *shape, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = masked(backbone.double(), x, tasks=2, share=share)
    for task in range(2):
        assert_same(model.subnetwork(task), model, x, task, tolerance=1e-9)


NORMS = {
    "batch": lambda: nn.BatchNorm2d(12),
    "batch, not affine": lambda: nn.BatchNorm2d(12, affine=False),
    "batch, no statistics": lambda: nn.BatchNorm2d(12, track_running_stats=False),
    "group": lambda: nn.GroupNorm(6, 12),
    "group, not affine": lambda: nn.GroupNorm(6, 12, affine=False),
    "one group": lambda: nn.GroupNorm(1, 12),
    "layer": lambda: nn.LayerNorm((12, 6, 6)),
    "none": nn.Identity,
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_norms(norm: str, bias: bool) -> None:
    torch.manual_seed(3)
    x = torch.randn(8, 3, 6, 6)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=bias, padding_mode="reflect"),
        NORMS[norm](),
        nn.GELU(),
        nn.Conv2d(12, 5, 3, stride=2, dilation=2, bias=bias),
        nn.Flatten(),
    )
    model = masked(net, x, tasks=2, share=0.3)
    for task in range(2):
        assert_same(model.subnetwork(task), model, x, task)
    cut = model.subnetwork(0)
    assert any(isinstance(m, nn.BatchNorm2d) for m in cut.modules()) == (norm == "batch, no statistics")
    assert layers(cut)[0].weight.shape[0] == 3
    if norm.startswith("group"):  # groups without a neuron of the task are gone
        groups = model.masks(0)["0"].view(6, 2).any(1).sum()
        assert next(m for m in cut.modules() if isinstance(m, nn.GroupNorm)).num_groups == int(groups) < 6


def test_laterals_come_along() -> None:
    model, x = make("small_cnn")
    for task in range(3):
        learn(model, x, task)
    for source, scale in ((1, 0.5), (2, -1.5), (1, 2.0), (0, 0.7)):
        lateral = Lateral(source, torch.tensor(scale), torch.randn(3, 20), torch.randn(3))
        model.lateral_heads(0).append(lateral)
    cut = model.subnetwork(0)
    assert_same(cut, model, x, 0)
    assert len(cut) == 3  # a network for each task whose features are read
    assert_same(model.subnetwork(1), model, x, 1)
    assert len(layers(model.subnetwork(1))) == len(model.layers) + 1


def pooled(source: int, scale: float, classes: int, size: int) -> Lateral:
    """The lateral of a reader of ``classes`` classes whose opinion is pooled with that of a task of 3."""
    read = torch.randn(classes, size, dtype=torch.float64), torch.randn(classes, dtype=torch.float64)
    return Lateral(source, torch.tensor(scale).double(), *read, torch.rand(classes, 3, dtype=torch.float64))


def plain(source: int, scale: float, size: int) -> Lateral:
    read = torch.randn(3, size, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    return Lateral(source, torch.tensor(scale).double(), *read)


LATERALS = {  # (source, scale, classes of the reader; None: added)
    "pooled": [(1, 1.0, 3)],
    "pooled from more classes": [(2, 0.7, 5)],
    "pooled from fewer classes": [(2, 0.7, 2)],
    "added, pooled": [(1, 0.5, None), (2, 2.0, 5)],
    "pooled, added": [(2, 2.0, 5), (1, 0.5, None)],
    "pooled, added twice": [(2, 2.0, 5), (1, 0.5, None), (0, 1.5, None), (1, 0.5, None)],
    "pooled twice": [(2, 2.0, 5), (1, -0.5, 3)],
    "pooled thrice, added between": [(2, 2, 5), (1, 0.5, 3), (1, 0.3, None), (0, 0.5, 4), (2, 3.0, None)],
    "its own opinion": [(0, 1.3, 3)],
}


@pytest.mark.parametrize("laterals", LATERALS)
@pytest.mark.parametrize("net", ["mlp", "small_cnn"])
def test_every_kind_of_lateral_comes_along(net: str, laterals: str) -> None:
    build, shape = NETS[net]
    x = torch.randn(12, *shape, dtype=torch.float64)
    model = masked(build(True).double(), x, tasks=3)
    size = model.heads["0"].in_features
    for source, scale, classes in LATERALS[laterals]:
        made = plain(source, scale, size) if classes is None else pooled(source, scale, classes, size)
        model.lateral_heads(0).append(made)
    cut = model.subnetwork(0)
    assert_same(cut, model, x, 0, tolerance=1e-9)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for value in cut.state_dict().values():
        value.zero_()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_nothing_of_the_model_is_left_in_it() -> None:
    model, x = make("resnet18")
    learn(model, x, 0)
    learn(model, x, 1)
    cut = model.subnetwork(0)
    with torch.no_grad():
        before = cut(x)
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
        assert torch.equal(cut(x), before)
    alive = weakref.ref(model)
    del model, tensor
    gc.collect()
    assert alive() is None
    assert torch.equal(cut(x), before)


def test_cutting_out_changes_nothing_in_the_model() -> None:
    model, x = make("concatenation")
    learn(model, x, 0)
    learn(model, x, 1)
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.subnetwork(0)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(layer.weight.requires_grad for _, layer in model.layer_modules())


class Standardised(nn.Conv2d):
    """Its forward is its own: it cannot be sliced."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


def shuffle(x: Tensor) -> Tensor:
    return x.view(len(x), 2, 4, *x.shape[2:]).transpose(1, 2).reshape(len(x), 8, *x.shape[2:])


def conv(before: int, after: int = 8) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


AWKWARD = {
    "channel shuffle": lambda: Free(
        lambda s, x: s.b(shuffle(s.a(x).relu())).flatten(1), a=conv(4), b=conv(8)
    ),
    "fixed slice": lambda: Free(
        lambda s, x: s.b(s.a(x).relu()[:, :4]).flatten(1), a=conv(4), b=nn.Conv2d(4, 6, 1)
    ),
    "mean over neurons": lambda: Free(
        lambda s, x: s.b(s.a(x) + s.c(x).mean(1, keepdim=True) * 0 + s.c(x)).flatten(1),
        a=conv(4),
        b=conv(8),
        c=conv(4),
    ),
    "fixed view": lambda: Free(lambda s, x: s.b(s.a(x).view(-1, 8 * 16)), a=conv(4), b=nn.Linear(128, 6)),
    "view after pooling": lambda: Free(
        lambda s, x: s.b(F.max_pool2d(s.a(x), 2).view(len(x), -1)), a=conv(4), b=nn.Linear(32, 6)
    ),
    "sum with the input": lambda: Free(lambda s, x: s.b(x + s.a(x)).flatten(1), a=conv(4, 4), b=conv(4)),
    "sum of unequal widths": lambda: Free(
        lambda s, x: s.c((s.a(x) + s.b(x)).relu()).flatten(1), a=conv(4, 1), b=conv(4), c=conv(8)
    ),
    "sum with a concatenation": lambda: Free(
        lambda s, x: s.d(torch.cat([s.a(x), s.b(x)], 1) + s.c(x)).flatten(1),
        a=conv(4, 3),
        b=conv(4, 5),
        c=conv(4),
        d=conv(8),
    ),
    "product": lambda: Free(
        lambda s, x: s.c(s.a(x) * torch.tanh(s.b(x))).flatten(1), a=conv(4), b=conv(4), c=conv(8)
    ),
    "difference": lambda: Free(
        lambda s, x: s.c((s.a(x) - s.b(x)).relu()).flatten(1), a=conv(4), b=conv(4), c=conv(8)
    ),
    "twice the same layer": lambda: Free(
        lambda s, x: s.b(s.a(s.a(s.c(x)).relu())).flatten(1), a=conv(8), b=conv(8), c=conv(4)
    ),
    "twice the same tensor": lambda: Free(
        lambda s, x: s.b(torch.cat([h := s.a(x).relu(), -h, h], 1)).flatten(1), a=conv(4), b=conv(24)
    ),
    "another order": lambda: Free(lambda s, x: s.b(s.a(x).flip(1)).flatten(1), a=conv(4), b=conv(8)),
    "a layer of its own kind": lambda: Free(
        lambda s, x: s.c(s.n(s.b(s.a(x).relu())).relu()).flatten(1),
        a=conv(4),
        b=Standardised(8, 8, 3),
        c=conv(8),
        n=nn.BatchNorm2d(8),
    ),
    "detached": lambda: Free(lambda s, x: s.b(s.a(x).relu().detach()).flatten(1), a=conv(4), b=conv(8)),
    "norm of the input": lambda: Free(
        lambda s, x: s.b(s.a(s.n(x)).relu()).flatten(1), n=nn.BatchNorm2d(4), a=conv(4), b=conv(8)
    ),
    "tokens": lambda: Free(
        lambda s, x: s.b(s.n(s.a(x.flatten(2).transpose(1, 2))).relu()).mean(1),
        a=nn.Linear(4, 8),
        n=nn.LayerNorm(8),
        b=nn.Linear(8, 6),
    ),
    "batch norm along tokens": lambda: Free(
        lambda s, x: s.b(s.n(s.a(x.flatten(2).transpose(1, 2))).relu()).mean(1),
        a=nn.Linear(4, 16),
        n=nn.BatchNorm1d(16),
        b=nn.Linear(16, 6),
    ),
    "saturating": lambda: Free(
        lambda s, x: s.b(F.hardtanh(s.a(x), -0.1, 0.1)).flatten(1), a=conv(4), b=conv(8)
    ),
    "in place": lambda: Free(lambda s, x: s.b(s.a(x).relu_().mul_(2)).flatten(1), a=conv(4), b=conv(8)),
}


@pytest.mark.parametrize("case", AWKWARD)
def test_awkward_code_between_the_layers(case: str) -> None:
    torch.manual_seed(1)
    x = torch.randn(8, 4, 4, 4)
    model = masked(AWKWARD[case](), x, tasks=2)
    for task in range(2):
        cut = model.subnetwork(task)
        assert_same(cut, model, x, task)
        first = next(layer for layer in layers(cut) if not isinstance(layer, Standardised))
        assert first.weight.shape[0] < 16
    own = sum(p.numel() for p in cut.parameters())
    assert own < sum(layer.weight.numel() for _, layer in model.layer_modules())


def test_neurons_that_reach_nothing_are_removed() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 4, 4, 4)
    net = nn.Sequential(conv(4, 10), nn.ReLU(), conv(10, 10), nn.ReLU(), nn.Flatten())
    model = masked(net, x, share=0.8)
    with torch.no_grad():
        first, second = (mask.nonzero().flatten() for mask in model.masks(0).values())
        model.layer("2").weight[second[:-3], first[1]] = 0.0  # read only by neurons that nothing reads
        model.heads["0"].weight.view(3, 10, 16)[:, second[-3:]] = 0.0
        model.layer("2").weight[:, first[0]] = 0.0
    cut = model.subnetwork(0)
    assert [layer.weight.shape[0] for layer in layers(cut)] == [6, 5, 3]
    assert_same(cut, model, x, 0)


BETWEEN: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(1),
    "an added constant": lambda: Free(lambda _self, x: x + 1),
    "a free norm": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8)),
    "a free norm that mixes": lambda: nn.Sequential(nn.ReLU(), nn.GroupNorm(2, 8)),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_what_is_always_live_widens_no_layer_elsewhere(between: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 6)
    net = nn.Sequential(
        nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 8, 1), BETWEEN[between](), nn.Conv2d(8, 6, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(96, 5),
    )  # fmt: skip
    model = masked(net, x)
    cut = model.subnetwork(0)
    assert_same(cut, model, x, 0)
    given: list[int] = []
    for place in (0, 4):
        cut.backbone[place].register_forward_hook(lambda _module, _x, output: given.append(output.shape[1]))
    cut(x)
    assert given == [int(model.masks(0)[path].sum()) for path in ("0", "4")]


@pytest.mark.parametrize("net", ["resnet18", "concatenation"])
def test_grown_models(net: str) -> None:
    model, x = make(net)
    learn(model, x, 0)
    grow(model, by=4, below=10**6)
    learn(model, x, 1)
    for task in (0, 1):
        assert_same(model.subnetwork(task), model, x, task)
    lateral = Lateral(1, torch.tensor(1.0), torch.randn_like(model.heads["1"].weight), torch.randn(3))
    model.lateral_heads(0).append(lateral)
    assert_same(model.subnetwork(0), model, x, 0)


def test_double_precision_is_kept() -> None:
    model = masked(
        nn.Sequential(conv(4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()).double(),
        x64 := torch.randn(8, 4, 4, 4, dtype=torch.float64),
    )
    assert_same(model.subnetwork(0), model, x64, 0, tolerance=1e-13)


def test_layers_that_lack_few_neurons_select_nothing() -> None:
    x = torch.randn(4, 4, 4, 4)
    net = Free(
        lambda s, x: s.c((s.a(x) + s.b(x)).relu()).flatten(1), a=conv(4, 40), b=conv(4, 40), c=conv(40)
    )
    selections = {}
    for share in (0.5, 0.97):
        model = masked(net, x, share=share)
        cut = model.subnetwork(0)
        assert_same(cut, model, x, 0)
        selections[share] = sum(isinstance(module, Select) for module in cut.modules())
        model.unmask()
    assert selections == {0.5: 2, 0.97: 0}


def test_a_task_without_a_mask_is_refused() -> None:
    model, x = make("mlp")
    learn(model, x, 0)
    model.add_task(3)
    for task in (1, 7):
        with pytest.raises(InputError, match=f"task {task} has no committed mask"):
            model.subnetwork(task)
