"""Imports go one way, and Avalanche is imported only where DESIGN says."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["masking", "replay", "transfer", "training", "baselines", "experiment", "cli"]
ROOMS = ["base", "config", "result", "run", "engine", "labs", "compare", "report"]
"""of dsn/experiment, from the lowest; labs and compare stand side by side"""
AVALANCHE = {
    "dsn/training",
    "dsn/baselines",
    "dsn/evaluation/plugin.py",
    "dsn/evaluation/trackers.py",
    "benchmarks",
}


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that the file ``path`` imports, at its top, inside functions or for type
    checkers alone."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [] if not node.level else list(package[: len(package) - node.level + 1])
            module = ".".join(base + ([node.module] if node.module else []))
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def files() -> list[Path]:
    return [*ROOT.glob("dsn/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), ROOT / "run.py"]


def test_packages_import_only_what_stands_before_them() -> None:
    found = 0
    for path in ROOT.glob("dsn/*/**/*.py"):
        package = path.relative_to(ROOT).parts[1]
        allowed = {*ORDER[: ORDER.index(package) + 1], "evaluation"} if package in ORDER else {"masking"}
        if package in ("masking", "replay", "transfer"):
            allowed.discard("evaluation")
        allowed |= dict.fromkeys(("training", "experiment", "cli"), {"topology"}).get(package, set())
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "dsn" and len(parts) > 1 and parts[1] in {*ORDER, "evaluation", "topology"}:
                found += 1
                assert parts[1] in {*allowed, package}, f"{path} imports {name}"
            assert not (parts[0] == "benchmarks" and package != "experiment"), f"{path} imports {name}"
    assert found > 20


def test_rooms_of_experiment_import_only_what_stands_below_them() -> None:
    found = 0
    for path in ROOT.glob("dsn/experiment/*/**/*.py"):
        room = path.relative_to(ROOT).parts[2]
        allowed = set(ROOMS[: ROOMS.index(room) + 1]) - ({"labs"} if room == "compare" else set())
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["dsn", "experiment"] and len(parts) > 2 and parts[2] in ROOMS:
                found += 1
                assert parts[2] in allowed, f"{path} imports {name}"
    assert found > 100
    assert {path.name for path in ROOT.glob("dsn/experiment/*") if any(path.glob("*.py"))} == set(ROOMS)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """At their top, inside functions or for types alone."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files()}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    found = {name: imports(path) & set(modules) - {name} for name, path in modules.items()}
    for name in found:  # a name imported from a package is no import of the package itself
        inside = {other for other in found[name] if any(o.startswith(f"{other}.") for o in found[name])}
        found[name] -= inside | {name.rpartition(".")[0]}
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
    TopologicalSorter(found).prepare()


def test_avalanche_is_imported_where_it_belongs() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in files()
        if any(n.startswith("avalanche") for n in imports(path))
    }
    assert "dsn/training/strategy.py" in users
    strays = {user for user in users if not any(user.startswith(place) for place in AVALANCHE)}
    assert not strays


def test_public_names_are_what_all_says() -> None:
    import dsn

    for name in dsn.__all__:
        assert getattr(dsn, name) is not None
    assert dsn.__all__ == sorted(dsn.__all__)
