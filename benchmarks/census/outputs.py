"""All that can be made of a task, on published networks: does each of it compute what the task computes?

``python -m benchmarks.census.outputs [--only TEXT]`` learns one task, goes on with a second one that is
stopped amid its steps and resumed from its state in another network, and prints a Markdown table. It needs
the packages of ``export``; timm's network is left out where timm is missing.
"""

import argparse
import importlib.util
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dsn import MaskedModel, backbones, mask_neurons
from dsn.experiment.result.subnetwork_files import reader, save_onnx
from dsn.masking.state.fingerprint import Fingerprints
from dsn.replay import record_statistics, synthesise

from .learning import Build, Learner, timm_features

BATCH, CLOSE = 4, 1e-3


class Encoder(nn.Module):
    """An image's rows, ``row`` numbers each, through ``nn.TransformerEncoder``: [b, C, H, W] -> [b, dim]."""

    def __init__(self, row: int, dim: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(row, dim)
        layer = nn.TransformerEncoderLayer(dim, heads, hidden, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.embed(x.transpose(1, 2).flatten(2))).mean(1)


def networks() -> Iterator[tuple[str, int, Build]]:
    """(name, pixels a side, builder of the network and the path of its head)."""
    if importlib.util.find_spec("timm"):
        yield "timm vit_small_patch16_224", 224, partial(timm_features, "vit_small_patch16_224")
    for name, size in (
        ("vit_b_16", 224),
        ("convnext_tiny", 64),
        ("mobilenet_v2", 64),
        ("efficientnet_b0", 64),
        ("densenet121", 64),
    ):
        yield f"torchvision {name}", size, partial(backbones.torchvision_model, name)
    yield "nn.TransformerEncoder", 32, lambda: (Encoder(96, 128, 4, 256, 2), None)


def answers(model: MaskedModel, x: Tensor, task: int = 0) -> Tensor:
    """Logits [batch, classes] in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return model(x, task)


def row(build: Build, size: int, folder: Path) -> list[str]:
    """The cells of one network; "yes" where bits are the same; errors by the largest logit."""

    def make() -> MaskedModel:
        torch.manual_seed(0)
        net, head = build()
        return mask_neurons(net, head=head, example_input=torch.zeros(1, 3, size, size))

    def said(holds: bool) -> str:
        return "yes" if holds else "**no**"

    def error(given: Tensor) -> float:
        return float((given - before).abs().max() / before.abs().max())

    model = make()
    x, y = torch.randn(BATCH, 3, size, size), torch.arange(BATCH) % 2
    model.add_task(2)
    Learner(model, 0).step(x, y, 0.0)
    model.commit(0)
    record_statistics(model, 0, [x])
    before, shown = answers(model, x), Fingerprints(model).of(0)

    model.add_task(2)
    straight = Learner(model, 1)
    straight.step(x, y, 0.0)
    weights, moments, random = straight.state()
    straight.step(x, y, 1.0)
    model.commit(1)
    other = make()
    other.load_state_dict(weights)
    resumed = Learner(other, 1)
    resumed.optimizer.load_state_dict(moments)
    torch.set_rng_state(random)
    resumed.step(x, y, 1.0)
    other.commit(1)
    same = all(torch.equal(answers(model, x, task), answers(other, x, task)) for task in (0, 1))
    kept = torch.equal(before, answers(model, x)) and Fingerprints(model).of(0) == shown

    model.save_task(0, folder / "task")
    other = make()
    other.load_task(folder / "task")
    file = torch.equal(before, answers(other, x))
    del other, resumed, straight

    cut = model.subnetwork(0).eval()
    whole = sum(p.numel() for p in model.backbone.parameters())
    share = sum(p.numel() for p in cut.parameters()) / whole
    with torch.no_grad():
        moved = error(cut(x))
    save_onnx(cut, folder / "onnx", torch.Size([3, size, size]))
    onnx = error(reader(folder / "onnx", "onnx")(x))
    made = synthesise(model, 0, BATCH, steps=2)
    again = torch.equal(before, answers(model, x))
    return [
        said(same),
        said(kept),
        said(file),
        f"{share:.0%}, {moved:.0e}",
        f"{onnx:.0e}" if onnx < CLOSE else f"**{onnx:.0e}**",
        said(made.x.shape == x.shape and bool(made.x.isfinite().all()) and again),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="networks whose name has this text")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    heads = ("image", "resumed", "certificate", "task file", "subnetwork: numbers, error", "ONNX, error")
    print(f"| network | {' | '.join(heads)} | impressions |")
    print("|---|---:|---|---|---|---:|---:|---|", flush=True)
    for name, size, build in networks():
        if args.only in name:
            with tempfile.TemporaryDirectory() as folder:
                print(f"| {' | '.join([name, str(size), *row(build, size, Path(folder))])} |", flush=True)


if __name__ == "__main__":
    main()
