"""Random backbones: layers with operations between them that nobody sees through at first sight.

``python -m tests.masking.grammar --nets 2000 --seed 0`` builds that many, wraps them, and counts which are
refused and why, and whether an accepted one ever forgets.
"""

import argparse
import random
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsn import InputError, MaskedModel, ProtectedWeights, mask_neurons
from tests.nets import learn

SIZE, CHANNELS = 6, 2  # of the input map


def _top(h: Tensor, k: int, dim: int) -> Tensor:
    return h * (h >= h.topk(min(k, h.shape[dim]), dim).values.narrow(dim, min(k, h.shape[dim]) - 1, 1))


def _halves(h: Tensor) -> tuple[Tensor, Tensor]:
    half = h.shape[1] // 2 or 1
    return h[:, :half], h[:, -half:]


def _onehot(h: Tensor) -> Tensor:
    return h * F.one_hot(h.argmax(1), h.shape[1]).movedim(-1, 1)


def _attention(h: Tensor) -> Tensor:
    flat = h.flatten(2)
    return ((flat.transpose(1, 2) @ flat).softmax(2) @ flat.transpose(1, 2)).transpose(1, 2).view_as(h)


def _shuffle(h: Tensor) -> Tensor:
    return h if h.shape[1] % 2 else h.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


POINTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu in place": lambda h: F.relu_(h),
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "leaky relu": F.leaky_relu,
    "elu": F.elu,
    "abs": torch.abs,
    "square": torch.square,
    "signed root": lambda h: h.sign() * h.abs().sqrt(),
    "sign": torch.sign,
    "round": torch.round,
    "floor": torch.floor,
    "relu6": F.relu6,
    "clamp above": lambda h: h.clamp(min=0.5) - 0.5,
    "threshold": lambda h: F.threshold(h, 3.0, 0.0),
    "hard shrink": lambda h: F.hardshrink(h, 2.5),
    "soft shrink": lambda h: F.softshrink(h, 2.5),
    "greater": lambda h: (h > 2.5).to(h.dtype),
    "greater times": lambda h: h * (h > 2.5),
    "where": lambda h: torch.where(h.abs() > 2.5, h, torch.zeros_like(h)),
    "sine": torch.sin,
    "log1p": lambda h: h.abs().log1p(),
    "expm1": lambda h: h.clamp(max=5).expm1(),
    "squash": lambda h: h / (1 + h.abs()),
    "sigmoid": torch.sigmoid,
    "cosine": torch.cos,
    "reciprocal": lambda h: 1 / h,
    "softplus": F.softplus,
    "sign bit": lambda h: torch.copysign(torch.zeros_like(h), h).reciprocal().clamp(-1, 0),
    "not a number": lambda h: (h / h).nan_to_num(0.0),
    "dropout": lambda h: F.dropout(h, 0.5, training=False),
}
MIXING: dict[str, Callable[[Tensor], Tensor]] = {  # of vectors or maps, along the neurons or the batch
    "top 2 neurons": lambda h: _top(h, 2, 1),
    "largest alone": _onehot,
    "sorted neurons": lambda h: h.sort(1).values,
    "centred neurons": lambda h: h - h.mean(1, keepdim=True),
    "unit length": lambda h: F.normalize(h, dim=1),
    "divided by the largest": lambda h: h / (1e-3 + h.abs().amax(1, keepdim=True)),
    "softmax of neurons": lambda h: h.softmax(1),
    "gate by softmax": lambda h: h * h.softmax(1),
    "running sum": lambda h: h.cumsum(1),
    "neighbour neurons": lambda h: h - h.roll(1, 1),
    "flipped": lambda h: h.flip(1),
    "shuffled": _shuffle,
    "every other": lambda h: h[:, ::2],
    "first and last": lambda h: h[:, [0, -1]],
    "twice": lambda h: torch.cat([h, -h], 1),
    "crelu": lambda h: torch.cat([F.relu(h), F.relu(-h)], 1),
    "glu": lambda h: _halves(h)[0] * torch.sigmoid(_halves(h)[1]),
    "product of halves": lambda h: _halves(h)[0] * _halves(h)[1],
    "larger half": lambda h: torch.maximum(*_halves(h)),
    "difference of halves": lambda h: _halves(h)[0] - _halves(h)[1],
    "median of neurons": lambda h: h - h.median(1, keepdim=True).values,
    "centred batch": lambda h: h - h.mean(0, keepdim=True),
    "deviation over the batch": lambda h: h / (h.std(0, keepdim=True) + 1e-3),
    "neighbour sample": lambda h: h - h.roll(1, 0),
    "global scale": lambda h: h / (h.abs().max() + 1e-3),
    "if large": lambda h: h if bool(h.abs().max() > 2.5) else h * 0.5,
    "layer norm of neurons": lambda h: F.layer_norm(h.movedim(1, -1), h.shape[1:2]).movedim(-1, 1),
    "detached gate": lambda h: h * h.detach().abs(),
}
OF_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "max pool": lambda h: F.max_pool2d(h, 2, 1),
    "average pool": lambda h: F.avg_pool2d(h, 2, 1, 1),
    "lp pool": lambda h: F.lp_pool2d(h.relu(), 2, 2, 1),
    "adaptive pool": lambda h: F.adaptive_max_pool2d(h, 3),
    "high pass": lambda h: h - F.avg_pool2d(h, 3, 1, 1, count_include_pad=False),
    "neighbour columns": lambda h: h - h.roll(1, 3),
    "second difference": lambda h: h - 2 * h.roll(1, 2) + h.roll(2, 2),
    "centred map": lambda h: h - h.mean((2, 3), keepdim=True),
    "instance norm": F.instance_norm,
    "layer norm of maps": lambda h: F.layer_norm(h, h.shape[2:]),
    "layer norm of all": lambda h: F.layer_norm(h, h.shape[1:]),
    "local response": lambda h: F.local_response_norm(h, 3),
    "top places": lambda h: _top(h.flatten(2), 3, 2).view_as(h),
    "sorted places": lambda h: h.flatten(2).sort(2).values.view_as(h),
    "spatial softmax": lambda h: h * h.flatten(2).softmax(2).view_as(h),
    "squeeze and excite": lambda h: h * torch.sigmoid(h.mean((2, 3), keepdim=True)),
    "attention": _attention,
    "frequencies": lambda h: torch.fft.rfft2(h).abs(),
    "upsampled": lambda h: F.interpolate(h, scale_factor=1.5, mode="bilinear"),
    "padded": lambda h: F.pad(h, (1, 0, 0, 1)),
    "transposed": lambda h: h.transpose(2, 3),
    "cropped": lambda h: h[:, :, 1:, :-1] if min(h.shape[2:]) > 2 else h,
    "unfolded": lambda h: F.unfold(h, 2).unflatten(2, (h.shape[2] - 1, -1)),
    "pixel unshuffle": lambda h: F.pixel_unshuffle(F.interpolate(h, size=4), 2),
}
TO_VECTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda h: h.flatten(1),
    "mean": lambda h: h.mean((2, 3)),
    "deviation": lambda h: h.std((2, 3)),
    "variance and mean": lambda h: torch.cat([h.var((2, 3)), h.mean((2, 3))], 1),
    "range": lambda h: h.amax((2, 3)) - h.amin((2, 3)),
    "norm of maps": lambda h: h.flatten(2).norm(dim=2),
    "median of places": lambda h: h.flatten(2).median(2).values,
    "gram": lambda h: (h.flatten(2) @ h.flatten(2).transpose(1, 2)).flatten(1),
    "quantile": lambda h: h.flatten(2).quantile(0.8, dim=2),
    "places as neurons": lambda h: h.mean(1).flatten(1),
    "best place": lambda h: h.flatten(2).gather(2, h.abs().flatten(2).argmax(2, keepdim=True)).flatten(1),
}
OPERATIONS = {**POINTWISE, **MIXING, **OF_MAPS}
LAYERS = ("layer", "normed", "residual", "two branches", "product", "called twice", "standardised")
STEPS = (*OPERATIONS, *LAYERS)


class Standardised(nn.Linear):
    """A layer whose forward mixes the columns of a row."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return F.linear(x, weight / (weight.std(1, keepdim=True, correction=0) + 1e-3), self.bias)


class Backbone(nn.Module):
    """``maps`` on [batch, C, H, W], then ``pool``, then ``vectors`` on [batch, d]; steps by name.

    Layers are made, as wide as they need be, while a first input passes. Operations of maps are left out
    where there are none.
    """

    def __init__(self, maps: list[str], pool: str, vectors: list[str], width: int) -> None:
        super().__init__()
        self.steps = ["layer", *maps, pool, *vectors, "layer"]
        self.width, self.layers = width, nn.ModuleDict()
        with torch.no_grad():
            self.run(torch.randn(2, CHANNELS, SIZE, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def run(self, h: Tensor) -> Tensor:
        for place, step in enumerate(self.steps):
            if step in TO_VECTORS:
                h = TO_VECTORS[step](h)
            elif step in LAYERS:
                h = self._layers(str(place), step, h)
            elif h.dim() == 4 or step not in OF_MAPS:
                h = OPERATIONS[step](h)
        return h

    def _layer(self, name: str, h: Tensor, n: int, kind: str = "layer") -> Tensor:
        if name not in self.layers:
            d, maps = h.shape[1], h.dim() == 4
            make = Standardised if kind == "standardised" and not maps else nn.Linear
            layer: nn.Module = nn.Conv2d(d, n, 3, padding=1) if maps else make(d, n)
            norm = (nn.BatchNorm2d(n) if maps else nn.LayerNorm(n)) if kind == "normed" else nn.Identity()
            self.layers[name] = nn.Sequential(layer, norm)
        return self.layers[name](h)

    def _layers(self, name: str, step: str, h: Tensor) -> Tensor:
        if step in ("residual", "called twice"):
            once = self._layer(name, h, h.shape[1])
            return h + once if step == "residual" else self._layer(name, F.relu(once), h.shape[1])
        one = self._layer(name, h, self.width, step)
        if step == "two branches":
            return torch.cat([one, F.relu(self._layer(name + "b", h, 3))], 1)
        return one * self._layer(name + "b", h, self.width) if step == "product" else one


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether all values are equal; NaN equals NaN."""
    return torch.equal(one.nan_to_num(0.123), other.nan_to_num(0.123))


def forgets(model: MaskedModel, x: Tensor) -> bool:
    """Whether the first of three tasks changes, by learning or by all that protection allows."""
    before: Tensor | None = None
    for task in range(3):
        learn_or_drop(model, x, task)
        model.eval()
        if task == 0:
            if not model.committed:
                return False
            before = model(x, 0).detach()
    with ProtectedWeights(model), torch.no_grad():
        own = {id(p) for task in model.committed for p in model.own_parameters(task)}
        for parameter in model.backbone.parameters():
            if id(parameter) not in own:
                parameter.add_(torch.randn_like(parameter))
    assert before is not None
    return not same_bits(before, model(x, 0).detach())


def learn_or_drop(model: MaskedModel, x: Tensor, task: int) -> None:
    """Learn the task; one that diverges, or has no gradient in this net, is undone, as a user would."""
    try:
        learn(model, x, task, "adam", steps=3)
    except InputError as error:
        assert "has diverged" in str(error)
        model.drop_task(task)
    except RuntimeError as error:
        assert "inplace operation" in str(error)
        model.drop_task(task)


def wrapped(net: nn.Module) -> MaskedModel | str:
    """The model, or why the backbone is refused."""
    try:
        return mask_neurons(net, example_input=torch.zeros(1, CHANNELS, SIZE, SIZE))
    except InputError as error:
        return str(error)


def random_net(draw: random.Random) -> Backbone:
    """Some steps on maps, a way to vectors, some steps on vectors."""
    while True:
        maps, vectors = ([draw.choice(STEPS) for _ in range(draw.randint(0, 4))] for _ in range(2))
        try:
            return Backbone(maps, draw.choice(list(TO_VECTORS)), vectors, draw.randint(2, 8))
        except (RuntimeError, IndexError, ValueError):
            continue  # a map became too small


def main() -> None:
    """Print how many random nets are accepted, refused (by reason), and forget."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    draw, reasons, broken, start = random.Random(args.seed), Counter(), [], time.process_time()
    for number in range(args.nets):
        torch.manual_seed(args.seed + number)
        net = random_net(draw)
        model = wrapped(net)
        if isinstance(model, str):
            reasons[re.sub(r"'[^']*'|\([^)]*\)|\d+", "_", model)[:100]] += 1
        elif forgets(model, torch.randn(12, CHANNELS, SIZE, SIZE)):
            broken.append(net.steps)
        else:
            reasons["accepted, remembers"] += 1
    for reason, count in reasons.most_common():
        print(f"{count:6}  {reason}")
    print(f"{len(broken):6}  accepted, FORGETS")
    for steps in broken[:20]:
        print("        ", steps)
    print(f"{len(OPERATIONS) + len(TO_VECTORS)} operations, {time.process_time() - start:.0f} s of CPU time")


if __name__ == "__main__":
    main()
