"""The measurement of candidates for backward transfer."""

import torch

from benchmarks.transfer_candidates import DRAWS, RANK, gaussian


def test_draws_have_the_mean_of_their_class_and_lie_in_its_few_directions():
    random = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(20, 20, generator=random))[0]
    y = torch.arange(400) % 2
    spread = torch.tensor([3.0] * (RANK - 1) + [0.0] * (21 - RANK))
    x = 10 * shifted(y) + torch.randn(400, 20, generator=random) * spread @ axes
    drawn, labels = gaussian((x.view(400, 1, 4, 5), y), 2, random)
    assert drawn.shape == (2 * DRAWS, 1, 4, 5) and labels.bincount().tolist() == [DRAWS, DRAWS]
    for c in (0, 1):
        mine, true = drawn[labels == c].flatten(1), x[y == c]
        assert (mine.mean(0) - true.mean(0)).abs().max() < 2.0
        assert torch.linalg.matrix_rank(mine - true.mean(0), rtol=1e-3) == RANK - 1


def shifted(y):
    return torch.nn.functional.one_hot(y, 20).float()
