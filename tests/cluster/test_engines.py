"""A comparison on real servers, with what a cluster does to jobs: nothing is lost, nothing run twice.

Skipped where Ray, or SLURM, munge and submitit, are not installed; tests/cluster/servers.py says how.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dsn.experiment.compare.comparison import load_comparison
from tests.cluster.servers import has_ray, has_slurm, ray_cluster, slurm_cluster, until

ROOT = Path(__file__).parents[2]
CONFIG = {
    "stream": {"name": "split_digits", "tasks": 3, "train_per_class": 40, "validation": 0.2},
    "backbone": {"name": "mlp", "widths": [24, 16]},
    "train": {"epochs": 150, "batch_size": 8, "lr": 0.1, "momentum": 0.9},
    "transfer": {"tasks": 1},
    "checkpoint": {"iterations": 200},
    "threads": 1,
}
RUNS = 9
SECONDS = 900
DRIVERS = []
TIMES = ("timings", "environment", "seal", "resources", "checkpoint")


@pytest.fixture(autouse=True)
def no_driver_outlives_its_test():
    yield
    while DRIVERS:
        DRIVERS.pop().kill()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def here(config, tmp_path_factory):
    """What the comparison gives on this machine, without any trouble."""
    out = tmp_path_factory.mktemp("here") / "out"
    assert started(config, out, {}).wait(SECONDS) == 0
    return found_in(out)


def started(config, out, environment, *more):
    words = ["compare", str(config), "--strategies", "dsn,naive,independent", "--seeds", "0,1,2"]
    out.parent.mkdir(exist_ok=True)
    with (out.parent / "driver.log").open("a") as log:
        DRIVERS.append(
            process := subprocess.Popen(
                [sys.executable, str(ROOT / "run.py"), *words, "--out", str(out), *more],
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                cwd=out.parent,
                stdout=log,
                stderr=log,
            )
        )
    return process


def found_in(out):
    """All that the runs found, by name; times and machines left out."""

    def rest(value):
        if isinstance(value, dict):
            return {key: rest(inner) for key, inner in value.items() if key not in TIMES}
        return value

    files = sorted(out.glob("*/runs/*/result.json"))
    return {path.parent.name: rest(json.loads(path.read_text())) for path in files}


def logs(out):
    return {path.stem: path.read_text() for path in out.glob("*/runs/*.log")}


def going(out):
    return list(out.glob("*/runs/*.checkpoint/latest.safetensors"))


def said(out):
    return (out.parent / "driver.log").read_text()


def nothing_is_lost_or_run_twice(out, here, runs=RUNS):
    assert found_in(out) == here and len(here) == runs
    assert load_comparison(out).complete
    for name, log in logs(out).items():
        assert log.count("written to") == 1, f"{name} was made more than once"
    assert not list(out.glob("*/runs/*.checkpoint")) and not list(out.glob("*/runs/.*"))
    assert "Traceback" not in said(out) and " failed" not in said(out)


@pytest.mark.skipif(not has_slurm(), reason="needs SLURM, munge and submitit, and to be root")
def test_on_slurm_a_killed_driver_a_lost_node_and_a_more_urgent_job_change_nothing(config, here, tmp_path):
    out = tmp_path / "slurm" / "out"
    with slurm_cluster() as servers:
        environment = {**os.environ, **servers.environment}

        def ask(*command):
            return subprocess.run(command, env=environment, capture_output=True, text=True).stdout

        def jobs():
            return sorted(ask("squeue", "-h", "-r", "-t", "all", "-o", "%i").split())

        driver = started(config, out, servers.environment, "--engine", "slurm")
        until(lambda: going(out), "a checkpoint", SECONDS)
        driver.kill()
        driver.wait()
        handed_in = jobs()
        assert len(handed_in) == RUNS

        driver = started(config, out, servers.environment, "--engine", "slurm")
        until(lambda: said(out).count("of them there already") == 2, "the second driver", SECONDS)
        time.sleep(5)
        assert jobs() == handed_in
        until(lambda: going(out), "a checkpoint", SECONDS)
        servers.kill("n1")
        until(lambda: going(out), "a checkpoint", SECONDS)
        ask("sbatch", "-p", "high", "-w", "n2", "-o", "/dev/null", "--wrap", "sleep 2")
        assert driver.wait(SECONDS) == 0
    nothing_is_lost_or_run_twice(out, here)
    assert any("going on at task" in log for log in logs(out).values())


@pytest.mark.skipif(not has_slurm(), reason="needs SLURM, munge and submitit, and to be root")
def test_a_time_limit_of_slurm_cuts_a_run_into_pieces_that_are_one(config, tmp_path):
    longer = ("--strategies", "dsn", "--seeds", "0", "--set", "train.epochs=3000")
    whole, out = tmp_path / "here" / "out", tmp_path / "slurm" / "out"
    assert started(config, whole, {}, *longer).wait(SECONDS) == 0
    with slurm_cluster() as servers:
        limit = ("--engine", "slurm", "--set", "resources.minutes=1")
        assert started(config, out, servers.environment, *longer, *limit).wait(SECONDS) == 0
    nothing_is_lost_or_run_twice(out, found_in(whole), runs=1)
    [log] = logs(out).values()
    assert log.count("going on at task") >= 1


@pytest.mark.skipif(not has_ray(), reason="needs Ray")
def test_on_ray_a_lost_node_and_a_killed_driver_change_nothing(config, here, tmp_path):
    out = tmp_path / "ray" / "out"
    with ray_cluster() as servers:
        more = ("--engine", "ray", "--engine-args", f"address={servers.environment['RAY_ADDRESS']}")
        driver = started(config, out, servers.environment, *more)
        until(lambda: going(out), "a checkpoint", SECONDS)
        driver.kill()
        driver.wait()
        driver = started(config, out, servers.environment, *more)
        until(lambda: said(out).count("of them there already") == 2, "the second driver", SECONDS)
        until(lambda: going(out), "a checkpoint", SECONDS)
        servers.kill("n1")
        assert driver.wait(SECONDS) == 0
    nothing_is_lost_or_run_twice(out, here)
    assert any("going on at task" in log for log in logs(out).values())


@pytest.mark.skipif(not has_ray(), reason="needs Ray")
@pytest.mark.parametrize("setting", ["resources.gpus=64", "resources.memory=1e6"])
def test_more_than_any_node_has_is_refused(config, tmp_path, setting):
    out = tmp_path / "ray" / "out"
    driver = started(config, out, {}, "--engine", "ray", "--set", setting)
    assert driver.wait(SECONDS) == 2 and "is more than any node of the cluster has" in said(out)


@pytest.mark.skipif(not has_ray(), reason="needs Ray")
def test_no_cluster_at_the_address_is_one_line(config, tmp_path):
    out = tmp_path / "ray" / "out"
    driver = started(config, out, {}, "--engine", "ray", "--engine-args", "address=127.0.0.1:9")
    assert driver.wait(SECONDS) == 2
    assert "no cluster of Ray answers there" in said(out) and "Traceback" not in said(out)


@pytest.mark.skipif(not has_slurm(), reason="needs SLURM, munge and submitit, and to be root")
def test_ctrl_c_cancels_jobs_of_slurm_and_the_same_command_goes_on(config, here, tmp_path):
    out = tmp_path / "slurm" / "out"
    with slurm_cluster() as servers:
        driver = started(config, out, servers.environment, "--engine", "slurm")
        until(lambda: going(out), "a checkpoint", SECONDS)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(SECONDS) == 130 and "the same command goes on from here" in said(out)
        alive = subprocess.run(
            ["squeue", "-h"], env={**os.environ, **servers.environment}, capture_output=True, text=True
        )
        assert alive.stdout == ""
        assert started(config, out, servers.environment, "--engine", "slurm").wait(SECONDS) == 0
    nothing_is_lost_or_run_twice(out, here)
