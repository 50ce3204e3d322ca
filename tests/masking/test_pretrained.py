"""A pretrained backbone is a task before the first: shared, never changed; fresh neurons learn beside it."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsn import InputError, MaskedModel, backbones, grow, mask_neurons
from dsn.masking.initial import start_task
from dsn.masking.map import FEATURES
from dsn.masking.protection import ProtectedWeights
from dsn.masking.reach import map_of
from dsn.masking.state.fingerprint import Fingerprints
from tests.masking.test_wrapping import Free
from tests.nets import OPTIMIZERS, learn, logits, same

FRESH = 4


def excited() -> nn.Module:
    """An inverted residual with a channel gate, whose last layer grows with the one that it gates."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        h = F.silu(s.depth_norm(s.depth(F.silu(s.norm(s.expand(s.stem(x)))))))
        h = h * torch.sigmoid(s.open(F.silu(s.squeeze(h.mean((2, 3), keepdim=True)))))
        return (s.stem(x) + s.project(h)).mean((2, 3))

    return Free(
        forward,
        stem=nn.Conv2d(3, 12, 3, padding=1),
        expand=nn.Conv2d(12, 24, 1),
        norm=nn.BatchNorm2d(24),
        depth=nn.Conv2d(24, 24, 3, padding=1, groups=24),
        depth_norm=nn.BatchNorm2d(24),
        squeeze=nn.Conv2d(24, 6, 1),
        open=nn.Conv2d(6, 24, 1),
        project=nn.Conv2d(24, 12, 1),
    )


NETS = {
    "mlp": lambda: backbones.mlp(192, (20, 15)),
    "small_cnn": lambda: backbones.small_cnn(3, 8, width=4, features=12),
    "resnet18": lambda: backbones.resnet18(3, 8, 4),
    "vit": lambda: backbones.vit(3, 8, dim=8, depth=2, heads=2),
    "mobilenet": lambda: backbones.mobilenet(3, 8, width=0.25, features=24),
    "excited": excited,
}
GROWN = {
    "mlp": ["1", "3"],
    "small_cnn": ["0", "5", "10", "16"],
    "resnet18": [f"blocks.{block}.conv1" for block in range(8)],
    "vit": [f"encoder.layers.encoder_layer_{block}.mlp.0" for block in range(2)],
    "excited": ["stem", "expand", "squeeze", "open", "project"],
}
pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


def pretrained(net: str, fresh: int = FRESH) -> tuple[MaskedModel, nn.Module, Tensor]:
    """The model, the plain backbone, with norms that have seen something, and inputs."""
    torch.manual_seed(0)
    backbone, x = NETS[net](), torch.randn(12, 3, 8, 8)
    with torch.no_grad():
        backbone.train()(x)
    plain = copy.deepcopy(backbone).eval()
    example = torch.zeros(1, 3, 8, 8)
    return mask_neurons(backbone, example_input=example, pretrained=True, fresh=fresh), plain, x


def plain_widths(model: MaskedModel) -> dict[str, int]:
    return {path: n - model.fresh.get(path, 0) for path, n in model.layers.items()}


@pytest.mark.parametrize("net", NETS)
def test_it_begins_with_the_pretrained_function(net: str) -> None:
    model, plain, x = pretrained(net)
    if net in GROWN:
        assert list(model.fresh) == GROWN[net]
    assert set(model.fresh.values()) == {FRESH}
    expected = plain(x)
    model.eval()
    apart = net not in ("mobilenet", "excited")  # there, what is used and what is free is summed
    for task, soft in ((0, True), (1, False)) if apart else ((0, True),):
        model.add_task(3, task)
        model.anneal(0.0)
        model.training = soft  # norms in evaluation mode
        for path, gate in model.gates_by_path.items():  # a later task may reuse what is used
            gate.logits.data.copy_(1.0 - 2.0 * model.used()[path].float())
        with torch.no_grad():
            given = model.features(x, task)
        known = map_of(model).known_before(plain_widths(model))[FEATURES]
        assert torch.allclose(given[:, known], expected, atol=1e-4)
        if task == 0:
            model.drop_task(0)
            learn(model, x, 0)
            model.eval()


@pytest.mark.parametrize(
    "net, optimizer",
    [
        *itertools.product(("mlp", "vit", "excited"), OPTIMIZERS),
        ("small_cnn", "adam"),
        ("mobilenet", "sgd"),
        ("resnet18", "adamw"),
    ],
)
def test_it_never_changes_and_nothing_is_forgotten(net: str, optimizer: str) -> None:
    model, _, x = pretrained(net)
    before = {path: layer.weight.detach().clone() for path, layer in model.layer_modules()}
    learn(model, x, 0, optimizer)
    shown, first = Fingerprints(model).of(0), logits(model, x)
    for task in (1, 2):
        learn(model, x, task, optimizer, planned_tasks=3)
    assert same(first, logits(model, x))
    assert Fingerprints(model).of(0) == shown
    for path, layer in model.layer_modules():
        n = layer.weight.shape[0] - model.fresh.get(path, 0)
        was = before[path][:n]
        assert torch.equal(layer.weight[:n][was != 0], was[was != 0])  # 0: what is read of fresh neurons
        assert all(bool(model.masks(task)[path][:n].all()) for task in model.committed)
    assert sum(int((layer.weight != before[path]).sum()) for path, layer in model.layer_modules())


@pytest.mark.parametrize("net", ["mlp", "vit", "excited"])
def test_state_files_and_subnetworks_compute_the_same(net: str, tmp_path) -> None:
    model, _, x = pretrained(net)
    learn(model, x, 0)
    learn(model, x, 1)
    before = logits(model, x)
    other, _, _ = pretrained(net)
    other.load_state_dict(model.state_dict())
    assert same(before, logits(other, x))
    third, _, _ = pretrained(net)
    for task in (0, 1):
        model.save_task(task, tmp_path / f"{task}")
        third.load_task(tmp_path / f"{task}")
    assert same(before, logits(third, x))
    cut = model.subnetwork(0)
    assert torch.allclose(cut(x), before[0], atol=1e-4)
    learn(other, x, 2)
    assert same(before, logits(other, x))


def test_tasks_share_the_fresh_neurons_alone() -> None:
    model, _, x = pretrained("mlp", fresh=6)
    for task in range(3):
        learn(model, x, task, planned_tasks=3)
        used = {
            path: int(used.sum()) - (20, 15)[place] for place, (path, used) in enumerate(model.used().items())
        }
        assert all(count <= 2 * (task + 1) for count in used.values())
    model.add_task(3, 3, budget=0.5)
    assert all(int(gate.selection().sum()) <= gate.kept_neurons + 3 for gate in model.gates_by_path.values())


def test_without_fresh_neurons_tasks_share_it_as_it_is() -> None:
    model, plain, x = pretrained("small_cnn", fresh=0)
    learn(model, x, 0, "adamw")
    assert model.pretrained and not model.fresh
    assert all(
        torch.equal(layer.weight, plain.get_submodule(path).weight) for path, layer in model.layer_modules()
    )


def test_growth_adds_to_layers_that_have_fresh_neurons() -> None:
    model, _, x = pretrained("excited", fresh=2)
    learn(model, x, 0)
    before = logits(model, x)
    grown = grow(model, by=2, below=100)
    assert set(grown) == set(GROWN["excited"])
    assert same(before, logits(model, x))
    learn(model, x, 1)
    assert same(before, logits(model, x))
    other, _, _ = pretrained("excited", fresh=2)
    other.load_state_dict(model.state_dict())
    assert same(before, logits(other, x))


def test_other_pretrained_weights_and_widths_are_refused() -> None:
    model, _, x = pretrained("mlp")
    learn(model, x, 0)
    plain = mask_neurons(NETS["mlp"](), example_input=torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="kept"):
        plain.load_state_dict(model.state_dict())
    net = backbones.mlp(192, (21, 15))
    other = mask_neurons(net, example_input=torch.zeros(1, 3, 8, 8), pretrained=True, fresh=FRESH - 1)
    with pytest.raises(InputError):
        other.load_state_dict(model.state_dict())


def test_a_task_of_another_pretrained_backbone_is_refused(tmp_path) -> None:
    model, _, x = pretrained("mlp")
    learn(model, x, 0)
    model.save_task(0, tmp_path / "task")
    torch.manual_seed(1)
    other = mask_neurons(NETS["mlp"](), example_input=torch.zeros(1, 3, 8, 8), pretrained=True, fresh=FRESH)
    with pytest.raises(InputError, match="the pretrained backbone and tasks .* need it as it is"):
        other.load_task(tmp_path / "task")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fresh": 3}, "beside a pretrained backbone alone"),
        ({"pretrained": True, "fresh": -1}, "0 or more"),
        ({"pretrained": True, "fresh": 3, "edges": "own_and_read"}, "leave edges out"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mask_neurons(backbones.mlp(4, (6,)), example_input=torch.zeros(1, 4), **options)


def test_a_network_without_a_layer_that_can_grow_is_refused() -> None:
    net = Free(lambda s, x: s.a(x) + s.b(x) + s.c(x), a=nn.Linear(4, 6), b=nn.Linear(4, 6), c=nn.Linear(4, 6))
    with pytest.raises(InputError, match="no layer can be given fresh neurons"):
        mask_neurons(net, example_input=torch.zeros(1, 4), pretrained=True, fresh=2)


def test_a_start_of_ones_own_is_refused() -> None:
    model, _, _ = pretrained("mlp")
    model.add_task(3)
    with pytest.raises(InputError, match="another network than the pretrained one"):
        start_task(model, ProtectedWeights(model), choice="widths")
