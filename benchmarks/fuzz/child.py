"""One case in a forked child: what it says, and what it changed beside what it may."""

import importlib.util
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import yaml

from .values import (
    CONFIG,
    CPU_SECONDS,
    OF_LIBRARIES,
    ROOT,
    WALL_SECONDS,
    Case,
    Ended,
)


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
