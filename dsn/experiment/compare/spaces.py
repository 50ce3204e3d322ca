"""What ``compare --tune`` searches: for each strategy, config keys and where their values may lie.

Memory is no hyper-parameter here: how many samples a strategy stores is given, not tuned.
"""

from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution

from ..config.blocks import LARGEST
from ..config.experiment import Config

Distribution = FloatDistribution | CategoricalDistribution
Space = dict[str, Distribution]


def log(low: float, high: float) -> FloatDistribution:
    """Log-uniform."""
    return FloatDistribution(low, high, log=True)


SCORE_LR_FACTOR = (0.1, 30.0)

SPACES: dict[str, Space] = {
    "dsn": {"selection.sparsity": log(0.01, 3.0)},
    "hat": {"baselines.hat.sparsity": log(0.01, 3.0), "baselines.hat.s_max": log(50.0, 800.0)},
    "wsn": {
        "baselines.wsn.density": FloatDistribution(0.05, 0.9),
        "baselines.wsn.score_lr_factor": log(*SCORE_LR_FACTOR),
        "baselines.wsn.signed_constants": CategoricalDistribution([False, True]),
        "baselines.wsn.carry_scores": CategoricalDistribution([False, True]),
    },
    "supsup": {
        "baselines.supsup.density": FloatDistribution(0.05, 0.9),
        "baselines.supsup.score_lr_factor": log(*SCORE_LR_FACTOR),
    },
    "packnet": {"baselines.packnet.retrain": FloatDistribution(0.1, 0.6)},
    "ewc": {"baselines.ewc.strength": log(1.0, 1e5)},
    "mas": {"baselines.mas.strength": log(0.01, 1e3)},
    "si": {"baselines.si.strength": log(0.01, 1e3)},
    "lwf": {"baselines.lwf.alpha": log(0.05, 20.0), "baselines.lwf.temperature": FloatDistribution(1.0, 4.0)},
    "gem": {"baselines.gem.strength": FloatDistribution(0.0, 1.0)},
    "agem": {},
    "pnn": {},
    "naive": {},
    "replay": {},
    "cumulative": {},
    "joint": {},
    "independent": {},
    "random": {},
}
"""By strategy, beside the learning rate."""

LR_FACTOR = 10.0
DIGITS = 3


def space_of(config: Config) -> Space:
    """The search space of the config's strategy: its own, and its learning rate within a factor of ten."""
    key = "train.lr" if config.strategy == "dsn" else f"baselines.{config.strategy}.lr"
    lr = config.train.lr
    own = SPACES[config.strategy]
    if config.strategy == "dsn" and config.selection.edges != "none":
        own = {} if config.selection.edges == "own" else {"selection.score_lr_factor": log(*SCORE_LR_FACTOR)}
    return {key: log(lr / LR_FACTOR, min(lr * LR_FACTOR, LARGEST)), **own}


def value_at(config: Config, key: str) -> Any:
    """What ``config`` has at the dotted ``key``; ``train.lr`` for a strategy's lr that is not set."""
    here: Any = config
    for part in key.split("."):
        here = getattr(here, part)
    return config.train.lr if here is None and key.endswith(".lr") else here


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """The config with other values at dotted keys, checked again."""
    return Config.model_validate(put_values(config.model_dump(mode="python"), values))


def put_values(blocks: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """``blocks`` with ``values`` at dotted keys, in place; blocks that are missing are made."""
    for key, value in values.items():
        *path, last = key.split(".")
        here = blocks
        for part in path:
            here = here.setdefault(part, {})
        here[last] = value
    return blocks


def lies_in(distribution: Distribution, value: Any) -> bool:
    """Whether the search may try ``value``."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return distribution.low <= value <= distribution.high


def rounded(distribution: Distribution, value: Any) -> Any:
    """Three significant digits of a number are enough, and can be read."""
    if isinstance(distribution, CategoricalDistribution):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), distribution.low), distribution.high)
