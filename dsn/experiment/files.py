"""The files of a run, and what they say of its model."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from dsn.errors import InputError
from dsn.evaluation.capacity import jaccard, mask_bytes, neurons, similarity
from dsn.evaluation.topology_tasks import task_topologies
from dsn.masking import MaskedModel

from .build import PixelRange, build_model
from .config import Config, dump
from .pictures import draw_accuracy_matrix, draw_neurons
from .result import Result, TaskUse, matrix_csv, write_result

MODEL = "model.safetensors"


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
    run = {
        "config": config.model_dump(mode="json"),
        "input_shape": model.input_shape[1:],
        "pixel_range": pixel_range and [limit.tolist() for limit in pixel_range],
    }
    # one key: safetensors writes several in an order that changes from file to file
    path.write_bytes(serialize(state, metadata={"run": json.dumps(run)}))


def load_model(folder: Path) -> tuple[MaskedModel, Config, PixelRange | None]:
    """The model that a run wrote into ``folder``, its config and the range of its pixels.

    Raises InputError for a missing or foreign file.
    """
    path = folder / MODEL
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the folder of a finished run of strategy dsn or hat")
    try:
        with safe_open(path, "pt") as file:
            run = json.loads((file.metadata() or {})["run"])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        config = Config.model_validate_json(json.dumps(run["config"]))
        shape, limits = run["input_shape"], run["pixel_range"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: was not written by run.py run ({error}); run it again") from error
    model = build_model(config, torch.Size(shape))
    model.load_state_dict(state)
    return model, config, None if limits is None else (torch.tensor(limits[0]), torch.tensor(limits[1]))
