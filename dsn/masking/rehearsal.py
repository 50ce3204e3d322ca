"""A rehearsal: do earlier tasks stay bit-equal in this very network, whatever it is made of?

Probing (``reach``) finds what masked neurons reach, and ``layers.py`` refuses what is known to break the
promise. What nobody thought of is found here: on a copy, two made-up tasks with random masks are committed;
then a third one runs in training mode, and everything that is not the first two's own is shaken, as an
optimizer would, under :class:`ProtectedWeights`. If their logits are not the same to the last bit, the tensor
that was felt is named.

Large images are rehearsed as small as they are probed (``reach.sizes``); one sample of the true size is
looked at before and after as well. What is heard before is heard with gradients switched on, afterwards
without: the backbone must not take another path then.

Shapes: x [n, ...], n = SAMPLES, or fewer where they are large; logits [n, CLASSES].
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError
from .layers import unstable
from .map import Size
from .protection import ProtectedWeights
from .reach import at_once, tried_masks, true_size
from .structure import Structure
from .task_life import TaskLife

SAMPLES, CLASSES = 4, 3
TRIES = 8  # rehearsals at most, where not all is heard in one
FEW, LARGE = 3, 2**20  # so many at most, deaf ones aside, for a network of more weights
NARROW = 32  # neurons of a layer: a ReLU may let none of fewer pass for any sample
SWEEPS = 3  # over the parameters, for the one that is felt
SIZES = (1.0, 10.0, 0.3, 1.0)  # of the samples


def refuse_forgetting(model: TaskLife) -> None:
    """Raise InputError, naming the tensor that is felt, unless made-up tasks are remembered bit for bit.

    Warns where they can tell no sample from another, so that nothing was tried. ``model`` is not changed, nor
    are the random states of its device and the CPU.
    """
    if model.learning is not None:
        raise InputError(f"task {model.learning} is being learnt: rehearse before add_task or after commit")
    with apart(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the made-up tasks may run out of free neurons
        heard = _rehearse(model)
    if not heard:
        warnings.warn(
            "made-up tasks give the same logits for all random samples in this backbone, so whether tasks "
            "are remembered in it could not be tried: look whether its features depend on its input",
            stacklevel=2,
        )


@contextmanager
def apart(model: Structure) -> Iterator[None]:
    """Random numbers of its own, and the random states put back at the end."""
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        yield


def copied(model: TaskLife) -> TaskLife:
    """A deep copy; InputError, with the remedy, where there cannot be one."""
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise InputError(
            f"the backbone cannot be copied ({type(error).__name__}: {error}), so it cannot be rehearsed "
            "whether its tasks are remembered: rehearse=False leaves that out"
        ) from error


@dataclass
class _Heard:
    """Logits of ``task`` on ``x``, as they were; ``grad``: with gradients switched on."""

    x: Tensor
    task: int
    grad: bool
    logits: Tensor

    @property
    def deaf(self) -> bool:
        """Whether the samples are all the same to the task, as where a ReLU lets none of its features pass:
        then hardly any change could be felt."""
        return equal(self.logits, self.logits[:1].expand_as(self.logits))


def _rehearse(original: TaskLife) -> bool:
    """One rehearsal as a rule; others where the made-up tasks hear nothing, or not all layers.

    Returns whether they heard anything in the end.
    """
    narrow = any(n <= NARROW for n in original.layers.values())
    unheard = set(original.layers) if narrow else set()
    weights = sum(layer.weight.numel() for _, layer in original.layer_modules())
    deaf = True
    for number in range(TRIES):
        model = copied(original)
        _wake(model, again=number > 0)
        x = samples(model, model.size, at_once(model, SAMPLES))
        # what arrives under the masks that the map was tried under is known
        masks = next(tried_masks(model.layers)) if number == 0 else {}
        tasks = [_made_up_task(model, x, masks), _made_up_task(model, x)]
        before = [_heard(model, x, task, grad=task == tasks[0]) for task in tasks]
        deaf = any(heard.deaf for heard in before)
        if deaf and number < TRIES - 1:
            continue
        if unheard:
            unheard -= _heard_layers(model, before)
        true = true_size(model)
        if true.shape != model.size.shape:  # other sizes may be computed in another way
            before.append(_heard(model, samples(model, true, 1), tasks[0], grad=True))
        _refuse_felt(model, x, before)
        if not unheard or (number >= FEW - 1 and weights > LARGE):
            break
    return not deaf


def _refuse_felt(model: TaskLife, x: Tensor, before: list[_Heard]) -> None:
    """Let a third task learn, shake what it may change, and listen."""
    third = _begin(model)
    protected = ProtectedWeights(model)
    parameters = [(name, tensor, tensor.detach().clone()) for name, tensor in _plastic(model)]
    buffers = [(name, tensor, tensor.clone()) for name, tensor in _foreign_buffers(model)]
    _train(model, x, third)
    moved = [name for name, tensor, old in buffers if not torch.equal(tensor, old)]
    with protected:
        for _, tensor, _ in parameters:
            _shake(tensor)
    if _same(model, before):
        return
    for _, tensor, old in parameters:
        tensor.data.copy_(old)
    if _same(model, before):
        raise InputError(_felt(model, before, protected))
    _refuse_unstable(model, before)
    what = moved[0] if moved else "what its modules keep between passes"
    raise InputError(
        f"a training pass of one task changes what another computes: {what} is shared by all tasks; use "
        "batch, layer or group norm for running statistics (each task gets its own), or keep none"
    )


def _heard_layers(model: TaskLife, before: list[_Heard]) -> set[str]:
    """The layers on whose output some task's logits depend, as far as gradients tell."""
    found: set[str] = set()
    for heard in before:
        outputs: list[tuple[str, Tensor]] = []

        def keep(path: str, output: Tensor, outputs: list[tuple[str, Tensor]] = outputs) -> Tensor:
            outputs.append((path, output))
            return output.clone()  # which may be changed in place

        handles = [
            layer.register_forward_hook(lambda _m, _a, output, path=path: keep(path, output), prepend=True)
            for path, layer in model.layer_modules()
        ]
        model.eval()
        try:
            with torch.enable_grad():
                logits = model(heard.x.clone().requires_grad_(), heard.task)
                tensors = [output for _, output in outputs]
                grads = torch.autograd.grad(logits, tensors, torch.randn_like(logits), allow_unused=True)
        except RuntimeError:  # some operation has no gradient
            continue
        finally:
            for handle in handles:
                handle.remove()
        found |= {path for (path, _), g in zip(outputs, grads, strict=True) if g is not None and g.any()}
    return found


def _heard(model: TaskLife, x: Tensor, task: int, grad: bool = False) -> _Heard:
    return _Heard(x, task, grad, eval_logits(model, x, task, grad))


@torch.no_grad()
def _wake(model: Structure, again: bool) -> None:
    """Draw every weight that is 0 anew: behind a layer that begins at 0, nothing could be heard. ``again``:
    change all of them, for a ReLU may let nothing pass, with these weights, of any sample."""
    for _, layer in model.layer_modules():
        silent = layer.weight == 0
        if not again and not bool(silent.any()):
            continue
        drawn = torch.randn_like(layer.weight) / layer.weight[0].numel() ** 0.5
        layer.weight.copy_(torch.where(silent, drawn, layer.weight + drawn if again else layer.weight))
        if again and layer.bias is not None:
            layer.bias.add_(torch.rand_like(layer.bias))


def samples(model: Structure, at: Size, count: int = SAMPLES) -> Tensor:
    """x [count, ...] from N(0, size^2), a size a sample."""
    shape = (count, *at.shape[1:])
    size = torch.tensor(SIZES[:count]).view(-1, *[1] * (len(shape) - 1))
    return (torch.randn(shape) * size).to(model.device, model.dtype)


def _begin(model: TaskLife, masks: Mapping[str, Tensor] | None = None) -> int:
    """Add a task that starts with ``masks``, and random halves of the other layers: at least one neuron, and
    not all of them. Some neuron is left to nobody, as far as there is one: what it does may be felt."""
    task = model.add_task(CLASSES, planned_tasks=None if model.edges is None else 4)
    for path, gate in model.gates_by_path.items():
        gate.untie()
        if gate.logits is None:  # the edges choose
            continue
        order, used = torch.randperm(gate.n), gate.used().cpu()
        half = torch.zeros(gate.n, dtype=torch.bool)
        half[order[: max(1, gate.n // 2)]] = True
        mask = (masks or {}).get(path, half)
        if not mask.any() or mask.all():
            mask = half
        if bool((mask | used).all()) and not used.all():
            mask = mask.clone()
            mask[order[~used[order]][0]] = False
            mask[order[used[order]][:1]] = True
        gate.logits.data.copy_(torch.where(mask, 1.0, -1.0))
    return task


def _made_up_task(model: TaskLife, x: Tensor, masks: Mapping[str, Tensor] | None = None) -> int:
    task = _begin(model, masks)
    if any(True for norm in model.norms() for _ in norm.of(task).buffers()):
        _train(model, x, task)
    with torch.no_grad():
        for parameter in model.own_parameters(task):
            parameter.add_(torch.randn_like(parameter) / 2)
    model.commit(task)
    return task


def _train(model: TaskLife, x: Tensor, task: int) -> None:
    """A pass in training mode, which moves what keeps running statistics."""
    model.train()
    model.anneal(1.0)
    try:
        with torch.no_grad():
            logits = model(x, task)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the backbone does not run on {len(x)} random samples in training mode "
            f"({type(error).__name__}: {error})"
        ) from error
    if logits.shape != (len(x), CLASSES):
        raise InputError(
            f"the backbone makes {len(logits)} rows of features of {len(x)} samples: features are "
            "[batch, d], a row a sample"
        )


def eval_logits(model: TaskLife, x: Tensor, task: int, grad: bool = False) -> Tensor:
    """Logits of ``task`` with the committed bits."""
    if model.training:
        model.eval()
    with torch.set_grad_enabled(grad):
        return model(x, task).detach()


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether all bits are the same; NaN equals NaN."""
    return torch.equal(one.nan_to_num(0.5), other.nan_to_num(0.5)) and torch.equal(one.isnan(), other.isnan())


def _same(model: TaskLife, before: list[_Heard], grad: bool = False) -> bool:
    """Whether the logits are as they were; ``grad``: with gradients where there were any.

    The last task is asked first, so that none finds again what it found left of the one before it.
    """
    return all(
        equal(eval_logits(model, heard.x, heard.task, grad and heard.grad), heard.logits)
        for heard in reversed(before)
    )


def _refuse_unstable(model: TaskLife, before: list[_Heard]) -> None:
    """Where it is not learning that changes logits."""
    if not _same(model, [_heard(model, heard.x, heard.task) for heard in before]):
        raise unstable("logits")
    if _same(model, before, grad=True):
        raise InputError(
            "the same input gives other bits with gradients switched on than without: the backbone takes "
            "another path then, in which no task can stay bit-identical"
        )


def _plastic(model: TaskLife) -> list[tuple[str, nn.Parameter]]:
    """Every parameter of the backbone that is no committed task's own."""
    own = {id(p) for task in model.committed for p in model.own_parameters(task)}
    return [(n, p) for n, p in model.backbone.named_parameters() if id(p) not in own]


def _foreign_buffers(model: TaskLife) -> list[tuple[str, Tensor]]:
    norms = {id(buffer) for norm in model.norms() for buffer in norm.buffers()}
    return [(f"buffer '{n}'", b) for n, b in model.backbone.named_buffers() if id(b) not in norms]


@torch.no_grad()
def _shake(parameter: nn.Parameter) -> None:
    parameter.add_(torch.randn_like(parameter))


def _felt(model: TaskLife, before: list[_Heard], protected: ProtectedWeights) -> str:
    """What to say of the first parameter that earlier tasks feel when it alone is shaken."""
    for name, parameter in _plastic(model) * SWEEPS:
        kept = parameter.detach().clone()
        with protected:
            _shake(parameter)
        felt = not _same(model, before)
        parameter.data.copy_(kept)
        if felt:
            owner = model.backbone.get_submodule(name.rpartition(".")[0])
            return (
                f"earlier tasks feel changes of '{name}' ({type(owner).__name__}) that learning others would "
                "make, although the neurons concerned are masked: the weight is read outside of its layer, "
                "or in another way than a layer of its kind does; use a plain layer, called as a module"
            )
    return (
        "earlier tasks do not stay bit-identical while others are learnt, though no single parameter alone "
        "changes them: some module computes with more than its input and its own weights"
    )
