"""Gates of layers on maps and tokens multiply their weights while training: the same numbers, less to do."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dsn import backbones, mask_neurons
from tests.masking.test_wrapping import Free

NETS = {
    "tokens": (
        lambda: Free(
            lambda s, x: s.down(F.gelu(s.up(s.embed(x)))).mean(1),
            embed=nn.Linear(3, 6),
            up=nn.Linear(6, 9, bias=False),
            down=nn.Linear(9, 6),
        ),
        (5, 3),
        ["embed", "up", "down"],
    ),
    "vectors": (lambda: backbones.mlp(3, (6, 5)), (3,), []),
    "normed": (
        lambda: Free(lambda s, x: s.norm(s.up(x)).mean(1), up=nn.Linear(3, 6), norm=nn.LayerNorm(6)),
        (5, 3),
        [],
    ),
    "maps": (
        lambda: Free(lambda s, x: s.up(x).mean((2, 3)), up=nn.Conv2d(2, 6, 1)),
        (2, 4, 4),
        ["up"],
    ),
}


@pytest.mark.parametrize("net", NETS)
def test_folded_gates_give_the_same_numbers_and_gradients(net: str) -> None:
    torch.manual_seed(0)
    build, shape, folded = NETS[net]
    model = mask_neurons(build(), example_input=torch.zeros(1, *shape))
    assert model._foldable == folded
    x = torch.randn(4, *shape)
    model.add_task(2)
    model.train()
    model.anneal(0.1)
    found = []
    for paths in (folded, []):
        model._foldable = paths
        model.zero_grad()
        logits = model(x, 0)
        logits.square().sum().backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((logits.detach(), grads))
    (one, grads), (other, plain) = found
    assert torch.allclose(one, other, atol=1e-6)
    assert grads.keys() == plain.keys()
    assert all(torch.allclose(grads[name], plain[name], atol=1e-5, rtol=1e-3) for name in grads)
