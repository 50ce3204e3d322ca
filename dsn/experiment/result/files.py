"""The files of a run, and what they say of its model."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialize

from dsn.errors import InputError
from dsn.evaluation.capacity import jaccard, mask_bytes, neurons, similarity
from dsn.masking import MaskedModel
from dsn.masking.state.fit import refuse_unfit
from dsn.storage import checksum
from dsn.topology.tasks import task_topologies

from ..config.experiment import Config, dump
from ..config.network import PixelRange, architecture, build_backbone, build_model
from . import seal
from .pictures import draw_accuracy_matrix, draw_neurons
from .result import RESULT, Result, TaskUse, matrix_csv, write_result

MODEL, MODEL_VERSION = "model.safetensors", 1
LARGEST_INPUT = 2**24
SMALL = 2**24
MOST_OVERLAPS = 10**6
"""numbers of ``jaccard`` that a result holds at most: layers times the square of tasks"""


def task_uses(model: MaskedModel) -> list[TaskUse]:
    """What each committed task uses of the network."""
    alike, topologies = similarity(model), task_topologies(model)
    few = len(model.layers) * len(alike) ** 2 <= MOST_OVERLAPS
    shared = jaccard(model) if few else {}
    return [
        TaskUse(
            task=task,
            neurons=layers,
            mask_bytes=mask_bytes(model, task),
            similarity=alike[row].tolist(),
            jaccard={layer: overlap[row].tolist() for layer, overlap in shared.items()},
            topology=None if topologies is None else topologies[task],
        )
        for row, (task, layers) in enumerate(neurons(model).items())
    ]


def write(
    result: Result, config: Config, model: MaskedModel | None, pixel_range: PixelRange | None, folder: Path
) -> Result:
    """Every file of a run, into ``folder``; returns the result with the seal of them all."""
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    (folder / "matrix.csv").write_text(matrix_csv(result.matrix), encoding="utf-8")
    draw_accuracy_matrix(result, folder / "accuracy_matrix.png")
    if model is not None:
        draw_neurons(result, folder / "neurons.png")
        save_model(model, folder / MODEL, config, pixel_range, sealed=True)
    result = Result.model_validate(seal.sealed(result.model_dump(mode="json"), folder))
    write_result(result, folder / RESULT)
    return result


def save_model(
    model: MaskedModel,
    path: Path,
    config: Config,
    pixel_range: PixelRange | None = None,
    *,
    sealed: bool = False,
) -> None:
    """The model's state, with what rebuilds it in the file's metadata: config, input shape, pixel range.

    ``sealed``: a result.json with a seal belongs to it.
    """
    state = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    run: dict[str, Any] = {
        "format_version": MODEL_VERSION,
        "config": config.model_dump(mode="json"),
        "input_shape": list(model.input_shape[1:]),
        "pixel_range": pixel_range and [limit.tolist() for limit in pixel_range],
    }
    if sealed:
        run["sealed"] = True
    run["sha256"] = checksum({}, run, state)
    # one key: safetensors writes several in an order that changes from file to file
    path.write_bytes(serialize(state, metadata={"run": json.dumps(run)}))


def load_model(folder: Path) -> tuple[MaskedModel, Config, PixelRange | None]:
    """The model that a run wrote into ``folder``, its config and the range of its pixels.

    Nothing is downloaded, and no pretrained weights are read: all weights are in the file. In the config, a
    device and a number of threads that this machine has not are left to its defaults.

    Raises InputError for a missing, foreign or damaged file, or one of another format version.
    """
    path = folder / MODEL
    run, state = read_model(path)
    if not is_whole(run, state):
        raise InputError(f"{path}: damaged (its checksum is not that of its content); run it again")
    return model_of(path, run, state)


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a model file says of itself, and its tensors. Raises as :func:`load_model`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the folder of a finished run of strategy dsn or hat")
    try:
        with safe_open(path, "pt") as file:
            run = json.loads((file.metadata() or {})["run"])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        found = run.get("format_version", MODEL_VERSION)  # it was not written at first
        _ = run["config"], run["input_shape"], run["pixel_range"]
    except Exception as error:  # a damaged file can fail in any way inside the reader
        raise InputError(f"{path}: was not written by run.py run ({error}); run it again") from error
    if found != MODEL_VERSION:
        raise InputError(
            f"{path}: format version is {found!r}, this version of dsn reads {MODEL_VERSION}; use the "
            "version of dsn that wrote it"
        )
    return run, state


def is_whole(run: dict[str, Any], state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a model file holds what its checksum says; older files have none."""
    stored = run.get("sha256")
    about = {name: value for name, value in run.items() if name != "sha256"}
    return stored is None or stored == checksum({}, about, state)


def model_of(
    path: Path, run: dict[str, Any], state: Mapping[str, torch.Tensor]
) -> tuple[MaskedModel, Config, PixelRange | None]:
    """The model of what :func:`read_model` read. Raises as :func:`load_model`."""
    try:
        config = Config.model_validate_json(json.dumps(run["config"]))
        pixel_range = _pixel_range(run["pixel_range"])
    except Exception as error:
        said = " ".join(str(error).split())
        raise InputError(f"{path}: was not written by run.py run ({said}); run it again") from error
    _refuse_other_sizes(path, config, run["input_shape"], state)
    with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
        try:
            model = build_model(architecture(config), torch.Size(run["input_shape"]))
            refuse_unfit(model, state)
        except InputError as error:
            raise InputError(f"{path}: does not fit its own config: {error}; run it again") from error
        model.load_state_dict(state)
    return model, _for_this_machine(config), pixel_range


def _pixel_range(limits: Any) -> PixelRange | None:
    """The lowest and the highest value of a pixel [C] each. Raises ValueError for anything else."""
    if limits is None:
        return None
    pairs = isinstance(limits, list) and len(limits) == 2 and all(isinstance(one, list) for one in limits)
    if not pairs or not all(type(value) in (int, float) for one in limits for value in one):
        raise ValueError(f"a pixel range of {str(limits)[:80]} is not two lists of numbers")
    low, high = (torch.tensor(one, dtype=torch.float32) for one in limits)
    finite = torch.cat([low, high]).isfinite().all()
    if not finite or low.shape != high.shape or not len(low) or not (low < high).all():
        raise ValueError(f"a pixel range of {str(limits)[:80]} has no lowest and highest values a channel")
    return low, high


def _refuse_other_sizes(path: Path, config: Config, shape: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError where config or input shape ask for much more memory than the file's tensors take."""
    whole = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    if not whole or len(shape) not in (1, 3) or math.prod(shape) > LARGEST_INPUT:
        raise InputError(f"{path}: an input shape of {shape} is not that of a sample; run it again")
    try:
        with torch.device("meta"):  # where tensors have sizes and no content
            backbone, _ = build_backbone(architecture(config).backbone, torch.Size(shape))
    except Exception as error:  # options of a backbone can make its builder fail in any way
        raise InputError(f"{path}: its config cannot be built ({error}); run it again") from error
    wanted = sum(tensor.numel() for tensor in (*backbone.parameters(), *backbone.buffers()))
    known = sum(tensor.numel() for tensor in state.values())
    if wanted > 2 * known + SMALL:  # the classifier that tasks' heads replace is not in the file
        raise InputError(
            f"{path}: does not fit its own config, which asks for {wanted:,} numbers; it holds {known:,}: "
            "run it again"
        )


def _for_this_machine(config: Config) -> Config:
    changes: dict[str, Any] = {}
    if config.threads is not None and config.threads > (os.cpu_count() or 1):
        changes["threads"] = None
    try:
        torch.zeros(1, device=config.device if config.device != "auto" else "cpu").cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        changes["device"] = "auto"
    return config.model_copy(update=changes)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """torch's number of threads, for a while; None: as it is."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
