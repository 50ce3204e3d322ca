"""Settings that a command does not use: refused where they are asked for, else said."""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dsn.errors import InputError

from .yaml_file import read_yaml

SEEDS = "it takes --seeds"
NO_RUN = "it keeps and evaluates nothing else"
OF_A_LAB = {"seed": SEEDS, "evaluation": NO_RUN, "checkpoint": NO_RUN, "tracker": NO_RUN}
PLAIN = "it trains plain networks with masks over weights"
UNUSED: dict[str, dict[str, str]] = {
    "compare": {"seed": SEEDS, "strategy": "it takes --strategies"},
    "transfer-lab": {**OF_A_LAB, "baselines": "it learns with dsn alone"},
    "transfer-ablation": {**OF_A_LAB, "baselines": "it learns with dsn alone"},
    "settings-ablation": OF_A_LAB,
    "topology": {
        **OF_A_LAB,
        **dict.fromkeys(("strategy", "selection", "replay", "transfer", "baselines"), PLAIN),
        **dict.fromkeys(("train.precision", "train.channels_last", "train.compile"), PLAIN),
    },
}
"""By command: keys of the config that it does not use, and why."""


def say_unused(path: Path, overrides: list[str], command: str, seeds: Collection[int] = ()) -> None:
    """Say on standard error which settings in the file ``path`` the command does not use.

    Its seed is one of them where it is not among ``seeds``, those that the command takes instead.

    Raises InputError for one of ``overrides``: who gives it wants it used.
    """
    unused = UNUSED[command]
    wrong = []
    for override in overrides:
        key = override.partition("=")[0].strip()
        reasons = [why for name, why in unused.items() if f"{key}.".startswith(f"{name}.")]
        if reasons:
            wrong.append(f"--set {override}: {command} does not use {key}: {reasons[0]}; leave it out")
    if wrong:
        raise InputError("\n".join(wrong))
    values = read_yaml(path)
    found = [name for name in unused if _stands_in(values, name)]
    if "seed" in found and values["seed"] in seeds:
        found.remove("seed")
    if found:
        print(f"{path}: {command} does not use {', '.join(found)}", file=sys.stderr)


def _stands_in(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
