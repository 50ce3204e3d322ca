"""Plain networks that return features [batch, d]; each task's head comes from ``mask_neurons``.

Image networks take x [batch, channels, height, width]; none knows anything of masks.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .vision import loading_weights_only as loading_weights_only
from .vision import mobilenet, vit
from .vision import timm_model as timm_model
from .vision import torchvision_model as torchvision_model


class MLP(nn.Sequential):
    """Linear and ReLU over the flattened input; ``widths`` (2000, 2000) is the paper's."""

    def __init__(self, in_features: int, widths: Sequence[int] = (2000, 2000), bias: bool = True) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in zip([in_features, *widths], widths, strict=False):
            layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
        super().__init__(*layers)


class AlexNet(nn.Sequential):
    """The paper's AlexNet for 32x32 (HAT's): convolutions 4x4, 3x3, 2x2, then two Linears of ``hidden``.

    With 2048 hidden units: 4,544 neurons, 6.5 million weights at 32x32. ``norm``: batch norm behind each
    layer, as WSN and GPM have it.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 32,
        hidden: int = 2048,
        bias: bool = True,
        dropout: float = 0.5,
        norm: bool = False,
    ) -> None:
        side = image_size
        kernels = (image_size // 8, image_size // 10, 2)
        channels = (in_channels, 64, 128, 256)
        layers: list[nn.Module] = []
        for block, kernel in enumerate(kernels):
            layers += [
                nn.Conv2d(channels[block], channels[block + 1], kernel, bias=bias),
                *([nn.BatchNorm2d(channels[block + 1])] if norm else []),
                nn.ReLU(),
                nn.Dropout(0.4 * dropout if block < 2 else dropout),
                nn.MaxPool2d(2),
            ]
            side = (side - kernel + 1) // 2
        layers.append(nn.Flatten())
        for before in (256 * side * side, hidden):
            layers.append(nn.Linear(before, hidden, bias=bias))
            layers += [nn.BatchNorm1d(hidden)] if norm else []
            layers += [nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers)


class LeNet(nn.Sequential):
    """WSN's LeNet: convolutions 5x5 of 20 and 50 channels, pooled, then Linears of 800 and 500.

    GPM's has a local response norm behind each convolution, which mixes channels and so cannot be masked.
    """

    def __init__(self, in_channels: int = 3, image_size: int = 32, bias: bool = True) -> None:
        layers: list[nn.Module] = []
        side, before = image_size, in_channels
        for after in (20, 50):
            layers += [nn.Conv2d(before, after, 5, padding=2, bias=bias), nn.ReLU()]
            layers.append(nn.MaxPool2d(3, 2, padding=1))
            side, before = (side + 1) // 2, after
        layers.append(nn.Flatten())
        for width, after in ((before * side * side, 800), (800, 500)):
            layers += [nn.Linear(width, after, bias=bias), nn.ReLU()]
        super().__init__(*layers)


class StridedCNN(nn.Sequential):
    """WSN's and GPM's network for TinyImageNet, "4 conv + 3 fc" with the head.

    Four 3x3 convolutions of ``width`` channels with stride 2, then two Linears of ``features``.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 64,
        width: int = 160,
        features: int = 640,
        bias: bool = True,
    ) -> None:
        layers: list[nn.Module] = []
        side, before = image_size, in_channels
        for _ in range(4):
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=bias), nn.ReLU()]
            side, before = (side + 1) // 2, width
        layers.append(nn.Flatten())
        for inputs in (width * side * side, features):
            layers += [nn.Linear(inputs, features, bias=bias), nn.ReLU()]
        super().__init__(*layers)


class SmallCNN(nn.Sequential):
    """3x3 convolutions, ``depth`` each of 1, 2 and 4 times ``width`` channels, then a Linear of ``features``.

    Trains on a CPU in minutes at 32x32. ``norm``: batch norm behind each convolution.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 32,
        width: int = 32,
        depth: int = 1,
        features: int = 256,
        bias: bool = True,
        norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        layers: list[nn.Module] = []
        before = in_channels
        for after in (width, 2 * width, 4 * width):
            for _ in range(depth):
                layers.append(nn.Conv2d(before, after, 3, padding=1, bias=bias))
                layers += [nn.BatchNorm2d(after)] if norm else []
                layers.append(nn.ReLU())
                before = after
            layers += [nn.MaxPool2d(2), nn.Dropout(dropout / 2)]
        side = image_size // 8
        layers += [nn.Flatten(), nn.Linear(before * side * side, features, bias=bias)]
        layers += [nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers)


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a residual sum (He et al. 2016)."""

    def __init__(self, before: int, after: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=bias), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))


class _ResNet(nn.Module):
    """A 3x3 convolution, then ``blocks`` blocks a stage; stage i has ``factors[i]`` * ``width`` channels.

    ``pool``: the features are means over the whole map ("global"), or over windows of 2x2 ("2x2").
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        bias: bool,
        *,
        factors: Sequence[int],
        blocks: int,
        stride: int = 1,
        pool: str = "global",
    ) -> None:
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(width)
        layers, before = [], width
        for stage, factor in enumerate(factors):
            for block in range(blocks):
                layers.append(_BasicBlock(before, factor * width, 2 if stage and not block else 1, bias))
                before = factor * width
        self.blocks = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.bn1(self.conv1(x))))
        return x.mean(dim=(2, 3)) if self.pool == "global" else F.avg_pool2d(x, 2).flatten(1)


class ResNet18(_ResNet):
    """ResNet-18 with the 3x3 first convolution usual for 32x32; at 64x64 it begins with stride 2.

    ``width`` is the number of channels of the first stage (64 in the original; 20 in continual learning's
    "reduced ResNet-18"). ``pool``: the features are means over the whole map ("global"), or over windows
    of 2x2 ("2x2"), as the reduced ResNet-18 of GPM and WSN has them.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 32,
        width: int = 64,
        bias: bool = False,
        pool: str = "global",
    ) -> None:
        stride = 2 if image_size > 32 else 1
        super().__init__(in_channels, width, bias, factors=(1, 2, 4, 8), blocks=2, stride=stride, pool=pool)


class ResNet20(_ResNet):
    """ResNet-20 for CIFAR (He et al. 2016): three stages of three blocks, ``width`` (16) channels and more.

    Where a stage begins the shortcut is a 1x1 convolution, as pruners at initialisation are compared on it.
    """

    def __init__(
        self, in_channels: int = 3, image_size: int = 32, width: int = 16, bias: bool = False
    ) -> None:
        super().__init__(in_channels, width, bias, factors=(1, 2, 4), blocks=3)


def mlp(in_features: int = 784, widths: Sequence[int] = (2000, 2000), bias: bool = True) -> nn.Module:
    """See :class:`MLP`."""
    return MLP(in_features, widths, bias)


def alexnet(in_channels: int = 3, image_size: int = 32, **options: int | float | bool) -> nn.Module:
    """See :class:`AlexNet`."""
    return AlexNet(in_channels, image_size, **options)  # type: ignore[arg-type]


def lenet(in_channels: int = 3, image_size: int = 32, bias: bool = True) -> nn.Module:
    """See :class:`LeNet`."""
    return LeNet(in_channels, image_size, bias)


def strided_cnn(in_channels: int = 3, image_size: int = 64, **options: int | bool) -> nn.Module:
    """See :class:`StridedCNN`."""
    return StridedCNN(in_channels, image_size, **options)  # type: ignore[arg-type]


def small_cnn(in_channels: int = 3, image_size: int = 32, **options: int | float | bool) -> nn.Module:
    """See :class:`SmallCNN`."""
    return SmallCNN(in_channels, image_size, **options)  # type: ignore[arg-type]


def resnet18(
    in_channels: int = 3, image_size: int = 32, width: int = 64, bias: bool = False, pool: str = "global"
) -> nn.Module:
    """See :class:`ResNet18`."""
    return ResNet18(in_channels, image_size, width, bias, pool)


def resnet20(in_channels: int = 3, image_size: int = 32, width: int = 16, bias: bool = False) -> nn.Module:
    """See :class:`ResNet20`."""
    return ResNet20(in_channels, image_size, width, bias)


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "alexnet": alexnet,
    "lenet": lenet,
    "strided_cnn": strided_cnn,
    "small_cnn": small_cnn,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "vit": vit,
    "mobilenet": mobilenet,
}
