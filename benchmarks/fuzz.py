"""Hostile configs, damaged and forged result folders: whatever comes in, one clear answer comes out.

    python -m benchmarks.fuzz configs --count 200 --seed 0
    python -m benchmarks.fuzz damaged --count 200 --seed 0
    python -m benchmarks.fuzz forged --count 200 --seed 0

Each case is a command line, run by ``run.py``'s ``main`` in a forked child. What counts as a fault: a
traceback, no end within 20 seconds of processor time, a status other than 0, 1 (of verify alone) or 2, a
refusal that changed the number of threads, and whatever else of the process or the files beside ``--out``
changed. ``--only N`` makes the one case N and prints what it says.
"""

import argparse
import copy
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CPU_SECONDS, WALL_SECONDS = 20, 300
CONFIG: dict[str, Any] = {
    "stream": {"name": "split_digits", "tasks": 2, "train_per_class": 4, "validation": 0.3},
    "backbone": {"name": "mlp", "widths": [8, 6]},
    "train": {"epochs": 1, "batch_size": 8, "lr": 0.05},
    "selection": {"sparsity": 0.1},
    "replay": {"images": 10, "steps": 2},
    "transfer": {"tasks": 1, "forward": 0},
    "checkpoint": {"minutes": None, "iterations": None},
    "seed": 0,
    "device": "cpu",
    "threads": 1,
}
NUMBERS = [0, -1, 1, 2, 0.5, -0.0, 1e-300, 1e30, 1e308, 2**31, 2**32, 2**63, 2**64, 10**30, 10**400, True]
TEXTS = ["", ".", "..", "/", "~", "~nosuchuser/x", "x[/]", ":smile:", "=1+1", "a\nb", "\u202e", "é", "-1"]
TEXTS += ["meta", "cuda:99", "cpu:5", "xla", "privateuseone", "dsn", "auto", "1:30", "010", "1_0", "x" * 5000]
OTHERS: list[Any] = [
    None,
    [],
    {},
    [[]],
    {"": 1},
    {"name": "mlp"},
    [0] * 30_000,
    [1] * 2000,
    {"a": {"b": {"c": 1}}},
]
VALUES = [*NUMBERS, *TEXTS, *OTHERS, float("inf"), float("nan")]
WORK = ("epochs", "steps", "images", "tasks", "iterations", "batch_size", "samples")
"""large numbers of these ask for work that takes long, and get it"""
RAW = [
    "",
    "null",
    "[1]",
    "\t",
    "\x00",
    "a: &a [*a]",
    "&a {stream: *a}",
    "a: 1\na: 2",
    "!!python/object/apply:os.system [true]",
    "a: " + "[" * 3000 + "]" * 3000,
    "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)),
    "backbone: {name: mlp, widths: [" + "1," * 100_000 + "1]}",
    "x: " + "9" * 6000,
    "stream: !!set {a}",
    "x" * 2_000_000,
    "%YAML 9.9\n---\na: 1",
    "--- 1\n--- 2\n",
    "? {a: b}\n: 1",
    "date: 2001-99-99",
]
OUTS = [
    "",
    ".",
    "..",
    "/",
    "a/..",
    "x[/]",
    "x" * 300,
    "=x",
    "-x",
    "file",
    "file/x",
    "dangling",
    "link",
    "used",
]
OUTS += ["/proc/x", "/dev/null/x", "a\nb", "é", "~nosuchuser/x", "\udcff", "out", "deep/er/out"]
CONTENTS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"format_version": 1}',
    b'"\\ud800"',
]
CONTENTS += [b"9" * 5000, b"NaN", bytes(range(256)) * 20]


OF_LIBRARIES = ("KMP_", "TORCHINDUCTOR_")
"""what scikit-learn and torch set in the environment when they are first used"""


@dataclass
class Case:
    """A command line; ``outs``: what it may write, beside which nothing may change."""

    arguments: list[str]
    told: str
    outs: tuple[str, ...] = ("out",)


@dataclass
class Ended:
    """How a case ended; ``said``: all it printed; ``changed``: what it should have left as it was."""

    status: int | str
    said: str
    changed: list[str]
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Make the cases, print the faults and a count; the exit status is 1 where there is a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="N")
    options = parser.parse_args(arguments)
    command = load_command_line()
    with tempfile.TemporaryDirectory() as made:
        base = Path(made) / "base"
        base.mkdir()
        if options.kind != "configs":
            make_base(base, command)
        numbers = range(options.count) if options.only is None else [options.only]
        counts: Counter[str] = Counter()
        faults, slowest = 0, 0.0
        for number in numbers:
            folder = Path(made) / "case"
            shutil.copytree(base, folder, symlinks=True)
            case = KINDS[options.kind](random.Random(f"{options.kind} {options.seed} {number}"), folder)
            ended = attempt(case, folder, command)
            shutil.rmtree(folder)
            counts[f"status {ended.status}"] += 1
            slowest = max(slowest, ended.seconds)
            if options.only is not None:
                print(case.arguments, case.told, ended.said, sep="\n")
            if wrong := faults_of(case, ended):
                faults += 1
                print(f"{number}: {case.told}: {'; '.join(wrong)}: {last_line(ended.said)}", flush=True)
    told = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
    print(f"{options.kind}: {len(numbers)} cases, {told}; slowest {slowest:.1f} s; faults: {faults}")
    return 1 if faults else 0


def faults_of(case: Case, ended: Ended) -> list[str]:
    """What is wrong with how a case ended, in words."""
    wrong = list(ended.changed)
    if "Traceback (most recent call last)" in ended.said:
        wrong.append("a traceback")
    allowed = (0, 1, 2) if case.arguments[0] == "verify" else (0, 2)
    if ended.status not in allowed:
        wrong.append(f"status {ended.status}")
    if ended.status == 2 and "error: " not in ended.said:
        wrong.append("refused without a word")
    return wrong


# ---- the cases -------------------------------------------------------------------------------------------


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


# ---- one case in a child ---------------------------------------------------------------------------------


def load_command_line() -> Any:
    """``main`` of run.py, with all that a command imports, so that a child need not."""
    import torch

    from dsn.experiment.base.quiet import importing_avalanche

    torch.set_num_threads(1)
    with importing_avalanche():
        pass
    import sklearn  # noqa: F401  (it sets variables of the environment when it is imported)

    spec = importlib.util.spec_from_file_location("command_line", ROOT / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def make_base(folder: Path, command: Any) -> None:
    """A finished run, a comparison of it, and a run that was stopped; RuntimeError where that fails."""
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))

    def stopped(_arguments: list[str]) -> int:
        from dsn.experiment.run.checkpoint import Checkpoints

        rest, seen = Checkpoints.rest, []

        def stopping(self: Any, before: str, make: Any) -> None:
            seen.append(before)
            if seen.count("iteration") == 2:
                self._interrupts.requested = signal.SIGTERM
            rest(self, before, make)

        Checkpoints.rest = stopping  # type: ignore[method-assign]
        status = command(["run", "config.yaml", "--out", "kept"])
        return 0 if status == 128 + signal.SIGTERM else 1

    def compared(_arguments: list[str]) -> int:
        from dsn.experiment.compare.board import Board
        from dsn.experiment.compare.plan import make_plan
        from dsn.experiment.result.key import write_key

        board = Board(make_plan([Path("config.yaml")], "dsn", "0", []), Path("compared"))
        for job in board.jobs:
            assert job.out is not None and job.identity is not None
            shutil.copytree("run", job.out)
            write_key(job.out.with_name(f"{job.out.name}.json"), job.identity)
        board.write()
        return 0

    for make, arguments in ((command, ["run", "config.yaml", "--out", "run"]), (stopped, []), (compared, [])):
        ended = attempt(Case(arguments, "", ("run", "kept", "compared")), folder, make, seconds=120)
        if ended.status != 0:
            raise RuntimeError(f"the base could not be made: {ended.said}")


def attempt(case: Case, folder: Path, command: Any, seconds: int = CPU_SECONDS) -> Ended:
    """Run a case in a child with ``folder`` as its own; see what it did."""
    log = folder.with_name("log")
    before, began = contents(folder, case.outs), time.monotonic()
    child = os.fork()
    if not child:
        work(case, folder, command, log, seconds)
    status: int | str = "hang"
    while time.monotonic() - began < WALL_SECONDS:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
            break
        time.sleep(0.005)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        status = "hang"
    said = log.read_text(errors="replace") if log.is_file() else ""
    changed = [line.removeprefix("CHANGED ") for line in said.splitlines() if line.startswith("CHANGED ")]
    after = contents(folder, case.outs)
    changed += [
        f"{name} changed" for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    ]
    return Ended(status, said, changed, time.monotonic() - began)


def work(case: Case, folder: Path, command: Any, log: Path, seconds: int) -> None:
    """The life of a child."""
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        descriptor = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = open(1, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        before = state()
        try:
            status = int(command(case.arguments) or 0)
        except SystemExit as end:
            status = int(end.code or 0)
        after = state()
        for name in before:
            if before[name] != after[name] and (status != 0 or name != "threads"):
                print(f"CHANGED {name} of the process: {difference(before[name], after[name])}")
    except BaseException:
        traceback.print_exc()
        status = 70
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def state() -> dict[str, Any]:
    """What a command that is refused must leave as it was."""
    import torch

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)]
    return {
        "threads": torch.get_num_threads(),
        "folder": os.getcwd(),
        "environment": {k: v for k, v in os.environ.items() if not k.startswith(OF_LIBRARIES)},
        "signals": handlers,
        "recursion": sys.getrecursionlimit(),
    }


def difference(before: Any, after: Any) -> str:
    """In words, what differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted(before.keys() | after.keys())
        return ", ".join(name for name in names if before.get(name) != after.get(name))
    return f"was {before}, is {after}"


def contents(folder: Path, outs: tuple[str, ...]) -> dict[str, Any]:
    """Every file below ``folder`` but ``outs`` and their companions: content, or kind."""
    found: dict[str, Any] = {}
    for here, folders, files in os.walk(folder):
        for name in [*files, *folders]:
            path = Path(here) / name
            top = path.relative_to(folder).parts[0]
            if any(top in (out, f"{out}.checkpoint", "results", *Path(out).parts[:1]) for out in outs if out):
                continue
            plain = path.is_file() and not path.is_symlink()
            found[str(path.relative_to(folder))] = path.read_bytes() if plain else path.lstat().st_mode
    return found


def last_line(said: str) -> str:
    """The last line that says something."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("CHANGED ")]
    return lines[-1][:160] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
