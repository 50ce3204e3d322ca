"""``run.py verify``: the certificate of a finished run, computed again from its model file."""

from pathlib import Path
from typing import Any

import torch

from dsn.errors import InputError
from dsn.masking.fingerprint import Fingerprints

from .certificate import Verdict, judge, row_of
from .files import load_model
from .machine import environment, set_up
from .result import read_result

SAME_MACHINE = ("torch", "platform", "device", "device_name", "processor", "threads")
"""Fields of the environment that may change the last bits of logits."""


def verify(folder: Path) -> tuple[list[Verdict], list[str]]:
    """What became of each task of the run in ``folder``; and what of the environment differs, in words.

    Sets torch's number of threads and deterministic kernels, as the run did.

    Raises:
        InputError: a missing or foreign file, or a run without a certificate.
    """
    result = read_result(folder / "result.json")
    if result.certificate is None:
        raise InputError(
            f"{folder / 'result.json'}: has no certificate: only strategies dsn and hat write one, and "
            "versions before it did not; run it again"
        )
    model, config, _ = load_model(folder, check=False)
    device = set_up(config)
    model.to(device)
    if config.train.channels_last:
        model.to(memory_format=torch.channels_last)
    now = row_of(Fingerprints(model))
    if not result.certificate or result.certificate[-1].tasks != now.tasks:
        known = result.certificate[-1].tasks if result.certificate else []
        raise InputError(
            f"{folder}: result.json is about the tasks {known}, model.safetensors has {now.tasks}"
        )
    elsewhere = differences(result.environment, environment(device))
    return judge(result.certificate, now, result.transfers, same_machine=not elsewhere), elsewhere


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """``torch was 2.4, is 2.5`` for each field that may change the last bits of logits."""
    return [
        f"{name} was {there.get(name)}, is {here.get(name)}"
        for name in SAME_MACHINE
        if there.get(name) != here.get(name)
    ]
