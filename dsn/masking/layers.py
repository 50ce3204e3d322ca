"""Which layers of a backbone get a mask, where it is applied, and what is refused.

Everything is read off one recorded evaluation pass: which layer ran, and whose output went straight
into which norm. No tracing, no change of the model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import InputError
from .kinds import Maskable, is_layer, is_norm, layer_kind, norm_kind
from .passes import alone
from .records import in_use


@dataclass
class Site:
    """A layer that gets a mask: its path, the layer, and the norm that follows it (path) if one does."""

    path: str
    layer: Maskable
    norm: str | None = None
    map_sizes: list[torch.Size] = field(default_factory=list)  # of a Conv's output, for each call


@dataclass
class _Recording:
    """What one pass showed. ``outputs`` keeps tensors alive, so that an id stands for one tensor."""

    called: list[str] = field(default_factory=list)
    producer: dict[int, str] = field(default_factory=dict)
    norm_input: dict[str, list[str | None]] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)
    map_sizes: dict[str, list[torch.Size]] = field(default_factory=dict)
    features: torch.Size = torch.Size([])


_EVALUATING: WeakSet[nn.Module] = WeakSet()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's mode is put back at the end.

    Other threads that compute with a masked model wait until then.
    """
    with alone(model), torch.no_grad():
        if model in _EVALUATING and not model.training:  # within such a block: nothing to walk over
            yield
            return
        training = [module for _, module in in_use(model) if module.training]
        if training:
            model.eval()
        _EVALUATING.add(model)
        try:
            yield
        finally:
            _EVALUATING.discard(model)
            for module in training:
                module.training = True


def find_sites(backbone: nn.Module, example_input: Tensor) -> tuple[list[Site], int]:
    """The layers of ``backbone`` that get a mask, in forward order, and d of its features [batch, d].

    Raises InputError, with the layer's path, the reason and the remedy, for what cannot be masked.
    """
    _refuse_modules(backbone)
    recording = _record(backbone, example_input)
    sites = {site.path: site for site in _called(backbone, recording)}
    modules = dict(backbone.named_modules())
    for path, module in modules.items():
        if is_layer(module) and path not in sites:
            raise InputError(
                f"layer '{path}' ({type(module).__name__}) is not reached by the example input: "
                "remove it from the backbone, or name it as the head if it is the classifier (where its "
                "weight is used without calling it, call the layer instead)"
            )
    _place_norms(recording.norm_input, modules, sites)
    if not sites:
        raise InputError("the backbone has no Linear, Conv1d or Conv2d layer without groups to mask")
    return list(sites.values()), features_in(recording.features)


def features_in(shape: torch.Size) -> int:
    """d of features [batch, d]; InputError for another shape."""
    if len(shape) != 2:
        raise InputError(
            f"the backbone returns shape {tuple(shape)}, not features [batch, d]: "
            "flatten or pool at its end, or name its classifier as head="
        )
    return shape[1]


def recorded_sites(network: nn.Module, example_input: Tensor) -> list[Site]:
    """The layers of any network that run on ``example_input``, in forward order, their norms left aside."""
    return _called(network, _record(network, example_input))


def _called(backbone: nn.Module, recording: _Recording) -> list[Site]:
    return [
        Site(path, cast(Maskable, backbone.get_submodule(path)), map_sizes=recording.map_sizes[path])
        for path in recording.called
    ]


def refuse_unstable(backbone: nn.Module, like: Tensor) -> None:
    """Where an evaluation pass draws random numbers or leaves something behind, nothing stays bit-equal.

    ``like``: an input of the size and type that is tried.
    """
    x = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    with evaluating(backbone):
        try:
            first, second = backbone(x), backbone(x)
        except Exception:  # a backbone that only takes some values: the rehearsal says so
            return
    if not torch.equal(first.nan_to_num(0.5), second.nan_to_num(0.5)):
        raise unstable("features")


def unstable(what: str) -> InputError:
    """Two passes over the same input gave different ``what``."""
    return InputError(
        f"two passes over the same input in evaluation mode give different {what}: the backbone draws random "
        "numbers there, or keeps something from one pass to the next; no task can stay bit-identical in it"
    )


def _place_norms(
    inputs: dict[str, list[str | None]], modules: dict[str, nn.Module], sites: dict[str, Site]
) -> None:
    """Say of each layer which norm its mask follows: the one that alone reads it, along its neurons.

    All others stand free: each task has a copy of its own, and what they give is live whatever is masked.
    ``inputs``: for each call of a norm, the layer whose output it was given, if any.
    """
    for path, site in sites.items():
        behind = [norm for norm, producers in inputs.items() if path in producers]
        if len(behind) == 1 and set(inputs[behind[0]]) == {path}:
            kind = layer_kind(site.layer)
            if norm_kind(modules[behind[0]]).lies_along(modules[behind[0]], kind, kind.neurons(site.layer)):
                site.norm = behind[0]


WRAPPERS = {
    nn.DataParallel: "wrap its .module",
    nn.parallel.DistributedDataParallel: "wrap its .module",
    torch.jit.ScriptModule: "wrap the plain module that it was made from",
    torch._dynamo.OptimizedModule: "wrap the plain module; MaskedModel.compile_training compiles it",
}


def _refuse_modules(backbone: nn.Module) -> None:
    seen: dict[int, str] = {}
    memory: list[tuple[int, int, str]] = []
    for path, module in backbone.named_modules(remove_duplicate=True):
        kind = type(module).__name__
        where = f"'{path}'" if path else "the backbone"
        for wrapper, remedy in WRAPPERS.items():
            if isinstance(module, wrapper):
                raise InputError(f"{where} is a {kind}, which hides its layers: {remedy}")
        if parametrize.is_parametrized(module) or is_layer(module):
            _refuse_recomputed(path, module)
        for name, parameter in module.named_parameters(recurse=False):
            _refuse_parameter(f"{path}.{name}" if path else name, name, path, module, parameter, seen, memory)
        if is_layer(module):
            layer_kind(module).refuse(path, module)
    _refuse_shared_memory(memory)


def _refuse_recomputed(path: str, layer: nn.Module) -> None:
    """A weight that a hook or a parametrization computes anew before every pass cannot be protected."""
    kind = type(layer).__name__
    if parametrize.is_parametrized(layer):
        names = ", ".join(f"'{name}'" for name in layer.parametrizations)  # type: ignore[union-attr]
        raise InputError(
            f"{names} of layer '{path}' ({kind}) is parametrized, computed anew in every pass: bake it in "
            f"with torch.nn.utils.parametrize.remove_parametrizations(layer, ...) before wrapping"
        )
    for name in ("weight", "bias"):
        if name in layer._parameters or (name == "bias" and layer.bias is None):
            continue
        raise InputError(
            f"{name} of layer '{path}' ({kind}) is no parameter, but computed anew before every pass "
            "(weight_norm, spectral_norm or prune): bake it in with torch.nn.utils.remove_weight_norm, "
            "remove_spectral_norm or prune.remove before wrapping"
        )


def _refuse_parameter(
    where: str,
    name: str,
    path: str,
    module: nn.Module,
    parameter: nn.Parameter,
    seen: dict[int, str],
    memory: list[tuple[int, int, str]],
) -> None:
    kind = type(module).__name__
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise InputError(f"layer '{path}' ({kind}) is lazy: run the model once before wrapping it")
    if is_layer(module) and name not in ("weight", "bias"):
        raise InputError(
            f"parameter '{where}' of a {kind} is neither its weight nor its bias: masks do not know which "
            "neurons it belongs to; merge it into the weight, or use a plain layer"
        )
    if id(parameter) in seen:
        raise InputError(
            f"parameters '{seen[id(parameter)]}' and '{where}' are one and the same tensor: "
            "give each layer its own, since each protects its own neurons"
        )
    if not parameter.is_floating_point():
        raise InputError(f"parameter '{where}' is {parameter.dtype}: masks need floating-point weights")
    if parameter.is_meta:
        raise InputError(f"parameter '{where}' is on the meta device and has no values: load it first")
    seen[id(parameter)] = where
    if parameter.layout == torch.strided and parameter.numel():
        start = parameter.data_ptr()
        span = sum((n - 1) * step for n, step in zip(parameter.shape, parameter.stride(), strict=True)) + 1
        memory.append((start, start + span * parameter.element_size(), where))


def _refuse_shared_memory(memory: list[tuple[int, int, str]]) -> None:
    """Parameters that are views of each other change together."""
    memory = sorted(memory)
    for (_, end, one), (start, _, other) in zip(memory, memory[1:], strict=False):
        if start < end:
            raise InputError(
                f"parameters '{one}' and '{other}' share memory: give each layer its own, since each "
                "protects its own neurons"
            )


def _record(backbone: nn.Module, example_input: Tensor) -> _Recording:
    recording = _Recording()
    handles = []

    def layer_hook(path: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            if path not in recording.called:
                recording.called.append(path)
            recording.outputs.append(output)
            recording.producer[id(output)] = path
            recording.map_sizes.setdefault(path, []).append(output.shape[2:])

        return hook

    def norm_hook(path: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
            recording.norm_input.setdefault(path, []).append(recording.producer.get(id(args[0])))

        return hook

    for path, module in backbone.named_modules():
        if is_layer(module):
            handles.append(module.register_forward_hook(layer_hook(path)))
        elif is_norm(module):
            handles.append(module.register_forward_hook(norm_hook(path)))
    try:
        with evaluating(backbone):
            features = backbone(example_input)
    except Exception as error:
        raise InputError(
            f"the backbone does not run on the example input of shape {tuple(example_input.shape)}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(features, Tensor) or not features.is_floating_point():
        what = f"a {type(features).__name__}" if not isinstance(features, Tensor) else str(features.dtype)
        raise InputError(
            f"the backbone returns {what}, not features [batch, d]: let its forward return one "
            "floating-point tensor"
        )
    recording.features = features.shape
    return recording
