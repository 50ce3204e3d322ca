"""Methods in one word: what ``preset: paper`` in a config and :func:`dsn.preset` in a script stand for.

Blocks and keys are those of a config. Plain data, which imports nothing.
"""

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "stream": {"validation": 0.1},
        "train": {"epochs": 50, "optimizer": "sgd", "lr": 0.05, "momentum": 0.0, "schedule": "constant"},
        "selection": {
            "sparsity": 0.75,
            "s_max": 200.0,
            "annealing": "epoch",
            "planned_tasks": None,
            "edges": "none",
        },
        "replay": {"generator": "inversion", "images": 1000, "steps": 1500, "temperature": 20.0},
        "transfer": {"forward": 0, "tasks": 3, "mechanism": "gates", "acceptance": "held_out_impressions"},
    },
    "default": {
        "stream": {"validation": 0.1},
        "train": {"epochs": 10, "optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "schedule": "cosine"},
        "selection": {
            "sparsity": 0.0,
            "planned_tasks": "stream",
            "edges": "own_and_read",
            "score_lr_factor": 10.0,
        },
        "transfer": {"forward": 8, "tasks": 3, "mechanism": "correspondence", "acceptance": "closeness"},
    },
}
"""paper: Gao et al. 2023 with the settings of their released code: gates opened on later neurons, plain
inversion. default: what this project measured to be best (docs/results.md)."""


def filled(values: Any) -> Any:
    """``values`` of a config with what its preset says in the places that they leave open."""
    if not isinstance(values, dict) or not isinstance(values.get("preset"), str):
        return values
    return _under(values, PRESETS.get(values["preset"], {}))


def _under(values: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for key, value in preset.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _under(result[key], value)
        else:
            result.setdefault(key, value)
    return result
