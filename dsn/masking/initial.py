"""Where a new task starts: how many neurons of each layer its gates are open for, and which.

By default a task starts with gate logits of any sign, and what remains is learnt. Here it starts from widths
chosen beforehand (Pham et al., NeurIPS 2023, carried over from weights to neurons), split into neurons of
earlier tasks and fresh ones; training may still change the choice. All choices of widths cost at most the
edges that the share ``share`` of every layer would.

Shapes: n neurons a layer; logits [n]; weight [n, d, ...].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import InputError
from .computes import Computes
from .protection import ProtectedWeights
from .reach import needed_inputs, read_inputs, send, true_size
from .structure import Structure

Widths = dict[str, int]
Fans = Mapping[str, float]
LEAST_LOGIT = 0.01  # a logit of 0 would be neither open nor closed
NODES = 0.01  # what nodes weigh against paths, alpha: the default of Node-Path Balancing


def same_share(sizes: Widths, fans: Fans, share: float) -> Widths:
    """The same share of each layer, at least one neuron."""
    return {path: max(1, round(share * n)) for path, n in sizes.items()}


def same_degree(sizes: Widths, fans: Fans, share: float) -> Widths:
    """The same number of neurons in each layer, so that all have equal degrees, as far as layers are wide."""
    limit, best = edges(same_share(sizes, fans, share), fans), dict.fromkeys(sizes, 1)
    for width in range(1, max(sizes.values()) + 1):
        widths = {path: min(width, n) for path, n in sizes.items()}
        if edges(widths, fans) > limit:
            break
        best = widths
    return best


def nodes_and_paths(sizes: Widths, fans: Fans, share: float) -> Widths:
    """Neuron after neuron where alpha * nodes + (1 - alpha) * log paths grows most an edge.

    Dense layers in a chain have prod w_l paths, so a neuron more in layer l adds log((w_l + 1) / w_l); both
    terms are relative to what the whole network has.
    """
    limit, widths = edges(same_share(sizes, fans, share), fans), dict.fromkeys(sizes, 1)
    all_nodes, all_paths = sum(sizes.values()), max(sum(map(math.log, sizes.values())), 1.0)
    cost = edges(widths, fans)
    while True:
        best: tuple[float, str, float] | None = None
        for path, width in widths.items():
            more = edges(widths | {path: width + 1}, fans)
            if width < sizes[path] and more <= limit:
                gain = NODES / all_nodes + (1 - NODES) * math.log((width + 1) / width) / all_paths
                worth = gain / max(more - cost, 1e-9)
                if best is None or worth > best[0]:
                    best = (worth, path, more)
        if best is None:
            return widths
        widths[best[1]] += 1
        cost = best[2]


WIDTHS: dict[str, Callable[[Widths, Fans, float], Widths]] = {
    "widths": same_share,
    "regular": same_degree,
    "npb": nodes_and_paths,
}
"""By the name of ``choice``; "all" chooses none."""


def start_task(
    model: Computes,
    protected: ProtectedWeights,
    *,
    choice: str = "all",
    share: float = 0.5,
    reuse: float = 0.5,
    he: bool = False,
) -> None:
    """Open the gates of the task being learnt for chosen neurons, close the others, scale plastic weights.

    Args:
        protected: what earlier tasks need; it stays as it is, to the last bit.
        choice: "all" leaves the gate logits as they are; otherwise widths by a name in :data:`WIDTHS`.
        share: of a layer's neurons, in (0, 1]; it sets the edges that all choices spend.
        reuse: share of the chosen neurons that are used ones, in [0, 1], as far as there are any.
        he: draw the weights between the chosen neurons that are not protected anew, at the scale of He et al.
            (2015) for the active fan-in: their inputs are fewer than the layer was made for. Where nothing is
            reused that is N(0, 2 / active fan-in); what protected weights give already is taken off.

    Raises:
        InputError: an unknown choice, or shares out of their range.
    """
    if model.edges is not None:
        if choice != "all" or he:
            raise InputError(
                "initial choice and he need gates that learn: with edges a task owns what the plan gives it, "
                "from constants at the scale of He et al.; leave them out"
            )
        return
    if model.pretrained and (choice != "all" or he):
        raise InputError(
            "initial choice and he begin with another network than the pretrained one: leave them out"
        )
    if choice not in ("all", *WIDTHS):
        raise InputError(f"initial choice is '{choice}': choose one of all, {', '.join(WIDTHS)}")
    if choice != "all" and any(gate.heads for gate in model.gates_by_path.values()):
        raise InputError(f"initial choice '{choice}' takes single rows, attention whole heads: leave one out")
    if not (0 < share <= 1 and 0 <= reuse <= 1):
        raise InputError(f"initial share is {share}, reuse {reuse}: give shares in (0, 1] and [0, 1]")
    chosen = {path: gate.may_open() for path, gate in model.gates_by_path.items()}
    if choice != "all":
        widths, used = WIDTHS[choice](model.layers, fans_of(model), share), model.used()
        chosen = {path: split(used[path].cpu(), width, reuse) for path, width in widths.items()}
        _open(model, chosen)
    if he:
        _rescale(model, protected, chosen)


def fans_of(model: Structure) -> dict[str, float]:
    """Weights of one neuron for each neuron of the layer before it, by path; layers count as a chain."""
    before, fans = 1, {}
    for path, layer in model.layer_modules():
        fans[path] = layer.weight[0].numel() / before
        before = layer.weight.shape[0]
    return fans


def edges(widths: Mapping[str, float], fans: Fans) -> float:
    """Weights between that many neurons a layer."""
    before, total = 1.0, 0.0
    for path, width in widths.items():
        total += before * fans[path] * width
        before = width
    return total


def edges_each(widths: Mapping[str, float], fans: Fans, before: Widths) -> dict[str, float]:
    """Weights of that many neurons, by layer, with layers before them of ``before`` neurons."""
    found, last = {}, 1
    for path, width in widths.items():
        found[path] = last * fans[path] * width
        last = before[path]
    return found


def split(used: Tensor, width: int, reuse: float) -> Tensor:
    """Bool [n]: ``width`` random neurons, the share ``reuse`` of them from ``used``, as far as there are."""
    most = int(used.sum())
    reused = min(round(reuse * width), most)
    reused = max(reused, width - (len(used) - most))  # the others must be free ones
    order = torch.rand(len(used))
    chosen = torch.zeros_like(used)
    for group, count in ((used, reused), (~used, width - reused)):
        chosen[torch.where(group, order, -1.0).topk(count).indices] = True
    return chosen


@torch.no_grad()
def _open(model: Computes, chosen: Mapping[str, Tensor]) -> None:
    for path, gate in model.gates_by_path.items():
        assert gate.logits is not None
        size = gate.logits.abs().clamp(min=LEAST_LOGIT)
        gate.logits.copy_(torch.where(chosen[path].to(size.device), size, -size))


@torch.no_grad()
def _rescale(model: Computes, protected: ProtectedWeights, chosen: Mapping[str, Tensor]) -> None:
    """Draw plastic weights so that each chosen neuron's weights sum up to what He et al. prescribe.

    w_ji ~ N(0, (2 - a_j) / sum of c_i over plastic i), a_j = sum of w_ji^2 c_i over protected i, not below 0.
    Input i counts as c_i inputs: 1 where it comes from outside, from a norm or from a neuron scaled here, and
    a_i / 2 where protected weights alone make more than that. Reused neurons have learnt to be loud: counted
    as 1 each, they would double the signal with every layer and task, until steps of the usual size diverge.
    """
    live = read_inputs(model, chosen)
    used = model.used()
    fixed = needed_inputs(model)
    counts = {path: mask.to(model.device, model.dtype) for path, mask in chosen.items()}
    one_each = _sums_arriving(model, counts)
    with protected:
        for path, layer in model.layer_modules():
            weight, opened = layer.weight, chosen[path].to(model.device)
            block = opened[:, None] & live[path]
            frozen = used[path][:, None] & fixed[path]
            share = (_sums_arriving(model, counts)[path] / one_each[path]).clamp(min=0)
            arriving = live[path] * torch.where(one_each[path] > 0, share, 1.0)
            kernels = weight.view(*weight.shape[:2], -1)  # [n, d, taps]
            given = (kernels.square().sum(2) * (block & frozen)) @ arriving
            drawn = kernels.shape[2] * ((block & ~frozen) * arriving).sum(1)
            scale = ((2 - given).clamp(min=0) / drawn.clamp(min=torch.finfo(drawn.dtype).tiny)).sqrt()
            fresh = torch.randn(kernels.shape).to(weight) * scale[:, None, None]
            weight.copy_(torch.where((block & ~frozen)[..., None], fresh, kernels).view_as(weight))
            if model.norm_of[path] is None:
                counts[path] = torch.where(drawn > 0, given.clamp(min=2), given) / 2 * opened


def _sums_arriving(model: Computes, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """at the inputs of each layer, [d]: branches that meet add theirs up."""
    x = torch.ones(model.input_shape, device=model.device, dtype=model.dtype)
    return {
        path: torch.stack(
            [t.movedim(model.gates_by_path[path].neuron_dim, 0).flatten(1).sum(1) for t in arrived]
        ).sum(0)
        for path, arrived in send(
            model, counts, x, free_norms=lambda _path, out: torch.ones_like(out), size=true_size(model)
        ).layers.items()
    }
