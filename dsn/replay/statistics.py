"""Mean and standard deviation of each neuron's pre-activation over a task's training data.

They are taken where the committed mask is applied, just before it: at the output of the layer, or of the
layer or group norm behind it. A batch norm keeps them already, of the layer's output: its running statistics
are used as they are and nothing is stored. A layer that runs several times in one pass counts with its last.

Shapes: x [batch, ...]; n neurons of a layer, as many as at the task's commit; mean, std [n], 0 for neurons
outside the task's mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..masking import MaskedModel
from ..masking.kinds import norm_kind
from ..masking.layers import evaluating
from ..masking.norms import TaskNorm

SMALLEST_VARIANCE = 1e-8
SMALLEST_STD = 0.1  # of the layer's mean std: a neuron that hardly moves must not outweigh all others


@dataclass(frozen=True)
class NeuronStatistics:
    """Of one layer: mean [n] and standard deviation [n]."""

    mean: Tensor
    std: Tensor


Statistics = dict[str, NeuronStatistics]


def record_statistics(model: MaskedModel, task: int, batches: Iterable[Tensor]) -> Statistics:
    """Measure a committed task's statistics on its training data and keep them in ``model.record(task)``.

    Args:
        batches: x [batch, ...], all of the task's training data once.

    Returns what was kept, by layer: every masked layer without a batch norm. The names in the record are
    ``statistics/<layer>/mean`` and ``.../std``, with "/" for the dots of the layer's path.

    Raises:
        InputError: the task is not committed, or ``batches`` is empty.
    """
    model.masks(task)
    paths = [path for path in model.gates_by_path if _running(model, task, path) is None]
    measured = measure_statistics(model, task, batches, paths) if paths else {}
    for path, statistics in measured.items():
        model.record(task).put(_name(path, "mean"), statistics.mean)
        model.record(task).put(_name(path, "std"), statistics.std)
    return measured


def recorded_statistics(model: MaskedModel, task: int) -> Statistics:
    """What is known of a committed task, by layer: recorded, or from its batch norms; may be empty.

    Raises:
        InputError: the task is not committed.
    """
    known: Statistics = {}
    for path, mask in model.open_neurons(task).items():
        statistics = _running(model, task, path)
        if statistics is None:
            mean, std = (model.record(task).get(_name(path, moment)) for moment in ("mean", "std"))
            if mean is None or std is None:
                continue
            statistics = NeuronStatistics(mean, std)
        known[path] = NeuronStatistics(statistics.mean.float() * mask, statistics.std.float() * mask)
    return known


@torch.no_grad()
def measure_statistics(
    model: MaskedModel, task: int, batches: Iterable[Tensor], paths: Iterable[str] | None = None
) -> Statistics:
    """Mean and std over all of ``batches``, for the layers ``paths`` (by default all); float32.

    Batches are merged exactly (Chan et al. 1983), in double precision.

    Raises:
        InputError: the task is not committed, or ``batches`` is empty.
    """
    masks = model.open_neurons(task)
    paths = list(masks if paths is None else paths)
    count = dict.fromkeys(paths, 0)
    mean = {path: torch.zeros(len(masks[path]), dtype=torch.float64, device=model.device) for path in paths}
    squares = {path: torch.zeros_like(mean[path]) for path in paths}
    with evaluating(model), Observer(model, task, paths) as observe:
        for x in batches:
            _, outputs = observe(x.to(model.device, model.dtype))
            for path, output in outputs.items():
                dims = reduced_dims(model, path, output)
                size = output.numel() // len(mean[path])
                var, new = torch.var_mean(output.double(), dims, correction=0)
                delta, total = new - mean[path], count[path] + size
                squares[path] += var * size + delta.square() * (count[path] * size / total)
                mean[path] += delta * (size / total)
                count[path] = total
    if not all(count.values()):
        raise InputError(f"task {task}: no data to take statistics over; give batches of its training inputs")
    return {
        path: NeuronStatistics(
            (mean[path] * masks[path]).float(),
            ((squares[path] / count[path]).sqrt() * masks[path]).float(),
        )
        for path in paths
    }


class Distance:
    """How far activations are from known statistics; 0 where both moments of all active neurons agree.

    (1/L) sum_l mean_i [ ((mu_i - mu*_i) / s_i)^2 + ((sigma_i - sigma*_i) / s_i)^2 ],  i in the task's mask,
    s_i = max(sigma*_i, a tenth of the layer's mean sigma*). With ``rows``
    [n] a layer, :meth:`of` takes the statistics of these neurons alone (``compact.CompactPass``).
    """

    def __init__(
        self, model: MaskedModel, task: int, known: Statistics, rows: Mapping[str, Tensor] | None = None
    ) -> None:
        masks = model.open_neurons(task)
        self._positions: dict[str, Tensor] = {}
        self._mean, self._std, self._scale = {}, {}, {}
        for path in known:
            active = masks[path].nonzero().flatten()
            if not len(active):
                continue
            self._positions[path] = active if rows is None else rows[path].cumsum(0)[active] - 1
            self._mean[path], std = known[path].mean[active], known[path].std[active]
            self._std[path] = std
            floor = (SMALLEST_STD * std.mean()).clamp(min=SMALLEST_VARIANCE**0.5)
            self._scale[path] = torch.maximum(std, floor)

    def of(self, statistics: Mapping[str, NeuronStatistics]) -> Tensor:
        """The distance of ``statistics``, a scalar with gradient where they have one."""
        terms = []
        for path, active in self._positions.items():
            found, scale = statistics[path], self._scale[path]
            mean = (found.mean[active] - self._mean[path]) / scale
            std = (found.std[active] - self._std[path]) / scale
            terms.append(mean.square().mean() + std.square().mean())
        return torch.stack(terms).mean()


def batch_statistics(model: MaskedModel, outputs: Mapping[str, Tensor]) -> Statistics:
    """Mean and std within one batch of layer outputs, differentiable."""
    found = {}
    for path, output in outputs.items():
        var, mean = torch.var_mean(output.float(), reduced_dims(model, path, output), correction=0)
        found[path] = NeuronStatistics(mean, (var + SMALLEST_VARIANCE).sqrt())
    return found


def reduced_dims(model: MaskedModel, path: str, output: Tensor) -> list[int]:
    """All dimensions of a layer's output but that of its neurons."""
    along = model.gates_by_path[path].neuron_dim % output.dim()
    return [dim for dim in range(output.dim()) if dim != along]


class Observer:
    """Runs a task and hands over what its layers put out where their statistics are taken.

    >>> with Observer(model, task, paths) as observe:
    ...     logits, outputs = observe(x)      # outputs: path -> [batch, n, ...]

    Only the task's own pass is seen, not those of later tasks that its head reads from. ``run`` gives the
    logits; by default the model does.
    """

    def __init__(
        self,
        model: MaskedModel,
        task: int,
        paths: Iterable[str],
        run: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._model, self._task, self._paths = model, task, list(paths)
        self._run = run or (lambda x: model(x, task))
        self._outputs: dict[str, Tensor] = {}
        self._own_pass = False

    def __enter__(self) -> Observer:
        self._hooks = ExitStack()
        for path in self._paths:
            module = self._where(path)
            self._hooks.callback(module.register_forward_hook(self._keeper(path)).remove)
        head = self._model.heads[str(self._task)]
        self._hooks.callback(head.register_forward_hook(self._end_of_own_pass).remove)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._hooks.close()
        self._outputs = {}

    def __call__(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self._outputs, self._own_pass = {}, True
        logits = self._run(x)
        return logits, self._outputs

    def _where(self, path: str) -> nn.Module:
        if _running(self._model, self._task, path) is not None:
            return self._model.layer(path)
        return self._model.mask_module(path)

    def _keeper(self, path: str) -> Any:
        def keep(_module: nn.Module, _args: Any, output: Tensor) -> None:
            if self._own_pass:
                self._outputs[path] = output

        return keep

    def _end_of_own_pass(self, *_call: Any) -> None:
        self._own_pass = False


def _running(model: MaskedModel, task: int, path: str) -> NeuronStatistics | None:
    """The running statistics that the task's batch norm behind layer ``path`` keeps, if there is one."""
    site = model.mask_module(path)
    norm = site.of(task) if isinstance(site, TaskNorm) and str(task) in site.tasks else None
    kept = None if norm is None else norm_kind(norm).statistics(norm)
    if kept is None:
        return None
    mean, variance = kept
    return NeuronStatistics(mean, (variance + SMALLEST_VARIANCE).sqrt())


def _name(path: str, moment: str) -> str:
    return f"statistics/{path.replace('.', '/')}/{moment}"
