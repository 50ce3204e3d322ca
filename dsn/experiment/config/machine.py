"""The machine a run uses: device, seeds, threads, and what of it is recorded."""

import os
import platform
import random
import re
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dsn.errors import InputError
from dsn.ranks import Ranks

from .experiment import Config

KERNEL_SETTINGS = (
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_DEBUG_CPU_TYPE",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)
"""environment variables"""


def set_up(config: Config) -> torch.device:
    """Threads, seeds and deterministic kernels; returns the device.

    Of several processes that make one run, each gets a GPU of its own, where the run is on GPUs.

    Raises InputError if the device is not there, or processes cannot share the run.
    """
    device = _device(config)
    _share(config, device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return device


def _device(config: Config) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(config.device)
    try:
        float(torch.zeros(1, device=device))  # the device meta has no numbers to read
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device: {config.device} cannot be used here ({reason}); set auto or cpu"
        ) from error
    return device


def _share(config: Config, device: torch.device) -> None:
    """Take one's part of the machine, where several processes make the run."""
    ranks = Ranks()
    if ranks.count == 1:
        return
    ranks.share_of(config.train.shards)
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device: {config.device} is for one process; several share cpu or cuda")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cpu":
        return
    if device.index is not None:
        raise InputError(f"device: {config.device} is one GPU for {here} processes; set cuda")
    if here > torch.cuda.device_count():
        raise InputError(
            f"device: {here} processes on this machine, but {torch.cuda.device_count()} GPUs; start as many "
            "processes, or set cpu"
        )
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def environment(device: torch.device) -> dict[str, Any]:
    """Where the run was made: what may change its numbers besides config and seed."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "avalanche": _avalanche(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": _blas(),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
    }


def _avalanche() -> str:
    """Its version; it may lie on the path without having been installed, which must not end a run."""
    try:
        return version("avalanche-lib")
    except PackageNotFoundError:
        return str(getattr(sys.modules.get("avalanche"), "__version__", "unknown"))


def _blas() -> str:
    """torch's library for matrix products, and what the user has set that changes its kernels."""
    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    settings = [f"{name}={os.environ[name]}" for name in KERNEL_SETTINGS if name in os.environ]
    return " ".join([found.group(1) if found else "unknown", *settings])


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
