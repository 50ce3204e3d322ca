"""What surrounds a command: standard streams, signals, names, missing packages, settings without a use."""

import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.fuzz.__main__ import faults_of
from benchmarks.fuzz.values import Case, Ended
from dsn.errors import InputError, Stopped
from dsn.experiment.base.console import say, show_table
from dsn.experiment.base.interrupts import Ending, Interrupts
from dsn.experiment.base.paths import as_cell, shortened
from dsn.experiment.config.experiment import Config, load
from dsn.experiment.config.machine import set_up
from dsn.experiment.config.network import build_backbone
from dsn.experiment.config.unused import say_unused
from dsn.experiment.config.yaml_file import MOST_BYTES, parse, read_yaml
from tests.experiment.resuming import TINY

ROOT = Path(__file__).parents[2]


def command_line():
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- standard streams and packages -----------------------------------------------------------------------

SPEAKS = """
import importlib.util, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))  # as Python does for a script
spec = importlib.util.spec_from_file_location("command_line", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
def main():
    print("spoken \\udcff é" * 10_000)
    open("done", "w").close()
    return 0
sys.exit(module.with_standard_streams(main))
"""


def spoken(folder, redirected):
    line = f"'{sys.executable}' -S -c \"$CODE\" '{ROOT / 'run.py'}' {redirected}"
    environment = {**os.environ, "CODE": SPEAKS, "LC_ALL": "C"}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert (folder / "done").is_file() and "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("redirected", "status", "said"),
    [
        ("| true", 0, ""),
        ("| head -c 1 > /dev/null", 0, ""),
        ("> /dev/full", 1, "error: standard output: No space left on device"),
        (">&-", 0, ""),
        ("> /dev/null 2> /dev/full", 0, ""),
        ("> /dev/full 2>&1", 1, ""),
        ("< /dev/null > /dev/null", 0, ""),
    ],
)
def test_a_stream_that_takes_nothing_costs_what_is_said_alone(tmp_path, redirected, status, said):
    done = spoken(tmp_path, redirected)
    assert done.returncode == status and done.stderr.strip() == said


@pytest.mark.parametrize("arguments", [["run", "x.yaml"], ["verify", "x"], ["report", "x"]])
def test_before_the_installation_it_is_one_sentence(arguments):
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / "run.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "is missing; install what this needs with pip install -e ." in done.stderr


def test_the_command_dsn_is_the_same_and_calls_itself_so(tmp_path):
    scripts = re.search(r'\[project.scripts\]\ndsn = "([\w.]+):(\w+)"', (ROOT / "pyproject.toml").read_text())
    module, name = scripts.groups()
    code = f"import sys; from {module} import {name}; sys.exit({name}())"

    def dsn(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert dsn("compare", "--help").stdout.startswith("usage: dsn compare")
    failed = dsn("run", "no.yaml")
    assert failed.returncode == 2 and failed.stderr.startswith("error: no.yaml")


# ---- signals ---------------------------------------------------------------------------------------------


def swallowing(number):
    """What a finaliser does to an exception: nothing of it arrives."""
    try:
        os.kill(os.getpid(), number)
        time.sleep(1)
    except BaseException:
        pass


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGTERM, SystemExit),
        (signal.SIGHUP, SystemExit),
        (signal.SIGINT, KeyboardInterrupt),
    ],
)
def test_a_signal_that_was_swallowed_comes_again_but_not_amid_cleaning_up(number, error):
    cleaned = []
    before = [signal.getsignal(n) for n in (number, signal.SIGALRM)]
    with pytest.raises(error) as raised, Ending() as ending:
        swallowing(number)
        try:
            time.sleep(30)
        finally:
            time.sleep(0.5)
            cleaned.append(True)
    assert cleaned and ending.came == number
    assert error is KeyboardInterrupt or raised.value.code == 128 + number
    assert [signal.getsignal(n) for n in (number, signal.SIGALRM)] == before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Ending(), Interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_sees_at_its_next_rest_what_was_swallowed():
    with Interrupts() as interrupts:
        swallowing(signal.SIGTERM)
        with pytest.raises(Stopped):
            interrupts.stop_if_requested()


# ---- what is shown ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x[/]", "[bold]", ":smile:", "[link=x]y", "a" * 300])
def test_names_are_shown_as_they_are(name):
    console = Console(file=io.StringIO(), width=40)
    say(console, f"written to {name}")
    assert console.file.getvalue() == f"written to {name}\n"


@pytest.mark.parametrize("width", [1, 5, 20, 80])
def test_no_number_is_cut_in_a_narrow_terminal(width):
    console, table = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None), Table()
    numbers = [f"{value}.25" for value in range(100, 115)]
    for place in range(len(numbers)):
        table.add_column(str(place), no_wrap=place % 2 == 0)
    table.add_row(*numbers)
    show_table(console, table)
    assert all(number in console.file.getvalue() for number in numbers)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+x", "'+x"),
        ("@x", "'@x"),
        ("-x", "'-x"),
        ("\t=1", "'\t=1"),
        ("-1.5", "-1.5"),
        ("+1", "+1"),
        ("dsn", "dsn"),
        ("", ""),
    ],
)
def test_a_cell_is_no_formula(text, cell):
    assert as_cell(text) == cell


@pytest.mark.parametrize(
    ("home", "text", "shown"),
    [
        ("/home/me", "run.py /home/me/x", "run.py ~/x"),
        ("/home/me", "run.py /home/mean/x", "run.py /home/mean/x"),
        ("/", "run.py /a/b", "run.py /a/b"),
        ("", "run.py /a/b", "run.py /a/b"),
        ("/home/me", "a\udcff", "a\\udcff"),
    ],
)
def test_the_home_folder_alone_is_shortened(monkeypatch, home, text, shown):
    monkeypatch.setenv("HOME", home)
    assert shortened(text) == shown


# ---- settings without a use ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "override"),
    [
        ("topology", "selection.budget=0.5"),
        ("topology", "seed=1"),
        ("topology", "train.precision=bfloat16"),
        ("topology", "transfer={tasks: 1}"),
        ("compare", "seed=3"),
        ("compare", "strategy=ewc"),
        ("transfer-lab", "seed=1"),
        ("transfer-lab", "tracker=wandb"),
        ("settings-ablation", "checkpoint.minutes=1"),
    ],
)
def test_a_setting_that_is_asked_for_and_not_used_is_refused(tmp_path, capsys, command, override):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(TINY))
    with pytest.raises(InputError, match=f"{command} does not use {override.split('=')[0]}"):
        say_unused(path, [override], command)
    say_unused(path, ["train.lr=1"], command)
    path.write_text(yaml.safe_dump({**TINY, "seed": 3}))
    say_unused(path, [], command, [0, 1])
    assert "does not use seed" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "transfer-lab", "settings-ablation"])
def test_a_seed_that_is_learnt_with_is_no_setting_without_a_use(tmp_path, capsys, command):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({**TINY, "seed": 1}))
    say_unused(path, [], command, [0, 1])
    assert "seed" not in capsys.readouterr().err


# ---- configs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["1:30", "010", "1_0", "0b11", "1_0.5", "190:20:30.15", "2001-01-01", "-010", "+1_0", "00"]
)
def test_what_only_yaml_1_1_takes_for_a_number_is_text(tmp_path, text):
    assert parse(text, "x") == text
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(TINY))
    with pytest.raises(InputError, match=r"train.epochs: must be a valid integer"):
        load(tmp_path / "x.yaml", [f"train.epochs={text}"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("10", 10), ("-1", -1), ("0", 0), ("1e-3", 1e-3), (".5", 0.5), ("0x10", 16)],
)
def test_numbers_of_yaml_1_2_are_numbers(text, value):
    assert parse(text, "x") == value and type(parse(text, "x")) is type(value)


BOMB = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "&a [*a]",
        "&a {x: *a}",
        "[" * 5000 + "]" * 5000,
        f"x: [{'1,' * 100_000}1]",
        "9" * 5000,
        "\x00",
        "!!timestamp abc",
        "!!bool maybe",
        "!!int ''",
        "!!float x",
    ],
)
def test_yaml_that_would_take_long_or_has_no_value_is_one_error(text):
    began = time.process_time()
    with pytest.raises(InputError) as raised:
        parse(text, "x.yaml")
    assert len(str(raised.value)) < 1000 and time.process_time() - began < 5


def test_a_file_that_does_not_end_or_that_nobody_writes_is_one_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"#" * (MOST_BYTES + 1))
    for path, said in (
        (Path("/dev/zero"), "larger than"),
        (tmp_path / "large", "larger than"),
        (tmp_path / "pipe", "is empty"),
        (tmp_path, "is a folder"),
        (Path("a\0b"), "null byte"),
    ):
        with pytest.raises(InputError, match=said):
            read_yaml(path)


@pytest.mark.parametrize(
    "override",
    [
        "threads=100000",
        "train.lr=1e308",
        "train.momentum=1e300",
        "selection.s_max=1e200",
        "train.epochs=100000000000000000000",
        "stream.tasks=100000000000",
        "replay.temperature=1e100",
        f"backbone.widths=[{'1,' * 5000}1]",
        "stream={name: image_folder, tasks: 2, image_size: 8, root: ~nosuchuser/x}",
        f"stream={{name: image_folder, tasks: 2, image_size: 8, root: {'x' * 300}}}",
    ],
)
def test_numbers_and_paths_beyond_any_machine_are_refused_by_their_key(tmp_path, override):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(TINY))
    with pytest.raises(InputError) as raised:
        load(tmp_path / "x.yaml", [override])
    assert override.split("=")[0] in str(raised.value).split(": ", 1)[1] and len(str(raised.value)) < 40_000


@pytest.mark.parametrize("device", ["meta", "xla", "cuda:99", "privateuseone", "vulkan", "mtia"])
def test_a_device_without_numbers_is_refused_and_changes_nothing(device):
    threads = torch.get_num_threads()
    config = Config.model_validate({**TINY, "device": device, "threads": threads + 1})
    with pytest.raises(InputError, match="cannot be used here"):
        set_up(config)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "mlp", "widths": [10**6, 10**6]},
        {"name": "mlp", "widths": [2**32 - 1] * 3},
        {"name": "small_cnn", "width": 10**6},
        {"name": "resnet18", "width": 10**5},
        {"name": "alexnet", "hidden": 10**7},
    ],
)
def test_a_backbone_beyond_the_machine_is_refused_before_it_is_made(backbone):
    config = Config.model_validate({**TINY, "backbone": backbone})
    with pytest.raises(InputError, match="make it smaller"):
        build_backbone(config.backbone, torch.Size([3, 32, 32]))


def test_whether_it_fits_is_asked_without_a_draw_of_random_numbers():
    config = Config.model_validate(TINY)
    torch.manual_seed(0)
    made, _ = build_backbone(config.backbone, torch.Size([64]))
    torch.manual_seed(0)
    from dsn import backbones

    plain = backbones.mlp(64, tuple(config.backbone.widths), bias=config.backbone.bias)
    for one, other in zip(made.parameters(), plain.parameters(), strict=True):
        assert one.equal(other)


# ---- a little of the fuzzing -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("configs", 6), ("damaged", 2), ("forged", 2)])
def test_a_few_hostile_ones(kind, count, capsys):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fuzz", kind, "--count", str(count), "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("faults: 0")


@pytest.mark.parametrize(
    ("status", "said", "changed", "faulty"),
    [
        (2, "error: x", [], False),
        (0, "", [], False),
        (2, "", [], True),
        (1, "error: x", [], True),
        (2, "error: x\nTraceback (most recent call last):", [], True),
        ("hang", "", [], True),
        (-11, "", [], True),
        (2, "error: x", ["threads"], True),
    ],
)
def test_the_fuzzing_sees_a_fault(status, said, changed, faulty):
    ended = Ended(status, said, changed, 0.0)
    assert bool(faults_of(Case(["report"], ""), ended)) == faulty
