"""Random changes of training images, drawn anew for each sample and batch, on the device.

Any transforms of torchvision.transforms.v2, by name. They see pixels in [0, 1]; each sample has draws of its
own, of torch's random state on the CPU, so that a run that is resumed draws the same.
Shapes: x [batch, C, H, W].
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from .errors import InputError

Transforms = str | Sequence[str | Mapping[str, Any]]
"""a name of ``PRESETS``, or a list of names and of {name: {argument: value}}"""

PRESETS: dict[str, Callable[[int, int], list[Any]]] = {
    "crop_flip": lambda h, w: [v2.RandomCrop((h, w), padding=max(h, w) // 8), v2.RandomHorizontalFlip()],
    "trivial": lambda _h, _w: [v2.TrivialAugmentWide()],
}
"""By name, for images [H, W]. crop_flip: a shift by up to an eighth, and a mirror image half of the time (He
et al. 2016); trivial: one random operation of random strength (Mueller and Hutter 2021)."""


class Augment:
    """Called with a batch of training samples, it gives changed ones of the same shape.

    Args:
        transforms: see ``Transforms``.
        pixel_range: lowest and highest value of a pixel, [C] each; by default 0 and 1.

    Raises InputError for unknown names, with the nearest, and for arguments that a transform refuses.
    """

    def __init__(self, transforms: Transforms, pixel_range: tuple[Tensor, Tensor] | None = None) -> None:
        self.transforms = transforms
        self._range = pixel_range
        self._made = None if isinstance(transforms, str) else [_make(one) for one in transforms]
        if isinstance(transforms, str) and transforms not in PRESETS:
            raise InputError(
                f"unknown {transforms!r}: choose one of none, {', '.join(PRESETS)}, or give a list"
            )

    def __str__(self) -> str:
        return str(self.transforms)

    def __call__(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise InputError(
                f"train.augment changes images, but samples have the shape {list(x.shape[1:])}: set "
                "stream.flatten to false where the stream has it, with a backbone for images, or "
                "train.augment to none"
            )
        low, high = self._limits(x)
        change = v2.Compose(self._made or PRESETS[str(self.transforms)](*x.shape[2:]))
        pixels = ((x - low) / (high - low)).clamp(0, 1)
        try:
            changed = [change(one) for one in pixels]
        except Exception as error:  # what a transform does not take shows when it is called
            raise InputError(f"train.augment: {self} fails on images {list(x.shape[1:])}: {error}") from error
        wrong = next(
            (one for one in changed if not isinstance(one, Tensor) or one.shape != x.shape[1:]), None
        )
        if wrong is not None:
            found = list(wrong.shape) if isinstance(wrong, Tensor) else type(wrong).__name__
            raise InputError(
                f"train.augment: {self} makes {found} of images {list(x.shape[1:])}: their size must stay"
            )
        return (low + torch.stack(changed).to(x.dtype) * (high - low)).contiguous()

    def _limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._range is None:
            return x.new_zeros(1), x.new_ones(1)
        if self._range[0].device != x.device:  # once
            self._range = self._range[0].to(x.device), self._range[1].to(x.device)
        return self._range[0].view(-1, 1, 1), self._range[1].view(-1, 1, 1)


def _make(one: str | Mapping[str, Any]) -> Any:
    arguments: Any = {}
    if isinstance(one, str):
        name = one
    elif isinstance(one, Mapping) and len(one) == 1:
        [(name, arguments)] = one.items()
        arguments = {} if arguments is None else arguments
    else:
        raise InputError(f"{one!r} is no transform: write its name, or {{name: {{argument: value}}}}")
    known = {n: c for n, c in vars(v2).items() if inspect.isclass(c) and issubclass(c, v2.Transform)}
    if name not in known or name in ("Transform", "Compose"):
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        said = f", nearest is '{near[0]}'" if near else ""
        raise InputError(f"unknown {name!r}: torchvision.transforms.v2 has no such transform{said}")
    if not isinstance(arguments, Mapping):
        raise InputError(
            f"{name}: {arguments!r} is no block of arguments: write {{{name}: {{argument: value}}}}"
        )
    try:
        return known[name](**arguments)
    except Exception as error:  # each has its own way to refuse
        takes = ", ".join(inspect.signature(known[name]).parameters)
        raise InputError(f"{name}: {error}; it takes {takes}") from error
