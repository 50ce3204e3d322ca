"""Kinds of layers: asked in one place, and open to a user's own."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dsn import mask_neurons
from dsn.errors import InputError
from dsn.masking import kinds
from dsn.masking.growth import grow
from dsn.masking.kinds import LAYERS, LayerKind, is_layer, layer_kind, register_layer
from tests.nets import learn

ROOT = Path(__file__).parents[2]
CLASSES = {
    "Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d", "BatchNorm1d", "BatchNorm2d", "LayerNorm",
    "GroupNorm", "_BatchNorm", "SyncBatchNorm", "MultiheadAttention", "Embedding",
}  # fmt: skip


class Scaled(nn.Module):
    """A linear map times a gain: no subclass of any of torch's layers."""

    def __init__(self, inputs: int, outputs: int, gain: float = 0.3) -> None:
        super().__init__()
        self.gain = gain
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = None

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * F.linear(x, self.weight)


class ScaledKind(LayerKind):
    def like(self, layer, inputs, outputs, bias):
        return Scaled(inputs, outputs, layer.gain)

    def set_widths(self, layer, inputs, outputs):
        pass  # it has no attributes that say so


@pytest.fixture
def registered():
    register_layer(Scaled, ScaledKind())
    yield
    del LAYERS[Scaled]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), Scaled(12, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), Scaled(12, 8), nn.ReLU()
    )


def test_a_kind_that_nobody_registered_is_refused() -> None:
    with pytest.raises(InputError, match=r"no neurons to mask \(Scaled\), and every task would have a copy"):
        mask_neurons(network(), example_input=torch.zeros(1, 12))


@pytest.mark.parametrize("edges", ["none", "own_and_read"])
def test_a_kind_of_ones_own_forgets_nothing_grows_and_is_cut(registered, edges: str) -> None:
    model = mask_neurons(network(), example_input=torch.zeros(1, 12), edges=edges)
    assert list(model.layers) == ["1", "3", "5"]
    x, before = torch.randn(20, 12), {}
    plan = {"planned_tasks": 3} if edges != "none" else {}
    for task in range(3):
        learn(model, x, task, steps=5, **plan)
        model.eval()
        with torch.no_grad():
            now = {k: model(x, k) for k in model.committed}
        assert all(torch.equal(now[k], before[k]) for k in before)
        before = now
    grow(model, by=4, below=100)
    assert model.layers["1"] == 20
    model.eval()
    for task, logits in before.items():
        with torch.no_grad():
            assert torch.equal(model(x, task), logits)
            assert torch.allclose(model.subnetwork(task)(x), logits, atol=1e-5)


def test_what_inherits_has_its_parents_kind() -> None:
    class Mine(nn.Conv2d):
        pass

    assert layer_kind(Mine(2, 3, 1)) is kinds.CONVOLUTION
    assert not kinds.is_exactly(Mine(2, 3, 1))
    assert not is_layer(nn.ReLU())
    for ask in (kinds.layer_kind, kinds.norm_kind):
        with pytest.raises(KeyError, match="ReLU"):
            ask(nn.ReLU())


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.Conv1d(5, 3, 2), nn.Conv2d(5, 3, (2, 3))])
def test_the_functions_agree_with_the_layer(layer: nn.Module) -> None:
    kind = layer_kind(layer)
    assert (kind.neurons(layer), kind.inputs(layer)) == (3, 5)
    assert kind.fan_in(layer) == layer.weight.numel() // 3
    x = torch.randn(4, 5, *[7] * (layer.weight.dim() - 2))
    y = layer(x)
    assert kind.output_shape(x, 3, y.shape[2:]) == y.shape
    assert y.shape[kind.neuron_dim] == 3
    small = kind.like(layer, 2, 1, bias=False)
    assert type(small) is type(layer)
    assert small.weight.shape[:2] == (1, 2)
    assert small.weight.shape[2:] == layer.weight.shape[2:]
    assert small.bias is None
    outputs, inputs = torch.tensor([True, False, True]), torch.arange(5) < 2
    block = kind.block(layer.weight, outputs, inputs).expand_as(layer.weight)
    assert bool(block[0, 0].all())
    assert int(block.sum()) == 4 * layer.weight[0, 0].numel()


def asked(path: Path) -> list[int]:
    """The lines where ``path`` asks a module's class for a layer or a norm of torch."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_question = isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass")
        of_type = isinstance(node, ast.Compare) and ast.unparse(node.left).startswith("type(")
        names = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        if (is_question or of_type) and names & CLASSES:
            lines.append(node.lineno)
    return lines


def test_nobody_else_asks_for_a_class() -> None:
    files = {path: asked(path) for path in (ROOT / "dsn").glob("**/*.py")}
    found = {path.relative_to(ROOT).as_posix(): lines for path, lines in files.items() if lines}
    # the kinds themselves, attention that is opened, and torchvision's networks before they are masked
    known = {
        "dsn/masking/kinds/conv.py",
        "dsn/masking/kinds/norm.py",
        "dsn/masking/foreign/attention.py",
        "dsn/vision.py",
    }
    assert set(found) == known, found
