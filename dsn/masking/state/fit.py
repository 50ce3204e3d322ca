"""Whether a stored state fits a model: if not, the first difference is named and nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import InputError
from ..bits import unpack_bits
from ..computes import Computes
from ..edges.layer import is_whole
from ..norms import TaskNorm
from ..records import TaskRecord

_OF_TASKS = re.compile(
    r"task_ids|(heads|records|laterals|edges\.layers)\..*|gates\.[^.]+\.(masks|commit_widths|logits)|backbone\..*\.tasks\..*"
)


def refuse_unfit(model: Computes, state: Mapping[str, Tensor], *, same_types: bool = True) -> None:
    """Raise InputError, with the first difference, unless ``state`` is that of a model of this backbone.

    Tasks may be others, and layers may have grown there. What passes can be loaded as a whole, and computes
    every task. ``same_types``: whether weights must be of the same type, float32 or another.
    """
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(f"the stored model's '{key}' is a {type(value).__name__}, not a tensor")
        refuse_numbers(f"the stored model's '{key}'", value)
    own = {key: value for key, value in model.state_dict().items() if not _OF_TASKS.fullmatch(key)}
    stored = {key: value for key, value in state.items() if not _OF_TASKS.fullmatch(key)}
    for path in model.gates_by_path:
        if f"backbone.{path}.weight" not in stored:
            raise InputError(f"the stored model has no layer '{path}', this one has")
    for key in own:
        if key not in stored:
            raise InputError(f"the stored model has no '{key}', this one has")
    for key in stored:
        if key not in own:
            raise InputError(f"the stored model has '{key}', this one has not")
    grown = _grown(model, state)
    for key, value in own.items():
        there = stored[key]
        fits = there.dim() == value.dim() if grown else there.shape == value.shape
        if not fits or any(a < b for a, b in zip(there.shape, value.shape, strict=True)):
            shapes = f"{list(there.shape)}, here {list(value.shape)}"
            raise InputError(f"the stored model's '{key}' has the shape {shapes}")
        if there.dtype != value.dtype and (same_types or not there.is_floating_point()):
            raise InputError(f"the stored model's '{key}' is {there.dtype}, here {value.dtype}")
    for path, gate in model.gates_by_path.items():
        if gate.kept_neurons and int(stored[f"{_gate(path)}.kept"]) != gate.kept_neurons:
            raise InputError(
                f"the stored model keeps {int(stored[f'{_gate(path)}.kept'])} pretrained neurons in layer "
                f"'{path}', this one {gate.kept_neurons}"
            )
    _refuse_other_tasks(model, state)


def _grown(model: Computes, state: Mapping[str, Tensor]) -> bool:
    """Whether a layer is wider there, and was as wide as here at its first commit."""
    for path, layer in model.layer_modules():
        there = state[f"backbone.{path}.weight"]
        widths = state.get(f"gates.{path.replace('.', '/')}.commit_widths")
        if there.dim() == layer.weight.dim() and there.shape[0] > layer.weight.shape[0]:
            return widths is not None and len(widths) > 0 and int(widths[0]) == layer.weight.shape[0]
    return False


def refuse_numbers(name: str, value: Tensor) -> None:
    """Raise InputError for what no training gives: values that are not finite or close to overflow.

    See :func:`is_small`. Variances are not negative.
    """
    if not value.is_floating_point() or not value.numel():
        return
    if not bool(is_small(value)):
        largest = float(value.detach().abs().amax())
        what = "values that are not finite" if not bool(value.isfinite().all()) else f"a value of {largest:g}"
        raise InputError(f"{name} has {what}: it comes from a training that diverged, or is forged")
    if name.rstrip("'").endswith("running_var") and float(value.min()) < 0:
        raise InputError(f"{name} has a variance below 0")


def is_small(value: Tensor) -> Tensor:
    """Whether all of ``value`` is finite and far from overflow, a bool scalar on its device.

    A masked neuron counts as 0 only while it is finite: 0 times infinity is not a number, for every task. So
    a weight is at most the root of its type's largest number (half precision, whose range is small, need only
    be finite).
    """
    if not value.is_floating_point() or not value.numel():
        return torch.ones((), dtype=torch.bool, device=value.device)
    return value.detach().abs().amax() <= limit(value.dtype)


def limit(dtype: torch.dtype) -> float:
    """The largest weight of this type; see :func:`is_small`."""
    largest = torch.finfo(dtype).max
    return largest if dtype == torch.float16 else largest**0.5


def refuse_record_name(name: str) -> None:
    """Raise InputError for a name under which a task's record can keep nothing."""
    if not name or "." in name or hasattr(TaskRecord(), name):
        raise InputError(f"a record of a task cannot be named '{name}'")


def _refuse_other_tasks(model: Computes, state: Mapping[str, Tensor]) -> None:
    """Every task needs a head, norms and a mask a layer, all of sizes that go together; and nothing else."""
    if "task_ids" not in state:
        raise InputError("the stored model has no 'task_ids', this one has")
    tasks = _whole(state, "task_ids", 1)
    if len(set(tasks)) < len(tasks) or min(tasks, default=0) < 0:
        raise InputError(f"the stored model has tasks {tasks}: each needs a number of its own, 0 or more")
    widths = {path: _widths(model, state, path, tasks) for path in model.gates_by_path}
    known = {"task_ids"}
    known |= {f"{_gate(path)}.{name}" for path in widths for name in ("masks", "commit_widths")}
    committed = len(next(iter(widths.values())))
    grown = any(
        width != model.layers[path]
        for path, found in widths.items()
        for width in (*found, len(state[f"backbone.{path}.weight"]))
    )
    features = None if grown else model.feature_size  # fewer before growth, by how many is left open
    if model.edges is not None:
        known |= _edges(model, state, tasks, widths)
    elif len(tasks) > committed:
        for path in widths:
            known.add(_sized(state, f"{_gate(path)}.logits", [len(state[f"backbone.{path}.weight"])]))
    for row, task in enumerate(tasks):
        classes = _classes(state, task, features)
        known |= {f"heads.{task}.weight", _sized(state, f"heads.{task}.bias", [classes])}
        for path, norm in model.backbone.named_modules():
            if isinstance(norm, TaskNorm):
                known |= _norm(
                    model, state, path, task, {p: w[row] for p, w in widths.items() if row < len(w)}
                )
        known |= _laterals(state, task, tasks[:committed], classes)
    for key in state:
        if key.startswith("records.") and key.split(".")[1] in map(str, tasks):
            refuse_record_name(key.split(".", 2)[-1] if key.count(".") > 1 else "")
        elif _OF_TASKS.fullmatch(key) and key not in known:
            raise InputError(f"the stored model has '{key}', which belongs to none of its tasks {tasks}")


def _edges(
    model: Computes, state: Mapping[str, Tensor], tasks: list[int], widths: Mapping[str, list[int]]
) -> set[str]:
    """The names of what edges keep: of the task being learnt, and of each task."""
    assert model.edges is not None
    if bool(state["edges.signs"]) != bool(model.edges.signs):
        raise InputError("the stored model chooses edges in another way than this one: edges='own_and_sign'")
    known = set()
    for path, edges in model.edges.by_path():
        start, weight = f"edges.layers.{path.replace('.', '/')}.", state[f"backbone.{path}.weight"]
        learning, whole = tasks[len(widths[path]) :], is_whole(state, start, edges.whole)
        known.add(_typed(state, f"{start}own", torch.bool, 1))
        if learning and len(state[f"{start}own"]) != len(weight):
            raise InputError(f"the stored model's '{start}own' is not as long as layer '{path}' is wide")
        if learning and model.edges.chooses and not whole:
            known.add(_typed(state, f"{start}scores", weight.dtype, weight.dim()))
        for row, task in enumerate(tasks):
            width = widths[path][row] if row < len(widths[path]) else len(weight)
            if model.edges.chooses and not whole and row < len(widths[path]):
                known.add(_typed(state, f"{start}bits.{task}", torch.uint8, 1))
            if whole:
                known.add(_typed(state, f"{start}weights.{task}", weight.dtype, weight.dim()))
            if model.layer(path).bias is not None:
                known.add(_sized(state, f"{start}biases.{task}", [width]))
    return known


def _typed(state: Mapping[str, Tensor], name: str, dtype: torch.dtype, dim: int) -> str:
    """``name``, if a tensor of that name, type and number of dimensions is there."""
    if name not in state:
        raise InputError(f"the stored model has no '{name}'")
    if state[name].dtype != dtype or state[name].dim() != dim:
        found = f"{state[name].dtype} of {state[name].dim()} dimensions"
        raise InputError(f"the stored model's '{name}' is {found}, not {dtype} of {dim}")
    return name


def _gate(path: str) -> str:
    return f"gates.{path.replace('.', '/')}"


def _whole(state: Mapping[str, Tensor], name: str, dim: int) -> list[int]:
    """The integers in a tensor of ``dim`` dimensions."""
    if state[name].dtype != torch.long or state[name].dim() != dim:
        raise InputError(f"the stored model's '{name}' is no list of whole numbers")
    return [int(number) for number in state[name].flatten()]


def _sized(state: Mapping[str, Tensor], name: str, shape: list[int]) -> str:
    """``name``, if a floating-point tensor of that name and shape is there."""
    if name not in state:
        raise InputError(f"the stored model has no '{name}'")
    if list(state[name].shape) != shape or not state[name].is_floating_point():
        found = f"{state[name].dtype} {list(state[name].shape)}"
        raise InputError(f"the stored model's '{name}' is {found}, not numbers of the shape {shape}")
    return name


def _widths(model: Computes, state: Mapping[str, Tensor], path: str, tasks: list[int]) -> list[int]:
    """Neurons of a layer at each commit; its masks are as many and as wide."""
    names = [f"{_gate(path)}.{name}" for name in ("masks", "commit_widths")]
    for name in names:
        if name not in state:
            raise InputError(f"the stored model has no '{name}', this one has")
    masks, widths = state[names[0]], _whole(state, names[1], 1)
    n = len(state[f"backbone.{path}.weight"])
    if masks.dtype != torch.uint8 or list(masks.shape) != [len(widths), -(-n // 8)]:
        found = f"{masks.dtype} {list(masks.shape)}"
        raise InputError(f"the stored model's '{names[0]}' is {found}, but there are {len(widths)} commits")
    first = f"{_gate(next(iter(model.gates_by_path)))}.commit_widths"
    if len(widths) not in (len(tasks), len(tasks) - 1) or len(widths) != len(state[first]):
        raise InputError(f"the stored model has tasks {tasks}, but {len(widths)} masks in layer '{path}'")
    if widths != sorted(widths) or not all(1 <= width <= n for width in widths):
        raise InputError(f"the stored model's layer '{path}' has {n} neurons, at its commits {widths}")
    for mask, width in zip(masks, widths, strict=True):
        if bool(unpack_bits(mask, 8 * len(mask))[width:].any()):
            raise InputError(f"the stored model has a mask in layer '{path}' of more than {width} neurons")
    return widths


def _classes(state: Mapping[str, Tensor], task: int, features: int | None) -> int:
    """How many outputs the head of a task has."""
    name = f"heads.{task}.weight"
    for needed in (name, f"heads.{task}.bias"):
        if needed not in state:
            raise InputError(f"the stored model has no '{needed}', which task {task} needs")
    shape = list(state[name].shape)
    if len(shape) != 2 or not shape[0] or features not in (None, shape[1]):
        raise InputError(f"the stored model's '{name}' has the shape {shape}, there are {features} features")
    _sized(state, name, shape)
    return shape[0]


def _norm(
    model: Computes, state: Mapping[str, Tensor], path: str, task: int, widths: Mapping[str, int]
) -> set[str]:
    """The names of a task's norm, as wide as its layer was then."""
    width = next((widths.get(layer) for layer, norm in model.norm_of.items() if norm == path), None)
    width = next((widths.get(f.leader) for f in model.followers if path in (f.path, f.norm)), width)
    names = set()
    for name in model.backbone.get_submodule(path).original.state_dict():  # type: ignore[union-attr]
        own, key = state[f"backbone.{path}.original.{name}"], f"backbone.{path}.tasks.{task}.{name}"
        shape = list(own.shape)
        if shape and width is not None:
            shape[0] = width
        if key not in state:
            raise InputError(f"the stored model has no '{key}', which task {task} needs")
        if list(state[key].shape) != shape or state[key].dtype != own.dtype:
            found = f"{state[key].dtype} {list(state[key].shape)}"
            raise InputError(f"the stored model's '{key}' is {found}, not {own.dtype} {shape}")
        names.add(key)
    return names


def _laterals(state: Mapping[str, Tensor], task: int, committed: list[int], classes: int) -> set[str]:
    """The names of all that a task reads."""
    names: set[str] = set()
    for number in range(len(state)):
        start = f"laterals.{task}.{number}."
        if f"{start}source" not in state:
            break
        [source] = _whole(state, f"{start}source", 0)
        if source not in committed:
            raise InputError(f"the stored model's task {task} reads from task {source}, which is not there")
        mixture = state.get(f"{start}mixture", torch.zeros(0))
        readers = len(mixture) or classes
        size = int(state[f"heads.{source}.weight"].shape[-1]) if f"heads.{source}.weight" in state else 0
        shapes = {"scale": [], "weight": [readers, size], "bias": [readers]}
        shapes["mixture"] = [readers, classes] if len(mixture) else [0]
        names |= {_sized(state, f"{start}{name}", shape) for name, shape in shapes.items()}
        if len(mixture) and float(mixture.min()) < 0:
            raise InputError(f"the stored model's '{start}mixture' has shares below 0")
        names.add(f"{start}source")
    return names
