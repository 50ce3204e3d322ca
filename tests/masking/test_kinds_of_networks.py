"""Small networks of many kinds: what is made of a task computes the same, and nothing is forgotten."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import ConvNeXt, DenseNet, EfficientNet
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig

from benchmarks.census.outputs import Encoder
from dsn import MaskedModel, backbones, mask_neurons
from dsn.experiment.result.subnetwork_files import reader, save_onnx, save_torchscript
from dsn.masking.state.fingerprint import Fingerprints
from dsn.replay import record_statistics, synthesise
from tests.nets import learn, logits, same

SHAPE = torch.Size([3, 16, 16])
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


def headless(build: Callable[[], nn.Module]) -> nn.Module:
    net = build()
    if isinstance(net.classifier, nn.Sequential):
        net.classifier[-1] = nn.Identity()
    else:
        net.classifier = nn.Identity()
    return net


def efficientnet() -> nn.Module:
    blocks = [MBConvConfig(1, 3, 1, 8, 8, 1, 1, 1), MBConvConfig(2, 3, 2, 8, 12, 1, 1, 1)]
    return EfficientNet(blocks, dropout=0.1, last_channel=16)


def numbers(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


NETS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: backbones.vit(3, 16, dim=12, depth=1, heads=2),
    "mobilenet": lambda: backbones.mobilenet(3, 16, width=0.25, features=16),
    "convnext": lambda: headless(lambda: ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)])),
    "densenet": lambda: headless(lambda: DenseNet(8, (2, 2), 16, bn_size=2)),
    "efficientnet": lambda: headless(efficientnet),
    "encoder": lambda: Encoder(48, 12, 2, 16, 1),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", NETS)
def test_all_that_is_made_of_a_task_computes_the_same(net: str, tmp_path: Path) -> None:
    def make() -> MaskedModel:
        torch.manual_seed(0)
        return mask_neurons(NETS[net](), example_input=torch.zeros(1, *SHAPE))

    model = make()
    x = torch.randn(6, *SHAPE)
    learn(model, x, 0, "adamw")
    record_statistics(model, 0, [x])
    before, shown = logits(model, x), Fingerprints(model).of(0)
    learn(model, x, 1, "sgd")
    assert same(before, logits(model, x))
    assert Fingerprints(model).of(0) == shown

    other = make()
    other.load_state_dict(model.state_dict())
    assert same(logits(model, x), logits(other, x))
    third = make()
    model.save_task(0, tmp_path / "task")
    third.load_task(tmp_path / "task")
    assert torch.equal(third.eval()(x, 0), before[0])

    cut = model.subnetwork(0)
    assert numbers(cut) < numbers(model.backbone)
    kinds = {"torchscript": save_torchscript} | ({"onnx": save_onnx} if HAS_ONNX else {})
    for kind, save in kinds.items():
        save(cut, tmp_path / kind, SHAPE)
        given = reader(tmp_path / kind, kind)(x)
        assert torch.allclose(given, before[0], atol=1e-4)

    impressions = synthesise(model, 0, 6, steps=2)
    assert impressions.x.shape == (6, *SHAPE) and bool(impressions.x.isfinite().all())
    assert same(before, logits(model, x))
