"""Any optimizer of torch.optim by its name in lower case, and the arguments it is made with."""

import inspect
from typing import Any

from dsn.errors import InputError

from .problems import nearest

# need more than a gradient a step: a closure, or sparse gradients
UNUSABLE = {"lbfgs": "it needs a closure", "sparseadam": "it takes sparse gradients only"}


def optimizer_class(name: str) -> Any:
    """The class of torch.optim called ``name``. Raises InputError for an unknown or unusable one."""
    from torch import optim

    classes = {
        key.lower(): value
        for key, value in vars(optim).items()
        if inspect.isclass(value) and issubclass(value, optim.Optimizer) and value is not optim.Optimizer
    }
    if name in UNUSABLE:
        raise InputError(f"{name!r} cannot be used: {UNUSABLE[name]}")
    if name not in classes:
        raise InputError(f"unknown {name!r}{nearest(name, sorted(set(classes) - set(UNUSABLE)))}")
    return classes[name]


def optimizer_arguments(
    name: str, *, lr: float, momentum: float, weight_decay: float, extra: dict[str, Any]
) -> dict[str, Any]:
    """Keyword arguments for the optimizer ``name``; a zero is left out where it takes no such argument.

    Raises InputError, ``argument: reason``, for what the optimizer does not take.
    """
    known = [key for key in inspect.signature(optimizer_class(name)).parameters if key != "params"]
    named = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    for key, value in named.items():
        if value != 0 and key not in known:
            raise InputError(f"{key}: {name} takes none, remove it")
    for key in extra:
        if key in named:
            raise InputError(f"optimizer_args.{key}: set it one level up, as train.{key}")
        if key not in known:
            raise InputError(f"optimizer_args.{key}: unknown to {name}{nearest(key, sorted(known))}")
    return {key: value for key, value in named.items() if key in known} | extra
