"""Imports go one way, and Avalanche is imported only where DESIGN says."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
ORDER = ["masking", "replay", "transfer", "training", "baselines", "experiment"]
AVALANCHE = {"dsn/training", "dsn/baselines", "dsn/evaluation/plugin.py", "benchmarks"}


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that the file ``path`` imports, at its top or inside functions."""
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
    for path in ROOT.glob("dsn/*/*.py"):
        package = path.parent.name
        allowed = {*ORDER[: ORDER.index(package) + 1], "evaluation"} if package in ORDER else {"masking"}
        if package in ("masking", "replay", "transfer"):
            allowed.discard("evaluation")
        allowed |= {"pruning": {"evaluation"}, "experiment": {"pruning"}}.get(package, set())
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "dsn" and len(parts) > 1 and parts[1] in {*ORDER, "evaluation", "pruning"}:
                found += 1
                assert parts[1] in {*allowed, package}, f"{path} imports {name}"
            assert not (parts[0] == "benchmarks" and package != "experiment"), f"{path} imports {name}"
    assert found > 20


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
