"""Networks of torchvision: two in small, for images of 32 pixels, and any of its classifiers."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from .errors import InputError


def vit(
    in_channels: int = 3,
    image_size: int = 32,
    patch: int = 4,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
) -> nn.Module:
    """torchvision's vision transformer, by default for 32x32: ``dim`` features, MLPs twice as wide.

    Raises InputError where patches do not fill the image, or heads the features.
    """
    from torchvision.models import VisionTransformer

    if image_size % patch or dim % heads:
        wrong = f"patch {patch} of image_size {image_size}" if image_size % patch else f"{heads=} of {dim=}"
        raise InputError(f"vit: {wrong} leaves a rest: choose a divisor")
    net = VisionTransformer(image_size, patch, depth, heads, dim, 2 * dim, dropout=dropout)
    net.conv_proj = nn.Conv2d(in_channels, dim, patch, patch)
    net.heads = nn.Identity()
    return net


def mobilenet(
    in_channels: int = 3, image_size: int = 32, width: float = 1.0, features: int = 256
) -> nn.Module:
    """torchvision's MobileNetV2 in small, for 32x32: inverted residuals of 16 to 64 channels times ``width``.

    The image is halved three times; ``features``: channels of the last convolution, averaged over the map.
    """
    from torchvision.models import MobileNetV2
    from torchvision.ops import Conv2dNormActivation

    # expansion, channels, how many, stride
    blocks = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 64, 2, 2]]
    net = MobileNetV2(width_mult=width, inverted_residual_setting=blocks)
    first, last = net.features[0][0], net.features[-1][0]
    stem = Conv2dNormActivation(in_channels, first.out_channels, activation_layer=nn.ReLU6)
    top = Conv2dNormActivation(last.in_channels, features, kernel_size=1, activation_layer=nn.ReLU6)
    net.features = nn.Sequential(stem, *net.features[1:-1], top)
    net.classifier = nn.Identity()
    return net


def torchvision_model(model: str, pretrained: bool = False, **options: object) -> tuple[nn.Module, str]:
    """Any classifier of torchvision by name, and the path of its head, its last Linear.

    ``pretrained``: with torchvision's weights, from torch's hub folder or downloaded into it; a file there
    that holds more than weights is refused, not run.

    Raises InputError for an unknown name, and where pretrained weights cannot be downloaded or read.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if model not in known:
        raise InputError(f"torchvision has no model '{model}'; it has {', '.join(known)}")
    try:
        with loading_weights_only():
            network = models.get_model(model, weights="DEFAULT" if pretrained else None, **options)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        if not pretrained:
            raise
        file = (
            Path(torch.hub.get_dir()) / "checkpoints" / Path(models.get_model_weights(model).DEFAULT.url).name
        )
        raise InputError(
            f"the pretrained weights of '{model}' in {file} cannot be used ({str(error).splitlines()[0]}): "
            "remove that file, so that it is downloaded again, or set pretrained: false"
        ) from error
    except OSError as error:
        raise InputError(
            f"the pretrained weights of '{model}' could not be downloaded ({error}): "
            "set pretrained: false, or put the file into torch's hub folder"
        ) from error
    heads = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not heads:
        raise InputError(f"torchvision's '{model}' ends in no Linear layer: it cannot be given heads a task")
    return network, heads[-1]


@contextmanager
def loading_weights_only() -> Iterator[None]:
    """``torch.load`` runs nothing that a file holds, although torchvision asks it to.

    By torch's own switch, an environment variable, put back at the end.
    """
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
