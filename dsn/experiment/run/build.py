"""From config blocks to a strategy: this file alone unpacks a config into flat keyword arguments."""

from typing import Any

import torch
from torch import nn

from dsn.baselines import STRATEGIES, Setting
from dsn.errors import InputError
from dsn.training import DSN

from ..config.experiment import Config
from ..config.network import PixelRange, build_backbone, build_model, replay_arguments
from ..config.optimizers import optimizer_arguments, optimizer_class


def build_strategy(
    config: Config,
    sample_shape: torch.Size,
    device: torch.device,
    evaluator: Any,
    *,
    tasks: int,
    pixel_range: PixelRange | None = None,
) -> Any:
    """A fresh strategy of the config's name, for a stream of ``tasks`` tasks: a DSN or a baseline."""
    if config.strategy == "dsn":
        return build_dsn(config, sample_shape, device, evaluator, tasks=tasks, pixel_range=pixel_range)
    options = getattr(config.baselines, config.strategy).model_dump()
    lr = options.pop("lr")
    setting = Setting(
        make_backbone=lambda: build_backbone(config.backbone, sample_shape),
        make_optimizer=lambda model: build_optimizer(config, model, lr),
        input_shape=sample_shape,
        tasks=tasks,
        shared=_training(config, device, evaluator) | {"train_epochs": total_epochs(config)},
    )
    return STRATEGIES[config.strategy](setting, **options)


def build_dsn(
    config: Config,
    sample_shape: torch.Size,
    device: torch.device,
    evaluator: Any,
    *,
    tasks: int,
    pixel_range: PixelRange | None = None,
) -> DSN:
    """A fresh masked model and DSN on it, for a stream of ``tasks`` tasks."""
    train, selection, transfer = config.train, config.selection, config.transfer
    model = build_model(config, sample_shape)
    return DSN(
        model=model,
        optimizer=build_optimizer(config, model),
        train_epochs=train.epochs,
        warmup_epochs=train.warmup_epochs,
        consolidation_epochs=train.consolidation_epochs,
        precision=train.precision,
        channels_last=train.channels_last,
        compile=train.compile,
        sparsity=selection.sparsity,
        s_max=selection.s_max,
        annealing=selection.annealing,
        logit_mean=selection.logit_mean,
        logit_std=selection.logit_std,
        budget=selection.budget,
        planned_tasks=tasks if selection.planned_tasks == "stream" else selection.planned_tasks,
        growth=selection.growth,
        score_lr_factor=selection.score_lr_factor,
        initial=selection.initial.model_dump(),
        transfer_tasks=transfer.tasks if can_transfer(config) else 0,
        forward_tasks=transfer.forward if can_transfer(config) else 0,
        transfer=transfer.mechanism,
        acceptance=transfer.acceptance,
        replay=replay_arguments(config, pixel_range),
        seed=config.seed,
        **_training(config, device, evaluator),
    )


def _training(config: Config, device: torch.device, evaluator: Any) -> dict[str, Any]:
    """What is the same for every strategy."""
    train = config.train
    return {
        "train_mb_size": train.batch_size,
        "schedule": train.schedule,
        "plateau": train.plateau.model_dump(),
        "judge": train.judge,
        "patience": train.patience,
        "restore_best": train.restore_best,
        "average_epochs": train.average_epochs,
        "device": device,
        "evaluator": evaluator,
    }


def can_transfer(config: Config) -> bool:
    """Whether there are validation data to judge a transfer by."""
    return config.stream.validation > 0


def build_optimizer(config: Config, model: nn.Module, lr: float | None = None) -> Any:
    """The torch optimizer of the config, with ``lr`` in the place of ``train.lr`` where it is given.

    Raises InputError for argument values that it refuses.
    """
    train = config.train
    arguments = optimizer_arguments(
        train.optimizer,
        lr=train.lr if lr is None else lr,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        extra=train.optimizer_args,
    )
    try:
        return optimizer_class(train.optimizer)(model.parameters(), **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"train: {train.optimizer} refuses its arguments {arguments}: {error}") from error


def total_epochs(config: Config) -> int:
    """Epochs of one task, all phases together."""
    return config.train.warmup_epochs + config.train.epochs + config.train.consolidation_epochs
