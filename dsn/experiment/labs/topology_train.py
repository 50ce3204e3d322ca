"""Training of one pruned network on one task; masks hold throughout."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from dsn.baselines.network import feature_size, headless
from dsn.errors import InputError
from dsn.masking.layers import evaluating
from dsn.topology.layers import weights_of
from dsn.training.loader import TensorLoader

from ..config.experiment import Config
from ..config.machine import seed_everything
from ..config.network import build_backbone
from ..run.build import build_optimizer, total_epochs

EVALUATED_AT_ONCE = 512


def make_network(config: Config, sample_shape: torch.Size, classes: int) -> nn.Module:
    """The config's backbone with a Linear of ``classes`` behind it, from the global seed."""
    backbone, head = build_backbone(config.backbone, sample_shape)
    backbone = headless(backbone, head)
    features = nn.Linear(feature_size(backbone, sample_shape), classes)
    return nn.Sequential(OrderedDict(backbone=backbone, head=features))


def refuse_untrainable(config: Config) -> None:
    """Raise InputError where the config asks for what needs validation data: there are none here."""
    train = config.train
    if train.average_epochs:
        raise InputError("train.average_epochs: pruned networks keep their last weights here; set it to 0")
    if train.norm_samples:
        raise InputError("train.norm_samples: pruned networks keep those of training here; set it to 0")
    if train.schedule == "plateau" or train.patience is not None or train.restore_best:
        raise InputError(
            "train: schedule plateau, patience and restore_best judge by validation data, which pruned "
            "networks are not given; set schedule: cosine or constant, patience: null, restore_best: false"
        )


def train_pruned(
    network: nn.Module, masks: Mapping[str, Tensor], x: Tensor, y: Tensor, config: Config
) -> None:
    """Train ``network`` on x [n, ...], y [n] in place, all epochs of the config; masked weights stay 0.

    The order of the batches comes from the config's seed, so it is the same for every mask. Raises InputError
    where the loss is not finite.
    """
    seed_everything(config.seed)
    optimizer, epochs = build_optimizer(config, network), total_epochs(config)
    scheduler = CosineAnnealingLR(optimizer, T_max=epochs) if config.train.schedule == "cosine" else None
    weights = weights_of(network)
    kept = [(weight, masks[path].to(weight)) for path, weight in weights.items() if not masks[path].all()]
    loader = TensorLoader(x, y, 0, batch_size=config.train.batch_size, shuffle=True)
    network.train()
    for epoch in range(epochs):
        total = torch.zeros((), device=x.device)
        for part, labels, _ in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(part), labels)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for weight, mask in kept:
                    weight.mul_(mask)
            total += loss.detach()
        if not bool(torch.isfinite(total)):
            raise InputError(f"epoch {epoch}: the loss is not finite; lower train.lr")
        if scheduler is not None:
            scheduler.step()


def accuracy_of(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of x [n, ...] that gets its label y [n], in [0, 1]."""
    with evaluating(network):
        parts = zip(x.split(EVALUATED_AT_ONCE), y.split(EVALUATED_AT_ONCE), strict=True)
        right = sum((network(part).argmax(1) == labels).sum() for part, labels in parts)
    return float(right) / len(y)
