"""The learning rate over a task's epochs, what they are judged by, and when they end.

Shapes: logits [n, classes of the task]; targets [n] int64.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from ..errors import InputError

SCHEDULES = ("constant", "cosine", "plateau")
JUDGES = ("accuracy", "loss")
ACCURACY_THRESHOLD = 1e-4  # torch's own: a better accuracy is better by more than this share of it


@dataclass(frozen=True)
class Plateau:
    """The rate is divided by ``factor`` after ``patience`` epochs in a row without a better validation score;
    once it is below ``lr_min`` the epochs end.

    The defaults divide by 3 (HAT, section 3) after 6 epochs and never end the epochs.
    """

    factor: float = 3.0
    patience: int = 6
    lr_min: float = 0.0


class Schedule:
    """The learning rate of ``optimizer`` over the ``epochs`` of a task.

    Args:
        name: one of ``SCHEDULES``: constant; cosine, to 0; plateau.
        judge: one of ``JUDGES``: what the validation score of an epoch is.
        plateau: fields of :class:`Plateau`.
    """

    def __init__(
        self, name: str, optimizer: Optimizer, epochs: int, judge: str, plateau: Mapping[str, Any]
    ) -> None:
        self.name, self._plateau = name, Plateau(**plateau)
        self._optimizer, self._first = optimizer, [group["lr"] for group in optimizer.param_groups]
        self._epochs, self._judge = epochs, judge
        self.torch = self._make()

    def _make(self) -> CosineAnnealingLR | ReduceLROnPlateau | None:
        if self.name == "cosine":
            return CosineAnnealingLR(self._optimizer, T_max=self._epochs)
        if self.name == "plateau":
            return ReduceLROnPlateau(
                self._optimizer,
                "max",
                factor=1 / self._plateau.factor,
                patience=self._plateau.patience - 1,  # torch counts the epochs that are let pass
                threshold=ACCURACY_THRESHOLD if self._judge == "accuracy" else 0.0,
            )
        return None

    def begin_phase(self) -> None:
        """Where a minimum ends phases, each begins with the full rate, or the next would learn nothing."""
        if self.name == "plateau" and self._plateau.lr_min > 0:
            for group, lr in zip(self._optimizer.param_groups, self._first, strict=True):
                group["lr"] = lr
            self.torch = self._make()

    def step(self, score: float) -> bool:
        """After an epoch with this validation score, higher is better; whether the epochs end here."""
        if isinstance(self.torch, ReduceLROnPlateau):
            self.torch.step(score)
            return bool(self._optimizer.param_groups[0]["lr"] < self._plateau.lr_min)
        if self.torch is not None:
            self.torch.step()
        return False


def checked(schedule: str, judge: str, plateau: Mapping[str, Any] | None) -> dict[str, Any]:
    """All fields of ``plateau``. Raises InputError for an unknown name, and for a field that cannot be."""
    for key, value, known in (("schedule", schedule, SCHEDULES), ("judge", judge, JUDGES)):
        if value not in known:
            raise InputError(f"{key} is '{value}': choose one of {', '.join(known)}")
    names = [field.name for field in fields(Plateau)]
    if unknown := sorted(set(plateau or {}) - set(names)):
        raise InputError(f"plateau has no field '{unknown[0]}': it has {', '.join(names)}")
    chosen = Plateau(**(plateau or {}))
    if not (chosen.factor > 1 and chosen.patience >= 1 and chosen.lr_min >= 0):
        raise InputError(f"{chosen}: factor must be above 1, patience 1 or more, lr_min 0 or more")
    return asdict(chosen)


def summed_score(logits: Tensor, targets: Tensor, judge: str) -> Tensor:
    """Sum over the samples of what ``judge`` says: right answers, or minus the cross-entropy."""
    if judge == "loss":
        return -F.cross_entropy(logits, targets, reduction="sum")
    return logits.argmax(1).eq(targets).sum()
