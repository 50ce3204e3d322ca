"""Networks of torchvision and timm by name, with weights from a file, in configs."""

import builtins
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from dsn import InputError, backbones
from dsn.experiment.config.experiment import Config, load
from dsn.experiment.config.network import architecture, build_backbone, build_model

SHAPE = torch.Size([3, 32, 32])
BASE = {"stream": {"name": "split_digits", "tasks": 2}}


def config_of(backbone: dict, **selection: object) -> Config:
    return Config.model_validate(BASE | {"backbone": backbone, "selection": selection})


def written(tmp_path: Path, **changes: object) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(BASE | changes))
    return file


@pytest.fixture
def squeeze(tmp_path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """A backbone block with a file of weights, whose head is of another size, and the weights."""
    torch.manual_seed(3)
    net, head = backbones.torchvision_model("shufflenet_v2_x0_5", num_classes=7)
    state = {key: value + 0.01 for key, value in net.state_dict().items() if value.is_floating_point()}
    state = net.state_dict() | state
    torch.save(state, tmp_path / "weights.pth")
    save_file(state, tmp_path / "weights.safetensors")
    block = {"name": "torchvision", "model": "shufflenet_v2_x0_5", "pretrained": True}
    return block, {key: value for key, value in state.items() if not key.startswith(head)}


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_weights_come_from_a_file(squeeze, tmp_path, kind) -> None:
    block, state = squeeze
    config = config_of({**block, "weights": str(tmp_path / f"weights.{kind}")})
    net, _ = build_backbone(config.backbone, SHAPE)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
    (tmp_path / f"weights.{kind}").unlink()
    build_backbone(architecture(config).backbone, SHAPE)  # reads no file
    with pytest.raises(InputError, match=r"backbone.weights: .*weights.* cannot be used for 'shufflenet"):
        build_backbone(config.backbone, SHAPE)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda state: state.pop("conv1.0.weight"), "it has no 'conv1.0.weight'"),
        (lambda state: state.update(more=torch.zeros(1)), "it has 'more'"),
        (lambda state: state.update({"conv1.0.weight": torch.zeros(2)}), r"has the shape \[2\]"),
    ],
)
def test_weights_of_another_network_are_refused(squeeze, tmp_path, spoil, message) -> None:
    block, _ = squeeze
    state = torch.load(tmp_path / "weights.pth")
    spoil(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=message):
        build_backbone(config_of({**block, "weights": str(tmp_path / "weights.pth")}).backbone, SHAPE)


def test_a_kept_network_has_fresh_neurons_where_the_config_asks_for_them(squeeze, tmp_path) -> None:
    block, state = squeeze
    config = config_of({**block, "weights": str(tmp_path / "weights.pth")}, fresh=3, sparsity=0.0)
    model = build_model(config, SHAPE)
    assert model.pretrained and set(model.fresh.values()) == {3}
    other = build_model(architecture(config), SHAPE)
    other.load_state_dict(model.state_dict())
    plain = build_model(config_of(block | {"pretrained": False}), SHAPE)
    assert not plain.pretrained


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"selection": {"fresh": 3}}, "selection.fresh: .*backbone.pretrained: true"),
        (
            {"backbone": {"name": "torchvision", "model": "resnet18", "weights": "x.pth"}},
            "backbone.weights: .*backbone.pretrained: true",
        ),
        (
            {
                "backbone": {"name": "timm", "model": "resnet18", "pretrained": True},
                "selection": {"fresh": 3, "edges": "own_and_read", "planned_tasks": 2},
            },
            "selection.edges",
        ),
        (
            {
                "backbone": {"name": "timm", "model": "resnet18", "pretrained": True},
                "selection": {"fresh": 3, "initial": {"he": True}},
            },
            "selection.initial",
        ),
        (
            {
                "backbone": {"name": "vit"},
                "selection": {"attention": "heads", "edges": "own_and_read", "planned_tasks": 2},
            },
            "selection.attention",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, changes, message) -> None:
    with pytest.raises(InputError, match=message):
        load(written(tmp_path, **changes))


def test_without_timm_the_extra_is_named(monkeypatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "timm":
            raise ImportError("no timm", name="timm")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install -e '.\[timm\]'"):
        backbones.timm_model("resnet18")


def test_networks_of_timm(tmp_path, monkeypatch) -> None:
    timm = pytest.importorskip("timm")
    with pytest.raises(
        InputError, match="no model 'vit_tinny_patch16_224'; nearest are .*vit_tiny_patch16_224"
    ):
        backbones.timm_model("vit_tinny_patch16_224")
    options = {"img_size": 32, "patch_size": 8, "depth": 1}
    net = timm.create_model("vit_tiny_patch16_224", num_classes=5, **options)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    block = {"name": "timm", "model": "vit_tiny_patch16_224", "options": options, "pretrained": True}
    config = config_of({**block, "weights": str(tmp_path / "weights.pth")}, fresh=2)
    model = build_model(config, SHAPE)
    assert model.fresh == {"blocks.0.mlp.fc1": 2}
    assert torch.equal(model.layer("blocks.0.attn.qkv").weight, net.blocks[0].attn.qkv.weight)

    def offline(*_args: object, **_kwargs: object) -> None:
        raise OSError("the hub is not reached")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match=r"could not be downloaded \(the hub .*backbone.weights"):
        backbones.timm_model("resnet18", pretrained=True)
