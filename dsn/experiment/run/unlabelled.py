"""How well a strategy does where nobody says which task an input is of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsn.baselines.independent import Independent
from dsn.evaluation.experiences import task_label
from dsn.masking import MaskedModel
from dsn.masking.recognition import SCORES, Fit, Known, choose, fit, know
from dsn.masking.state.fingerprint import Fingerprints
from dsn.training.samples import read_samples

from ..result.result import UnlabelledRow


class Unlabelled:
    """For one strategy on ``benchmark``. Networks with masks over neurons keep what their tasks know in their
    records, and so in checkpoints; what the tasks of other strategies know is kept here."""

    def __init__(self, strategy: Any, benchmark: Any, device: torch.device) -> None:
        self.strategy, self.benchmark, self.device = strategy, benchmark, device
        self._known: dict[int, Known] = {}
        self._tests: list[tuple[int, Tensor, Tensor]] = []
        self._prints: dict[int, Fingerprints] = {}
        self._fits: dict[tuple[int, int], tuple[object, Fit]] = {}

    def learn(self, place: int) -> None:
        """Let the task that is learnt at ``place`` of the stream know its own data."""
        experience, network = self.benchmark.train_stream[place], self.strategy.model
        task = task_label(experience)
        data = [
            self._samples(stream[place])
            for stream in (self.benchmark.train_stream, self.benchmark.valid_stream)
        ]
        if (masked := self._masked(task)) is None:
            self._known[task] = know(network, task, *data)
        else:
            masked.know_task(task, *data)

    def row(self, place: int) -> UnlabelledRow:
        """Of the tasks up to the one at ``place``, by what is recognised by each score."""
        network = self.strategy.model
        self._read(place)
        tasks = [task for task, _, _ in self._tests]
        known = {task: one for task in tasks if (one := self._of(task)) is not None}
        right: dict[str, list[float]] = {name: [] for name in SCORES}
        found: dict[str, list[float]] = {name: [] for name in SCORES}
        for task, x, y in self._tests:
            fits = {other: self._fit(network, other, one, task, x) for other, one in known.items()}
            for name, seen in choose(fits).items():
                same = seen.tasks == task
                right[name].append(float((same & (seen.classes == y)).double().mean()))
                found[name].append(float(same.double().mean()))
        return UnlabelledRow(accuracy=right, inference=found)

    def _fit(self, network: Any, task: int, known: Known, tested: int, x: Tensor) -> Fit:
        """How the test data x of ``tested`` fit ``task``; looked at again where the task has changed."""
        key = self._state(task)
        kept = self._fits.get((task, tested))
        if kept is None or key is None or kept[0] != key:
            kept = self._fits[task, tested] = (key, fit(network, task, known, x))
        return kept[1]

    def _state(self, task: int) -> object:
        """Equal as long as ``task`` is the same, bit for bit; None where that is not known."""
        if (masked := self._masked(task)) is not None:
            return self._prints.setdefault(id(masked), Fingerprints(masked)).of(task)[0]
        return getattr(self.strategy, "keeps_tasks", False) or None

    def _read(self, place: int) -> None:
        for experience in self.benchmark.test_stream[len(self._tests) : place + 1]:
            self._tests.append((task_label(experience), *self._samples(experience)))

    def _samples(self, experience: Any) -> tuple[Tensor, Tensor]:
        x, y = read_samples(experience.dataset)
        return x.to(self.device), y.to(self.device)

    def _masked(self, task: int) -> MaskedModel | None:
        """The network with masks over neurons that answers for ``task``, if it is one."""
        whole = isinstance(self.strategy, Independent)
        network = self.strategy.members[task].model if whole else self.strategy.model
        return network if isinstance(network, MaskedModel) else None

    def _of(self, task: int) -> Known | None:
        masked = self._masked(task)
        return self._known.get(task) if masked is None else masked.known(task)
