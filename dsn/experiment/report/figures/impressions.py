"""A few impressions of a run's tasks as pictures, one strip a task."""

import base64
import io
import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dsn.errors import InputError
from dsn.masking import MaskedModel
from dsn.replay import Impressions, contact_sheet, synthesise

from ...config.network import PixelRange, replay_arguments
from ...result.files import MODEL, load_model
from ..numbers import counted

MOST_TASKS = 8
FALLBACK = "inversion"
MOST_STEPS = 60
LONGEST = 40.0  # seconds; what is not made by then is left out, and the page says so


@dataclass(frozen=True)
class Strip:
    """A PNG with ``shown`` pictures in a row, its ``classes`` from left to right."""

    key: str
    task: int
    png: bytes
    shown: int
    classes: int
    side: int
    """pixels across"""

    @property
    def uris(self) -> list[str]:
        """Each picture alone, without the strip's white edges, for a page that makes no request."""
        with Image.open(io.BytesIO(self.png)) as strip:
            width, edge = strip.width // self.shown, strip.width // self.shown // (self.side + 2)
            boxes = [
                (i * width + edge, edge, (i + 1) * width - edge, strip.height - edge)
                for i in range(self.shown)
            ]
            return [_uri(strip.crop(box)) for box in boxes]

    @property
    def file(self) -> str:
        """Its name beside the figures."""
        return f"{self.key}-task{self.task:03d}.png"

    @property
    def alt(self) -> str:
        """What is to be seen."""
        classes = "1 class" if self.classes == 1 else f"{self.classes} classes from left to right"
        return f"{counted(self.shown, 'impression')} of task {self.task}, {classes}."


@dataclass(frozen=True)
class Pictures:
    """``note``: what was left out and why; empty if nothing was."""

    strips: list[Strip]
    note: str
    steps: int

    @property
    def caption(self) -> str:
        """How they were made."""
        return (
            f"Synthetic inputs made from the model alone in {self.steps} steps, without a training image. "
            f"A row a task, classes from left to right. {self.note}"
        ).strip()


def make_pictures(run: Path, images: int, key: str) -> Pictures:
    """``images`` impressions, at least one a class, of up to ``MOST_TASKS`` tasks of the run in ``run``.

    No strips where ``images`` is 0, there is no model, it cannot be used, or its inputs are no pictures:
    vectors count as gray pictures where their length is a square.
    """
    if images == 0 or not (run / MODEL).is_file():
        return Pictures([], "", 0)
    try:
        model, config, pixel_range = load_model(run)
    except InputError as error:
        return Pictures([], f"The model could not be used: {error}", 0)
    if _side(model.input_shape) is None:
        return Pictures([], "The inputs are no pictures.", 0)
    settings = replay_arguments(config, pixel_range)
    settings["steps"] = steps = min(settings["steps"], MOST_STEPS)
    tasks = _spread(model.committed, MOST_TASKS)
    strips: list[Strip] = []
    notes: list[str] = []
    ends = time.perf_counter() + LONGEST
    for task in tasks:
        if time.perf_counter() > ends:
            break
        classes = model.heads[str(task)].weight.shape[0]  # type: ignore[index]
        settings["images"] = max(images, int(classes))
        try:
            made = _synthesise(model, task, config.seed, settings)
        except InputError as error:
            notes.append(f"None of task {task}: {error}.")
            continue
        strips.append(_strip(key, made, task, pixel_range))
    left_out = len(model.committed) - len(strips) - len(notes)
    notes += [f"{counted(left_out, 'task')} left out to save time."] if left_out else []
    return Pictures(strips, " ".join(notes), steps)


def _synthesise(model: MaskedModel, task: int, seed: int, settings: dict[str, Any]) -> Impressions:
    """By the config's generator, or by inversion where the run recorded nothing that it needs."""
    try:
        return synthesise(model, task, seed=seed, **settings)
    except InputError:
        return synthesise(model, task, seed=seed, **{**settings, "generator": FALLBACK})


def _strip(key: str, made: Impressions, task: int, pixel_range: PixelRange | None) -> Strip:
    order = made.labels.cpu().argsort(stable=True)
    classes = made.targets.shape[1]
    x = made.x.detach().cpu()[order]
    if x.dim() == 2:
        side = math.isqrt(x.shape[1])
        x = x.reshape(len(x), 1, side, side)
        if pixel_range is not None:
            pixel_range = tuple(_as_map(limit, side) for limit in pixel_range)  # type: ignore[assignment]
    # one row: to the sheet they are all of one class
    row = replace(made, x=x, targets=made.targets[:, :1], labels=torch.zeros(len(x), dtype=torch.long))
    with tempfile.TemporaryDirectory() as folder:
        png = contact_sheet(row, Path(folder) / "strip.png", pixel_range, columns=len(x)).read_bytes()
    return Strip(key, task, png, len(x), classes, x.shape[-1])


def _uri(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def _as_map(limit: torch.Tensor, side: int) -> torch.Tensor:
    """Limits of a flat gray picture as they broadcast to [1, side, side]."""
    limit = torch.as_tensor(limit)
    return limit.reshape(1, side, side) if limit.numel() == side * side else limit.reshape(-1)[:1]


def _side(shape: torch.Size | tuple[int, ...]) -> int | None:
    """Height of a picture with the model's input shape [1, ...]; None where that is no picture."""
    if len(shape) == 4 and shape[1] in (1, 3):
        return int(shape[2])
    root = math.isqrt(shape[1]) if len(shape) == 2 else 0
    return root if root > 3 and root * root == shape[1] else None


def _spread(tasks: list[int], most: int) -> list[int]:
    """At most ``most`` of the tasks, evenly spread, the first and the last among them."""
    if len(tasks) <= most:
        return list(tasks)
    return [tasks[round(i * (len(tasks) - 1) / (most - 1))] for i in range(most)]
