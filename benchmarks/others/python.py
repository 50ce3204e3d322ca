"""A stream that a function of the user's makes."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from benchmarks.base import StreamConfig

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

    from benchmarks.others.reading import Raw


class PythonConfig(StreamConfig):
    """Of a function in a module that Python finds, from the current folder too.

    builder: module:function; it is called with seed=... and ``options``, and gives an Avalanche benchmark, or
        a list with a pair (training data, test data) a task, data sets whose items are (x, y)
    options: keyword arguments
    tasks: 0, or how many tasks it must give
    """

    name: Literal["python"] = "python"
    builder: str
    options: dict[str, Any] = {}
    tasks: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 0

    @field_validator("builder")
    @classmethod
    def _module_and_function(cls, builder: str) -> str:
        module, colon, function = builder.partition(":")
        parts = [*module.split("."), function]
        if not colon or not all(part.isidentifier() for part in parts):
            raise ValueError(f"is {builder!r}: write module:function, e.g. my_module:my_stream")
        return builder


def build(config: PythonConfig, seed: int) -> CLScenario:
    """Build the benchmark.

    Raises InputError where the module or the function is not there or fails, and for what is no stream.
    """
    from benchmarks.others.reading import build_stream
    from dsn.errors import InputError

    function = _function(config.builder)
    try:
        made = function(seed=seed, **config.options)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"stream.builder: {config.builder} fails: {type(error).__name__}: {error}"
        ) from error
    raws = _tasks(made, config.builder)
    if not raws:
        raise InputError(f"stream.builder: {config.builder} gives no task")
    if config.tasks not in (0, len(raws)):
        raise InputError(f"stream.tasks is {config.tasks}, but {config.builder} gives {len(raws)} tasks")
    return build_stream(config, raws, seed)


def _function(builder: str) -> Any:
    from dsn.errors import InputError

    module_name, _, name = builder.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"stream.builder: the module {module_name} cannot be imported from {here} or Python's path "
            f"({type(error).__name__}: {error})"
        ) from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        said = f"; did you mean {near[0]}" if near else ""
        raise InputError(f"stream.builder: {module_name} has no function {name}{said}")
    return function


def _tasks(made: Any, builder: str) -> list[Raw]:
    from benchmarks.others.avalanche_classic import tasks_of
    from benchmarks.others.reading import Raw, read
    from dsn.errors import InputError

    if hasattr(made, "train_stream") and hasattr(made, "test_stream"):
        return tasks_of(made, builder)
    if not isinstance(made, Sequence) or not all(isinstance(p, (tuple, list)) and len(p) == 2 for p in made):
        raise InputError(
            f"stream.builder: {builder} gives a {type(made).__name__}: an Avalanche benchmark is wanted, or "
            "a list with a pair (training data, test data) a task"
        )
    return [
        Raw(
            read(train, f"{builder}, training data of task {t}"),
            read(test, f"{builder}, test data of task {t}"),
        )
        for t, (train, test) in enumerate(made)
    ]
