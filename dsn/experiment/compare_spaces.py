"""What ``compare --tune`` searches: for each strategy, config keys and where their values may lie.

Memory is no hyper-parameter here: how many samples a strategy stores is given, not tuned.
"""

from typing import Any

from optuna.distributions import FloatDistribution

from .config import Config

Space = dict[str, FloatDistribution]


def log(low: float, high: float) -> FloatDistribution:
    """Log-uniform."""
    return FloatDistribution(low, high, log=True)


SPACES: dict[str, Space] = {
    "dsn": {"selection.sparsity": log(0.01, 3.0)},
    "hat": {"baselines.hat.sparsity": log(0.01, 3.0), "baselines.hat.s_max": log(50.0, 800.0)},
    "wsn": {"baselines.wsn.density": FloatDistribution(0.05, 0.9)},
    "supsup": {"baselines.supsup.density": FloatDistribution(0.05, 0.9)},
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


def space_of(config: Config) -> Space:
    """The search space of the config's strategy: its own, and its learning rate within a factor of ten."""
    key = "train.lr" if config.strategy == "dsn" else f"baselines.{config.strategy}.lr"
    lr = config.train.lr
    return {key: log(lr / LR_FACTOR, lr * LR_FACTOR), **SPACES[config.strategy]}


def value_at(config: Config, key: str) -> Any:
    """What ``config`` has at the dotted ``key``; ``train.lr`` for a strategy's lr that is not set."""
    here: Any = config
    for part in key.split("."):
        here = getattr(here, part)
    return config.train.lr if here is None and key.endswith(".lr") else here


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """The config with other values at dotted keys, checked again."""
    whole = config.model_dump(mode="python")
    for key, value in values.items():
        *path, last = key.split(".")
        here = whole
        for part in path:
            here = here[part]
        here[last] = value
    return Config.model_validate(whole)
