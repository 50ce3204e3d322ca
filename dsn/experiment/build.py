"""From config blocks to objects: this file alone unpacks a config into flat keyword arguments."""

from typing import Any

import torch
from torch import Tensor, nn

from dsn import backbones
from dsn.baselines import STRATEGIES, Setting
from dsn.errors import InputError
from dsn.masking import MaskedModel, mask_neurons
from dsn.memory import memory_bytes
from dsn.training import DSN

from .config import Backbone, Config, MLPConfig, TorchvisionConfig
from .optimizers import optimizer_arguments, optimizer_class

PixelRange = tuple[Tensor, Tensor]
"""lowest and highest value of a normalised pixel, [C] each"""


def build_model(config: Config, sample_shape: torch.Size) -> MaskedModel:
    """The masked backbone for samples of shape [C, H, W] or [D]."""
    backbone, head = build_backbone(config.backbone, sample_shape)
    edges = config.selection.edges if config.strategy == "dsn" else "none"
    return mask_neurons(backbone, head=head, example_input=torch.zeros(1, *sample_shape), edges=edges)


def architecture(config: Config) -> Config:
    """``config`` without pretrained weights: for a model whose weights come from a file of ours."""
    if not isinstance(config.backbone, TorchvisionConfig):
        return config
    plain = config.backbone.model_copy(update={"pretrained": False})
    return config.model_copy(update={"backbone": plain})


def build_backbone(config: Backbone, sample_shape: torch.Size) -> tuple[nn.Module, str | None]:
    """The backbone and the path of its head, None where it has none."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        _refuse_too_large(config, sample_shape)
    return _build_backbone(config, sample_shape)


def _refuse_too_large(config: Backbone, sample_shape: torch.Size) -> None:
    """Raise InputError where the weights, their gradients and two copies do not fit into memory."""
    if isinstance(config, TorchvisionConfig):
        config = config.model_copy(update={"pretrained": False})
    try:
        backbone, _ = _build_backbone(config, sample_shape)
    except InputError:
        raise
    except (RuntimeError, OverflowError) as error:  # too large to be counted
        raise InputError(f"backbone: is too large ({str(error).splitlines()[0]}); make it smaller") from error
    needed = 4 * sum(weight.numel() * weight.element_size() for weight in backbone.parameters())
    if needed > (there := memory_bytes()):
        raise InputError(
            f"backbone: learning needs {needed / 1e9:,.0f} GB for its weights, this machine has "
            f"{there / 1e9:,.0f} GB; make it smaller"
        )


def _build_backbone(config: Backbone, sample_shape: torch.Size) -> tuple[nn.Module, str | None]:
    options = config.model_dump(exclude={"name"})
    if isinstance(config, MLPConfig):
        return backbones.mlp(in_features=sample_shape.numel(), **options), None
    if len(sample_shape) != 3:
        raise InputError(
            f"backbone.name: {config.name} takes images, but the stream gives vectors of "
            f"{sample_shape.numel()}: set stream.flatten: false, or take the backbone mlp"
        )
    if isinstance(config, TorchvisionConfig):
        try:
            return backbones.torchvision_model(config.model, config.pretrained, **config.options)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"backbone.options: {config.model} refuses {config.options}: {error}") from error
    channels, size, _ = sample_shape
    return backbones.BACKBONES[config.name](in_channels=channels, image_size=size, **options), None


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


def replay_arguments(config: Config, pixel_range: PixelRange | None) -> dict[str, Any]:
    """Arguments of ``dsn.replay.synthesise`` beside the model, the task and the seed."""
    return {**config.replay.model_dump(), "pixel_range": pixel_range}


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
