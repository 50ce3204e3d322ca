"""Real servers on this machine, for tests and for trying things: Ray, and SLURM with munge, two nodes each.

    python -m tests.cluster.servers ray -- COMMAND ...
    python -m tests.cluster.servers slurm -- COMMAND ...

COMMAND finds them: ``--engine ray --engine-args address=$RAY_ADDRESS``, or ``--engine slurm``. Ray comes with
``pip install -e '.[ray]'``; SLURM as root with ``apt-get install slurmctld slurmd slurm-client munge``.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

NODES = ("n1", "n2")
UP_SECONDS = 180
PATIENT = {"RAY_raylet_start_wait_time_s": "90"}
"""a busy machine starts Ray slowly"""
OPEN = {"RAY_AUTH_MODE": "disabled"}
"""a token in the home folder, which any local start of Ray leaves there, would close the head to its nodes"""
SLURM_CONF = """\
ClusterName=dsn
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=1,bf_interval=3
ReturnToService=2
SlurmdTimeout={timeout}
KillWait=10
MinJobAge=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=low Nodes={names} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 MaxTime=INFINITE
PartitionName=high Nodes={names} PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE
"""


@dataclass
class Servers:
    """Running servers: what their clients need in the environment, and the process of each node."""

    environment: dict[str, str]
    nodes: dict[str, int] = field(default_factory=dict)

    def kill(self, node: str) -> None:
        """Let ``node`` go down at once, with all that runs on it."""
        kill_tree(self.nodes.pop(node))
        for job in _jobs_of_slurm(node, self.environment.get("SLURM_CONF")):
            kill_tree(job)


def has_ray() -> bool:
    """Whether Ray is installed."""
    return find_spec("ray") is not None


def has_slurm() -> bool:
    """Whether SLURM, munge and submitit are installed, and this process may start them."""
    programs = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "srun")
    return all(map(_program, programs)) and find_spec("submitit") is not None and os.geteuid() == 0


@contextmanager
def ray_cluster(cpus: int = 1) -> Iterator[Servers]:
    """A head without processors and two nodes with ``cpus`` each."""
    port, path = free_port(), os.environ.get("PYTHONPATH", "")
    environment = {**os.environ, "PYTHONPATH": path, "RAY_ADDRESS": f"127.0.0.1:{port}", **PATIENT, **OPEN}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    small = ["--object-store-memory", str(80 * 2**20)]
    head = [
        "--head",
        f"--port={port}",
        "--node-ip-address=127.0.0.1",
        "--num-cpus=0",
        "--include-dashboard=false",
    ]
    with tempfile.TemporaryDirectory(prefix="dsn-ray-", dir="/tmp") as folder, ExitStack() as stack:
        quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

        def start(*arguments: str) -> int:
            process = subprocess.Popen([*command, *small, *arguments], start_new_session=True, **quiet)
            stack.callback(kill_tree, process.pid)
            return process.pid

        start(*head, f"--temp-dir={folder}")
        until(lambda: _listens(port), "Ray's head")
        servers = Servers({"RAY_ADDRESS": environment["RAY_ADDRESS"], **OPEN})
        status = [str(Path(sys.executable).with_name("ray")), "status", f"--address=127.0.0.1:{port}"]
        for number, name in enumerate(NODES, start=1):  # one after the other: two at once fail at times
            servers.nodes[name] = start(f"--address=127.0.0.1:{port}", f"--num-cpus={cpus}")
            until(
                lambda there=f"/{number * cpus}.0 CPU": there
                in subprocess.run(status, capture_output=True, text=True, env=environment).stdout,
                "Ray's nodes",
            )
        yield servers


@contextmanager
def slurm_cluster(cpus: int = 1, timeout: int = 10) -> Iterator[Servers]:
    """A controller and two nodes with ``cpus`` each; a node is lost after ``timeout`` seconds of silence.

    Jobs of the partition low give way to those of high: SIGTERM, and after half a minute the end.
    """
    host, ports = socket.gethostname(), [free_port() for _ in range(len(NODES) + 1)]
    with tempfile.TemporaryDirectory(prefix="dsn-slurm-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "state").mkdir()
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=2000"
            for node, port in zip(NODES, ports[1:], strict=True)
        ]
        conf = folder / "slurm.conf"
        conf.write_text(
            SLURM_CONF.format(
                host=host,
                port=ports[0],
                folder=folder,
                timeout=timeout,
                nodes="\n".join(nodes),
                names=",".join(NODES),
            )
        )
        environment = {**os.environ, "SLURM_CONF": str(conf)}

        def start(program: str, *arguments: str) -> int:
            log = (folder / f"{program}.out").open("a")
            process = subprocess.Popen(
                [_program(program), *arguments],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(log.close)
            stack.callback(kill_tree, process.pid)
            return process.pid

        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files)
        until((folder / "munge.socket").exists, "munge")
        start("slurmctld", "-D", "-f", str(conf))
        servers = Servers({"SLURM_CONF": str(conf)})
        for node in NODES:
            (folder / f"spool-{node}").mkdir()
            servers.nodes[node] = start("slurmd", "-D", "-N", node, "-f", str(conf))
        sinfo = [_program("sinfo"), "-h", "-p", "low", "-t", "idle", "-o", "%D"]
        until(
            lambda: subprocess.run(sinfo, capture_output=True, text=True, env=environment).stdout.strip()
            == str(len(NODES)),
            "SLURM's nodes",
        )
        try:
            yield servers
        finally:
            subprocess.run([_program("scancel"), "--user", "root"], env=environment, check=False)
            time.sleep(1)


def kill_tree(pid: int) -> None:
    """Kill a process and all below it."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for found in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                found.send_signal(signal.SIGKILL)
        with suppress(psutil.TimeoutExpired):
            process.wait(10)


def _jobs_of_slurm(node: str, conf: str | None) -> list[int]:
    """The processes of jobs on a node of SLURM with the configuration ``conf``."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ()
            if conf is not None and (environment.get("SLURMD_NODENAME"), environment.get("SLURM_CONF")) == (
                node,
                conf,
            ):
                found |= {process.pid, *(p.pid for p in process.parents() if p.name() == "slurmstepd")}
    return sorted(found)


def until(done, what: str, seconds: float = UP_SECONDS) -> None:
    """Wait for ``done()``; a TimeoutError that names ``what`` after ``seconds``."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not there within {seconds} s")
        time.sleep(0.2)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def main(arguments: list[str]) -> int:
    """Run a command beside the servers; its exit status."""
    engine, dashes, *command = arguments
    assert dashes == "--" and command, __doc__
    with {"ray": ray_cluster, "slurm": slurm_cluster}[engine]() as servers:
        return subprocess.run(command, env={**os.environ, **servers.environment}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
