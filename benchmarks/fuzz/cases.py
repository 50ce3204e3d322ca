"""Cases of each kind, drawn from a seed."""

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from .values import CONFIG, CONTENTS, OUTS, RAW, VALUES, WORK, Case


def hostile_config(draw: random.Random, folder: Path) -> Case:
    """A config with one to three wrong values, or what is none, and now and then an odd ``--out``."""
    (folder / "file").write_text("mine")
    (folder / "used").mkdir()
    (folder / "used" / "mine").write_text("mine")
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    (folder / "dangling").symlink_to("nowhere")
    values: Any = copy.deepcopy(CONFIG)
    path, told = folder / "config.yaml", []
    if draw.random() < 0.15:
        text = draw.choice(RAW)
        told.append(f"text {text[:40]!r}")
    else:
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            told.append(spoil(values, draw, WORK))
        text = yaml.safe_dump(values, allow_unicode=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    arguments = [draw.choice(["run", "run", "run", "topology", "transfer-lab"]), str(path)]
    if arguments[0] == "topology":
        arguments += ["--seeds", "0", "--densities", "0.5", "--pruners", "random"]
    elif arguments[0] == "transfer-lab":
        arguments += ["--seeds", "0"]
    out = draw.choice(OUTS) if draw.random() < 0.3 else "out"
    if draw.random() < 0.2:
        key = draw.choice(["train.lr", "stream", "device", "", "backbone.widths", "a.b", "seed.x", "threads"])
        arguments += ["--set", f"{key}={draw.choice(['1:30', '[', '0', '~', '{}', '010', '*a', '1e999'])}"]
        told.append(arguments[-1])
    return Case(
        [*arguments, f"--out={out}"], f"{arguments[0]} {', '.join(told)}, out {out[:20]!r}", (out, "real")
    )


def spoil(values: Any, draw: random.Random, work: tuple[str, ...] = ()) -> str:
    """Change one value somewhere in ``values``, or remove or add a key; says which and how."""
    where, here, key = "", values, None
    while isinstance(here, (dict, list)) and here and (key is None or draw.random() < 0.85):
        parent = here
        key = draw.choice(list(here)) if isinstance(here, dict) else draw.randrange(len(here))
        here, where = parent[key], f"{where}.{key}"
    if key is None:
        return "nothing"
    how = draw.random()
    if how < 0.1:
        del parent[key]
        return f"{where} removed"
    if how < 0.2 and isinstance(parent, dict):
        parent[f"{key}s"] = copy.deepcopy(here)
        return f"{where}s added"
    value = copy.deepcopy(draw.choice(VALUES))
    if key in work and isinstance(value, (int, float)) and value > 2:
        value = -value
    parent[key] = value
    return f"{where} = {repr(value)[:40]}"


def damaged_folder(draw: random.Random, folder: Path) -> Case:
    """A file of a run, a comparison or a checkpoint that is cut, changed, gone, or something else."""
    case = reader(draw, folder)
    path = draw.choice(sorted(p for p in (folder / case.told).rglob("*") if p.is_file()))
    content, how = (
        bytearray(path.read_bytes()),
        draw.choice(["cut", "flip", "gone", "replace", "other", "odd"]),
    )
    path.unlink()
    if how == "cut":
        path.write_bytes(content[: draw.randrange(len(content) + 1)])
    elif how == "flip":
        for _ in range(draw.choice([1, 1, 8, 200])):
            if content:
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    elif how == "replace":
        path.write_bytes(draw.choice(CONTENTS))
    elif how == "other":
        path.write_bytes(draw.choice([p for p in sorted(folder.rglob("*.*")) if p.is_file()]).read_bytes())
    elif how == "odd":
        kind = draw.choice(["folder", "pipe", "link"])
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(path.name)
    case.told = f"{case.arguments[0]} {path.relative_to(folder)} {how}"
    return case


def forged_folder(draw: random.Random, folder: Path) -> Case:
    """Files that are whole, with right checksums, and hold something else."""
    case = reader(draw, folder)
    place = folder / case.told
    known = [path for path in sorted(place.rglob("*")) if path.name in FORGERS and path.is_file()]
    path = draw.choice(known)
    case.told = f"{case.arguments[0]} {path.relative_to(folder)}: {FORGERS[path.name](path, draw)}"
    return case


def reader(draw: random.Random, folder: Path) -> Case:
    """A command that reads a folder of a run, a comparison or a checkpoint; ``told``: that folder."""
    run, compared = str(folder / "run"), str(folder / "compared")
    config = str(folder / "config.yaml")
    return draw.choice([
        Case(["report", run, "--impressions", "0", "--out", "out"], "run"),
        Case(["report", compared, "--impressions", "0", "--out", "out"], "compared"),
        Case(["verify", run], "run"),
        Case(["verify", run], "run"),
        Case(["subnetwork", run, "--task", "0", "--out", "out.safetensors"], "run", ("out.safetensors",)),
        Case(["impressions", run, "--images", "4", "--out", "out"], "run"),
        Case(["run", config, "--out", "run", "--resume"], "run", ("run",)),
        Case(["run", config, "--out", "kept", "--resume"], "kept.checkpoint", ("kept",)),
        Case(["run", config, "--out", "kept", "--resume"], "kept.checkpoint", ("kept",)),
    ])  # fmt: skip


def forge_json(path: Path, draw: random.Random) -> str:
    """Change a value of a JSON file."""
    values = json.loads(path.read_text())
    told = [spoil(values, draw) for _ in range(draw.choice([1, 1, 2]))]
    path.write_text(json.dumps(values))
    return ", ".join(told)


def forge_model(path: Path, draw: random.Random) -> str:
    """Change what a model file says of itself, or its tensors; its checksum is right."""
    from safetensors import safe_open
    from safetensors.torch import save

    from dsn.storage import checksum

    with safe_open(path, "pt") as file:
        run = json.loads(file.metadata()["run"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    told = spoil(run, draw) if draw.random() < 0.5 else spoil_tensor(state, draw)
    run.pop("sha256", None)
    try:
        run["sha256"] = checksum({}, run, state)
    except (TypeError, ValueError):
        told += " (no checksum)"
    path.write_bytes(save(state, metadata={"run": json.dumps(run)}))
    return told


def forge_checkpoint(path: Path, draw: random.Random) -> str:
    """Change the state in a checkpoint; its checksum is right."""
    from dsn.experiment.run.checkpoint import FORMAT, VERSION
    from dsn.storage import read_tree, write_tree

    tree = read_tree(path, format=FORMAT, version=VERSION)
    part = tree["state"] if draw.random() < 0.9 else tree
    model = tree["state"]["course"]["strategy"]["model"]
    told = spoil_tensor(model, draw) if draw.random() < 0.3 else spoil(part, draw)
    write_tree(path, tree, format=FORMAT, version=VERSION)
    return told


def spoil_tensor(state: dict[str, Any], draw: random.Random) -> str:
    """Change, cut, retype, rename or remove one tensor."""
    import torch

    name = draw.choice(sorted(state))
    value, how = state.pop(name), draw.choice(["nan", "shape", "type", "name", "gone", "empty", "changed"])
    if how == "nan":
        state[name] = torch.full_like(value, float("nan")) if value.is_floating_point() else value ^ value
    elif how == "shape":
        state[name] = torch.cat([value.reshape(-1), value.reshape(-1)])
    elif how == "type":
        state[name] = value.to(torch.int64 if value.is_floating_point() else torch.float64)
    elif how == "name":
        state[f"{name}x"] = value
    elif how == "empty":
        state[name] = value.reshape(-1)[:0].clone()
    elif how == "changed":
        state[name] = value + 1
    return f"{name} {how}"


FORGERS: dict[str, Callable[[Path, random.Random], str]] = {
    "result.json": forge_json,
    "comparison.json": forge_json,
    "model.safetensors": forge_model,
    "latest.safetensors": forge_checkpoint,
}


KINDS = {"configs": hostile_config, "damaged": damaged_folder, "forged": forged_folder}
