"""The states of every global random generator: Python's, numpy's, torch's and that of the device in use."""

import random
from typing import Any

import numpy as np
import torch


def take_random_states(device: torch.device) -> dict[str, Any]:
    """All states, as a tree of ``dsn.storage``."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, [int(key) for key in keys], int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "device": None,
    }
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["device"] = torch.mps.get_rng_state()
    return states


def put_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Put back what :func:`take_random_states` took on a device of the same type."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["device"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["device"], device)
    elif states["device"] is not None and device.type == "mps":
        torch.mps.set_rng_state(states["device"])
