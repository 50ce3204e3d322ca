"""A subnetwork as a file: safetensors (weights, and what rebuilds them, no code), TorchScript or ONNX.

TorchScript and ONNX carry the computation and need nothing of dsn to run. A safetensors file holds the
weights and, in its metadata, the run's config and what stands at each layer's place;
:func:`load_subnetwork` builds the backbone of the config and puts that in.
"""

import inspect
import io
import json
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from dsn.errors import InputError
from dsn.masking.cut.pieces import Masked, Pools, Select, Sum
from dsn.masking.kinds import LAYERS, is_depthwise, is_layer, is_norm

from ..config.experiment import Config
from ..config.network import architecture, build_backbone

PIECES = {
    kind.__name__: kind
    for kind in (
        *LAYERS,
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.SyncBatchNorm,
        nn.GroupNorm,
        nn.LayerNorm,
        nn.Identity,
    )
}
Compute = Callable[[Tensor], Tensor]


def save_safetensors(net: nn.Module, path: Path, config: Config, shape: torch.Size) -> None:
    """Write a subnetwork of a model that ``config`` built for samples of ``shape``."""
    parts = cast(nn.Module, net.parts) if hasattr(net, "pools") else net
    branches = list(parts) if isinstance(parts, Sum) else [parts]
    places, head = _places(config, shape)
    described = [
        {place: _describe(branch.get_submodule(place)) for place in [*places, "head"]} for branch in branches
    ]
    about = {"config": config.model_dump(mode="json"), "input_shape": list(shape), "branches": described}
    if hasattr(net, "pools"):
        pools = cast(Pools, net.pools)
        about["pools"] = [
            {"shape": list(mixture.shape), "added": added}
            for mixture, added in zip(pools.mixtures(), pools.added, strict=True)
        ]
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    path.write_bytes(serialize(state, metadata={"subnetwork": json.dumps(about)}))


def load_subnetwork(path: Path | str) -> nn.Module:
    """The subnetwork in a safetensors file that ``run.py subnetwork`` wrote: x [batch, ...] -> logits.

    Raises InputError for a missing or foreign file.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; give one that run.py subnetwork wrote")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["subnetwork"])
            # copies: a tensor of the file changes with it
            state = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118  (not a dict)
        config = Config.model_validate_json(json.dumps(about["config"]))
        shape = torch.Size(about["input_shape"])
        with torch.device("meta"):  # sizes that the file claims take no memory: its tensors are put in
            branches = [_rebuild(config, shape, described) for described in about["branches"]]
            net = branches[0] if len(branches) == 1 else Sum(branches)
            if "pools" in about:
                net = nn.Sequential(OrderedDict(parts=net, pools=_pools(about["pools"])))
        net.load_state_dict(state, assign=True)
        _refuse_foreign_indices(net)
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{path}: was not written by run.py subnetwork --format safetensors "
            f"({str(error).splitlines()[0] if str(error) else error!r}); write it again"
        ) from error
    return net.eval().requires_grad_(False)


def _places(config: Config, shape: torch.Size) -> tuple[list[str], str | None]:
    """Paths, within a subnetwork, of the modules of the backbone that others stand in for."""
    backbone, head = build_backbone(architecture(config).backbone, shape)
    replaced = (is_layer, is_norm, is_depthwise)
    masked = [
        f"backbone.{path}"
        for path, module in backbone.named_modules()
        if path != head and any(kind(module) for kind in replaced)
    ]
    return masked, head


def _rebuild(config: Config, shape: torch.Size, described: dict[str, Any]) -> nn.Module:
    backbone, head = build_backbone(architecture(config).backbone, shape)
    if head is not None:
        backbone.set_submodule(head, nn.Identity())
    net = nn.Sequential(OrderedDict(backbone=backbone, head=nn.Identity()))
    for place, description in described.items():
        net.set_submodule(place, _build(description))
    return net


def _pools(described: list[dict[str, Any]]) -> Pools:
    """The pools of a subnetwork; their tensors are to be loaded."""
    mixtures = [torch.zeros(*pool["shape"]) for pool in described]
    return Pools(torch.ones(len(mixtures)), mixtures, [bool(pool["added"]) for pool in described])


def _refuse_foreign_indices(net: nn.Module) -> None:
    """Raise ValueError for a selection of what is not there, before memory is read by it."""
    for module in net.modules():
        if isinstance(module, Select) and not bool(
            ((module.index >= 0) & (module.index < module.width + module.zeros)).all()
        ):
            raise ValueError(f"it selects neurons that are not among {module.width}")


def _describe(module: nn.Module) -> Any:
    """The kind of a piece and the arguments that build it again; a list for a sequence of pieces."""
    if isinstance(module, nn.Sequential):
        return [_describe(piece) for piece in module]
    kind = type(module).__name__
    if isinstance(module, Select):
        arguments: dict[str, Any] = {"size": len(module.index), "width": module.width, "dim": module.dim}
        return {"kind": kind, **arguments, "zeros": module.zeros}
    if isinstance(module, Masked):
        return {"kind": kind, "size": len(module.mask)}
    if PIECES.get(kind) is not type(module):
        raise InputError(f"a {kind} cannot be described in a safetensors file: use --format onnx")
    names = [
        p.name for p in inspect.signature(type(module)).parameters.values() if p.kind is not p.VAR_KEYWORD
    ]
    names = [name for name in names if name not in ("args", "device", "dtype", "process_group")]
    values = {name: getattr(module, name) for name in names}
    if "bias" in values:
        values["bias"] = values["bias"] is not None
    return {"kind": kind, **values}


def _build(description: Any) -> nn.Module:
    """The piece that :func:`_describe` described; its tensors are to be loaded."""
    if isinstance(description, list):
        return nn.Sequential(*map(_build, description))
    arguments = dict(description)
    kind = arguments.pop("kind")
    if kind == "Select":
        size, width, dim, zeros = (arguments[name] for name in ("size", "width", "dim", "zeros"))
        return Select(torch.empty(size, dtype=torch.long), width, dim, bool(zeros))
    if kind == "Masked":
        return Masked(torch.empty(arguments["size"], dtype=torch.bool))
    if "normalized_shape" in arguments:
        arguments["normalized_shape"] = tuple(arguments["normalized_shape"])
    for name in ("kernel_size", "stride", "padding", "dilation"):
        if isinstance(arguments.get(name), list):
            arguments[name] = tuple(arguments[name])
    return PIECES[kind](**arguments)


def save_torchscript(net: nn.Module, path: Path, shape: torch.Size) -> None:
    """Write the computation, for any batch size, as ``torch.jit.load`` takes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer torch deprecates TorchScript, and still reads and writes it
        content = io.BytesIO()  # torch's own writer of files aborts the process where the disk is full
        torch.jit.save(torch.jit.trace(net, torch.zeros(2, *shape)), content)
    path.write_bytes(content.getvalue())


def save_onnx(net: nn.Module, path: Path, shape: torch.Size) -> None:
    """Write the computation, input ``x``, output ``logits``, for any batch size, in one file.

    Raises InputError where the packages for it are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format onnx needs the package {error.name}: pip install -e '.[export]'"
        ) from error
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                net,
                (torch.zeros(2, *shape),),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["x"],
                output_names=["logits"],
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        program.save(path)
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def reader(path: Path, kind: str) -> Compute:
    """What a file of a format computes."""
    if kind == "safetensors":
        return load_subnetwork(path)
    if kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(path)
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
