"""``nn.MultiheadAttention`` opened: the same sums through Linear layers, which can be masked.

As torch has it, its output projection is never called as a module, its three input projections are one
parameter, and in evaluation it takes another path where no gradient is wanted, which gives other bits.
Opened, it is q, k, v and out, four Linear layers, around ``scaled_dot_product_attention``.

Shapes: batch b, h heads of e numbers, L queries, S keys; query [b, L, h e], or [L, b, h e] where not
batch_first.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import InputError
from ..kinds.kind import placed_like


class OpenAttention(nn.Module):
    """Computes what the ``nn.MultiheadAttention`` that it was made from does, with its weights.

    It has the attributes that torch's transformer layers ask for; ``in_proj_bias`` is None, which keeps them
    off the path that would pass its layers by.
    """

    _qkv_same_embed_dim = True
    in_proj_weight = in_proj_bias = None

    def __init__(self, closed: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = closed.embed_dim, closed.num_heads, closed.head_dim
        self.kdim, self.vdim, self.dropout = closed.kdim, closed.vdim, closed.dropout
        self.batch_first = closed.batch_first
        self.training = closed.training
        self._closed = (closed,)  # in a tuple, so that it is no submodule: it waits for closed()
        bias = closed.in_proj_bias is not None
        place = placed_like(closed.out_proj)
        d = self.embed_dim
        self.q_proj = nn.Linear(d, d, bias=bias, **place)
        self.k_proj = nn.Linear(self.kdim, d, bias=bias, **place)
        self.v_proj = nn.Linear(self.vdim, d, bias=bias, **place)
        self.out_proj = nn.Linear(d, d, bias=closed.out_proj.bias is not None, **place)
        with torch.no_grad():
            for mine, theirs in zip(self._tensors(), _tensors_of(closed), strict=True):
                mine.copy_(theirs)
                mine.requires_grad_(theirs.requires_grad)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``: what is attended to, and weights [b, (h,) L, S] if asked."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            self._heads(self.q_proj(query)),
            self._heads(self.k_proj(key)),
            self._heads(self.v_proj(value)),
        )
        bias = self._bias(q, k, attn_mask, key_padding_mask)
        dropped = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropped)
        out = self.out_proj(attended.transpose(1, 2).flatten(2))
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = (scores if bias is None else scores + bias).softmax(-1)
            weights = weights.mean(1) if average_attn_weights else weights
        if not batched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _heads(self, x: Tensor) -> Tensor:
        """[b, L, h e] as [b, h, L, e]."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _bias(self, q: Tensor, k: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """What is added to the scores [b, h, L, S]; a bool mask is True where nothing may be attended to."""
        bias: Tensor | None = None
        if mask is not None:
            bias = _added(mask, q.dtype)
            bias = bias if bias.dim() == 2 else bias.view(len(q), self.num_heads, q.shape[2], k.shape[2])
        if padding is not None:
            kept = _added(padding, q.dtype)[:, None, None]
            bias = kept if bias is None else bias + kept
        return bias

    def _tensors(self) -> list[Tensor]:
        layers = (self.q_proj, self.k_proj, self.v_proj, self.out_proj)
        return [
            *(layer.weight for layer in layers),
            *(layer.bias for layer in layers if layer.bias is not None),
        ]

    @torch.no_grad()
    def closed(self) -> nn.MultiheadAttention:
        """The module that this was made from, with the weights as they are here."""
        for theirs, mine in zip(_tensors_of(self._closed[0]), self._tensors(), strict=True):
            theirs.copy_(mine)
        return self._closed[0].train(self.training)


def open_attention(backbone: nn.Module) -> None:
    """Put an :class:`OpenAttention` in the place of every ``nn.MultiheadAttention``.

    Raises:
        InputError: for one with ``add_bias_kv`` or ``add_zero_attn``, or of a class of one's own.
    """
    for path, module in list(backbone.named_modules()):
        if not isinstance(module, nn.MultiheadAttention):
            continue
        if type(module) is not nn.MultiheadAttention:
            raise InputError(
                f"'{path}' is a {type(module).__name__}, made from nn.MultiheadAttention, which may compute "
                "anything: use nn.MultiheadAttention, or Linear layers around scaled_dot_product_attention"
            )
        if module.bias_k is not None or module.add_zero_attn:
            raise InputError(f"attention '{path}' has add_bias_kv or add_zero_attn: leave them out")
    for path, module in list(backbone.named_modules()):
        if isinstance(module, nn.MultiheadAttention):
            backbone.set_submodule(path, OpenAttention(module))
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # opened attention takes padding as a mask


def close_attention(backbone: nn.Module) -> None:
    """Undo :func:`open_attention`, with the weights as they are now."""
    for path, module in list(backbone.named_modules()):
        if isinstance(module, OpenAttention):
            backbone.set_submodule(path, module.closed())


def _tensors_of(closed: nn.MultiheadAttention) -> list[Tensor]:
    """The weights of q, k, v and out, then their biases; parts of one parameter are views of it."""
    if closed._qkv_same_embed_dim:
        weights = list(cast(Tensor, closed.in_proj_weight).detach().chunk(3))
    else:
        weights = [
            cast(Tensor, w) for w in (closed.q_proj_weight, closed.k_proj_weight, closed.v_proj_weight)
        ]
    biases = [] if closed.in_proj_bias is None else list(closed.in_proj_bias.detach().chunk(3))
    out = closed.out_proj
    return [*weights, out.weight, *biases, *([] if out.bias is None else [out.bias])]


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to scores: -inf where a bool one is True."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
