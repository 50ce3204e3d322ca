"""All that can be made of a task, on published networks: does each of it compute what the task computes?

``python -m benchmarks.census.outputs [--only TEXT]`` learns one task, goes on with a second one that is
stopped amid its steps and resumed from its state in another network, and prints a Markdown table. It needs
the packages of ``export``; timm's network is left out where timm is missing.
"""

import argparse
import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dsn import MaskedModel, ProtectedWeights, backbones, mask_neurons
from dsn.experiment.result.subnetwork_files import reader, save_onnx
from dsn.masking.state.fingerprint import Fingerprints
from dsn.replay import record_statistics, synthesise

BATCH, CLOSE = 4, 1e-3
Build = Callable[[], tuple[nn.Module, str | None]]


class Encoder(nn.Module):
    """Rows of an image, through ``nn.TransformerEncoder``: x [batch, 3, 32, 32] -> [batch, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(96, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.embed(x.transpose(1, 2).flatten(2))).mean(1)


def networks() -> Iterator[tuple[str, int, Build]]:
    """(name, pixels a side, builder of the network and the path of its head)."""
    try:
        import timm

        yield (
            "timm vit_small_patch16_224",
            224,
            lambda: (timm.create_model("vit_small_patch16_224", num_classes=0), None),
        )
    except ImportError:
        pass
    for name, size in (
        ("vit_b_16", 224),
        ("convnext_tiny", 64),
        ("mobilenet_v2", 64),
        ("efficientnet_b0", 64),
        ("densenet121", 64),
    ):
        yield f"torchvision {name}", size, partial(backbones.torchvision_model, name)
    yield "nn.TransformerEncoder", 32, lambda: (Encoder(), None)


class Learner:
    """One task's training, a step at a time; ``state`` is what a checkpoint holds of it."""

    def __init__(self, model: MaskedModel, task: int) -> None:
        self.model, self.task = model, task
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        self.protected = ProtectedWeights(model)

    def step(self, x: Tensor, y: Tensor, progress: float) -> None:
        self.model.train()
        self.model.anneal(progress)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x, self.task), y).backward()
        with self.protected:
            self.optimizer.step()

    def state(self) -> tuple[dict, dict, Tensor]:
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict(), torch.get_rng_state()))


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
