"""What a run depends on: a finished run is taken as it is while its key stays the same."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from ..config.experiment import WITHOUT_INFLUENCE, Config
from .result import write_whole

ROOT = Path(__file__).parents[3]
ABSENT = "absent"


@cache
def code_version() -> str:
    """sha256 over name and content of every .py file in ``dsn/`` and ``benchmarks/``, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("dsn/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def identity(config: Config) -> dict[str, Any]:
    """What the result of ``config`` depends on: all of it but the blocks that its strategy never reads."""
    values = config.model_dump(mode="json")
    own = config.strategy
    for block in WITHOUT_INFLUENCE:
        del values[block]
    values["baselines"] = {name: block for name, block in values["baselines"].items() if name == own}
    if own != "dsn":
        del values["transfer"], values["replay"]
    return {"code": code_version(), "config": values}


def key_of(values: dict[str, Any]) -> str:
    """sha256 of an :func:`identity`."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_key(path: Path, values: dict[str, Any]) -> None:
    """Keep an :func:`identity` and its key beside a run's folder."""
    write_whole(path, json.dumps({"key": key_of(values), **values}, indent=2) + "\n")


def read_key(path: Path) -> dict[str, Any]:
    """What :func:`write_key` wrote; empty where it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """In words, what differs between the identity ``old``, as :func:`read_key` gives it, and ``new``."""
    if not isinstance(old.get("config"), dict):
        return "its key is missing"
    before, after = _flat(old["config"]), _flat(new["config"])
    said = [
        f"{key} was {before.get(key, ABSENT)}, is {after.get(key, ABSENT)}"
        for key in sorted({*before, *after})
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    ]
    if old.get("code") != new["code"]:
        said.append("the code changed")
    return "; ".join(said) or "its key is damaged"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
