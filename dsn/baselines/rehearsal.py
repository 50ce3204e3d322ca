"""Strategies that keep training samples: replay, A-GEM, GEM, cumulative and joint training.

Samples are kept as tensors x [n, ...] float32, normalised, and y [n] int64, and counted as such.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import AGEMPlugin, GEMPlugin, ReplayPlugin
from scipy.optimize import nnls
from torch import Tensor

from ..training.loader import TensorLoader
from .strategy import Baseline, Samples


class MixedLoader(TensorLoader):
    """Batches of samples of several tasks together."""

    def __init__(self, parts: dict[int, Samples], *, batch_size: int) -> None:
        x, y = (torch.cat(tensors) for tensors in zip(*parts.values(), strict=True))
        super().__init__(x, y, 0, batch_size=batch_size, shuffle=True)
        self.task = torch.cat([torch.full_like(y, task) for task, (_, y) in parts.items()])


class Cumulative(Baseline):
    """Each task trains on all samples so far, as many epochs as any other strategy."""

    rehearses = mixes_tasks = True

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        self.seen: dict[int, Samples] = {}

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        super().check_model_and_optimizer(**kwargs)
        self.seen[self.model.tasks[-1]] = self.samples
        self.dataloader = MixedLoader(self.seen, batch_size=self.train_mb_size)

    def go_back(self, task: int, kept: Any) -> None:
        super().go_back(task, kept)
        self.seen.pop(task, None)

    def judged_tasks(self) -> list[int]:
        return self.model.tasks

    def stored(self) -> list[Samples]:
        return list(self.seen.values())


class Joint(Cumulative):
    """All tasks at once: samples are gathered until the last task is there, and learnt then.

    Args (beside those of Baseline): tasks: how many there are in the stream.
    """

    def __init__(self, *, tasks: int, **shared: Any) -> None:
        super().__init__(**shared)
        self.tasks = tasks

    def phases(self) -> Iterator[int]:
        yield self.train_epochs if len(self.model.tasks) == self.tasks else 0


class Replay(Baseline):
    """Experience replay: each batch of new samples goes with as many stored ones.

    Args (beside those of Baseline): samples: in memory in all, shared evenly by the tasks.
    """

    rehearses = mixes_tasks = True

    def __init__(self, *, samples: int, **shared: Any) -> None:
        self.replay = _TensorReplay(samples)
        super().__init__(plugins=[self.replay], **shared)

    def stored(self) -> list[Samples]:
        x, y, _ = read_memory(self.replay.storage_policy.buffer)
        return [(x, y)]


class _TensorReplay(ReplayPlugin):
    """Avalanche's memory, its samples read once a task instead of once a batch."""

    def before_training_exp(self, strategy: Any, *_args: Any, **_kwargs: Any) -> None:
        if len(self.storage_policy.buffer):
            memory = [t.to(strategy.device) for t in read_memory(self.storage_policy.buffer)]
            strategy.dataloader = PairedLoader(strategy.dataloader, memory)

    def after_training_exp(self, strategy: Any, **_kwargs: Any) -> None:
        self.storage_policy.post_adapt(strategy, strategy.experience)


class PairedLoader:
    """Each batch of ``loader`` followed by as many samples of ``memory`` [x, y, task], drawn anew."""

    def __init__(self, loader: TensorLoader, memory: list[Tensor]) -> None:
        self.loader, self.memory = loader, memory

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for batch in self.loader:
            chosen = torch.randperm(len(self.memory[0]))[: self.loader.batch_size].to(self.memory[0].device)
            yield [torch.cat([new, old[chosen]]) for new, old in zip(batch, self.memory, strict=True)]


def read_memory(buffer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and task of every sample in one of Avalanche's buffers."""
    items = [buffer[i] for i in range(len(buffer))]
    y, task = (torch.tensor([int(item[i]) for item in items]) for i in (1, -1))
    return torch.stack([item[0] for item in items]), y, task


class AGEM(Baseline):
    """Averaged GEM (Chaudhry et al. 2019): the gradient keeps no component against that of the memory.

    Args (beside those of Baseline): samples: kept of each task; batch: drawn for the reference gradient.
    """

    rehearses = True

    def __init__(self, *, samples: int, batch: int, **shared: Any) -> None:
        self.agem = _TensorAGEM(samples, batch)
        super().__init__(plugins=[self.agem], **shared)

    def stored(self) -> list[Samples]:
        return [(x, y) for x, y, _ in self.agem.buffers]


class _TensorAGEM(AGEMPlugin):
    """The memory as tensors. It is drawn from as a whole, as in the paper: Avalanche's takes a fixed number a
    task and fails with more tasks than samples."""

    def after_training_exp(self, strategy: Any, **_kwargs: Any) -> None:
        x, y = strategy.some_samples(self.patterns_per_experience)
        self.buffers.append((x, y, torch.full_like(y, strategy.model.tasks[-1])))
        self._memory = [torch.cat(tensors) for tensors in zip(*self.buffers, strict=True)]

    def sample_from_memory(self) -> list[Tensor]:
        chosen = torch.randperm(len(self._memory[0]))[: self.sample_size].to(self._memory[0].device)
        return [tensor[chosen] for tensor in self._memory]


class GEM(Baseline):
    """Gradient episodic memory (Lopez-Paz and Ranzato 2017): the loss of no task in memory grows in a step.

    Args (beside those of Baseline): samples: kept of each task; strength: margin of the constraints, gamma.
    """

    rehearses = True

    def __init__(self, *, samples: int, strength: float, **shared: Any) -> None:
        self.gem = _TensorGEM(samples, strength)
        super().__init__(plugins=[self.gem], **shared)

    def stored(self) -> list[Samples]:
        return list(zip(self.gem.memory_x.values(), self.gem.memory_y.values(), strict=True))


class _TensorGEM(GEMPlugin):
    """The memory as tensors; the dual solved by scipy's non-negative least squares, where Avalanche's needs
    the package quadprog and fails where that finds no solution."""

    def after_training_exp(self, strategy: Any, **_kwargs: Any) -> None:
        x, y = strategy.some_samples(self.patterns_per_experience)
        task = strategy.clock.train_exp_counter
        self.memory_x[task], self.memory_y[task] = x, y
        self.memory_tid[task] = torch.full_like(y, strategy.model.tasks[-1])

    def solve_quadprog(self, g: Tensor) -> Tensor:
        return project(self.G, g, self.memory_strength)


def project(constraints: Tensor, gradient: Tensor, margin: float) -> Tensor:
    """GEM's projection (eq. 11): g + G^T v with v = argmin 1/2 v G G^T v + g G^T v, v >= margin.

    constraints: G [tasks, parameters]; gradient: g [parameters]. A ridge of 1e-3, as in the authors' code.
    """
    G = constraints.double()
    P = (G @ G.T + 1e-3 * torch.eye(len(G), dtype=G.dtype, device=G.device)).cpu().numpy()
    q = (G @ gradient.double()).cpu().numpy() + P @ np.full(len(G), margin)
    # 1/2 u P u + q u = 1/2 |L^T u + L^-1 q|^2 + constant, with P = L L^T and u = v - margin >= 0
    L = np.linalg.cholesky(P)
    u, _ = nnls(L.T, -np.linalg.solve(L, q))
    v = torch.from_numpy(u + margin).to(G)
    return (v @ G + gradient.double()).to(gradient)
