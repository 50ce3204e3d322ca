"""Backbones by name, each with its settings as a typed block."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from .blocks import Block, Positive, Probability, wrong


class MLPConfig(Block):
    """``dsn.backbones.mlp``; ``widths``: neurons a layer."""

    name: Literal["mlp"] = "mlp"
    widths: Annotated[list[Positive], Field(min_length=1, max_length=1000)] = [2000, 2000]
    bias: bool = True


class AlexNetConfig(Block):
    """``dsn.backbones.alexnet``; ``hidden``: units of its two Linears; ``norm``: batch norm a layer."""

    name: Literal["alexnet"] = "alexnet"
    hidden: Positive = 2048
    bias: bool = True
    norm: bool = False
    dropout: Probability = 0.5


class LeNetConfig(Block):
    """``dsn.backbones.lenet``."""

    name: Literal["lenet"] = "lenet"
    bias: bool = True


class StridedCNNConfig(Block):
    """``dsn.backbones.strided_cnn``; ``width``: channels of its four convolutions; ``features``: of its
    Linears."""

    name: Literal["strided_cnn"] = "strided_cnn"
    width: Positive = 160
    features: Positive = 640
    bias: bool = True


class SmallCNNConfig(Block):
    """``dsn.backbones.small_cnn``; ``width``: channels of the first block; ``depth``: convolutions a block;
    ``features``: of the Linear."""

    name: Literal["small_cnn"] = "small_cnn"
    width: Positive = 32
    depth: Annotated[int, Field(gt=0, le=100)] = 1
    features: Positive = 256
    bias: bool = True
    norm: bool = True
    dropout: Probability = 0.0


class ResNet18Config(Block):
    """``dsn.backbones.resnet18``; ``width``: channels of the first stage; ``pool``: see there."""

    name: Literal["resnet18"] = "resnet18"
    width: Positive = 64
    bias: bool = False
    pool: Literal["global", "2x2"] = "global"


class ResNet20Config(Block):
    """``dsn.backbones.resnet20``; ``width``: channels of the first stage."""

    name: Literal["resnet20"] = "resnet20"
    width: Positive = 16
    bias: bool = False


class ViTConfig(Block):
    """``dsn.backbones.vit``; ``patch``: pixels a side of one; ``dim``: features of a token."""

    name: Literal["vit"] = "vit"
    patch: Positive = 4
    dim: Positive = 64
    depth: Annotated[int, Field(gt=0, le=100)] = 4
    heads: Positive = 4
    dropout: Probability = 0.0


class MobileNetConfig(Block):
    """``dsn.backbones.mobilenet``; ``width``: channels over MobileNetV2's; ``features``: of the last."""

    name: Literal["mobilenet"] = "mobilenet"
    width: Annotated[float, Field(gt=0, le=100)] = 1.0
    features: Positive = 256


class ZooConfig(Block):
    """A network by the name that a package has for it.

    pretrained: with the package's weights, downloaded into its cache, or from ``weights``; a mere start,
        unless ``selection.fresh`` keeps them
    weights: a file of theirs, .pth or .safetensors; null: the package's own
    options: arguments of the network's builder
    """

    model: str
    pretrained: bool = False
    weights: str | None = None
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _weights_are_wanted(self) -> Self:
        if self.weights is not None and not self.pretrained:
            raise wrong(
                "backbone.weights", "is read only with backbone.pretrained: true; set it, or leave it"
            )
        return self


class TorchvisionConfig(ZooConfig):
    """Any classifier of torchvision; ``model``: its name there, e.g. mobilenet_v2."""

    name: Literal["torchvision"] = "torchvision"


class TimmConfig(ZooConfig):
    """A network of timm (``pip install -e '.[timm]'``); ``model``: its name there, e.g. vit_tiny_patch16_224.

    One made for a size of its own takes another by ``options``, e.g. {img_size: 64}.
    """

    name: Literal["timm"] = "timm"


Backbone = Annotated[
    MLPConfig
    | AlexNetConfig
    | LeNetConfig
    | SmallCNNConfig
    | StridedCNNConfig
    | ResNet18Config
    | ResNet20Config
    | ViTConfig
    | MobileNetConfig
    | TorchvisionConfig
    | TimmConfig,
    Field(discriminator="name"),
]
