"""Engines: what a pool does with outcomes, what is refused, who has a folder, logs."""

import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from dsn.errors import InputError, Stopped
from dsn.experiment.base import hold
from dsn.experiment.base.folder import OWNER, output_folder, partial_of, remove_dead
from dsn.experiment.engine import local, on_ray, on_slurm, remote
from dsn.experiment.engine.job import Job, Outcome
from dsn.experiment.engine.options import Choice, parse_choice
from dsn.experiment.engine.pool import RETRIES, Pool
from dsn.experiment.run import run_folder

NOTHING = "dsn.experiment.engine.attempt:no_value"


def job(folder, name="job", **more):
    return Job(name=name, config="{}", log=folder / f"{name}.log", call=NOTHING, **more)


class Told:
    """An engine whose outcomes are told beforehand."""

    def __init__(self, outcomes, at_once=2):
        self.outcomes, self.at_once = deque(outcomes), at_once
        self.going, self.most, self.closed = [], 0, None

    def submit(self, jobs):
        futures = [Future() for _ in jobs]
        self.going += zip(jobs, futures, strict=True)
        self.most = max(self.most, len(self.going))
        return futures

    def wait(self, _seconds):
        _, future = self.going.pop(0)
        future.set_result(self.outcomes.popleft())
        return [job for job, _ in self.going]

    def close(self, error):
        self.closed = error


def done_by(engine, jobs):
    ends = []

    def ended(job, outcome):
        ends.append((job.name, outcome.error))
        return []

    with Pool(engine) as pool:
        pool.do(jobs, ended, lambda _going: None)
    return ends


STOPPED = Outcome(0.0, "stopped by signal 15", stopped=True)
KEPT = Outcome(0.0, "stopped by signal 12", stopped=True, kept=True)


def test_a_job_that_kept_something_is_handed_in_again_for_ever_and_others_a_few_times(tmp_path):
    engine = Told([*[KEPT] * 20, Outcome(1.0)], at_once=1)
    assert done_by(engine, [job(tmp_path)]) == [("job", None)]
    engine = Told([STOPPED] * RETRIES + [Outcome(1.0)], at_once=1)
    assert done_by(engine, [job(tmp_path)]) == [("job", None)]
    engine = Told([STOPPED] * (RETRIES + 1), at_once=1)
    ((_, error),) = done_by(engine, [job(tmp_path)])
    assert "stopped by signal 15, 4 times, and nothing was kept" in error and not engine.outcomes


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_each_job_ends_once_and_no_more_than_asked_for_are_in_hand(tmp_path, at_once):
    jobs = [job(tmp_path, f"j{number}") for number in range(5)]
    engine = Told([Outcome(0.0, "x" if number == 3 else None) for number in range(5)], at_once)
    assert sorted(done_by(engine, jobs)) == [(f"j{n}", "x" if n == 3 else None) for n in range(5)]
    assert engine.most <= at_once and engine.closed is None


def test_an_engine_is_told_why_it_is_closed(tmp_path):
    engine = Told([Outcome(0.0)])

    def interrupt(_going):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Pool(engine) as pool:
        pool.do([job(tmp_path)], lambda *_: [], interrupt)
    assert isinstance(engine.closed, KeyboardInterrupt)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("locale", None, []), "--engine locale: unknown, nearest is 'local'"),
        (("local", 0, []), "--jobs 0: must be 1 or more"),
        (("local", None, ["address=auto"]), "the engine local has none"),
        (("ray", None, ["address"]), "must be KEY=VALUE"),
        (("ray", None, ["=x"]), "must be KEY=VALUE"),
        (("slurm", None, ["qos=a", "qos=b"]), "qos stands twice"),
    ],
)
def test_what_no_engine_can_be_told_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        parse_choice(*arguments)


@pytest.mark.parametrize(
    ("engine", "module", "extra"),
    [(on_ray.RayEngine, "ray", "ray"), (on_slurm.SlurmEngine, "submitit", "slurm")],
)
def test_an_engine_that_is_not_installed_names_its_extra_and_writes_nothing(
    tmp_path, monkeypatch, engine, module, extra
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"not installed; pip install 'dsn\[{extra}\]'"):
        engine(Choice(extra), tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_arguments_of_ray_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="--engine-args adress: unknown to ray, nearest is 'address'"):
        on_ray.RayEngine(Choice("ray", None, {"adress": "auto"}), tmp_path)


def test_nothing_of_an_engine_is_imported_by_the_others():
    code = "import sys; import dsn.experiment.compare.compare; print({'ray', 'submitit'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_machine_that_does_not_see_the_folder_or_has_other_code_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "VISIBLE_SECONDS", 0.0)
    origin = remote.origin_of(tmp_path)
    assert origin == remote.origin_of(tmp_path)  # a second driver's jobs and the first's are alike
    other = remote.Origin(
        origin.place, origin.code, tmp_path / "elsewhere" / ".engine" / "mark", origin.token
    )
    for wrong, said in (
        (other, "choose an --out that all nodes share"),
        (remote.Origin(origin.place, "0" * 64, origin.mark, origin.token), "install the same there"),
        (remote.Origin(str(tmp_path / "gone"), origin.code, origin.mark, origin.token), "is not on"),
    ):
        outcome = remote.attempt_remotely(job(tmp_path), wrong)
        assert said in outcome.error and not outcome.stopped and socket.gethostname() in outcome.error


@pytest.mark.parametrize("kept", [True, False])
def test_a_signal_on_another_machine_is_an_outcome_and_not_a_failure(tmp_path, monkeypatch, kept):
    def stop(*_arguments):
        raise Stopped(12, kept=kept)

    monkeypatch.setattr(remote, "attempt", stop)
    monkeypatch.setattr(remote, "printing_into", lambda _log: printing_nowhere())
    outcome = remote.attempt_remotely(job(tmp_path), remote.origin_of(tmp_path))
    assert (outcome.stopped, outcome.kept) == (True, kept) and "signal 12" in outcome.error
    remote.write_outcome(tmp_path / "outcome.json", outcome)
    assert remote.read_outcome(tmp_path / "outcome.json") == outcome
    (tmp_path / "outcome.json").write_text('{"seconds": 1')
    assert remote.read_outcome(tmp_path / "outcome.json") is None


def printing_nowhere():
    import contextlib

    return contextlib.nullcontext()


def test_a_log_is_never_overwritten(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from dsn.experiment.engine.attempt import printing_into\n"
        "for text in ('first', 'second'):\n"
        "    with printing_into(Path(sys.argv[1])): print(text); os.system('echo from C')\n"
        "print('outside')"
    )
    log = tmp_path / "x.log"
    found = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, text=True)
    assert found.stdout == "outside\n"
    lines = log.read_text().split("\n")
    assert (
        lines[:3] == ["first", "from C", ""] and lines[3].startswith("---- again, ") and lines[4] == "second"
    )


# ---- who has a folder -------------------------------------------------------------------------------------


def as_of(host, owner, age):
    owner.write_text(f"12345 {host}\n")
    past = time.time() - age
    os.utime(owner, (past, past))


@pytest.mark.parametrize(
    ("host", "age", "busy"),
    [("other", 0, True), ("other", hold.STALE_SECONDS + 5, False), (socket.gethostname(), 0, False)],
)
def test_a_folder_belongs_to_another_host_while_its_heart_beats(tmp_path, host, age, busy):
    """On the same host the system's lock decides, and nobody holds that here."""
    out = tmp_path / "run"
    folder = run_folder.checkpoint_of(out)
    folder.mkdir()
    (folder / run_folder.LOCK).touch()
    as_of(host, folder / run_folder.OWNER, age)
    if busy:
        with (
            pytest.raises(InputError, match="process 12345 on other is running there"),
            run_folder.held(out, "run", resume=False),
        ):
            pass
        assert (folder / run_folder.OWNER).read_text() == "12345 other\n"
    else:
        with run_folder.held(out, "run", resume=False):
            assert (folder / run_folder.OWNER).read_text() == f"{os.getpid()} {socket.gethostname()}\n"


def test_what_another_host_writes_is_not_cleaned_away_until_it_is_dead(tmp_path):
    out = tmp_path / "run"
    with output_folder(out, "run") as (partial, _):
        (partial / "result.json").write_text("{}")
        text = (partial / OWNER).read_text()
        assert text.split()[:2] == [str(os.getpid()), socket.gethostname()]
        kept = {path.name: path.read_bytes() for path in partial.iterdir()}
    theirs = partial_of(tmp_path / "theirs")
    theirs.mkdir()
    for name, content in kept.items():
        (theirs / name).write_bytes(content)
    as_of("other", theirs / OWNER, 1)
    remove_dead(tmp_path)
    assert (theirs / "result.json").exists()
    as_of("other", theirs / OWNER, hold.STALE_SECONDS + 5)
    remove_dead(tmp_path)
    assert not theirs.exists()


def test_a_heart_beats_while_the_folder_is_held_and_not_after(tmp_path, monkeypatch):
    monkeypatch.setattr(hold, "BEAT_SECONDS", 0.05)
    owner = tmp_path / "owner"
    ended = hold.sign(owner)
    os.utime(owner, (0, 0))
    end = time.monotonic() + 5
    while owner.stat().st_mtime == 0 and time.monotonic() < end:
        time.sleep(0.02)
    assert owner.stat().st_mtime > 0
    ended.set()
    time.sleep(0.2)
    os.utime(owner, (0, 0))
    time.sleep(0.2)
    assert owner.stat().st_mtime == 0


# ---- GPUs, SLURM's queue ----------------------------------------------------------------------------------


def test_workers_get_a_gpu_each_in_turn(monkeypatch):
    seen = []

    class Started:
        def __init__(self, _threads, gpu):
            self.gpu, self.job = gpu, "busy"
            seen.append(gpu)

    monkeypatch.setattr(local, "Worker", Started)
    monkeypatch.setattr(local, "visible_gpus", lambda: ["4", "5", "7"])
    engine = local.LocalEngine(4)
    for _ in range(4):
        engine._idle()
    assert seen == ["4", "5", "7", "4"]
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0"])
    seen.clear()
    local.LocalEngine(4)._idle()
    local.LocalEngine(1)._idle()
    assert seen == [None, None]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """SLURM's engine with a queue that the test writes."""
    queue = {}

    class Executor:
        handed = []

        def map_array(self, _call, jobs, _origins, files):
            Executor.handed.append([job.name for job in jobs])
            self.files = files

    Executor.handed = []
    monkeypatch.setattr(on_slurm, "_squeue", lambda: dict(queue))
    errors = SimpleNamespace(FailedJobError=RuntimeError)
    monkeypatch.setattr(on_slurm, "_installed", lambda: SimpleNamespace(core=SimpleNamespace(utils=errors)))
    monkeypatch.setattr(on_slurm.SlurmEngine, "_executor", lambda *_: Executor())
    monkeypatch.setattr(on_slurm, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(on_slurm, "VISIBLE_SECONDS", 0.0)

    def make():
        return on_slurm.SlurmEngine(Choice("slurm"), tmp_path)

    return SimpleNamespace(make=make, queue=queue, handed=Executor.handed)


def set_states(slurm, engine, *states):
    for known, state in zip(engine._going, states, strict=True):
        slurm.queue[known.batch, known.index] = state, f"7_{known.index}"


def test_a_second_driver_waits_for_the_jobs_of_the_first_and_hands_in_none_twice(slurm, tmp_path):
    jobs = [job(tmp_path, name) for name in ("running", "done", "killed", "stopped")]
    first = slurm.make()
    first.submit(jobs)
    set_states(slurm, first, "RUNNING", "COMPLETED", "FAILED", "COMPLETED")
    remote.write_outcome(first._file(jobs[1], "outcome"), Outcome(2.0))
    remote.write_outcome(first._file(jobs[3], "outcome"), KEPT)
    second = slurm.make()  # the first was killed
    futures = second.submit(jobs)
    assert slurm.handed == [["running", "done", "killed", "stopped"], ["killed", "stopped"]]
    second.wait(0.0)
    assert [future.done() for future in futures] == [False, True, True, True]
    assert futures[1].result() == Outcome(2.0)
    slurm.queue.update(dict.fromkeys(slurm.queue, ("COMPLETED", "1")))
    remote.write_outcome(second._file(jobs[0], "outcome"), Outcome(3.0))
    second.wait(0.0)
    assert futures[0].result() == Outcome(3.0)


@pytest.mark.parametrize(
    ("state", "outcome", "expected"),
    [
        ("NODE_FAIL", None, (True, "ended as NODE_FAIL")),
        ("TIMEOUT", None, (True, "ended as TIMEOUT")),
        ("PREEMPTED", KEPT, (True, "signal 12")),
        ("OUT_OF_MEMORY", None, (False, "ended as OUT_OF_MEMORY")),
        ("CANCELLED", KEPT, (False, "was cancelled in SLURM")),
        (None, None, (False, "it left nothing")),
        ("REQUEUED", KEPT, None),
        ("PENDING", None, None),
    ],
)
def test_how_a_job_of_slurm_ended_is_told_from_its_state_and_what_it_left(
    slurm, tmp_path, state, outcome, expected
):
    engine = slurm.make()
    (future,) = engine.submit([job(tmp_path)])
    if outcome is not None:
        remote.write_outcome(engine._file(job(tmp_path), "outcome"), outcome)
    if state is not None:
        set_states(slurm, engine, state)
    engine.wait(0.0)
    if expected is None:
        assert not future.done()
        return
    stopped, said = expected
    assert future.result().stopped == stopped and said in future.result().error


def test_ctrl_c_alone_cancels_jobs_of_slurm(slurm, tmp_path, monkeypatch):
    ran = []

    def run(command, **_options):
        ran.append(command[0])
        slurm.queue.clear()

    monkeypatch.setattr(on_slurm.subprocess, "run", run)
    for error, expected in ((SystemExit(143), []), (OSError(), []), (KeyboardInterrupt(), ["scancel"])):
        ran.clear()
        engine = slurm.make()
        engine.submit([job(tmp_path, type(error).__name__)])
        set_states(slurm, engine, "RUNNING")
        engine.close(error)
        assert ran == expected


def test_a_controller_that_does_not_answer_for_a_while_fails_nothing(slurm, tmp_path, monkeypatch):
    engine = slurm.make()
    (future,) = engine.submit([job(tmp_path)])
    set_states(slurm, engine, "RUNNING")
    engine.wait(0.0)

    def away():
        raise InputError("SLURM does not answer")

    monkeypatch.setattr(on_slurm, "_squeue", away)
    engine.wait(0.0)
    assert not future.done() and json.loads(engine._file(job(tmp_path), "job").read_text())["index"] == 0
