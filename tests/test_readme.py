"""The Python of README and CONTRIBUTING runs as it stands, that of docs imports what is there, and README's
commands are those that CI calls."""

import ast
import re
from pathlib import Path

import pytest

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
