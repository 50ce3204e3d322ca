"""Which kind a layer or a norm is of. Everything else in the project asks here, and nowhere by class.

>>> register_layer(MyLinear, LINEAR)          # computes as a Linear does; or a LayerKind of your own
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .conv import CONVOLUTION, is_depthwise
from .kind import LayerKind, NormKind, per_edge, per_neuron
from .linear import LINEAR
from .norm import BATCH_NORM, GROUP_NORM, LAYER_NORM, RMS_NORM

__all__ = [
    "BATCH_NORM",
    "CONVOLUTION",
    "GROUP_NORM",
    "LAYERS",
    "LAYER_NORM",
    "LINEAR",
    "NORMS",
    "RMS_NORM",
    "LayerKind",
    "Maskable",
    "NormKind",
    "computes_plainly",
    "is_depthwise",
    "is_exactly",
    "is_layer",
    "is_norm",
    "layer_kind",
    "norm_kind",
    "per_edge",
    "per_neuron",
    "register_layer",
    "register_norm",
]

Maskable = nn.Linear | nn.Conv1d | nn.Conv2d
"""for annotations: a layer that has a kind"""
LAYERS: dict[type[nn.Module], LayerKind] = {
    nn.Linear: LINEAR,
    nn.Conv1d: CONVOLUTION,
    nn.Conv2d: CONVOLUTION,
}
NORMS: dict[type[nn.Module], NormKind] = {
    _BatchNorm: BATCH_NORM,
    nn.LayerNorm: LAYER_NORM,
    nn.GroupNorm: GROUP_NORM,
    nn.RMSNorm: RMS_NORM,
}


def register_layer(layers: type[nn.Module], kind: LayerKind) -> None:
    """Let layers of a class, and of those that inherit from it, be masked as ``kind`` says."""
    LAYERS[layers] = kind


def register_norm(norms: type[nn.Module], kind: NormKind) -> None:
    """The same for norms."""
    NORMS[norms] = kind


def is_layer(module: nn.Module) -> bool:
    """Whether it has neurons that can be masked."""
    known = _class_in(module, LAYERS)
    return known is not None and LAYERS[known].has_neurons(module)


def is_norm(module: nn.Module) -> bool:
    """Whether it is a norm, which each task has a copy of."""
    return _class_in(module, NORMS) is not None


def layer_kind(layer: nn.Module) -> LayerKind:
    """The kind of a layer. Raises KeyError for a module that has none."""
    known = _class_in(layer, LAYERS)
    if known is None:
        raise KeyError(type(layer).__name__)
    return LAYERS[known]


def norm_kind(norm: nn.Module) -> NormKind:
    """The kind of a norm. Raises KeyError for a module that has none."""
    known = _class_in(norm, NORMS)
    if known is None:
        raise KeyError(type(norm).__name__)
    return NORMS[known]


def is_exactly(layer: nn.Module) -> bool:
    """Whether a layer is of a known class, not of one that inherits and may compute anything."""
    return type(layer) in LAYERS


def computes_plainly(layer: nn.Module) -> bool:
    """Whether neuron j is a sum over row j of the weight as it stands: not so for a forward of its own."""
    known = _class_in(layer, LAYERS)
    return all(
        getattr(type(layer), name, None) is getattr(known, name, None)
        for name in ("forward", "_conv_forward")
    )


def _class_in(module: nn.Module, known: Mapping[type[nn.Module], object]) -> type[nn.Module] | None:
    return next((kind for kind in type(module).__mro__ if kind in known), None)
