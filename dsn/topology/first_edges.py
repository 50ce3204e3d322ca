"""The first edge bits of a task, chosen by Node-Path Balancing instead of drawn (Pham et al., NeurIPS 2023).

While a task is learnt it reads the half of a layer's edges with the largest |score| (masking/edges). Here the
same scores, as they were drawn, are dealt out anew: the larger half goes to the edges that balancing and its
repair choose for the whole network, in which the neurons that the task owns keep every edge. Training goes on
from there as ever.

Shapes: W [n, d, ...] of n neurons; scores [r, d, ...] of the r rows that the task does not own.
"""

import numpy as np
import torch

from dsn.errors import InputError
from dsn.masking import MaskedModel

from .npb import ROUNDS, Flags, balanced, masks_of
from .wiring import wiring_of

ALPHA, BETA = 0.01, 1.0  # of balancing: the authors' defaults


@torch.no_grad()
def balance_first_edges(model: MaskedModel, random: np.random.Generator) -> None:
    """Deal the scores of the task being learnt anew, so that balanced edges have the larger half.

    Nothing changes where edges are not chosen among (``none``, ``own``) or a layer is wholly the task's own.

    Raises:
        InputError: ``own_and_sign``, whose scores leave no edge out; a network whose paths cannot be counted.
    """
    if model.edges is None or model.learning is None:
        return
    if model.edges.mode == "own_and_sign":
        raise InputError(
            "first_edges 'balanced' chooses which edges are read, and 'own_and_sign' reads all: "
            "take 'own_and_read', or leave first_edges at 'drawn'"
        )
    wiring = wiring_of(model)
    shapes = {path: layer.weight.shape for path, layer in model.layer_modules()}
    counts: dict[str, int] = {}
    full: dict[str, Flags] = {}
    for path, edges in model.edges.by_path():
        counts[path] = 0 if edges.scores is None else int(edges.chosen().sum())
        full[path] = np.full(shapes[path][0], edges.scores is None) | edges.own.cpu().numpy()
    layers = balanced(shapes, wiring, counts, random, ALPHA, BETA, ROUNDS, refuse=False, full=full)
    for path, edges in model.edges.by_path():
        if edges.scores is not None:
            read = masks_of(shapes[path], layers[path], random)[torch.from_numpy(~full[path])]
            edges.scores.copy_(_dealt(edges.scores.cpu(), read, random))


def _dealt(scores: torch.Tensor, read: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """``scores`` in another order: those with the largest sizes, in random order, where ``read`` is set."""
    flat, places = scores.flatten(), read.flatten()
    order = flat.abs().argsort(descending=True)
    most = int(places.sum())
    dealt = torch.empty_like(flat)
    dealt[places] = flat[order[:most][torch.from_numpy(random.permutation(most))]]
    dealt[~places] = flat[order[most:][torch.from_numpy(random.permutation(len(flat) - most))]]
    return dealt.view_as(scores)
