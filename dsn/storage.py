"""Trees of tensors and plain values in one file that cannot run code. docs/checkpoint.md is its schema.

A tree is None, a bool, int, float, str, a Tensor, or a list, tuple or dict of trees. Its tensors are stored
as safetensors, the rest as JSON in that file's metadata, with a format, a version and a checksum over both.
A file is replaced in one step and reaches the disk before the step is made.
"""

import errno
import gc
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from .errors import InputError

Tree = Any
KEY = "dsn"
TENSOR, TUPLE, FLOAT, PAIRS = "$tensor", "$tuple", "$float", "$pairs"


class Damaged(InputError):
    """A file does not hold what was written into it."""


def write_tree(path: Path, tree: Tree, *, format: str, version: int) -> None:
    """Write ``tree`` to ``path``, whole or not at all. Raises OSError where the disk refuses."""
    write_bytes(path, pack(tree, format=format, version=version))


def pack(tree: Tree, *, format: str, version: int) -> bytes:
    """The bytes of a file that holds ``tree``. Raises TypeError for a value that is no tree."""
    with _uncollected():
        tensors: dict[str, Tensor] = {}
        plain = _encode(tree, "", tensors)
        places: set[int] = set()
        for name, value in tensors.items():
            if value.numel() and value.data_ptr() in places:
                tensors[name] = value.clone()
            places.add(value.data_ptr())
        header = {"format": format, "version": version}
        header |= {"sha256": checksum(header, plain, tensors), "tree": plain}
        return serialize(tensors, metadata={KEY: json.dumps(header, allow_nan=False)})


@contextmanager
def _uncollected() -> Iterator[None]:
    """No collection of cycles while a great many objects without any are made: it would go through all."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read_tree(path: Path, *, format: str, version: int) -> Tree:
    """What :func:`write_tree` wrote, its tensors on the CPU; nothing in the file is ever run.

    Raises:
        Damaged: it is missing, unreadable, truncated or changed.
        InputError: it is of another format or version.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[KEY])
            found = {name: header[name] for name in ("format", "version")}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
            same = header["sha256"] == checksum(found, header["tree"], tensors)
            fits = same and found == {"format": format, "version": version}
            tree = _decode(header["tree"], tensors) if fits else None
    except FileNotFoundError:
        raise Damaged(f"{path}: no such file") from None
    except Exception as error:  # a damaged file can fail in any way inside the readers
        raise Damaged(f"{path}: damaged ({str(error).splitlines()[0] if str(error) else error!r})") from error
    if not same:
        raise Damaged(f"{path}: damaged (its checksum is not that of its content)")
    if found["format"] != format:
        raise InputError(f"{path}: holds '{found['format']}', not '{format}'")
    if found["version"] != version:
        raise InputError(
            f"{path}: format version is {found['version']!r}, this version of dsn reads {version} alone; "
            "use the version of dsn that wrote it"
        )
    return tree


def checksum(header: Mapping[str, Any], plain: Any, tensors: Mapping[str, Tensor]) -> str:
    """sha256, in hexadecimal, over the header, the plain values and all tensors with names and shapes."""
    digest = hashlib.sha256(json.dumps([header, plain], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"\n{name} ".encode())
        add_tensor(digest, tensors[name])
    return digest.hexdigest()


def add_tensor(digest: Any, tensor: Tensor) -> None:
    """Feed type, shape and content of ``tensor``, in C order, to a digest of hashlib."""
    digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
    try:
        content = tensor.numpy(force=True)
    except TypeError:  # numpy has no such type
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest.update(np.ascontiguousarray(content))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, on the disk, then renamed.

    Raises OSError where the disk refuses; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` reach the disk, where system and file system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def plain_values(tree: Tree) -> Any:
    """``tree`` as JSON would give it back, tensors as nested lists: to compare and to show."""
    if isinstance(tree, Tensor):
        return tree.tolist()
    if isinstance(tree, Mapping):
        return {str(key): plain_values(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain_values(value) for value in tree]
    return tree


def first_difference(old: Any, new: Any, where: str = "") -> str | None:
    """``key was a, is b`` for the first place where two trees of plain values differ, or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{where}.{key}" if where else str(key)
            if key not in old or key not in new:
                return f"{inner} was {_shown(old, key)}, is {_shown(new, key)}"
            if (found := first_difference(old[key], new[key], inner)) is not None:
                return found
        return None
    # 1 and 1.0 are one value here, 1 and True are not
    same = old == new and isinstance(old, bool) == isinstance(new, bool)
    return None if same else f"{where} was {json.dumps(old)}, is {json.dumps(new)}"


def _shown(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "absent"


def _encode(tree: Tree, name: str, tensors: dict[str, Tensor]) -> Any:
    if tree is None or isinstance(tree, (bool, str)):
        return tree
    if isinstance(tree, int):
        return int(tree)
    if isinstance(tree, float):
        return float(tree) if math.isfinite(tree) else {FLOAT: repr(float(tree))}
    if isinstance(tree, Tensor):
        value = tree.detach().cpu().contiguous()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        # safetensors takes no tensors that share memory, so parts of others are copied
        tensors[name] = value if whole else value.clone()
        return {TENSOR: name}
    if isinstance(tree, (list, tuple)):
        items = [_encode(item, f"{name}.{i}" if name else str(i), tensors) for i, item in enumerate(tree)]
        return {TUPLE: items} if isinstance(tree, tuple) else items
    if isinstance(tree, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in tree):
            return {k: _encode(v, f"{name}.{k}" if name else k, tensors) for k, v in tree.items()}
        pairs = [
            [_encode(k, f"{name}.{i}.key", tensors), _encode(v, f"{name}.{k}", tensors)]
            for i, (k, v) in enumerate(tree.items())
        ]
        return {PAIRS: pairs}
    raise TypeError(f"{name or 'the tree'} is a {type(tree).__name__}, which cannot be stored")


def _decode(plain: Any, tensors: Mapping[str, Tensor]) -> Tree:
    if isinstance(plain, list):
        return [_decode(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) == 1:
        [(tag, value)] = plain.items()
        if tag == TENSOR:
            return tensors[value]
        if tag == TUPLE:
            return tuple(_decode(item, tensors) for item in value)
        if tag == FLOAT:
            return float(value)
        if tag == PAIRS:
            return {_decode(k, tensors): _decode(v, tensors) for k, v in value}
    return {key: _decode(value, tensors) for key, value in plain.items()}
