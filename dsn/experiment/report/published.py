"""Published numbers beside the measured ones, and how their protocols differ.

The file, ``configs/published.yaml``: the name of a config file without suffix, or of a stream, then a list of
blocks; see :class:`Published`. A stream of gray images has the name ``<stream>_<data>``, e.g. permuted_mnist.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from dsn.errors import InputError

from ..config.baselines import Name
from ..config.problems import nearest
from ..config.yaml_file import read_yaml
from ..result.result import Result
from .measures import MEASURES, estimate
from .numbers import MISSING, PLUS_MINUS, shown, shown_estimate, signed
from .source import StreamRuns
from .table import Cell, Column, Table, number, words

NOTHING = "nothing that is stated"


class Protocol(BaseModel):
    """How the numbers were made; what is left out is not known.

    backbone: as the paper names it; heads: e.g. one a task; note: anything else that matters
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: int | None = Field(default=None, gt=0)
    classes_per_task: int | None = Field(default=None, gt=0)
    backbone: str | None = None
    heads: str | None = None
    note: str | None = None


class Published(BaseModel):
    """One row of a paper's table; ``acc`` and ``bwt`` in percent and points, as papers print them.

    spread: of ``acc``, the ± that the paper prints, in points
    strategy: the name of the same method here
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: str = Field(min_length=1)
    acc: float = Field(ge=0, le=100)
    bwt: float | None = Field(default=None, ge=-100, le=100)
    spread: float | None = Field(default=None, ge=0, le=100)
    strategy: Name | None = None
    source: str = Field(min_length=1)
    protocol: Protocol


class PublishedFile(RootModel[dict[str, list[Published]]]):
    """The whole file."""


def load_published(path: Path) -> dict[str, list[Published]]:
    """By name of a config or stream. Raises InputError: an unreadable file, wrong keys or values."""
    try:
        return PublishedFile.model_validate(read_yaml(path)).root
    except ValidationError as error:
        raise InputError("\n".join(f"{path}: {line}" for line in _lines(error))) from error


def published_for(stream: StreamRuns, known: dict[str, list[Published]]) -> list[Published]:
    """The published numbers for the stream's config, or else for its kind of stream."""
    names = [stream.name]
    for name in stream.finished[:1]:
        config = stream.results(name)[0].config.get("stream") or {}
        kind = str(config.get("name", ""))
        if config.get("by") == "superclass":
            kind += "_superclass"
        names += [f"{kind}_{config['data']}"] if config.get("data") else [kind]
    return next((known[name] for name in names if name in known), [])


def published_table(stream: StreamRuns, published: list[Published], key: str) -> Table:
    """Measured strategies and published methods, best accuracy first; every row says how it was made."""
    acc, bwt = (next(m for m in MEASURES if m.key == name) for name in ("acc", "bwt"))
    rows: list[tuple[float, list[Cell]]] = []
    here: Protocol | None = None
    for name in stream.finished:
        a, b = (estimate(stream, name, m) for m in (acc, bwt))
        here = here or measured_protocol(stream.results(name)[0])
        if a is None:
            continue
        cells = [words(name), words("measured here")]
        cells += [number(shown_estimate(a, "percent"), a.mean, best=True)]
        cells += [number(shown_estimate(b, "points"), b and b.mean), words(""), words(_told(here))]
        rows.append((a.mean, cells))
    for row in published:
        cells = [words(row.method), words(f"published: {row.source}")]
        acc_text = shown(row.acc, "percent")
        cells += [
            number(acc_text if row.spread is None else f"{acc_text}{PLUS_MINUS}{row.spread:.2f}", row.acc)
        ]
        cells += [number(MISSING if row.bwt is None else signed(row.bwt), row.bwt)]
        cells += [words(differences(row.protocol, here)), words(_told(row.protocol))]
        rows.append((row.acc, cells))
    rows.sort(key=lambda row: -row[0])
    columns = [Column("method", numeric=False), Column("from", numeric=False, long=True), Column("ACC %")]
    columns += [Column("BWT"), Column("differs from here in", numeric=False, long=True)]
    columns += [Column("protocol", numeric=False, long=True)]
    caption = (
        "Bold: measured here. Published numbers stand as their papers print them. "
        "Where protocols differ the numbers are not comparable, only of the same kind."
    )
    return Table(key, caption, columns, [cells for _, cells in rows])


def measured_protocol(result: Result) -> Protocol:
    """The protocol of a run, from its config."""
    stream, backbone = (result.config.get(name) or {} for name in ("stream", "backbone"))
    return Protocol(
        tasks=len(result.accuracy_matrix),
        classes_per_task=_classes(stream),
        backbone=_backbone(backbone),
        heads="one a task",
    )


def differences(paper: Protocol, here: Protocol | None) -> str:
    """What differs, or is not known of the paper, in words; the ``note`` always counts."""
    if here is None:
        return ""
    found = []
    for name in ("tasks", "classes_per_task", "backbone", "heads"):
        theirs, ours = getattr(paper, name), getattr(here, name)
        if theirs is None or ours is None:
            continue
        if str(theirs).casefold() != str(ours).casefold():
            found.append(
                f"{name.replace('_', ' ').replace('classes per', 'classes a')}: {theirs}, here {ours}"
            )
    if paper.note:
        found.append(paper.note)
    return "; ".join(found) or NOTHING


def _told(protocol: Protocol) -> str:
    parts = [f"{protocol.tasks} tasks" if protocol.tasks else ""]
    parts += [f"{protocol.classes_per_task} classes a task" if protocol.classes_per_task else ""]
    parts += [protocol.backbone or "", f"heads: {protocol.heads}" if protocol.heads else ""]
    return ", ".join(part for part in parts if part)


def _classes(stream: dict[str, Any]) -> int | None:
    if stream.get("name") in ("permuted", "rotated"):
        return 10
    value = stream.get("classes_per_task")
    if value is None and stream.get("by") == "superclass":
        return 5
    return value if isinstance(value, int) else None


def _backbone(backbone: dict[str, Any]) -> str | None:
    if backbone.get("name") == "mlp":
        return "MLP " + "-".join(map(str, backbone.get("widths", [])))
    if backbone.get("name") == "resnet18" and backbone.get("width", 64) != 64:
        return f"ResNet-18, width {backbone['width']}"
    names = {"alexnet": "AlexNet", "lenet": "LeNet", "strided_cnn": "4 conv + 3 fc"}
    names |= {"small_cnn": "small CNN", "resnet18": "ResNet-18"}
    name = backbone.get("model") or backbone.get("name")
    return names.get(str(name), str(name)) if name else None


def _lines(error: ValidationError) -> list[str]:
    """One line a problem: ``split_cifar100.0.accuracy: unknown key, nearest is 'acc'``."""
    lines = []
    for details in error.errors(include_url=False):
        place = list(map(str, details["loc"]))
        match details["type"]:
            case "extra_forbidden":
                block = Protocol if "protocol" in place else Published
                text = f"unknown key{nearest(place[-1], list(block.model_fields))}"
            case "missing":
                text = "missing"
            case _:
                text = f"must be {details['msg'].removeprefix('Input should be ')}, got {details['input']!r}"
        lines.append(f"{'.'.join(place)}: {text}")
    return lines
