"""A backbone whose neurons are masked, one subnetwork a task.

Shapes: x [batch, ...]; features [batch, d]; logits [batch, classes of the task]; masks [n] a layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import InputError, refuse_unknown
from .caches import Caches
from .cut import subnetwork
from .edges import EDGES, Edges
from .foreign import OwnTensor, bake_in, close_attention, give_to_tasks, open_attention
from .foreign.heads import ATTENTION, select_heads
from .growth import keep_pretrained
from .head import put_head, take_head
from .kinds import is_layer, is_norm
from .layers import evaluating, find_sites, refuse_unstable
from .norms import TaskNorm
from .reach import follow_leaders, free_norms_read_past, mixes_samples, refuse_leaks, small_size, true_size
from .recognition import SCORES, Known, Recognised, choose, fit, know
from .recognition.scores import Score
from .records import Lateral
from .rehearsal import refuse_forgetting
from .state.fit import refuse_unfit
from .state.loading import make_room
from .state.removal import Removal, remove_task
from .state.task_file import load_task, save_task
from .task_life import TaskLife


class MaskedModel(TaskLife):
    """See :func:`dsn.mask_neurons`. One task is learnt at a time: ``add_task``, train, ``commit``."""

    def __init__(
        self,
        backbone: nn.Module,
        *,
        example_input: Tensor,
        head: str | None = None,
        edges: str = "none",
        rehearse: bool = True,
        pretrained: bool = False,
        fresh: int = 0,
        attention: str = "rows",
    ) -> None:
        refuse_unknown("edges", edges, EDGES)
        refuse_unknown("attention", attention, ATTENTION)
        if attention == "heads" and edges != "none":
            raise InputError(
                f"attention is 'heads', but edges '{edges}' choose weight by weight: leave one out"
            )
        _refuse_pretrained(edges, pretrained, fresh)
        if is_layer(backbone) or is_norm(backbone):
            raise InputError(
                f"the backbone is a single {type(backbone).__name__}: put it into an nn.Sequential"
            )
        original = take_head(backbone, head)
        try:
            open_attention(backbone)
            caches = Caches(backbone)
            sites, features = find_sites(backbone, example_input)
            give_to_tasks(backbone, example_input)
        except InputError:
            close_attention(backbone)
            put_head(backbone, head, original)
            raise
        super().__init__(backbone, example_input, sites)
        self._head_path = head
        self._original_head = (original,)  # in a tuple, so that it is no submodule: it waits for unmask()
        self.rehearse = rehearse
        try:
            with evaluating(self):  # all at once
                self.size = small_size(self, features)
                # at the true size, the rehearsal sees what is unstable
                refuse_unstable(backbone, (self.size if rehearse else true_size(self)).zeros(self, 1))
                self.caches = caches if caches.guard(backbone) else None
                self.mixes_samples = mixes_samples(self)  # now: while layers grow they do not fit together
                free_norms_read_past(self)
                follow_leaders(self)
                if pretrained:
                    keep_pretrained(self, fresh)
                refuse_leaks(self)
                if edges != "none":
                    self.edges = Edges(self, edges).to(self.device)
                self.gates.to(self.device)
                if rehearse:
                    refuse_forgetting(self)
                if attention == "heads":
                    select_heads(self)
        except InputError:
            self.unmask()
            raise

    # ---- forward ---------------------------------------------------------------------------------------

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        """Logits [batch, classes] of ``task`` for x [batch, ...].

        With a committed mask, and in evaluation mode always, gates are bits; while the task is learnt in
        training mode they are soft: sigma(s e). Threads may ask for different tasks at once: they take turns.
        """
        if task is None:
            raise InputError(
                "model(x) was called without a task, but every task is a subnetwork of its own: call "
                "model(x, task); a plugin or metric that cannot do so does not work with masked models"
            )
        if task not in self.tasks:
            raise InputError(f"task {task} is unknown, known are {self.tasks}: add_task(task={task}) first")
        with self.lock:
            own = self.features(x, task)
            logits = self.heads[str(task)](own)
            for lateral in self.lateral_heads(task):
                source = cast(Lateral, lateral).source_task
                logits = lateral(logits, own if source == task else self.features(x, source))
        learning = self.learning
        if learning not in (None, task) and not self.training and not bool(logits.isfinite().all()):
            self._refuse_divergence(cast(int, learning))
        return logits

    def know_task(self, task: int, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]) -> None:
        """Let a committed task keep statistics of its own data, x [n, ...], y [n] each, for :meth:`predict`.

        Raises InputError for a task that is not committed, or without data.
        """
        self.masks(task)
        parts = [(x.to(self.device, self.dtype), y.to(self.device)) for x, y in (train, validation)]
        for name, value in know(self, task, parts[0], parts[1]).named().items():
            self.record(task).put(name, value)

    def known(self, task: int) -> Known | None:
        """What ``task`` has kept of its own data; None where :meth:`know_task` was not called."""
        return Known.of(dict(self.record(task).named_buffers()))

    @torch.no_grad()
    def predict(self, x: Tensor, score: Score = "combined") -> Recognised:
        """Task and class of each input x [n, ...], where nobody says the task: that of the best ``score``.

        Among the tasks that know their data (:meth:`know_task`); see :mod:`dsn.masking.recognition.scores`.

        Raises InputError where none does, or for an unknown score.
        """
        if score not in SCORES:
            raise InputError(f"score is '{score}': choose one of {', '.join(SCORES)}")
        known = {task: one for task in self.committed if (one := self.known(task)) is not None}
        with self.lock:
            x = x.to(self.device, self.dtype)
            return choose({task: fit(self, task, one, x) for task, one in known.items()})[score]

    def subnetwork(self, task: int) -> nn.Module:
        """A plain, physically smaller module x -> logits with what ``task`` needs alone, in evaluation mode.

        It shares nothing with this model. See :func:`dsn.masking.cut.subnetwork`.
        """
        return subnetwork(self, task)

    def save_task(self, task: int, path: str | Path) -> None:
        """Write ``task`` with all that its logits depend on; see ``state.task_file``."""
        save_task(self, task, Path(path))

    def load_task(self, path: str | Path, task: int | None = None) -> int:
        """Put a task that :meth:`save_task` wrote into this model; returns its number.

        Refuses what does not fit; see ``state.task_file``.
        """
        return load_task(self, Path(path), task)

    def forget(
        self, task: int, *, cascade: bool = False, keep_shared: bool = False, seed: int = 0
    ) -> Removal:
        """Remove a committed task so that nothing of it is left; all others answer as before, bit for bit.

        Refused where others read weights that it trained, unless these tasks go too (``cascade``) or keep
        what they share with it (``keep_shared``). See :func:`dsn.masking.state.removal.remove_task`.
        """
        return remove_task(self, task, cascade=cascade, keep_shared=keep_shared, seed=seed)

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, also amid training: the price that a pass has left belongs to this model's graph, and
        compiled code reads this model's weights."""
        return {**self.__dict__, "_price": None, "_compiled": self._compiled is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_compiled": None})
        if state["_compiled"]:
            self.compile_training()

    def unmask(self) -> nn.Module:
        """The backbone as it was handed in: no gates, its own norms and head, the weights as they are now.

        This model cannot be used any more afterwards.
        """
        for handle in self._hooks:
            handle.remove()
        self.open_plainly()
        if self.caches is not None:
            self.caches.leave(self.backbone)
        for path, module in list(self.backbone.named_modules()):
            if isinstance(module, TaskNorm) and not isinstance(module, OwnTensor):
                original = module.original.requires_grad_(True).train(module.training)
                self.backbone.set_submodule(path, original)
        bake_in(self.backbone)
        close_attention(self.backbone)
        put_head(self.backbone, self._head_path, self._original_head[0])
        return self.backbone

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As ever, while no thread computes."""
        with self.lock:
            return super().load_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Make room for the tasks (and grown layers) that ``state_dict`` holds, then load as ever.

        Raises InputError, and changes nothing, where it is not the state of such a model.
        """
        ids, strict = state_dict.get(f"{prefix}task_ids"), args[1]
        if ids is not None or strict:
            own = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
            refuse_unfit(self, own, same_types=False)
        if ids is not None:
            make_room(self, state_dict, prefix, [int(task) for task in ids])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _refuse_pretrained(edges: str, pretrained: bool, fresh: int) -> None:
    if fresh and not pretrained:
        raise InputError(f"fresh is {fresh}: fresh neurons are grown beside a pretrained backbone alone")
    if pretrained and edges != "none":
        raise InputError(
            f"edges is '{edges}', which gives the backbone weights of its own making: a pretrained one keeps "
            "its weights, so leave edges out"
        )
