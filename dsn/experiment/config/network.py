"""From config blocks to a network: the backbone, and the masked model on it."""

from typing import Any

import torch
from torch import Tensor, nn

from dsn import backbones
from dsn.errors import InputError
from dsn.masking import MaskedModel, mask_neurons
from dsn.memory import memory_bytes

from .backbone import Backbone, MLPConfig, TimmConfig, ZooConfig
from .experiment import Config
from .selection import SelectionConfig

PixelRange = tuple[Tensor, Tensor]
"""lowest and highest value of a normalised pixel, [C] each"""


def build_model(config: Config, sample_shape: torch.Size) -> MaskedModel:
    """The masked backbone for samples of shape [C, H, W] or [D]."""
    backbone, head = build_backbone(config.backbone, sample_shape)
    chosen = config.selection if config.strategy == "dsn" else SelectionConfig()
    return mask_neurons(
        backbone,
        head=head,
        example_input=torch.zeros(1, *sample_shape),
        edges=chosen.edges,
        pretrained=chosen.fresh is not None,
        fresh=chosen.fresh or 0,
        attention=chosen.attention,
    )


def architecture(config: Config) -> Config:
    """``config`` without pretrained weights: for a model whose weights come from a file of ours."""
    return config.model_copy(update={"backbone": _plain(config.backbone)})


def _plain(config: Backbone) -> Backbone:
    """Without pretrained weights."""
    if not isinstance(config, ZooConfig):
        return config
    return config.model_copy(update={"pretrained": False, "weights": None})


def build_backbone(config: Backbone, sample_shape: torch.Size) -> tuple[nn.Module, str | None]:
    """The backbone and the path of its head, None where it has none."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        _refuse_too_large(config, sample_shape)
    return _build_backbone(config, sample_shape)


def _refuse_too_large(config: Backbone, sample_shape: torch.Size) -> None:
    """Raise InputError where the weights, their gradients and two copies do not fit into memory."""
    try:
        backbone, _ = _build_backbone(_plain(config), sample_shape)
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
    if isinstance(config, ZooConfig):
        of_timm = isinstance(config, TimmConfig)
        zoo = backbones.timm_model if of_timm else backbones.torchvision_model
        taken = {"in_chans": sample_shape[0]} if of_timm and sample_shape[0] != 3 else {}
        try:
            return zoo(config.model, config.pretrained, config.weights, **taken | config.options)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"backbone.options: {config.model} refuses {config.options}: {error}") from error
    channels, size, _ = sample_shape
    return backbones.BACKBONES[config.name](in_channels=channels, image_size=size, **options), None


def replay_arguments(config: Config, pixel_range: PixelRange | None) -> dict[str, Any]:
    """Arguments of ``dsn.replay.synthesise`` beside the model, the task and the seed."""
    return {**config.replay.model_dump(), "pixel_range": pixel_range}
