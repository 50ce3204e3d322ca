"""The Python of README and CONTRIBUTING runs as it stands, that of docs imports what is there, commands are
understood, and README's first two are those that CI calls."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from dsn.cli.main import main, make_parser
from dsn.experiment.config.experiment import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


BLOCKS = blocks(ROOT / "README.md")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[0])
def test_python_blocks_run(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


@pytest.fixture
def names_left_as_they_were():
    from benchmarks.streams import STREAMS
    from dsn.transfer import MECHANISMS

    before = dict(STREAMS), dict(MECHANISMS)
    yield
    for names, kept in zip((STREAMS, MECHANISMS), before, strict=True):
        names.clear(), names.update(kept)


def test_the_examples_of_contributing_run_one_after_the_other(names_left_as_they_were) -> None:
    names = {"__name__": "contributing"}
    examples = blocks(ROOT / "CONTRIBUTING.md")
    for block in examples:
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    assert len(examples) >= 4


def test_text_and_sound_are_learnt_as_the_document_says() -> None:
    [block] = blocks(ROOT / "docs" / "backbones.md")
    exec(compile(block, "backbones.md", "exec"), {"__name__": "backbones"})


def test_what_the_documents_import_is_there() -> None:
    found = [block for path in (ROOT / "docs").glob("*.md") for block in blocks(path)]
    for block in found:
        lines = [ast.unparse(n) for n in ast.parse(block).body if isinstance(n, ast.Import | ast.ImportFrom)]
        exec("\n".join(lines), {})
    assert found


def test_there_are_two_commands_and_each_sets_up_all_it_needs() -> None:
    commands = re.findall(r"^\$ (pip install.*)$", README, re.MULTILINE)
    assert len(commands) == 2
    assert all("&&" in command for command in commands)
    assert len(BLOCKS) >= 2


def commands(path: Path) -> list[str]:
    """Of run.py, without what stands before it, and without a comment behind."""
    text = path.read_text(encoding="utf-8")
    return [re.sub(r"\s+# .*", "", c) for c in re.findall(r"^\$ .*?\brun\.py (.*)$", text, re.MULTILINE)]


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_is_understood_and_its_config_valid(path: Path) -> None:
    for command in commands(path):
        options = vars(make_parser("run.py").parse_args(shlex.split(command)))
        names = options.get("configs") or [options[key] for key in ("config", "protocol") if key in options]
        for name in names:
            config = ROOT / (name if Path(name).suffix else f"configs/{name}.yaml")
            load(config, options.get("overrides", []))


def test_what_the_readme_does_with_the_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    done = [c for c in commands(ROOT / "README.md") if "quickstart" in c and not c.startswith("compare")]
    for command in done:
        shorter = ["--set", "train.epochs=2"] if command.startswith("run ") else []
        assert main([*shlex.split(command), *shorter]) == 0, command
    assert {c.partition(" ")[0] for c in done} >= {"run", "verify", "report", "forget", "subnetwork"}
