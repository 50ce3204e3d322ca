"""The seal of a run: digests by which ``verify`` sees whether its files are those that the run wrote.

Each row of the result has a digest over itself and the digest before it: the row of the accuracy matrix, of
the certificate, what the task uses, and transfers from and to it. ``seal.result`` is over all of result.json
but ``timings`` and ``environment``, which differ between equal runs; ``environment.seal`` is over these two
and ``seal.result``. Whoever changes a file and its digests too is not found: the seal is no signature.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FILES = ("config.yaml", "matrix.csv", "model.safetensors")
OWN = "seal"
APART = ("timings", "environment")

Values = dict[str, Any]
"""result.json as JSON gives it"""


def sealed(values: Values, folder: Path) -> Values:
    """``values`` with the seal of it and of the files that are in ``folder``."""
    seal: Values = {
        "files": {name: _file(folder / name) for name in FILES if (folder / name).is_file()},
        "rows": _rows(values),
    }
    seal["result"] = _result(values, seal)
    environment = values["environment"] | {OWN: _apart(values, seal["result"])}
    return values | {"environment": environment, OWN: seal}


def breaches(values: Values, folder: Path) -> list[str]:
    """What is not as the run wrote it, a sentence each; empty where all is, or where there is no seal."""
    seal = values.get(OWN)
    if seal is None:
        return []
    found = []
    for name, digest in seal["files"].items():
        if name not in FILES or not (folder / name).is_file():
            found.append(f"{name} is missing")
        elif _file(folder / name) != digest:
            found.append(f"{name} is not the file that the run wrote")
    found += [f"{name} was not there" for name in FILES if _added(name, seal, folder)]
    rows, kept = _rows(values), seal["rows"]
    if rows != kept:
        place = next((i for i, pair in enumerate(zip(rows, kept, strict=False)) if pair[0] != pair[1]), None)
        where = f"from row {min(len(rows), len(kept)) if place is None else place} on"
        found.append(
            f"result.json: {where}, accuracy matrix, certificate, tasks or transfers are not those of the run"
        )
    elif _result(values, seal) != seal["result"]:
        found.append("result.json: a field is not as the run wrote it")
    if _apart(values, seal["result"]) != values["environment"].get(OWN):
        found.append("result.json: timings or environment are not as the run wrote them")
    return found


def _added(name: str, seal: Values, folder: Path) -> bool:
    return name not in seal["files"] and (folder / name).is_file()


def _rows(values: Values) -> list[str]:
    """One digest a row of the accuracy matrix, each over the one before."""
    digests: list[str] = []
    order = [row["tasks"][-1] for row in values.get("certificate") or () if row["tasks"]]
    for place, row in enumerate(values["accuracy_matrix"]):
        task = _at(order, place, place)
        part = {
            "before": digests[-1] if digests else "",
            "matrix": row,
            "certificate": _at(values.get("certificate"), place, None),
            "task": _at(values.get("tasks"), place, None),
            "transfers": [one for one in values.get("transfers", []) if one["source"] == task],
            "forward": [one for one in values.get("forward_transfers", []) if one["task"] == task],
        }
        digests.append(_digest(part))
    return digests


def _result(values: Values, seal: Values) -> str:
    kept = {name: value for name, value in values.items() if name not in (*APART, OWN)}
    return _digest(kept | {OWN: {name: seal[name] for name in ("files", "rows")}})


def _apart(values: Values, result: str) -> str:
    environment = {name: value for name, value in values["environment"].items() if name != OWN}
    return _digest([result, values["timings"], environment])


def _at(items: Any, place: int, otherwise: Any) -> Any:
    return items[place] if items and -len(items) <= place < len(items) else otherwise


def _file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in _parts(file):
            digest.update(part)
    return digest.hexdigest()


def _parts(file: Any) -> Iterable[bytes]:
    while part := file.read(2**20):
        yield part


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
