"""Penalties on moving what earlier tasks need: EWC, MAS, SI and LwF.

EWC, MAS and LwF are Avalanche's plugins with their faults put right, each said where it is. Only what earlier
tasks share is at stake: heads and norm state of earlier tasks are fixed (LwF trains the heads, as published).
"""

from typing import Any

import torch
from avalanche.models import avalanche_forward
from avalanche.training.plugins import EWCPlugin, LwFPlugin, MASPlugin, SupervisedPlugin
from avalanche.training.utils import zerolike_params_dict
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ..training.loader import TensorLoader
from .strategy import Baseline


class EWC(Baseline):
    """Elastic weight consolidation (Kirkpatrick et al. 2017), the squared gradients taken a batch at a time.

    Args (beside those of Baseline):
        strength: weight of the penalty, lambda. online: one running importance instead of one a task.
        decay: of the running importance.
    """

    def __init__(self, *, strength: float, online: bool, decay: float, **shared: Any) -> None:
        mode, factor = ("online", decay) if online else ("separate", None)
        self.ewc = _TensorEWC(strength, mode, factor)
        super().__init__(plugins=[self.ewc], **shared)

    def shared_tensors(self) -> list[Tensor]:
        kept = [*self.ewc.importances.values(), *self.ewc.saved_params.values()]
        return [parameter.data for parameters in kept for parameter in parameters.values()]


class _TensorEWC(EWCPlugin):
    """Reads the samples that the strategy has as tensors already, not item by item."""

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._samples = strategy.samples
        self._task = strategy.model.tasks[-1]
        super().after_training_exp(strategy, **kwargs)

    def compute_importances(
        self, model: Any, criterion: Any, optimizer: Any, _: Any, *rest: Any, **k: Any
    ) -> Any:
        x, y = self._samples
        dataset = TensorDataset(x, y, torch.full_like(y, self._task))
        return super().compute_importances(model, criterion, optimizer, dataset, *rest, **k)


class MAS(Baseline):
    """Memory aware synapses (Aljundi et al. 2018).

    Args (beside those of Baseline): strength: weight of the penalty; decay: share of the old importance.
    """

    def __init__(self, *, strength: float, decay: float, **shared: Any) -> None:
        self.mas = _EvaluatingMAS(strength, decay)
        super().__init__(plugins=[self.mas], **shared)

    def shared_tensors(self) -> list[Tensor]:
        kept = [*(self.mas.importance or {}).values(), *(self.mas.params or {}).values()]
        return [parameter.data for parameter in kept]


class _EvaluatingMAS(MASPlugin):
    """Avalanche's raises where a loss is exactly 0, and measures importance in training mode, with dropout
    and changing running statistics; this one adds the penalty to any loss and measures in evaluation mode."""

    def before_backward(self, strategy: Any, **_kwargs: Any) -> None:
        for name, parameter in strategy.model.named_parameters():
            if self.importance and self.params and name in self.importance and name in self.params:
                moved = (parameter - self.params[name].data).pow(2)
                strategy.loss += self._lambda * (self.importance[name].data * moved).sum()

    def _get_importance(self, strategy: Any) -> dict[str, Any]:
        model = strategy.model.eval()
        importance = dict(zerolike_params_dict(model))
        task = model.tasks[-1]
        x, y = strategy.samples
        loader = TensorLoader(x, y, task, batch_size=strategy.train_mb_size, shuffle=False)
        for x, _, _ in loader:
            model.zero_grad()
            avalanche_forward(model, x, task).pow(2).sum(1).mean().backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    importance[name].data += parameter.grad.abs() / len(loader)
        model.zero_grad()
        model.train()
        return importance


class SI(Baseline):
    """Synaptic intelligence (Zenke et al. 2017).

    Args (beside those of Baseline): strength: c of eq. 4; damping: xi of eq. 5.
    """

    def __init__(self, *, strength: float, damping: float, **shared: Any) -> None:
        self.si = SIPlugin(strength, damping)
        super().__init__(plugins=[self.si], **shared)

    def shared_tensors(self) -> list[Tensor]:
        return [*self.si.importance, *self.si.anchor]


class SIPlugin(SupervisedPlugin):
    """Eq. 3 to 5 of the paper. Avalanche's own is a silent no-op: its old values alias the live parameters.

    omega = -sum over steps of g * (change of theta), g the gradient of the task's loss without the penalty
    (eq. 3); Omega += relu(omega) / (whole change^2 + xi) (eq. 5); the penalty c sum Omega (theta - old)^2
    (eq. 4) enters as its gradient, so the logged loss is without it.
    """

    def __init__(self, strength: float, damping: float) -> None:
        super().__init__()
        self.strength, self.damping = strength, damping
        self.importance: list[Tensor] = []
        self.anchor: list[Tensor] = []

    @torch.no_grad()
    def before_training_exp(self, strategy: Any, **_kwargs: Any) -> None:
        self._shared: list[nn.Parameter] = strategy.model.shared_parameters()
        self._start = [p.clone() for p in self._shared]
        self._path = [torch.zeros_like(p) for p in self._shared]

    @torch.no_grad()
    def before_update(self, strategy: Any, **_kwargs: Any) -> None:
        self._gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self._shared]
        self._before = [p.clone() for p in self._shared]
        for p, omega, old in zip(self._shared, self.importance, self.anchor, strict=False):
            if p.grad is not None:
                p.grad += 2 * self.strength * omega * (p - old)

    @torch.no_grad()
    def after_update(self, strategy: Any, **_kwargs: Any) -> None:
        for path, gradient, p, before in zip(
            self._path, self._gradients, self._shared, self._before, strict=True
        ):
            path -= gradient * (p - before)

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **_kwargs: Any) -> None:
        old = self.importance or [torch.zeros_like(p) for p in self._shared]
        self.importance = [
            omega + path.relu() / ((p - start) ** 2 + self.damping)
            for omega, path, p, start in zip(old, self._path, self._shared, self._start, strict=True)
        ]
        self.anchor = [p.clone() for p in self._shared]
        del self._path, self._start, self._gradients, self._before


class LwF(Baseline):
    """Learning without forgetting (Li and Hoiem 2016): earlier heads keep their soft outputs on new data.

    Args (beside those of Baseline): alpha, temperature: weight and temperature of the distillation.
    """

    rehearses = True

    def __init__(self, *, alpha: float, temperature: float, **shared: Any) -> None:
        self.lwf = _EvaluatingLwF(alpha, temperature)
        super().__init__(plugins=[self.lwf], **shared)

    def shared_tensors(self) -> list[Tensor]:
        old = self.lwf.lwf.prev_model
        return [] if old is None else [*old.parameters(), *old.buffers()]


class _EvaluatingLwF(LwFPlugin):
    """Avalanche's old network stays in training mode, with dropout and the new batch's statistics."""

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        self.lwf.prev_model.eval().requires_grad_(False)
