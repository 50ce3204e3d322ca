"""YAML, read strictly: duplicate keys are refused, and numbers are those of YAML 1.2.

``1e-3`` is one, and what only YAML 1.1 takes for one is text: ``1:30`` (90), ``010`` (8), ``1_0`` (10).
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from dsn.errors import InputError

MOST_BYTES = 1_000_000
MOST_VALUES = 20_000
"""of a file, aliases counted as often as they are used"""
TOO_MANY = f"holds more than {MOST_VALUES} values, aliases written out"
LONGEST_SHOWN = 200
INT, FLOAT, TIME = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with these changes."""

    composed = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As it is there, but not endlessly."""
        self.composed += 1
        if self.composed > MOST_VALUES:
            raise yaml.YAMLError(TOO_MANY)
        return super().compose_node(parent, index)


def _without(tags: tuple[str, ...]) -> dict[str, list[Any]]:
    known = yaml.SafeLoader.yaml_implicit_resolvers
    return {first: [(tag, r) for tag, r in pairs if tag not in tags] for first, pairs in known.items()}


_StrictLoader.yaml_implicit_resolvers = _without((INT, FLOAT, TIME))


def _mapping_without_duplicates(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = (key_node.tag, str(key_node.value))
        if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key_node.value!r} stands twice in one block", key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)
_StrictLoader.add_implicit_resolver(
    INT, re.compile(r"^([-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+)$"), list("-+0123456789")
)
_StrictLoader.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"^([-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def _integer(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[1:2] in ("x", "o") else int(text)


_StrictLoader.add_constructor(INT, _integer)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the file ``path``.

    Raises InputError for a missing or unreadable file, wrong syntax (with the line) and another top level.
    """
    try:
        text = _read(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    values = parse(text, str(path))
    if values is None:
        raise InputError(f"{path}: is empty; it needs at least a stream block")
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a block of keys at its top, got {shown(values)}")
    return values


def shown(value: Any) -> str:
    """``value`` for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... ({len(text)} characters)"


def _read(path: Path) -> bytes:
    """What is in ``path``, which may be a pipe; one that nobody writes into is empty."""
    if path.is_dir():
        raise IsADirectoryError("is a folder")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        if hasattr(os, "set_blocking"):
            os.set_blocking(descriptor, True)
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES // 10**6} MB")
    return content


def parse(text: str, where: str) -> Any:
    """The value that ``text`` stands for. Raises InputError with ``where`` and the line."""
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MOST_VALUES:
            raise InputError(f"{where}: {TOO_MANY}")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}:" if mark else ""
        raise InputError(f"{where}:{line} {error.problem or error.context}") from error
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(
            f"{where}: has blocks inside each other that are too deep, or hold themselves"
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{where}: {str(error).splitlines()[0] if str(error) else 'no YAML'}") from error


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values in ``node``, aliases counted as often as they are used; ``known``: those that were counted."""
    if id(node) not in known:
        inside = 1
        if isinstance(node, yaml.CollectionNode):
            for part in node.value:
                inside += sum(_count(n, known) for n in (part if isinstance(part, tuple) else (part,)))
        known[id(node)] = inside
    return known[id(node)]
