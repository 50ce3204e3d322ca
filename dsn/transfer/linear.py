"""A linear head fitted to features that do not change.

Shapes: features [n, d], targets [n, classes] (rows sum to 1), weight [classes, d], bias [classes].
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
STEPS, LAST_STEPS = 8, 20  # of L-BFGS, for each penalty and for the one that is taken
GRADIENT = 1e-4  # largest entry at which it ends before
BLOCK = 512  # features that are turned into uncorrelated ones together
CURVATURE = 0.2  # mean of p (1 - p) where a class is undecided, of at most 1/4


def fit_head(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: the weight and bias of least cross-entropy plus an L2 penalty.

    Features are standardised for the fit; those that never change get weight 0. The penalty is the one of
    :data:`PENALTIES` with the least cross-entropy on every fifth row, held out; each fit begins where that
    of the larger penalty ended. A few steps of L-BFGS each are enough, in coordinates in which the objective
    is nearly round (:class:`Round`). Deterministic.
    """
    mean, std = features.mean(0), features.std(0)
    changes = std > 1e-6
    z = ((features - mean)[:, changes] / std[changes]).float()
    turned = Round.of(z)
    z = turned.features(z)
    held_out = torch.arange(len(z), device=z.device) % 5 == 0
    fits, scores = [turned.start(targets.shape[1])], []
    for penalty in PENALTIES:
        fits.append(_minimise(z[~held_out], targets[~held_out], turned.scales(penalty), fits[-1], STEPS))
        scores.append(F.cross_entropy(F.linear(z[held_out], *fits[-1]), targets[held_out]))
    best = int(torch.stack(scores).argmin())
    found, bias = _minimise(z, targets, turned.scales(PENALTIES[best]), fits[best + 1], LAST_STEPS)
    weight = features.new_zeros(targets.shape[1], features.shape[1])
    weight[:, changes] = turned.weight(found).to(weight.dtype) / std[changes]
    return weight, bias - weight @ mean


@dataclass(frozen=True)
class Round:
    """Coordinates of standardised features, block by block of :data:`BLOCK`, in which they are uncorrelated.

    There the Hessian of the objective is bounded by a diagonal (Boehning 1992), which scales each coordinate.
    axes: [b, b] a block, orthogonal; variances [d] along them
    """

    axes: list[Tensor]
    variances: Tensor

    @staticmethod
    def of(z: Tensor) -> "Round":
        """From z [n, d]."""
        found = [torch.linalg.eigh(part.T @ part / len(part)) for part in z.split(BLOCK, 1)]
        return Round([axes for _, axes in found], torch.cat([values for values, _ in found]).clamp_min(0))

    def features(self, z: Tensor) -> Tensor:
        """z [n, d] in these coordinates."""
        return torch.cat([part @ axes for part, axes in zip(z.split(BLOCK, 1), self.axes, strict=True)], 1)

    def weight(self, found: Tensor) -> Tensor:
        """A weight [classes, d] of these coordinates as one of the features."""
        return torch.cat([v @ axes.T for v, axes in zip(found.split(BLOCK, 1), self.axes, strict=True)], 1)

    def start(self, classes: int) -> tuple[Tensor, Tensor]:
        """A weight and a bias of zeros."""
        return self.variances.new_zeros(classes, len(self.variances)), self.variances.new_zeros(classes)

    def scales(self, penalty: float) -> tuple[float, Tensor]:
        """The penalty, and the length of a step along each coordinate [d]."""
        return penalty, (CURVATURE * self.variances + 2 * penalty).rsqrt()


def _minimise(
    z: Tensor, targets: Tensor, scaled: tuple[float, Tensor], start: tuple[Tensor, Tensor], steps: int
) -> tuple[Tensor, Tensor]:
    """Cross-entropy + penalty |W|^2 over W = u * scale and the bias, with the gradient written out."""
    penalty, scale = scaled
    z, shrink = z * scale, penalty * scale.square()
    u, bias = (start[0] / scale).requires_grad_(), start[1].clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [u, bias], max_iter=steps, history_size=10, tolerance_grad=GRADIENT, line_search_fn="strong_wolfe"
    )

    @torch.no_grad()
    def loss() -> Tensor:
        log_p = F.linear(z, u, bias).log_softmax(1)
        gap = (log_p.exp() - targets) / len(z)
        u.grad, bias.grad = gap.T @ z + 2 * shrink * u, gap.sum(0)
        return (shrink * u.square()).sum() - (targets * log_p).sum() / len(z)

    optimizer.step(loss)
    return u.detach() * scale, bias.detach()
