"""Jobs on Ray: a cluster by its address, or one that is started here."""

import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from dsn.errors import InputError

from ..config.experiment import ResourcesConfig
from .job import Job, Outcome
from .options import Choice, refuse_unknown
from .remote import attempt_remotely, begun, origin_of, resources_of

MANY = 10_000
RETRIES = 3
"""times that Ray does a job again whose node or process has died"""
STOP_SECONDS = 60.0
CONNECT_SECONDS = 5.0


class RayEngine:
    """Tasks of Ray. They end with their driver; the next one goes on from their checkpoints."""

    def __init__(self, choice: Choice, folder: Path) -> None:
        refuse_unknown(choice, ("address",))
        self._ray = _installed()
        self.at_once = choice.jobs or MANY
        self._origin = origin_of(folder)
        _start(self._ray, choice.arguments.get("address"))
        self._call = self._ray.remote(max_retries=RETRIES)(attempt_remotely)
        self._going: dict[Any, tuple[Job, Future[Outcome]]] = {}
        self._since = time.time()

    def submit(self, jobs: Sequence[Job]) -> list["Future[Outcome]"]:
        """As the protocol says. Raises InputError where no node has what a job needs."""
        futures = []
        for job in jobs:
            wanted = resources_of(job)
            self._refuse_too_much(wanted)
            memory = None if wanted.memory is None else int(wanted.memory * 1e9)
            options = {"num_cpus": wanted.cpus, "num_gpus": wanted.gpus, "memory": memory, "name": job.name}
            future: Future[Outcome] = Future()
            self._going[self._call.options(**options).remote(job, self._origin)] = job, future
            futures.append(future)
        return futures

    def wait(self, seconds: float) -> list[Job]:
        """As the protocol says."""
        ready, _ = self._ray.wait(list(self._going), timeout=seconds)
        for done in ready:
            _, future = self._going.pop(done)
            future.set_result(self._outcome(done))
        return begun((job for job, _ in self._going.values()), self._since)

    def close(self, error: BaseException | None) -> None:
        """Cancel what is going on, which keeps its state, and leave the cluster."""
        try:
            for task in self._going:
                self._ray.cancel(task, force=False)
            if self._going:
                self._ray.wait(list(self._going), num_returns=len(self._going), timeout=STOP_SECONDS)
        finally:
            self._ray.shutdown()

    def _outcome(self, done: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            told = str(error).strip().splitlines() or [type(error).__name__]
            return Outcome(0.0, f"Ray could not do it: {told[-1]}")
        return outcome

    def _refuse_too_much(self, wanted: ResourcesConfig) -> None:
        """Raise InputError where no node is large enough: the job would wait for ever."""
        asked = {"CPU": wanted.cpus, "GPU": wanted.gpus, "memory": (wanted.memory or 0) * 1e9}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            return
        key = {"CPU": "cpus", "GPU": "gpus", "memory": "memory"}
        for name, amount in asked.items():
            most = max((node.get(name, 0) for node in nodes), default=0)
            if most < amount:
                unit = 1e9 if name == "memory" else 1
                raise InputError(
                    f"resources.{key[name]}: {amount / unit:g} is more than any node of the cluster has, "
                    f"which is {most / unit:g}; ask for less"
                )
        raise InputError("resources: no single node of the cluster has all of them; ask for less")


def _installed() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray: Ray is not installed; pip install 'dsn[ray]'") from error
    return ray


def _start(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(address="local", include_dashboard=False, **quiet)
        return
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "://" not in host:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--engine-args address={address}: no cluster of Ray answers there "
            f"({str(error).strip().splitlines()[0]}); start one with `ray start --head`, set "
            "RAY_AUTH_MODE=token if it asks for a token, or leave address out"
        ) from error
