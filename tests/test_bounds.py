"""The versions in pyproject.toml are those that tests/oldest.sh installs; what it says was tested, is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
SCRIPT = ROOT / "tests" / "oldest.sh"


def block(name):
    return re.search(rf"^{name} = \[(.*?)^\]|^{name} = \[(.*?)\]$", PROJECT, re.DOTALL | re.MULTILINE)[0]


def bounds():
    """The lowest version of each dependency by name, None where there is none."""
    found = {}
    for requirement in re.findall(r'"([^"]+)"', block("dependencies")):
        name, _, version = requirement.partition(">=")
        found[name.lower()] = version or None
    return found


def constraints():
    lines = (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("#")[0].strip().split("==") for line in lines if "==" in line.split("#")[0]]
    return {name.lower(): version for name, version in pairs}


def numbers(version):
    """The release as numbers, zeros at the end left out: 2.0 and 2.0.0 are the same."""
    return [int(n) for n in re.sub(r"(\.0)+$", "", version).split(".")]


@pytest.mark.parametrize("name", bounds())
def test_every_dependency_has_a_lower_bound_and_it_is_the_version_that_is_tested(name):
    lowest, tested = bounds()[name], constraints().get(name)
    assert lowest is not None and tested is not None
    # scipy 1.11.1: 1.11.0 was withdrawn for a fault; a patch release may stand for its series
    assert numbers(tested)[: len(numbers(lowest))] == numbers(lowest)


def test_what_is_imported_is_named():
    known = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow", "avalanche": "avalanche-lib"}
    known |= {"pydantic_core": "pydantic", "markupsafe": "jinja2"}  # these bring them
    optional = {
        "onnx",
        "onnxruntime",
        "onnxscript",
        "timm",
        "ray",
        "submitit",
        "mlflow",
        "wandb",  # Avalanche brings it
    }  # used where they are installed
    imported = set()
    for path in [*ROOT.glob("dsn/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r'"""[\s\S]*?"""', "", text)
        imported |= set(re.findall(r"^\s*(?:from|import) ([A-Za-z_]\w*)", text, re.MULTILINE))
    others = imported - set(sys.stdlib_module_names) - {"dsn", "benchmarks"} - optional
    assert {known.get(name, name).replace("_", "-") for name in others} <= set(bounds())


def test_the_oldest_python_is_the_same_everywhere():
    said = re.findall(r"Python :: (3\.\d+)", PROJECT)
    tried = re.findall(r"\bversion=(3\.\d+)", SCRIPT.read_text(encoding="utf-8"))
    lowest = re.search(r'requires-python = ">=(3\.\d+)"', PROJECT)[1]
    assert tried[0] == said[0] == lowest


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_without_that_python_the_script_skips_and_says_so(which, tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path)}
    for version in ("3.10", "3.13"):  # one that runs, but is no such Python, is not taken
        fake = tmp_path / "versions" / f"{version}.1" / "bin"
        fake.mkdir(parents=True)
        (fake / "python").write_text("#!/bin/sh\necho 2.7\n")
        (fake / "python").chmod(0o755)
    if any((Path(place) / f"python{v}").exists() for place in ("/usr/bin", "/bin") for v in ("3.10", "3.13")):
        pytest.skip("the system has that Python")
    ran = subprocess.run(["bash", SCRIPT, which], env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0 and ran.stdout.startswith("skipped: no Python 3.1")


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [(["lowest"], None), (["oldest"], "PYTHON_OLDEST"), (["newest"], "PYTHON_NEWEST")],
)
def test_wrong_use_is_refused(arguments, variable):
    environment = dict(os.environ) | ({variable: "/bin/false"} if variable else {})
    ran = subprocess.run(
        ["bash", SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2 and ("usage" in ran.stderr or "/bin/false is no Python" in ran.stderr)
