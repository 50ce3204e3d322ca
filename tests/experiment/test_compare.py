"""A comparison on scikit-learn's digits: what it finds, what it runs again and what not, how it ends."""

import contextlib
import errno
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from compare_inline import Inline
from rich.console import Console

from dsn import storage
from dsn.errors import InputError
from dsn.evaluation.metrics import trans
from dsn.experiment.compare import compare as module
from dsn.experiment.compare.board import Board
from dsn.experiment.compare.compare import compare
from dsn.experiment.compare.comparison import MEASURES, load_comparison
from dsn.experiment.compare.plan import make_plan
from dsn.experiment.config.experiment import load
from dsn.experiment.engine import choice
from dsn.experiment.engine import local as local_module
from dsn.experiment.engine.job import Job, Outcome
from dsn.experiment.engine.local import LocalEngine
from dsn.experiment.engine.pool import Pool
from dsn.experiment.result import result as result_module
from dsn.experiment.result.result import read_result
from tests.experiment.resuming import Killed, killed_at

ROOT = Path(__file__).parents[2]
NOTHING = "dsn.experiment.engine.attempt:no_value"
TINY = {
    "stream": {"name": "split_digits", "tasks": 3, "train_per_class": 30, "validation": 0.2},
    "backbone": {"name": "mlp", "widths": [24, 16]},
    "train": {"epochs": 4, "batch_size": 8, "lr": 0.1, "momentum": 0.9},
    "transfer": {"tasks": 0},
    "threads": 1,
}


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setattr(choice, "LocalEngine", Inline)
    Inline.done, Inline.stop_after = [], None
    return Inline.done


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture
def main(monkeypatch):
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "run.py")
    command_line = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command_line)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return command_line.main


def compared(path, out, *overrides, strategies="dsn,independent", seeds="0,1", **options):
    paths = path if isinstance(path, list) else [path]
    plan = make_plan(paths, strategies, seeds, list(overrides), **options)
    text = io.StringIO()
    return compare(plan, out, console=Console(file=text, width=200)), text.getvalue()


def without_times(comparison):
    """What must not differ between two comparisons of the same plan."""
    values = json.loads(comparison.model_dump_json(exclude={"command"}))
    for stream in values["streams"]:
        for measures in [part["measures"] for part in stream["runs"] + stream["summaries"]]:
            measures.pop("seconds", None)
        for tuning in stream["tuning"]:
            for trial in tuning["trials"]:
                trial.pop("seconds")
    return values


def test_what_is_written_agrees_with_the_runs(inline, tiny, tmp_path):
    comparison, text = compared(tiny, tmp_path / "out")
    assert load_comparison(tmp_path / "out") == comparison and comparison.complete
    (stream,) = comparison.streams
    assert (stream.name, stream.stream, stream.tasks) == ("tiny", "split_digits", 3)
    results = {}
    for run in stream.runs:
        folder = tmp_path / "out" / run.folder
        assert folder == tmp_path / "out" / "tiny" / "runs" / f"{run.strategy}-seed{run.seed}"
        assert json.loads(folder.with_name(f"{folder.name}.json").read_text())["key"] == run.key
        assert "written to" in (tmp_path / "out" / run.log).read_text()
        results[run.strategy, run.seed] = result = read_result(folder / "result.json")
        assert load(folder / "config.yaml").model_dump(mode="json") == result.config
        assert (run.measures["acc"], run.measures["seconds"]) == (result.metrics.acc, result.timings.total)
        assert tuple(run.measures) == MEASURES
        memory = result.memory
        beside = sum(memory.bytes_per_task) + memory.shared_bytes + memory.stored_sample_bytes
        assert run.measures["parameters"] == (memory.used_bytes + beside) / 4
        assert run.measures["capacity"] == (memory.used_bytes + beside) / memory.backbone_bytes
    for run in stream.runs:
        if run.strategy == "dsn":
            alone = results["independent", run.seed].matrix[-1]
            assert run.measures["trans"] == trans(results["dsn", run.seed].matrix, alone)
            assert results["dsn", run.seed].independent is None
    accs = {s: [results[s, seed].metrics.acc for seed in (0, 1)] for s in ("dsn", "independent")}
    for summary in stream.summaries:
        assert summary.measures["acc"].mean == pytest.approx(np.mean(accs[summary.strategy]))
    assert [s.strategy for s in stream.summaries] == sorted(accs, key=lambda s: -np.mean(accs[s]))
    (difference,) = stream.differences
    assert difference.mean == pytest.approx(np.mean(accs["independent"]) - np.mean(accs["dsn"]))
    assert comparison.reference == "dsn" and difference.seeds == [0, 1]
    assert " capacity " in text
    for strategy, values in accs.items():
        assert f" {strategy} " in text and f"{100 * np.mean(values):.2f} ± " in text


def test_a_worker_gives_what_a_fresh_run_gives_also_after_other_runs(inline, tiny, tmp_path):
    """Here the runs follow each other in one process; the fresh one is ``run.py run`` itself."""
    compared(tiny, tmp_path / "out", seeds="3,1")
    config = tmp_path / "out/tiny/runs/dsn-seed1/config.yaml"
    fresh = command("run", str(config), "--out", "fresh", cwd=tmp_path)
    assert fresh.wait(timeout=100) == 0
    for name in ("matrix.csv", "model.safetensors"):
        assert (config.parent / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_what_is_there_is_not_run_again(inline, tiny, tmp_path):
    first, _ = compared(tiny, tmp_path / "out")
    assert len(inline) == 4
    again, text = compared(tiny, tmp_path / "out")
    assert len(inline) == 4 and "4 of them there already" in text and again == first
    more, _ = compared(tiny, tmp_path / "out", seeds="1,2")
    assert [name[-6:] for name in inline[4:]] == ["seed 2", "seed 2"] and more.complete
    assert [run for run in more.streams[0].runs if run.seed == 1] == [
        run for run in first.streams[0].runs if run.seed == 1
    ]


def test_a_changed_value_runs_again_just_what_it_changes(inline, tiny, tmp_path):
    compared(tiny, tmp_path / "out", seeds="0")
    before = (tmp_path / "out/tiny/runs/dsn-seed0/result.json").stat().st_mtime_ns
    inline.clear()
    _, text = compared(tiny, tmp_path / "out", "baselines.independent.lr=0.05", seeds="0")
    assert inline == ["tiny: independent seed 0"]
    assert "baselines.independent.lr was None, is 0.05" in text and "dsn seed 0 is run again" not in text
    assert (tmp_path / "out/tiny/runs/dsn-seed0/result.json").stat().st_mtime_ns == before
    inline.clear()
    found, text = compared(tiny, tmp_path / "out", "train.epochs=2", seeds="0")
    assert len(inline) == 2 and text.count("train.epochs was 4, is 2") == 2 and found.complete
    result = read_result(tmp_path / "out/tiny/runs/dsn-seed0/result.json")
    assert result.config["train"]["epochs"] == 2


def test_a_run_without_its_key_or_of_other_code_is_run_again(inline, tiny, tmp_path, monkeypatch):
    compared(tiny, tmp_path / "out", strategies="dsn", seeds="0")
    key = tmp_path / "out/tiny/runs/dsn-seed0.json"
    text = key.read_text()
    for damaged, said in (
        (None, "its key is missing"),
        (text.replace('"code": "', '"code": "0'), "the code"),
    ):
        key.unlink() if damaged is None else key.write_text(damaged.replace('"key": "', '"key": "0'))
        inline.clear()
        assert said in compared(tiny, tmp_path / "out", strategies="dsn", seeds="0")[1]
        assert len(inline) == 1 and key.read_text() == text


def test_a_failing_run_does_not_stop_the_rest(inline, main, tiny, tmp_path, capsys):
    foreign = tmp_path / "out/tiny/runs/dsn-seed0/mine"
    compared(tiny, tmp_path / "out", strategies="independent", seeds="0")
    foreign.parent.mkdir()
    foreign.write_text("x")
    arguments = ["compare", str(tiny), "--strategies", "dsn,independent", "--seeds", "0,1"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    found = load_comparison(tmp_path / "out")
    assert {(run.strategy, run.seed): run.status for run in found.streams[0].runs} == {
        ("dsn", 0): "failed",
        ("dsn", 1): "done",
        ("independent", 0): "done",
        ("independent", 1): "done",
    }
    ((_, failed),) = found.failed
    assert "is not empty" in failed.error and failed.measures == {} and foreign.read_text() == "x"
    assert "is not empty" in (tmp_path / "out" / failed.log).read_text()
    assert found.streams[0].differences[0].seeds == [1]
    said = capsys.readouterr().out.splitlines()[-2]
    assert "dsn seed 0 failed" in said and failed.error in said and said.endswith(f"{failed.log})")
    foreign.unlink()
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategies", "dsm,independent"], "--strategies dsm: unknown 'dsm', nearest is 'dsn'"),
        (["--strategies", "dsn,dsn"], "stands twice"),
        (["--strategies", "dsn,"], "names with commas between"),
        (["--seeds", "0,x"], "--seeds 0,x: must be whole numbers"),
        (["--seeds", "0,0"], "a seed stands twice"),
        (["--reference", "indep"], "not among --strategies, nearest is 'independent'"),
        (["--set", "train.epoch=1"], "unknown key, nearest is 'epochs'"),
        (["--jobs", "0"], "--jobs 0"),
        (["--tune", "0"], "must be 1 or more"),
        (["--tune", "3", "--set", "stream.validation=0"], "--tune judges by validation data"),
        (["--tune", "3", "--tune-tasks", "4"], "has 3 tasks only"),
    ],
)
def test_bad_input_ends_with_status_2_and_nothing_written(main, tiny, tmp_path, capsys, arguments, message):
    whole = ["compare", str(tiny), "--strategies", "dsn,independent", "--out", str(tmp_path / "out")]
    assert main([*whole, *arguments]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and message in errors[0]
    assert list(tmp_path.iterdir()) == [tiny]


def test_folders_of_others_are_left_alone(tiny, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "x").write_text("x")
    for out, message in ((tmp_path / "theirs", "holds no comparison"), (tiny, "is a file")):
        with pytest.raises(InputError, match=message):
            compared(tiny, out)
    with module._taken(tmp_path / "mine"), pytest.raises(InputError, match="another comparison is running"):
        compared(tiny, tmp_path / "mine")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="two configs of that name"):
        compared([tiny, tmp_path / "b" / "tiny.yaml"], tmp_path / "out")


def test_several_configs_are_several_streams_with_ranks(inline, tiny, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**TINY, "train": {**TINY["train"], "epochs": 2}}))
    found, text = compared([tiny, other], tmp_path / "out", seeds="0")
    assert [stream.name for stream in found.streams] == ["tiny", "other"] and len(inline) == 4
    assert (tmp_path / "out/other/runs/dsn-seed0/result.json").is_file()
    ranks = {rank.strategy: rank.rank for rank in found.statistics.ranks}
    expected = {"dsn": 0.0, "independent": 0.0}
    for stream in found.streams:
        accs = {s.strategy: s.measures["acc"].mean for s in stream.summaries}
        for name in accs:
            expected[name] += sum((v > accs[name]) + (v == accs[name]) / 2 for v in accs.values()) + 0.5
    assert ranks == {name: total / 2 for name, total in expected.items()}
    assert "mean rank by ACC over 2 streams" in text
    assert [d.low for s in found.streams for d in s.differences] == [None, None]  # one seed


# ---- disks -----------------------------------------------------------------------------------------------

SHORT = ("stream.tasks=2", "train.epochs=1")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("comparison.json", errno.ENOSPC),
        ("dsn.json", errno.EIO),
        ("tuned.yaml", errno.EDQUOT),
        ("runs", errno.EROFS),
        ("tuning", errno.ENOSPC),
    ],
)
def test_a_disk_that_refuses_is_one_error_and_what_is_finished_stays(
    inline, main, tiny, tmp_path, monkeypatch, capsys, name, number
):
    def refuse(path):
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))

    def write_bytes(path, content):
        refuse(path)
        write(path, content)

    def mkdir(self, *arguments, **options):
        refuse(self)
        make(self, *arguments, **options)

    write, make = storage.write_bytes, Path.mkdir
    arguments = ["compare", str(tiny), "--strategies", "dsn", "--seeds", "0", "--out", str(tmp_path / "out")]
    arguments += ["--tune", "1", "--tune-tasks", "1", *(f"--set={override}" for override in SHORT)]
    with monkeypatch.context() as patch:
        patch.setattr(result_module, "write_bytes", write_bytes)
        patch.setattr(Path, "mkdir", mkdir)
        assert main(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and os.strerror(number) in errors[0] and name in errors[0]
    assert "0 of 1 runs are done and stay; when that is mended, the same command goes on" in errors[0]
    assert not list(tmp_path.rglob(".*.partial*"))
    assert not main(arguments) and load_comparison(tmp_path / "out").complete


def test_a_disk_that_is_full_once_the_runs_are_made_costs_none_of_them(inline, tiny, tmp_path, monkeypatch):
    options = {"strategies": "dsn,independent", "seeds": "0"}
    end = Board.end

    def full(self, job, outcome):
        end(self, job, outcome)
        monkeypatch.setattr(result_module, "write_bytes", refuse)

    def refuse(path, _content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Board, "end", full)
    with pytest.raises(InputError, match=r"out: No space left on device; 1 of 2 runs are done and stay"):
        compared(tiny, tmp_path / "out", *SHORT, **options)
    monkeypatch.undo()
    monkeypatch.setattr(choice, "LocalEngine", Inline)
    found, _ = compared(tiny, tmp_path / "out", *SHORT, **options)
    assert found.complete and len(inline) == 2


@pytest.mark.parametrize("place", ["printing_into", "attempt"])
def test_a_log_that_cannot_be_written_fails_its_run_alone(tmp_path, monkeypatch, place):
    jobs = [Job(name=name, config="{}", log=tmp_path / name, call=NOTHING) for name in ("full", "second")]

    class Pipe:
        sent = []

        def recv(self):
            if len(self.sent) == len(jobs):
                raise EOFError
            return jobs[len(self.sent)]

        send = sent.append

    def full(first, *_others):
        if first in (jobs[0], jobs[0].log):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return harmless[place]()

    harmless = {"printing_into": contextlib.nullcontext, "attempt": lambda *_: Outcome(0.0)}
    for name, whole in harmless.items():
        monkeypatch.setattr(local_module, name, full if name == place else lambda *_, do=whole: do())
    monkeypatch.setattr(local_module.signal, "signal", lambda *_: None)
    local_module.work(Pipe(), 1)
    assert [outcome.error for outcome in Pipe.sent] == [
        f"{jobs[0].log}: cannot be written: No space left on device",
        None,
    ]


# ---- processes and signals -------------------------------------------------------------------------------


def command(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(happened, seconds=100.0):
    ends = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < ends, "nothing happened"
        time.sleep(0.05)


def test_killed_and_stopped_it_goes_on_to_the_same_table(inline, tiny, tmp_path):
    arguments = ["compare", "tiny.yaml", "--strategies", "dsn,independent", "--seeds", "0,1", "--out", "out"]
    out = tmp_path / "out"
    killed = command(*arguments, cwd=tmp_path)
    wait_for(lambda: (out / "tiny/runs/dsn-seed0.json").exists())
    children = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait()
    wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), 10)
    assert len(children) >= 1 and not load_comparison(out).complete
    finished = (out / "tiny/runs/dsn-seed0/result.json").stat().st_mtime_ns

    stopped = command(*arguments, cwd=tmp_path)
    while "of them there already" not in stopped.stdout.readline():
        assert stopped.poll() is None
    wait_for(lambda: psutil.Process(stopped.pid).children())
    children = psutil.Process(stopped.pid).children(recursive=True)
    os.kill(stopped.pid, signal.SIGTERM)
    said = stopped.communicate(timeout=30)[0]
    assert stopped.returncode == 143 and "the same command goes on" in said and "Traceback" not in said
    # the workers are gone by then, multiprocessing's own process ends once it sees that
    wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), 10)
    assert not list(out.glob("tiny/runs/.*"))

    whole, _ = compared(tiny, tmp_path / "out")
    assert len(inline) < 4 and (out / "tiny/runs/dsn-seed0/result.json").stat().st_mtime_ns == finished
    never_stopped, _ = compared(tiny, tmp_path / "other")
    assert without_times(whole) == without_times(never_stopped) and whole.complete


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_worker_starts_waits_until_it_can_be_stopped(monkeypatch, number):
    stopped = []

    class Starting:
        def __init__(self, *_arguments):
            signal.raise_signal(number)

        def stop(self):
            stopped.append(self)

    monkeypatch.setattr(local_module, "Worker", Starting)
    before = signal.signal(number, lambda *_: sys.exit(3))
    try:
        engine = LocalEngine(1)
        with pytest.raises(SystemExit), Pool(engine):
            engine._idle()
    finally:
        signal.signal(number, before)
    assert len(stopped) == 1


def test_a_worker_that_dies_fails_its_run_alone(tmp_path):
    jobs = [
        Job(name=name, config="{}", log=tmp_path / f"{name}.log", call=NOTHING)
        for name in ("first", "second")
    ]
    outcomes = {}

    def ended(job, outcome):
        outcomes[job.name] = outcome.error
        return []

    engine = LocalEngine(1)
    with Pool(engine) as pool:
        start = engine._start

        def kill_the_first(job):
            future = start(job)
            if job == jobs[0]:
                engine._workers[0].process.kill()
            return future

        engine._start = kill_the_first
        pool.do(jobs, ended, lambda _going: None)
    assert "died with exit status -9" in outcomes["first"]
    assert "Config" in (tmp_path / "second.log").read_text() and "died" not in outcomes["second"]


def test_a_run_that_was_killed_goes_on_within_its_task(inline, tiny, tmp_path):
    options = {"strategies": "dsn", "seeds": "0"}
    whole, _ = compared(tiny, tmp_path / "whole", **options)
    with pytest.raises(Killed), killed_at(7):
        compared(tiny, tmp_path / "cmp", "checkpoint.iterations=3", **options)
    runs = tmp_path / "cmp" / "tiny" / "runs"
    assert sorted(path.name for path in runs.iterdir()) == ["dsn-seed0.checkpoint", "dsn-seed0.log"]
    again, _ = compared(tiny, tmp_path / "cmp", **options)  # when it keeps its state is its own affair
    assert "going on at task 0" in (runs / "dsn-seed0.log").read_text()
    left, right = without_times(again), without_times(whole)
    assert left["streams"] == right["streams"]
    assert not (runs / "dsn-seed0.checkpoint").exists()
    _, text = compared(tiny, tmp_path / "cmp", "checkpoint.minutes=null", **options)
    assert "1 runs, 1 of them there already" in text
