"""Networks of torchvision and timm: two in small, for images of 32 pixels, and any of theirs by name."""

import difflib
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

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


def torchvision_model(
    model: str, pretrained: bool = False, weights: str | None = None, **options: object
) -> tuple[nn.Module, str]:
    """Any classifier of torchvision by name, and the path of its head, its last Linear.

    ``pretrained``: with torchvision's weights, from the file ``weights``, or from torch's hub folder or
    downloaded into it; a file that holds more than weights is refused, not run.

    Raises InputError for an unknown name, and where pretrained weights cannot be downloaded or read.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if model not in known:
        raise InputError(f"torchvision has no model '{model}'; it has {', '.join(known)}")
    download = "DEFAULT" if pretrained and weights is None else None
    try:
        with loading_weights_only():
            network = models.get_model(model, weights=download, **options)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        if not download:
            raise
        file = (
            Path(torch.hub.get_dir()) / "checkpoints" / Path(models.get_model_weights(model).DEFAULT.url).name
        )
        raise InputError(
            f"the pretrained weights of '{model}' in {file} cannot be used ({str(error).splitlines()[0]}): "
            "remove that file, so that it is downloaded again, or set pretrained: false"
        ) from error
    except OSError as error:
        raise _not_downloaded(model, error) from error
    heads = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not heads:
        raise InputError(f"torchvision's '{model}' ends in no Linear layer: it cannot be given heads a task")
    if pretrained and weights is not None:
        _load_file(network, model, Path(weights).expanduser(), heads[-1])
    return network, heads[-1]


def timm_model(
    model: str, pretrained: bool = False, weights: str | None = None, **options: object
) -> tuple[nn.Module, None]:
    """A network of timm by name, without its classifier: it gives features.

    ``pretrained``: with timm's weights, from the file ``weights``, or from the hub's cache or downloaded into
    it. A file that holds more than weights is refused, not run.

    Raises InputError where timm is not installed, for an unknown name, and where pretrained weights cannot
    be downloaded or read.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"backbone.name: timm needs the package {error.name}: pip install -e '.[timm]'"
        ) from error
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=5)
        raise InputError(f"timm has no model '{model}'; nearest are {', '.join(near) or 'none'}")
    arguments = {"num_classes": 0, **options}
    if pretrained and weights is not None:
        network = timm.create_model(model, **arguments)
        _load_file(network, model, Path(weights).expanduser(), network.default_cfg.get("classifier"))
        return network, None
    try:
        with loading_weights_only():
            return timm.create_model(model, pretrained=pretrained, **arguments), None
    except Exception as error:  # the hub's, the network's and the file's errors are of many classes
        if not pretrained or isinstance(error, TypeError):
            raise
        raise _not_downloaded(model, error) from error


def _not_downloaded(model: str, error: Exception) -> InputError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"the pretrained weights of '{model}' could not be downloaded ({why}): give a file of them "
        "(backbone.weights), or set pretrained: false"
    )


def _load_file(network: nn.Module, model: str, file: Path, head: str | tuple[str, ...] | None) -> None:
    """Load the weights in ``file``, .safetensors or torch's own format, but those of the ``head``."""
    heads = tuple(f"{path}." for path in ((head,) if isinstance(head, str) else head or ()))
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        state = {key: value for key, value in state.items() if not key.startswith(heads)}
        own = {key: value for key, value in network.state_dict().items() if not key.startswith(heads)}
        _refuse_other_weights(state, own)
        network.load_state_dict(state, strict=False)
    except Exception as error:  # torch's, pickle's and the file system's errors are of many classes
        raise InputError(
            f"backbone.weights: {file} cannot be used for '{model}' "
            f"({(str(error).splitlines() or [''])[0]}): give a file that holds a state_dict of this network"
        ) from error


def _refuse_other_weights(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for key in own:
        if key not in state:
            raise InputError(f"it has no '{key}'")
        if state[key].shape != own[key].shape:
            raise InputError(
                f"its '{key}' has the shape {list(state[key].shape)}, not {list(own[key].shape)}"
            )
    if more := sorted(set(state) - set(own)):
        raise InputError(f"it has '{more[0]}', which the network has not")


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
