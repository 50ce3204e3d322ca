"""Validation errors as lines a person can act on: the key, what is wrong, the nearest known key."""

import difflib
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .yaml_file import shown

Location = tuple[int | str, ...]


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line a problem: ``train.epoch: unknown key, nearest is 'epochs'``."""
    return [f"{key}: {text}" for key, text in problems(error, model)]


def problems(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """(dotted key, what is wrong) for each problem of ``error``, raised while validating a ``model``."""
    wanted: dict[str, list[str]] = {}
    got: dict[str, str] = {}
    for details in error.errors(include_url=False):
        path, block, here = _walk(details["loc"], model)
        key, text, value = _explain(details, path, block, here)
        wanted.setdefault(key, [])
        if text not in wanted[key]:
            wanted[key].append(text)
        got[key] = value
    # a value that may be a number or a block fails as both: the key inside the block says more
    inner = {key for key in wanted if any(other.startswith(f"{key}.") for other in wanted) and got[key]}
    return [(key, " or ".join(texts) + got[key]) for key, texts in wanted.items() if key not in inner]


def nearest(word: str, known: list[str]) -> str:
    """``, nearest is 'x'`` or, where nothing is near, ``, known are a, b, c``."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f", nearest is '{close[0]}'"
    return f", known are {', '.join(known)}" if known else ""


def _explain(details: ErrorDetails, path: list[str], block: Any, here: Any) -> tuple[str, str, str]:
    """(key, what is wrong, the value given or nothing)."""
    key, value, context = (
        ".".join(path) or "the file",
        f", got {shown(details['input'])}",
        details.get("ctx", {}),
    )
    match details["type"]:
        case "extra_forbidden":
            return key, f"unknown key{_nearest_key(path[-1], block)}", ""
        case "missing":
            return key, "missing", ""
        case "union_tag_not_found":
            return f"{key}.name", f"missing, one of {', '.join(_tags(here))}", ""
        case "union_tag_invalid":
            tag = str(context["tag"])
            return f"{key}.name", f"unknown {tag!r}{nearest(tag, _tags(here))}", ""
        case "wrong_key":
            return ".".join([*path, context["key"]]), context["text"], ""
        case "value_error":
            return key, str(context["error"]), ""
        case "invalid_key":
            return key, "keys must be text", ""
        case "model_type" | "model_attributes_type" | "dict_type":
            return key, "must be a block of keys", value
        case _:
            return key, f"must be {details['msg'].removeprefix('Input should be ')}", value


def _nearest_key(word: str, block: Any) -> str:
    """The nearest key of ``block``, one of its inner blocks' where none of its own is near."""
    own = list(block.model_fields)
    inner = {
        key: f"{name}.{key}"
        for name, field in block.model_fields.items()
        for member in _members(field.annotation)
        if _is_model(member)
        for key in member.model_fields
        if key != "name"
    }
    if not difflib.get_close_matches(word, own, n=1) and word in inner:
        return f", nearest is '{inner[word]}'"
    return nearest(word, own)


def _tags(union: Any) -> list[str]:
    """The names that a union of blocks is told apart by."""
    return [tag for tag in map(_tag, _members(union)) if tag is not None]


def _walk(location: Location, model: type[BaseModel]) -> tuple[list[str], Any, Any]:
    """The keys of a location, without the tags of unions, the block of its last key, and what is there."""
    path: list[str] = []
    here: Any = model
    block: Any = model
    for part in location:
        members = _members(here)
        if len(members) > 1:  # this part is no key: it says which member of the union was tried
            here = next((member for member in members if part == _tag(member)), members[-1])
            continue
        here = members[0]
        path.append(str(part))
        if _is_model(here):
            block = here
            here = here.model_fields[part].annotation if part in here.model_fields else None
        else:
            here = next(reversed(get_args(here)), None)  # what a dict or list holds
    return path, block, here


def _members(annotation: Any) -> list[Any]:
    """The members of a union but None; the annotation alone where it is no union."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return [member for member in get_args(annotation) if member is not NoneType]
    return [annotation]


def _tag(member: Any) -> str | None:
    """What stands for a block in the location of an error: the value of its ``name``."""
    return get_args(member.model_fields["name"].annotation)[0] if _is_model(member) else None


def _is_model(annotation: Any) -> bool:
    # in Python 3.10 dict[str, int] passes for a class
    return (
        get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, BaseModel)
    )
