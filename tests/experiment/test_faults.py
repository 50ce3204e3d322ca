"""What a run does when something goes wrong around it: no traceback, nothing half written, nothing lost."""

import copy
import errno
import importlib.util
import inspect
import math
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from avalanche.training.templates.problem_type.supervised_problem import SupervisedProblem
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import streams
from dsn import backbones, mask_neurons, storage
from dsn.errors import InputError
from dsn.experiment.base.interrupts import Interrupts
from dsn.experiment.compare import work as compare_job
from dsn.experiment.config.experiment import Config
from dsn.experiment.result import files
from dsn.experiment.run.checkpoint import FORMAT, LATEST, PREVIOUS, VERSION, Checkpoints, owner_of
from dsn.experiment.run.run import run
from dsn.experiment.run.run_folder import checkpoint_of, held
from dsn.storage import read_tree, write_tree
from dsn.training import DSN
from dsn.training.hooks import IterationHooks
from tests.experiment.resuming import TINY, Killed, assert_same_result, killed_at, tiny
from tests.test_storage import corrupt

pytestmark = [
    pytest.mark.filterwarnings("ignore:task .* no free neuron"),
    pytest.mark.usefixtures("quick_pictures"),
]
ROOT = Path(__file__).parents[2]
EVERY = "checkpoint.iterations=2"
SHORT = ("stream.tasks=2", "stream.angles=[0, 9]", "train.epochs=2")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    run(tiny(folder, *SHORT), folder / "out", console=Console(quiet=True))
    return folder / "out"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The contents of both checkpoints of a run that was killed, and their states."""

    class Pair(tuple):
        __repr__ = object.__repr__  # it is long

    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(Killed), killed_at(12):
        run(tiny(folder, *SHORT, EVERY), folder / "out", console=Console(quiet=True))
    paths = [folder / "out.checkpoint" / name for name in (LATEST, PREVIOUS)]
    trees = [read_tree(path, format=FORMAT, version=VERSION)["state"] for path in paths]
    return Pair(([path.read_bytes() for path in paths], trees))


def checkpoints_in(folder, config, lines):
    console = Console(file=Lines(lines), width=500)
    return Checkpoints(folder, config, "cpu", Interrupts(), console)


class Lines:
    def __init__(self, lines):
        self.lines = lines

    def write(self, text):
        self.lines.append(text)

    def flush(self):
        pass


def said_by(config, out, **options):
    lines = []
    run(config, out, console=Console(file=Lines(lines), width=500), **options)
    return "".join(lines)


# ---- checkpoints that are damaged ------------------------------------------------------------------------


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_corrupted_checkpoint_is_gone_past_or_refused(tmp_path, interrupted, data):
    """Going on: from the newest good one, and it says so. Never from anything else."""
    contents, states = interrupted
    names = data.draw(st.sampled_from([(LATEST,), (PREVIOUS,), (LATEST, PREVIOUS)]), "which")
    for name, content in zip((LATEST, PREVIOUS), contents, strict=True):
        content = bytearray(content)
        if name in names:
            corrupt(content, data)
        (tmp_path / name).write_bytes(content)
    lines = []
    try:
        state = checkpoints_in(tmp_path, tiny(tmp_path, *SHORT), lines).load()
    except InputError as error:
        assert names == (LATEST, PREVIOUS)
        assert all("damaged" in line and "start afresh" in line for line in str(error).splitlines())
        return
    place = [(s["course"]["task"], s["course"]["strategy"]["clock"]) for s in (state, *states)]
    assert place[0] in place[1:]
    if place[0] == place[2]:
        assert "latest.safetensors: damaged" in "".join(lines) and "going on from previous" in "".join(lines)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing"])
def test_a_run_goes_on_from_the_one_before(tmp_path, interrupted, reference, damage):
    contents, _ = interrupted
    folder = tmp_path / "out.checkpoint"
    folder.mkdir()
    latest = bytearray(contents[0])
    latest[len(latest) // 2] ^= 4
    if damage != "missing":
        (folder / LATEST).write_bytes(
            {"truncated": contents[0][:-100], "flipped": latest, "empty": b""}[damage]
        )
    (folder / PREVIOUS).write_bytes(contents[1])
    text = said_by(tiny(tmp_path, *SHORT), tmp_path / "out", resume=True)
    assert ("damaged" in text and "going on from previous" in text) == (damage != "missing")
    assert_same_result(tmp_path / "out", reference)


def test_another_config_or_version_is_refused_by_name(tmp_path, interrupted):
    contents, _ = interrupted
    folder = tmp_path / "out.checkpoint"
    folder.mkdir()
    (folder / LATEST).write_bytes(contents[0])
    with pytest.raises(InputError, match=r"train.lr was 0.03, is 0.02; set it as it was"):
        run(tiny(tmp_path, *SHORT, "train.lr=0.02"), tmp_path / "out", resume=True)
    assert (folder / LATEST).read_bytes() == contents[0]
    write_tree(folder / LATEST, {}, format=FORMAT, version=VERSION + 1)
    with pytest.raises(InputError, match="format version is 3, this version of dsn reads 2"):
        run(tiny(tmp_path, *SHORT), tmp_path / "out", resume=True)


def test_a_comparison_begins_again_what_it_cannot_go_on_with(tmp_path, interrupted, capsys):
    contents, _ = interrupted
    folder = tmp_path / "out.checkpoint"
    for config, kept in ((tiny(tmp_path, *SHORT), True), (tiny(tmp_path, *SHORT, "seed=1"), False)):
        folder.mkdir(exist_ok=True)
        (folder / LATEST).write_bytes(contents[0])
        compare_job.drop_unfit(tmp_path / "out", config)
        assert folder.exists() == kept
    assert "begun again: config.seed was 0, is 1" in capsys.readouterr().out


# ---- disks, folders, processes ---------------------------------------------------------------------------


def full(*_arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_for_a_while_costs_a_warning(tmp_path, monkeypatch, reference):
    fsync, calls = os.fsync, []

    def full_for_a_while(descriptor):
        calls.append(descriptor)
        full() if 3 < len(calls) < 8 else fsync(descriptor)

    monkeypatch.setattr(storage.os, "fsync", full_for_a_while)
    text = said_by(tiny(tmp_path, *SHORT, EVERY), tmp_path / "out")
    assert "no checkpoint could be written (No space left on device); the last one stays" in text
    assert_same_result(tmp_path / "out", reference)


def test_a_disk_that_is_full_at_the_end_loses_nothing(tmp_path, monkeypatch, reference):
    config = tiny(tmp_path, *SHORT, EVERY)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_result", full)
        with pytest.raises(InputError, match="No space left on device; when that is mended, --resume"):
            run(config, tmp_path / "out", console=Console(quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["out.checkpoint"]
    trained = []
    monkeypatch.setattr(DSN, "train", lambda *_arguments, **_options: trained.append(1))
    run(config, tmp_path / "out", console=Console(quiet=True), resume=True)
    assert not trained
    assert_same_result(tmp_path / "out", reference)


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path, monkeypatch):
    def refuse(self, *_arguments, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="Read-only file system; choose another --out"):
        run(tiny(tmp_path), tmp_path / "out", console=Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_two_runs_in_one_folder_the_second_is_told_the_process(tmp_path):
    config, out = tiny(tmp_path, *SHORT), tmp_path / "out"
    with held(out, "", resume=False):
        for resume in (False, True):
            with pytest.raises(InputError, match=f"process {os.getpid()} is running there"):
                run(config, out, console=Console(quiet=True), resume=resume)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_is_not_overwritten(tmp_path, monkeypatch, interrupted):
    (tmp_path / "results" / "run-seed0.checkpoint").mkdir(parents=True)
    kept = tmp_path / "results" / "run-seed0.checkpoint" / LATEST
    kept.write_bytes(interrupted[0][0])
    monkeypatch.chdir(tmp_path)
    config = tiny(tmp_path, *SHORT)
    with pytest.raises(InputError, match="a run was interrupted there; go on with --resume"):
        run(config, Path("results/run-seed0"), console=Console(quiet=True))
    with held(None, "run-seed0", resume=False) as (out, _):
        assert out == Path("results/run-seed0-2")
    with held(None, "run-seed0", resume=True) as (out, folder):
        assert out == Path("results/run-seed0") and (folder / LATEST).is_file()
    with held(None, "other", resume=True) as (out, _):
        assert out == Path("results/other")
    assert kept.read_bytes() == interrupted[0][0]


def test_resuming_what_is_finished_or_never_begun(tmp_path, reference):
    config = tiny(tmp_path, *SHORT)
    before = (reference / "result.json").read_bytes()
    for killed_after_its_last_step in (True, False):
        if killed_after_its_last_step:
            checkpoint_of(reference).mkdir()
            tree = {"owner": {**owner_of(config), "device": "cpu"}, "state": {}}
            write_tree(checkpoint_of(reference) / LATEST, tree, format=FORMAT, version=VERSION)
        assert "is finished, nothing is left to do" in said_by(config, reference, resume=True)
    assert (reference / "result.json").read_bytes() == before and not checkpoint_of(reference).exists()
    with pytest.raises(InputError, match="another run is finished there: seed was 0, is 4"):
        run(tiny(tmp_path, *SHORT, "seed=4"), reference, resume=True)
    assert "nothing to resume, the run begins" in said_by(config, tmp_path / "out", resume=True)
    assert_same_result(tmp_path / "out", reference)


def test_a_run_of_another_kind_of_device_goes_on_and_says_so(interrupted, reference, tmp_path):
    config, folder = tiny(tmp_path, *SHORT, EVERY), tmp_path / "out.checkpoint"
    folder.mkdir()
    for name, content in zip((LATEST, PREVIOUS), interrupted[0], strict=True):
        (folder / name).write_bytes(content)
        tree = read_tree(folder / name, format=FORMAT, version=VERSION)
        assert tree["owner"]["device"] == "cpu"
        tree["owner"]["device"] = "cuda"
        write_tree(folder / name, tree, format=FORMAT, version=VERSION)
    text = said_by(config, tmp_path / "out", resume=True)
    assert "was made on cuda, the run goes on on cpu" in text
    assert_same_result(tmp_path / "out", reference)


def test_a_jumping_clock_changes_nothing(tmp_path, monkeypatch, reference):
    draw = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: draw.uniform(-1e12, 1e12))
    result, out = run(tiny(tmp_path, *SHORT, EVERY), tmp_path / "out", console=Console(quiet=True))
    assert_same_result(out, reference)
    assert 0 < result.timings.total < 600 and all(0 < task.train < 600 for task in result.timings.tasks)


# ---- losses, memory, workers -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_loss_is_one_error_and_never_in_a_checkpoint(tmp_path, monkeypatch, value):
    criterion = SupervisedProblem.criterion

    def bad(self):
        loss = criterion(self)
        return loss * value if self.is_training and self.clock.train_iterations == 9 else loss

    monkeypatch.setattr(SupervisedProblem, "criterion", bad)
    with pytest.raises(InputError, match="task [01], epoch [0-9], iteration [0-9]+: the loss is not finite"):
        run(tiny(tmp_path, *SHORT, "checkpoint.iterations=1"), tmp_path / "out", console=Console(quiet=True))
    assert not (tmp_path / "out").exists()
    for name in (LATEST, PREVIOUS):
        state = read_tree(tmp_path / "out.checkpoint" / name, format=FORMAT, version=VERSION)["state"]
        model = state["course"]["strategy"]["model"]
        assert all(tensor.isfinite().all() for tensor in model.values())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_batch_size_and_keeps_the_run(tmp_path, monkeypatch, reference, error):
    backward = DSN.backward

    def fails(self):
        if self.clock.train_iterations == 8:
            raise error
        backward(self)

    config = tiny(tmp_path, *SHORT, EVERY)
    with monkeypatch.context() as patch:
        patch.setattr(DSN, "backward", fails)
        with pytest.raises(InputError, match="batch_size is 20.*--set train.batch_size=10") as raised:
            run(config, tmp_path / "out", console=Console(quiet=True))
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out.checkpoint"]
    run(config, tmp_path / "out", console=Console(quiet=True), resume=True)
    assert_same_result(tmp_path / "out", reference)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory .*or smaller images"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (OSError(errno.EIO, os.strerror(errno.EIO), "x.png"), "x.png: Input/output error; nothing was"),
    ],
)
def test_what_goes_wrong_while_images_are_read_is_one_error(tmp_path, monkeypatch, error, said):
    def fails(*_arguments):
        raise error

    monkeypatch.setattr(streams, "build", fails)
    with pytest.raises(InputError, match=said):
        run(tiny(tmp_path), tmp_path / "out", console=Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_is_one_error(monkeypatch):
    """Torch raises this wherever the signal of the dead worker happens to arrive."""
    assert "DataLoader worker (pid" in inspect.getsource(torch.utils.data.dataloader)

    def died(self):
        raise RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed.")

    x = torch.zeros(4, 4)
    model = mask_neurons(backbones.mlp(4, (3,)), example_input=x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    strategy = DSN(model=model, optimizer=optimizer, evaluator=None)
    monkeypatch.setattr(IterationHooks, "training_epoch", died)
    with pytest.raises(InputError, match="died .*pid 3.*num_workers=0"):
        strategy.training_epoch()
    monkeypatch.setattr(IterationHooks, "eval_epoch", died)
    with pytest.raises(InputError, match="a worker that reads samples died"):
        strategy.eval_epoch()


# ---- configs ---------------------------------------------------------------------------------------------


def keys_of(values, prefix=()):
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from keys_of(value, (*prefix, key))


DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
WHOLE = Config.model_validate(TINY).model_dump(mode="json")
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.sampled_from(["", "dsn", "auto", "0x10", "~", "null", "[", "x" * 300, "\x00", "rotated"]),
    st.lists(st.integers(-1, 2), max_size=2),
    st.dictionaries(st.sampled_from(["name", "share", "0", "nowhere"]), st.floats(-1, 2), max_size=2),
)


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda *_: None)
        yield module.main


@example(key=("stream", "root"), how="replace", value="")
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(list(keys_of(WHOLE))),
    how=st.sampled_from(["replace", "replace", "remove", "add"]),
    value=VALUES,
)
def test_a_bad_config_is_refused_by_its_key_or_taken_as_it_stands(
    main, tmp_path, monkeypatch, key, how, value
):
    values = copy.deepcopy(WHOLE)
    here = values
    for part in key[:-1]:
        here = here[part]
    if how == "replace":
        here[key[-1]] = value
    elif how == "remove":
        del here[key[-1]]
    else:
        here[f"{key[-1]}s"] = value
    (tmp_path / "config.yaml").write_text(yaml.dump(values, Dumper=DUMPER))
    taken = []

    def reached(config, *_arguments, **_options):
        taken.append(config)

    import dsn.experiment.run.run as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "run", reached)
        status = main(["run", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]
    if not taken:
        assert status == 2
        return
    assert status == 0 and how != "add"
    found = taken[0].model_dump(mode="json")
    for part in key:
        found = found[part]
    if how == "replace":  # nothing is read as something else
        assert found == value or isinstance(value, dict)
