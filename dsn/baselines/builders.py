"""Every strategy to compare DSN with, by name."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..masking import mask_neurons
from ..training import DSN, Schedule, Selection, Transfer
from .independent import Independent
from .network import Backbone, TaskNetwork
from .pnn import PNN, ProgressiveNetwork
from .regularisation import EWC, MAS, SI, LwF
from .rehearsal import AGEM, GEM, Cumulative, Joint, Replay
from .strategy import Baseline
from .subnetworks import WSN, PackNet, PackNetNetwork, RandomFeatures, SupSup
from .weight_masks import WeightMaskedNetwork


@dataclass(frozen=True)
class Setting:
    """What all strategies of a comparison get alike.

    make_backbone: returns a fresh backbone and the path of its head
    make_optimizer: returns the optimizer of a model
    input_shape: of one sample
    tasks: of the stream
    shared: keyword arguments of every strategy: train_epochs (all phases together), train_mb_size, schedule,
        device, evaluator
    """

    make_backbone: Callable[[], Backbone]
    make_optimizer: Callable[[nn.Module], Optimizer]
    input_shape: torch.Size
    tasks: int
    shared: dict[str, Any]


Builder = Callable[..., Any]
"""(setting, **hyper-parameters) -> a strategy with train(experience, eval_streams), eval(stream), memory()"""


def _plain(strategy: type[Baseline]) -> Builder:
    def build(setting: Setting, **options: Any) -> Baseline:
        return _on(setting, TaskNetwork(*_backbone(setting)), strategy, **options)

    return build


def _for_known_length(strategy: type[Baseline], network: type[TaskNetwork]) -> Builder:
    def build(setting: Setting, **options: Any) -> Baseline:
        return _on(setting, network(*_backbone(setting)), strategy, tasks=setting.tasks, **options)

    return build


def _on(setting: Setting, model: Any, strategy: type[Baseline], **options: Any) -> Baseline:
    return strategy(model=model, optimizer=setting.make_optimizer(model), **options, **setting.shared)


def _backbone(setting: Setting) -> tuple[nn.Module, torch.Size, str | None]:
    backbone, head = setting.make_backbone()
    return backbone, setting.input_shape, head


def _wsn(
    setting: Setting, *, density: float, signed_constants: bool, carry_scores: bool, **options: Any
) -> Baseline:
    model = WeightMaskedNetwork(
        *_backbone(setting), density=density, signed=signed_constants, carry=carry_scores
    )
    return _on(setting, model, WSN, **options)


def _supsup(setting: Setting, *, density: float, **options: Any) -> Baseline:
    model = WeightMaskedNetwork(*_backbone(setting), density=density, fixed=True)
    return _on(setting, model, SupSup, **options)


def _pnn(setting: Setting) -> Baseline:
    backbone = setting.make_backbone()  # the optimizer needs parameters before the first task is there
    optimizer = setting.make_optimizer(backbone[0])
    model = ProgressiveNetwork(setting.make_backbone, setting.input_shape)
    return PNN(model=model, optimizer=optimizer, **setting.shared)  # type: ignore[arg-type]


def _hat(setting: Setting, *, sparsity: float, s_max: float) -> DSN:
    """Hard attention to the task (Serra et al. 2018) is DSN with its own additions off.

    As published: gates sigma(s e) with e from N(0, 1), s annealed from 1/s_max to s_max within each epoch,
    the compensated gradient of e, e kept in +-6, the regulariser over neurons that no earlier task uses with
    the weight ``sparsity``. Off: transfer, budget, plan, growth, warm-up and consolidation, whatever the
    config's ``selection`` says.

    Not as published: HAT evaluates with soft gates at s_max and scales the gradient of a weight by 1 - the
    smaller gate of its two ends, so earlier tasks may drift; here gates are committed as bits and protected
    weights are put back after every step, so nothing is forgotten. Norm state is a task's own; HAT's networks
    have no norms.
    """
    return _dsn(
        setting,
        selection=Selection(sparsity=sparsity, s_max=s_max, annealing="epoch"),
        train_epochs=setting.shared["train_epochs"],
    )


def _independent(setting: Setting) -> Independent:
    """All epochs are DSN's dense warm-up: every neuron is open."""
    epochs = setting.shared["train_epochs"]
    schedule = replace(setting.shared.get("schedule", Schedule()), warmup_epochs=epochs)
    selection = Selection(sparsity=0.0)
    return Independent(lambda: _dsn(setting, selection=selection, train_epochs=0, schedule=schedule))


def _dsn(setting: Setting, **options: Any) -> DSN:
    backbone, shape, head = _backbone(setting)
    model = mask_neurons(backbone, head=head, example_input=torch.zeros(1, *shape))
    optimizer = setting.make_optimizer(model)
    return DSN(
        model=model, optimizer=optimizer, transfer=Transfer(tasks=0, forward=0), **setting.shared | options
    )


STRATEGIES: dict[str, Builder] = {
    "hat": _hat,
    "wsn": _wsn,
    "supsup": _supsup,
    "packnet": _for_known_length(PackNet, PackNetNetwork),
    "pnn": _pnn,
    "naive": _plain(Baseline),
    "ewc": _plain(EWC),
    "mas": _plain(MAS),
    "si": _plain(SI),
    "lwf": _plain(LwF),
    "agem": _plain(AGEM),
    "gem": _plain(GEM),
    "replay": _plain(Replay),
    "cumulative": _plain(Cumulative),
    "joint": _for_known_length(Joint, TaskNetwork),
    "independent": _independent,
    "random": _plain(RandomFeatures),
}
"""Each is called with a Setting and its hyper-parameters as keyword arguments."""
