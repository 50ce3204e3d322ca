"""One task in a file of its own, to be put into any model of the same backbone. docs/checkpoint.md.

It holds what the task's logits depend on: mask, the weights and biases inside it, norm state, head, what it
reads from other tasks, and its record. Shapes: a layer's block W[outputs][:, inputs].
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...storage import Tree, read_tree, write_tree
from ..layers import evaluating
from ..reach import narrow_columns, read_inputs
from ..records import Lateral
from ..task_life import TaskLife
from .fingerprint import Fingerprints, probe
from .fit import refuse_numbers, refuse_record_name

FORMAT, VERSION = "dsn-task", 1
LATERAL = ("scale", "weight", "bias", "mixture")


def save_task(model: TaskLife, task: int, path: Path) -> None:
    """Write the committed ``task`` to ``path``, whole or not at all.

    Raises InputError for a task without a committed mask, OSError where the disk refuses.
    """
    masks = model.masks(task)
    inputs = _inputs(model, masks, task)
    hashes = Fingerprints(model)
    head = cast(nn.Linear, model.heads[str(task)])
    laterals = [cast(Lateral, lateral) for lateral in model.lateral_heads(task)]
    tree = {
        "task": task,
        "input_shape": list(model.input_shape[1:]),
        "type": str(model.dtype),
        "masks": masks,
        "weights": {
            path: layer.weight[masks[path]][:, inputs[path]] for path, layer in model.layer_modules()
        },
        "biases": {
            path: None if layer.bias is None else layer.bias[masks[path]]
            for path, layer in model.layer_modules()
        },
        "edges": None if model.edges is None else _edges_of(model, task),
        "norms": [norm.of(task).state_dict() for norm in model.norms()],
        "head": head.state_dict(),
        "record": dict(model.record(task).named_buffers()),
        "laterals": [
            {"source": one.source_task, "of": hashes.of(one.source_task)[0].weights}
            | {name: getattr(one, name) for name in LATERAL}
            for one in laterals
        ],
    }
    write_tree(path, tree, format=FORMAT, version=VERSION)


def load_task(model: TaskLife, path: Path, task: int | None = None) -> int:
    """Put the task in the file ``path`` into ``model``; its logits are then the same, bit for bit.

    Args:
        task: its number here; by default the one that it had.

    Returns its number.

    Raises:
        InputError: a missing or damaged file; a task of that number is there, or one is being learnt; layers,
            norms or input differ, the weights are not those that tasks here need, or it reads from tasks that
            are not here. The first difference is named, and nothing is changed.
    """
    tree = read_tree(path, format=FORMAT, version=VERSION)
    with model.lock:
        try:
            task = _number(tree["task"] if task is None else task)
            _refuse_malformed(model, tree)
            _refuse_unfit(model, tree, task)
            _put_whole(model, tree, task)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except Exception as error:
            raise InputError(f"{path}: holds no task as save_task writes one ({error!r})") from error
    return task


def _edges_of(model: TaskLife, task: int) -> Tree:
    """What edges add: the seed of initial values, who owns neurons already, bits, own biases and weights."""
    assert model.edges is not None
    return {
        "mode": model.edges.mode,
        "seed": model.edges.seed,
        "owned": {
            path: used[: len(model.masks(task)[path])] for path, used in model.used(before=task).items()
        },
        "layers": {path: layer.kept_of(task) for path, layer in model.edges.by_path()},
    }


def _inputs(model: TaskLife, masks: dict[str, Tensor], task: int | None = None) -> dict[str, Tensor]:
    """[e] the inputs of each layer that can differ from 0 under the masks; with edges, that ``task`` knew."""
    if model.edges is not None:
        columns = None if task is None else narrow_columns(model, task)
        whole = {path: torch.ones(layer.weight.shape[1]) for path, layer in model.layer_modules()}
        return {path: flags.nonzero().flatten() for path, flags in (columns or whole).items()}
    live = read_inputs(model, masks)
    return {path: flags.nonzero().flatten() for path, flags in live.items()}


def _number(task: object) -> int:
    if isinstance(task, bool) or not isinstance(task, int) or task < 0:
        raise InputError(f"a task's number is a whole number, 0 or more, not {task!r}")
    return task


def _refuse_malformed(model: TaskLife, tree: Tree) -> None:
    """Types and numbers; sizes that this model gives are compared by :func:`_refuse_unfit`."""
    for path, mask in tree["masks"].items():
        if mask.dtype != torch.bool or mask.dim() != 1:
            raise InputError(f"its mask of layer '{path}' is {mask.dtype} {list(mask.shape)}, not bits")
    head, laterals = tree["head"], tree["laterals"]
    if set(head) != {"weight", "bias"} or head["weight"].dim() != 2 or not len(head["weight"]):
        raise InputError("its head is no Linear with a bias")
    if head["bias"].shape != head["weight"].shape[:1]:
        raise InputError(f"its head has {len(head['weight'])} outputs and {list(head['bias'].shape)} biases")
    classes = len(head["weight"])
    for number, one in enumerate(laterals):
        _refuse_malformed_lateral(model, tree, number, one, classes)
    numbers = {f"the weight of layer '{path}'": value for path, value in tree["weights"].items()}
    numbers |= {f"the bias of layer '{path}'": v for path, v in tree["biases"].items() if v is not None}
    numbers |= {f"its head's {name}": value for name, value in head.items()}
    numbers |= {f"lateral {i}'s {name}": one[name] for i, one in enumerate(laterals) for name in LATERAL}
    for name, value in numbers.items():
        if str(value.dtype) != tree["type"]:
            raise InputError(f"{name} is {value.dtype}, not {tree['type']} as all of it")
    for name, value in tree["record"].items():
        refuse_record_name(name)
        numbers[f"its record's {name}"] = value
    numbers |= {f"norm {i}'s {k}": v for i, state in enumerate(tree["norms"]) for k, v in state.items()}
    for name, value in numbers.items():
        refuse_numbers(name, value)


def _refuse_malformed_lateral(model: TaskLife, tree: Tree, number: int, lateral: Tree, classes: int) -> None:
    source = _number(lateral["source"])
    if source == tree["task"]:
        size = tree["head"]["weight"].shape[1]
    elif source in model.committed:
        size = cast(nn.Linear, model.heads[str(source)]).in_features
    else:
        return  # refused by name later
    pooled = len(lateral["mixture"])
    shapes = {"scale": [], "weight": [pooled or classes, size], "bias": [pooled or classes]}
    shapes["mixture"] = [pooled, classes] if pooled else [0]
    for name, shape in shapes.items():
        if list(lateral[name].shape) != shape:
            found = list(lateral[name].shape)
            raise InputError(f"lateral {number}'s {name} has the shape {found}, it must be {shape}")
    if pooled and float(lateral["mixture"].min()) < 0:
        raise InputError(f"lateral {number}'s mixture has shares below 0")


def _refuse_unfit(model: TaskLife, tree: Tree, task: int) -> None:
    if task in model.tasks:
        raise InputError(f"task {task} is there already: give it another number, task=...")
    if model.learning is not None:
        raise InputError(f"task {model.learning} is being learnt: commit it first")
    here = {
        "input shape": list(model.input_shape[1:]),
        "type of weights": str(model.dtype),
        "layers": list(model.layers),
    }
    there = {
        "input shape": tree["input_shape"],
        "type of weights": tree["type"],
        "layers": list(tree["masks"]),
    }
    for name, value in there.items():
        if value != here[name]:
            raise InputError(f"{name} is {value} there, {here[name]} here")
    for layer, n in model.layers.items():
        if len(tree["masks"][layer]) != n:
            raise InputError(f"layer '{layer}' has {len(tree['masks'][layer])} neurons there, {n} here")
    _refuse_other_owners(model, tree)
    _refuse_other_weights(model, tree)
    _refuse_other_norms(model, tree)
    features = tree["head"]["weight"].shape[1]
    if features != model.feature_size:
        raise InputError(f"its head reads {features} features, the backbone here gives {model.feature_size}")
    _refuse_other_sources(model, tree)


def _refuse_other_owners(model: TaskLife, tree: Tree) -> None:
    edges = tree.get("edges")
    if (edges is None) != (model.edges is None):
        raise InputError(
            f"it has {'no' if edges is None else ''} bits of edges, the model here not so: edges=..."
        )
    if edges is None or model.edges is None:
        return
    if edges["mode"] != model.edges.mode:
        raise InputError(f"its edges are '{edges['mode']}', those of the model here '{model.edges.mode}'")
    if model.tasks and int(edges["seed"]) != int(model.edges.seed):
        raise InputError("its initial weights come from another seed than those of the model here")
    for path, used in model.used().items():
        if not torch.equal(edges["owned"][path].to(used.device), used):
            raise InputError(
                f"the neurons of layer '{path}' have other owners here than when it was learnt: "
                "load the tasks of one model together, in the order of learning"
            )


def _refuse_other_weights(model: TaskLife, tree: Tree) -> None:
    masks = {path: mask.to(model.device) for path, mask in tree["masks"].items()}
    inputs, used = _inputs(model, masks), model.used()
    shared = bool(model.committed) or model.pretrained
    needed = _inputs(model, used) if shared else {}
    for path, layer in model.layer_modules():
        rows, columns = masks[path].nonzero().flatten(), inputs[path]
        here, there = layer.weight[rows][:, columns], tree["weights"][path].to(model.device)
        if here.shape != there.shape:
            shapes = f"{list(there.shape)} there, {list(here.shape)} here"
            raise InputError(f"the weights inside its mask in layer '{path}' have the shape {shapes}")
        bias = tree["biases"][path]
        if (bias is None) != (layer.bias is None):
            raise InputError(f"layer '{path}' has {'no' if bias is None else 'a'} bias there, not so here")
        if bias is not None and list(bias.shape) != [len(rows)]:
            raise InputError(f"the biases of layer '{path}' have the shape {list(bias.shape)} there")
        if not shared:
            continue
        both = used[path][rows][:, None] & torch.isin(columns, needed[path])
        differs = (here != there).flatten(2).any(2) if here.dim() > 2 else here != there
        wrong = (differs & both).nonzero()
        if len(wrong):
            neuron, source = int(rows[wrong[0, 0]]), int(columns[wrong[0, 1]])
            raise InputError(
                f"the weight of layer '{path}' from input {source} to neuron {neuron} differs, and "
                f"{_owners(model)} need it as it is: load tasks of one model together"
            )
        if bias is not None and layer.bias is not None:
            wrong = ((layer.bias[rows] != bias.to(model.device)) & used[path][rows]).nonzero()
            if len(wrong):
                raise InputError(
                    f"the bias of neuron {int(rows[wrong[0, 0]])} of layer '{path}' differs, and "
                    f"{_owners(model)} need it as it is: load tasks of one model together"
                )


def _owners(model: TaskLife) -> str:
    tasks = f"tasks {model.committed}"
    return f"the pretrained backbone and {tasks}" if model.pretrained else tasks


def _refuse_other_norms(model: TaskLife, tree: Tree) -> None:
    here = [norm.original.state_dict() for norm in model.norms()]
    shapes = [
        [{name: [str(value.dtype), *value.shape] for name, value in state.items()} for state in norms]
        for norms in (tree["norms"], here)
    ]
    if shapes[0] != shapes[1]:
        raise InputError(f"norm state is {shapes[0]} there, {shapes[1]} here")


def _refuse_other_sources(model: TaskLife, tree: Tree) -> None:
    for lateral in tree["laterals"]:
        source = lateral["source"]
        if source == tree["task"]:
            continue
        if source not in model.committed:
            raise InputError(f"it reads from task {source}, which is not here: load that first")
        if Fingerprints(model).of(source)[0].weights != lateral["of"]:
            raise InputError(f"it reads from task {source}, and the task of that number here is another one")


@torch.no_grad()
def _put_whole(model: TaskLife, tree: Tree, task: int) -> None:
    """As :func:`_put`, or not at all: where that fails, or its logits are not finite, all is as before."""
    before = [
        (parameter, parameter.clone())
        for _, layer in model.layer_modules()
        for parameter in layer.parameters()
    ]
    rows = len(model.committed)
    try:
        _put(model, tree, task)
        with evaluating(model):
            if not bool(model(probe(model), task).isfinite().all()):
                raise InputError("its logits for random inputs are not finite")
    except BaseException:
        for parameter, value in before:
            parameter.copy_(value)
        _take_out(model, task, rows)
        raise


def _take_out(model: TaskLife, task: int, rows: int) -> None:
    """Remove the last task, of which a part may be there; ``rows`` tasks are committed without it."""
    for gate in model.gates_by_path.values():
        gate.masks, gate.widths = gate.masks[:rows].clone(), gate.widths[:rows]
        gate.commit_widths = gate.commit_widths[:rows].clone()
        gate.logits = gate.values = None
    for parts in model.belongings:
        if str(task) in parts:
            del parts[str(task)]
    for norm in model.norms():
        norm.drop_task(task)
    if model.edges is not None:
        model.edges.drop(task)
    if task in model.tasks:
        model.tasks.remove(task)
    model.task_ids = torch.tensor(model.tasks, device=model.device, dtype=torch.long)
    model.select(None)


@torch.no_grad()
def _put(model: TaskLife, tree: Tree, task: int) -> None:
    masks = {path: mask.to(model.device) for path, mask in tree["masks"].items()}
    inputs = _inputs(model, masks)
    if model.edges is not None:
        model.edges.reseed(model, int(tree["edges"]["seed"]))
    with torch.random.fork_rng(devices=[]):  # adding a task draws what is overwritten here
        # with edges, a plan for one task leaves the weights of owned neurons as they are
        model.add_task(len(tree["head"]["bias"]), task, planned_tasks=None if model.edges is None else 1)
    for path, layer in model.layer_modules():
        rows = masks[path].nonzero().flatten()
        layer.weight[rows[:, None], inputs[path]] = tree["weights"][path].to(model.device)
        if layer.bias is not None:
            layer.bias[rows] = tree["biases"][path].to(model.device)
        if model.edges is not None:
            model.edges.of(path).put(task, tree["edges"]["layers"][path])
        model.gates_by_path[path].store(masks[path])
    model.heads[str(task)].load_state_dict(tree["head"])
    for norm, state in zip(model.norms(), tree["norms"], strict=True):
        norm.of(task).load_state_dict(state)
    for name, value in tree["record"].items():
        model.record(task).put(name, value.to(model.device))
    for lateral in tree["laterals"]:
        source = task if lateral["source"] == tree["task"] else lateral["source"]
        tensors = (lateral[name].to(model.device) for name in LATERAL)
        model.lateral_heads(task).append(Lateral(source, *tensors))
    model.freeze(task)
