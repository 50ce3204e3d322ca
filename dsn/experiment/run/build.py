"""From config blocks to a strategy: this file alone unpacks a config into flat keyword arguments."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from dsn.augment import Augment
from dsn.baselines import STRATEGIES, Setting
from dsn.errors import InputError
from dsn.training import DSN, Compute, Plateau, Schedule, Selection, Transfer

from ..config.experiment import Config
from ..config.network import PixelRange, build_backbone, build_model, replay_arguments
from ..config.optimizers import optimizer_arguments, optimizer_class

NO_TRANSFER = {"tasks": 0, "forward": 0}


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
        shared={
            **_training(config, device, evaluator, pixel_range),
            "schedule": _schedule(config),
            "train_epochs": total_epochs(config),
        },
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
    train, transfer = config.train, config.transfer
    model = build_model(config, sample_shape)
    of_strategy = {field.name for field in fields(Selection)} - {"initial"}
    chosen = {name: value for name, value in config.selection if name in of_strategy}
    if chosen["planned_tasks"] == "stream":
        chosen["planned_tasks"] = tasks
    wanted = {"tasks": transfer.tasks, "forward": transfer.forward} if can_transfer(config) else NO_TRANSFER
    schedule = replace(
        _schedule(config), warmup_epochs=train.warmup_epochs, consolidation_epochs=train.consolidation_epochs
    )
    return DSN(
        model=model,
        optimizer=build_optimizer(config, model),
        train_epochs=train.epochs,
        selection=Selection(**chosen, initial=config.selection.initial.model_dump()),
        schedule=schedule,
        transfer=Transfer(**wanted, mechanism=transfer.mechanism, acceptance=transfer.acceptance),
        compute=Compute(train.precision, train.channels_last, train.compile),
        replay=replay_arguments(config, pixel_range),
        seed=config.seed,
        **_training(config, device, evaluator, pixel_range),
    )


def _training(
    config: Config, device: torch.device, evaluator: Any, pixel_range: PixelRange | None
) -> dict[str, Any]:
    """What is the same for every strategy."""
    shared = {"train_mb_size": config.train.batch_size, "device": device, "evaluator": evaluator}
    shared["shards"] = config.train.shards
    if config.train.augment != "none":
        shared["augment"] = Augment(config.train.augment, pixel_range)
    return shared


def _schedule(config: Config) -> Schedule:
    """Without the phases that DSN alone has."""
    train = config.train
    return Schedule(
        rate=train.schedule,
        plateau=Plateau(**train.plateau.model_dump()),
        judge=train.judge,
        patience=train.patience,
        restore_best=train.restore_best,
        average_epochs=train.average_epochs,
        norm_samples=train.norm_samples,
    )


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
