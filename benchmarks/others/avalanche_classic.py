"""Any classic benchmark of Avalanche; tasks are its experiences, task labels are added where it has none."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from benchmarks.base import Count, Folder, StreamConfig

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

    from benchmarks.others.reading import Raw

GIVEN = {"return_task_id": True, "class_ids_from_zero_in_each_exp": True}
"""options that every builder gets which has them"""


class AvalancheConfig(StreamConfig):
    """Of ``avalanche.benchmarks.classic``.

    benchmark: name of the function, e.g. SplitCUB200
    options: its arguments; the folder of its data is dataset_root
    tasks: its n_experiences, where it has such an argument; 0: as many as it makes
    image_size: images are scaled to so many pixels square; null: as they are, all of one size
    """

    name: Literal["avalanche"] = "avalanche"
    benchmark: str
    options: dict[str, Any] = {}
    tasks: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 0
    image_size: Count | None = None
    root: Folder | None = None


def build(config: AvalancheConfig, seed: int) -> CLScenario:
    """Build the benchmark.

    Raises InputError for an unknown one (the nearest names are told), arguments that it does not take, data
    that are absent and cannot be downloaded, and one whose experiences have no test data of their own.
    """
    from benchmarks.others.reading import build_stream
    from dsn.errors import InputError

    builder = _builder(config.benchmark)
    arguments = _arguments(config, builder, seed)
    try:
        made = builder(**arguments)
    except Exception as error:  # each has its own way to fail, offline most of all
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"stream.benchmark: {config.benchmark} cannot be built ({cause}); its data must lie in "
            f"stream.root (default ~/.avalanche/data), or be within reach for a download"
        ) from error
    raws = tasks_of(made, config.benchmark)
    if config.tasks not in (0, len(raws)):
        raise InputError(
            f"stream.tasks: {config.benchmark} makes {len(raws)} tasks, not {config.tasks}; leave it out"
        )
    return build_stream(config, raws, seed)


def _builder(name: str) -> Callable[..., Any]:
    from avalanche.benchmarks import classic

    from dsn.errors import InputError

    known = [n for n, f in vars(classic).items() if inspect.isfunction(f) and n[0].isupper()]
    if name not in known:
        by_size = {n.lower(): n for n in known}
        near = [by_size[n] for n in difflib.get_close_matches(name.lower(), by_size, n=3, cutoff=0.5)]
        said = f"; near: {', '.join(near)}" if near else ""
        raise InputError(
            f"stream.benchmark: Avalanche has no classic benchmark '{name}'{said}; there are "
            f"{', '.join(sorted(known))}"
        )
    return getattr(classic, name)


def _arguments(config: AvalancheConfig, builder: Callable[..., Any], seed: int) -> dict[str, Any]:
    from torchvision.transforms import v2

    from dsn.errors import InputError

    takes = inspect.signature(builder).parameters
    unknown = sorted(set(config.options) - set(takes))
    if unknown:
        near = difflib.get_close_matches(unknown[0], takes, n=1)
        said = f", did you mean {near[0]}" if near else ""
        raise InputError(
            f"stream.options: {config.benchmark} takes no {', '.join(unknown)}{said}; it takes "
            f"{', '.join(takes)}"
        )
    resize = [] if config.image_size is None else [v2.Resize((config.image_size, config.image_size))]
    pixels = v2.Compose([*resize, v2.PILToTensor()])
    wanted = GIVEN | {"seed": seed, "train_transform": pixels, "eval_transform": pixels}
    if config.root is not None:
        wanted["dataset_root"] = config.root.expanduser()
    if config.tasks:
        wanted["n_experiences"] = config.tasks
    given = {name: value for name, value in wanted.items() if name in takes} | config.options
    missing = [n for n, p in takes.items() if p.default is inspect.Parameter.empty and n not in given]
    if missing:
        where = "stream.tasks" if missing == ["n_experiences"] else f"stream.options: {{{missing[0]}: ...}}"
        raise InputError(f"stream.benchmark: {config.benchmark} needs {', '.join(missing)}: set {where}")
    return given


def tasks_of(benchmark: Any, name: str) -> list[Raw]:
    """A task for each training experience of an Avalanche benchmark.

    Its test data are those of the test experience of the same number; where the test stream has not as many,
    those of its classes, if no other experience has these.

    Raises InputError where neither holds.
    """
    from benchmarks.others.reading import Raw, read

    streams = {
        part: list(getattr(benchmark, f"{part}_stream", None) or []) for part in ("train", "test", "valid")
    }
    train = [read(e.dataset, f"{name}, training experience {i}") for i, e in enumerate(streams["train"])]
    test = [read(e.dataset, f"{name}, test experience {i}") for i, e in enumerate(streams["test"])]
    if len(test) != len(train):
        test = _test_by_class(train, test, name)
    valid: list[Any] = [None] * len(train)
    if len(streams["valid"]) == len(train):
        valid = [
            read(e.dataset, f"{name}, validation experience {i}") for i, e in enumerate(streams["valid"])
        ]
    return [Raw(*parts) for parts in zip(train, test, valid, strict=True)]


def _test_by_class(train: list[Any], test: list[Any], name: str) -> list[Any]:
    import torch

    from dsn.errors import InputError

    classes = [y.unique() for _, y in train]
    shared = len(torch.cat(classes)) > len(torch.cat(classes).unique()) if classes else True
    if not test or shared:
        raise InputError(
            f"stream: {name} has {len(train)} training and {len(test)} test experiences, and classes that "
            "come back: nothing says which test data belong to which task; choose a variant with a test set "
            "an experience"
        )
    x, y = (torch.cat(parts) for parts in zip(*test, strict=True))
    rows = [torch.isin(y, own) for own in classes]
    return [(x[row], y[row]) for row in rows]
