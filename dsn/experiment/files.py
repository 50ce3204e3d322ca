"""The files of a run, and what they say of its model."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialize

from dsn.errors import InputError
from dsn.evaluation.capacity import jaccard, mask_bytes, neurons, similarity
from dsn.evaluation.topology_tasks import task_topologies
from dsn.masking import MaskedModel
from dsn.masking.fit import refuse_unfit
from dsn.storage import checksum

from .build import PixelRange, build_model
from .config import Config, dump
from .pictures import draw_accuracy_matrix, draw_neurons
from .result import Result, TaskUse, matrix_csv, write_result

MODEL, MODEL_VERSION = "model.safetensors", 1


def task_uses(model: MaskedModel) -> list[TaskUse]:
    """What each committed task uses of the network."""
    alike, shared, topologies = similarity(model), jaccard(model), task_topologies(model)
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
) -> None:
    """Every file of a run, into ``folder``."""
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    (folder / "matrix.csv").write_text(matrix_csv(result.matrix), encoding="utf-8")
    write_result(result, folder / "result.json")
    draw_accuracy_matrix(result, folder / "accuracy_matrix.png")
    if model is not None:
        draw_neurons(result, folder / "neurons.png")
        save_model(model, folder / MODEL, config, pixel_range)


def save_model(model: MaskedModel, path: Path, config: Config, pixel_range: PixelRange | None = None) -> None:
    """The model's state, with what rebuilds it in the file's metadata: config, input shape, pixel range."""
    state = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    run: dict[str, Any] = {
        "format_version": MODEL_VERSION,
        "config": config.model_dump(mode="json"),
        "input_shape": list(model.input_shape[1:]),
        "pixel_range": pixel_range and [limit.tolist() for limit in pixel_range],
    }
    run["sha256"] = checksum({}, run, state)
    # one key: safetensors writes several in an order that changes from file to file
    path.write_bytes(serialize(state, metadata={"run": json.dumps(run)}))


def load_model(folder: Path, *, check: bool = True) -> tuple[MaskedModel, Config, PixelRange | None]:
    """The model that a run wrote into ``folder``, its config and the range of its pixels.

    ``check``: refuse a file whose content is not what its checksum says.

    Raises InputError for a missing, foreign or damaged file, or one of another format version.
    """
    path = folder / MODEL
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the folder of a finished run of strategy dsn or hat")
    try:
        with safe_open(path, "pt") as file:
            run = json.loads((file.metadata() or {})["run"])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        found = run.get("format_version", MODEL_VERSION)  # it was not written at first
        config = Config.model_validate_json(json.dumps(run["config"])) if found == MODEL_VERSION else None
        shape, limits = run["input_shape"], run["pixel_range"]
    except Exception as error:  # a damaged file can fail in any way inside the reader
        raise InputError(f"{path}: was not written by run.py run ({error}); run it again") from error
    if config is None:
        raise InputError(
            f"{path}: format version is {found!r}, this version of dsn reads {MODEL_VERSION}; use the "
            "version of dsn that wrote it"
        )
    stored = run.pop("sha256", None)
    if check and stored is not None and stored != checksum({}, run, state):
        raise InputError(f"{path}: damaged (its checksum is not that of its content); run it again")
    model = build_model(config, torch.Size(shape))
    try:
        refuse_unfit(model, state)
    except InputError as error:
        raise InputError(f"{path}: does not fit its own config: {error}; run it again") from error
    model.load_state_dict(state)
    return model, config, None if limits is None else (torch.tensor(limits[0]), torch.tensor(limits[1]))
