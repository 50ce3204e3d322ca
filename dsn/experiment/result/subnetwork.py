"""A task's subnetwork of a finished run, written to a file, and what it costs beside the full network."""

import os
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from dsn.errors import InputError
from dsn.masking import MaskedModel
from dsn.masking.layers import evaluating

from ..base.console import make_console, say
from ..base.folder import check_name, partial_folder, publish, remove_dead
from ..base.own_files import SUBNETWORK
from ..config.experiment import Config
from .costs import Cost, flops, interleaved, task_parameters
from .files import MODEL, load_model, threads
from .subnetwork_files import Compute, reader, save_onnx, save_safetensors, save_torchscript

FORMATS = ("safetensors", "torchscript", "onnx")
ENDINGS = {".safetensors": "safetensors", ".pt": "torchscript", ".onnx": "onnx"}
TOLERANCE = 1e-4  # of the largest logit: how far what a file computes may be from the full network
ROUNDS = 15


def export_subnetwork(
    run: Path, task: int, out: Path, *, kind: str | None = None, console: Console | None = None
) -> tuple[Cost, Cost]:
    """Write the subnetwork of ``task`` of the run in the folder ``run`` to the new file ``out``.

    What the file computes is compared with the full network before it gets its name.

    Args:
        kind: one of FORMATS; by default by the ending of ``out``, .safetensors, .pt or .onnx.

    Returns: what the full network costs for this task, and what the subnetwork does. The size of the full
    network is that of the run's model file, which holds all its tasks.

    Raises:
        InputError: ``run`` holds no model, no such task, ``out`` is there or cannot be written, no format.
    """
    kind = kind or ENDINGS.get(out.suffix)
    if kind not in FORMATS:
        raise InputError(f"{out}: its ending names no format: give --format {', '.join(FORMATS)}")
    check_name(out)
    if os.path.lexists(out):
        raise InputError(f"{out}: is there already and nothing is overwritten; choose another --out")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder for --out; make it first")
    model, config, _ = load_model(run)
    with threads(config.threads), evaluating(model):
        net = model.subnetwork(task)
        remove_dead(out.parent)
        with partial_folder(out) as folder:
            partial = folder / SUBNETWORK
            try:
                _save(net, partial, kind, config, model)
                _check(reader(partial, kind), model, task)
                costs = _costs(model, task, net, (run / MODEL).stat().st_size, partial.stat().st_size)
                publish(partial, out)
            except OSError as error:
                raise InputError(
                    f"{out}: cannot be written: {error.strerror or error}; choose another --out"
                ) from error
    say(console or make_console(), f"task {task}: {_said(*costs)}; written to {out}")
    return costs


def _save(net: nn.Module, path: Path, kind: str, config: Config, model: MaskedModel) -> None:
    shape = torch.Size(model.input_shape[1:])
    if kind == "safetensors":
        save_safetensors(net, path, config, shape)
    elif kind == "torchscript":
        save_torchscript(net, path, shape)
    else:
        save_onnx(net, path, shape)


def _check(compute: Compute, model: MaskedModel, task: int) -> None:
    """Raise RuntimeError unless ``compute`` gives the logits of ``task``, and the same classes, on noise."""
    x = torch.randn(16, *model.input_shape[1:], generator=torch.Generator().manual_seed(0))
    expected, found = model(x, task), compute(x)
    slack = TOLERANCE * float(expected.abs().max())
    top = expected.topk(min(2, expected.shape[1])).values
    clear = top[:, 0] - top[:, -1] > 2 * slack  # two classes may be as likely up to rounding
    same = found.argmax(1).eq(expected.argmax(1))
    if not (torch.allclose(found, expected, rtol=0.0, atol=slack) and bool(same[clear].all())):
        raise RuntimeError(f"task {task}: the file does not compute what the full network computes")


def _costs(model: MaskedModel, task: int, net: nn.Module, before: int, after: int) -> tuple[Cost, Cost]:
    x = torch.randn(1, *model.input_shape[1:], generator=torch.Generator().manual_seed(0))

    def full() -> Tensor:
        return model(x, task)

    def cut() -> Tensor:
        return net(x)

    seconds = interleaved([full, cut], ROUNDS)
    own = sum(p.numel() for p in net.parameters())
    return (
        Cost(task_parameters(model, task), flops(full), seconds[0], before),
        Cost(own, flops(cut), seconds[1], after),
    )


def _said(full: Cost, cut: Cost) -> str:
    return (
        f"parameters {full.parameters:,} -> {cut.parameters:,} ({_times(full.parameters, cut.parameters)}), "
        f"FLOPs {_scaled(full.flops)} -> {_scaled(cut.flops)} ({_times(full.flops, cut.flops)}), "
        f"latency {1e3 * full.seconds:.2f} ms -> {1e3 * cut.seconds:.2f} ms "
        f"({_times(full.seconds, cut.seconds)}), "
        f"size {_scaled(full.bytes)}B (all tasks) -> {_scaled(cut.bytes)}B"
    )


def _times(before: float, after: float) -> str:
    return f"{before / after:.1f}x" if after else "-"


def _scaled(number: float) -> str:
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} G"
