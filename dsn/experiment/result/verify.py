"""``run.py verify``: whether a finished run is what it was, by its seal, its certificate and its numbers."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dsn.errors import InputError
from dsn.evaluation.capacity import mask_bytes, neurons
from dsn.evaluation.metrics import all_metrics
from dsn.masking import MaskedModel
from dsn.masking.state.fingerprint import Fingerprints
from dsn.storage import first_difference

from ..config.experiment import Config
from ..config.machine import environment
from .certificate import Verdict, judge, row_of, unfit_rows
from .files import MODEL, is_whole, model_of, read_model, threads
from .result import RESULT, Result, matrix_csv, read_result
from .seal import breaches

SAME_MACHINE = (
    "torch",
    "platform",
    "device",
    "device_name",
    "processor",
    "cpu_capability",
    "blas",
    "threads",
)
"""Fields of the environment that may change the last bits of logits."""
NEAR = 1e-9
UNSEALED = (
    "the run was made before runs were sealed: whether its files are those that it wrote cannot be checked, "
    "only what the certificate says of its tasks"
)


@dataclass(frozen=True)
class Verification:
    """What became of each task; what of the files is not the run's; what differs here; what is not known."""

    tasks: list[Verdict]
    breaches: list[str]
    elsewhere: list[str]
    unchecked: list[str]

    @property
    def status(self) -> Literal["intact", "rounding", "BROKEN"]:
        """BROKEN if anything is; rounding if nothing is, but logits are equal only nearly."""
        statuses = {verdict.status for verdict in self.tasks}
        if self.breaches or "BROKEN" in statuses:
            return "BROKEN"
        return "rounding" if "unchanged but for rounding" in statuses else "intact"


def verify(folder: Path) -> Verification:
    """Whether the run in ``folder`` is what it was when it ended.

    The process stays as it is: threads and settings of torch are put back.

    Raises:
        InputError: a missing or foreign file, or a run without a certificate.
    """
    result = read_result(folder / RESULT)
    values = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    found, sealed = breaches(values, folder), result.seal is not None
    if not sealed and _was_sealed(result, folder):
        found.append("result.json: its seal has been removed")
    if result.certificate is None and not found:
        raise InputError(
            f"{folder / RESULT}: has no certificate: only strategies dsn and hat write one, and "
            "versions before it did not; run it again"
        )
    found += _contradictions(result, folder, sealed)
    unchecked = [] if sealed or found else [UNSEALED]
    try:
        run, state = read_model(folder / MODEL)
        if not is_whole(run, state):
            found.append(f"{MODEL}: its checksum is not that of its content")
        if (difference := first_difference(result.config, run["config"], "config")) is not None:
            found.append(f"{MODEL}: is of another config than {RESULT}: {difference}")
        model, config, _ = model_of(folder / MODEL, run | {"config": result.config}, state)
    except InputError as error:
        if not found:
            raise
        return Verification([], [*found, str(error)], [], unchecked)
    found += _other_use(result, model)
    rows = result.certificate or []
    if (why := unfit_rows(rows, model.committed)) is not None:
        return Verification([], [*found, f"{RESULT}: the certificate does not fit: {why}"], [], unchecked)
    with as_it_ran(result, config, model) as device:
        now = row_of(Fingerprints(model))
        elsewhere = differences(result.environment, environment(device))
    verdicts = judge(rows, now, result.transfers, same_machine=not elsewhere)
    return Verification(verdicts, found, elsewhere, unchecked)


def _was_sealed(result: Result, folder: Path) -> bool:
    """Whether an environment or a model file without its seal is of a version that seals."""
    if "seal" in result.environment or "cpu_capability" in result.environment:
        return True
    try:
        return bool(read_model(folder / MODEL)[0].get("sealed"))
    except InputError:
        return False


def _contradictions(result: Result, folder: Path, sealed: bool) -> list[str]:
    """Where the parts of result.json, and the files that repeat it, do not say the same."""
    found = []
    if result.config.get("seed") != result.seed:
        found.append(f"{RESULT}: seed is {result.seed}, config.seed {result.config.get('seed')}")
    said = result.metrics.model_dump()
    for name, value in all_metrics(result.matrix, result.independent, None).items():
        if value is not None and (said[name] is None or not math.isclose(said[name], value, abs_tol=NEAR)):
            found.append(f"{RESULT}: metrics.{name} is {said[name]}, by the accuracy matrix {value}")
    matrix = folder / "matrix.csv"
    if not sealed and matrix.is_file() and matrix.read_bytes() != matrix_csv(result.matrix).encode():
        found.append(f"matrix.csv: is not the accuracy matrix of {RESULT}")
    return found


def _other_use(result: Result, model: MaskedModel) -> list[str]:
    """Where result.json says something else of the tasks' neurons than the model file."""
    said = {use.task: (use.neurons, use.mask_bytes) for use in result.tasks}
    here = {task: (layers, mask_bytes(model, task)) for task, layers in neurons(model).items()}
    if list(said) != list(here):
        return [f"{RESULT}: tasks are {list(said)}, the model file has {list(here)}"]
    return [
        f"{RESULT}: the neurons of task {task} are not those of the model file"
        for task in here
        if said[task] != here[task]
    ]


@contextmanager
def as_it_ran(result: Result, config: Config, model: MaskedModel) -> Iterator[torch.device]:
    """For a while ``model`` computes as it did in the run, as far as this machine can; yields its device."""
    device = _device(result.environment)
    with threads(config.threads), _deterministic():
        model.to(device)
        if config.train.channels_last:
            model.to(memory_format=torch.channels_last)
        yield device


def _device(there: dict[str, Any]) -> torch.device:
    """The kind of device that the run used, where it is here."""
    on_gpu = str(there.get("device")).startswith("cuda") and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


@contextmanager
def _deterministic() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """``torch was 2.4, is 2.5`` for each field that may change the last bits of logits."""
    return [
        f"{name} was {there.get(name)}, is {here.get(name)}"
        for name in SAME_MACHINE
        if there.get(name) != here.get(name)
    ]
