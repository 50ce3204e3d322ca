"""A small run with transfers, a way to kill it at one of its rests, and what must be the same afterwards."""

import contextlib
import json

import yaml

from dsn.experiment.config.experiment import load
from dsn.experiment.run.checkpoint import Checkpoints

TINY = {
    "stream": {
        "name": "rotated",
        "data": "digits",
        "tasks": 3,
        "angles": [0, 9, 5],
        "train_per_class": 20,
        "validation": 0.3,
    },
    "backbone": {"name": "mlp", "widths": [24, 16]},
    "train": {"epochs": 3, "batch_size": 20, "lr": 0.03, "momentum": 0.9},
    "selection": {"sparsity": 0.1, "annealing": "task", "logit_mean": 2.0},
    "transfer": {"acceptance": "always", "forward": 0},
    "threads": 1,
}
DIFFERENT = ("timings", "environment")


def tiny(folder, *overrides):
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    config = load(path, list(overrides))
    path.unlink()
    return config


class Killed(BaseException):
    """In the place of SIGKILL: nothing may be written any more."""


@contextlib.contextmanager
def killed_at(number):
    """Kill a run at its rest of this number, None for never; gives what follows each rest it came by."""
    rests, rest, write = [], Checkpoints.rest, Checkpoints._write
    dead = []

    def counting(self, before, make):
        rests.append(before)
        rest(self, before, make)
        if len(rests) - 1 == number:
            dead.append(True)
            raise Killed

    def writing(self, state):
        if not dead:
            write(self, state)

    Checkpoints.rest, Checkpoints._write = counting, writing
    try:
        yield rests
    finally:
        Checkpoints.rest, Checkpoints._write = rest, write


def assert_same_result(folder, reference):
    """The same files; numbers but for times and the block ``checkpoint``; model, bit for bit."""
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in reference.iterdir())
    one, other = (json.loads((path / "result.json").read_text()) for path in (folder, reference))
    for values in (one, other):
        for key in DIFFERENT:
            del values[key]
        del values["config"]["checkpoint"]
        values["seal"] = values["seal"]["rows"]  # the rest is over that block, too
    assert one == other
    if (folder / "model.safetensors").is_file():
        from safetensors import safe_open

        states = []
        for path in (folder, reference):
            with safe_open(path / "model.safetensors", "pt") as file:
                states.append({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            assert value.equal(states[1][key]), key
