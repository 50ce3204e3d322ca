"""The learning rate over a task's epochs, what they are judged by, and when they end.

Shapes: logits [n, classes of the task]; targets [n] int64.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from ..errors import InputError

RATES = ("constant", "cosine", "plateau")
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

    def __post_init__(self) -> None:
        if not (self.factor > 1 and self.patience >= 1 and self.lr_min >= 0):
            raise InputError(f"{self}: factor must be above 1, patience 1 or more, lr_min 0 or more")


class Scheduler:
    """The learning rate of ``optimizer`` over the ``epochs`` of a task.

    Args:
        name: one of ``RATES``: constant; cosine, to 0; plateau.
        judge: one of ``JUDGES``: what the validation score of an epoch is.
    """

    def __init__(self, name: str, optimizer: Optimizer, epochs: int, judge: str, plateau: Plateau) -> None:
        self.name, self._plateau = name, plateau
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


def summed_score(logits: Tensor, targets: Tensor, judge: str) -> Tensor:
    """Sum over the samples of what ``judge`` says: right answers, or minus the cross-entropy."""
    if judge == "loss":
        return -F.cross_entropy(logits, targets, reduction="sum")
    return logits.argmax(1).eq(targets).sum()
