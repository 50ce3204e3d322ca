"""What a module keeps of one pass is found by no other: no task computes with what another has left there."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dsn import InputError, mask_neurons
from dsn.baselines.network import TaskNetwork
from dsn.masking.layers import evaluating
from tests.masking.grammar import forgets


class Keeps(nn.Module):
    """x + a layer of x times a parameter, kept as ``keep`` does: a function (module, value) -> value."""

    def __init__(self, keep: Callable[["Keeps", Tensor], Tensor], clears: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6))
        self.kept: dict[str, Tensor] = {}
        self.last: Tensor | None = None
        self.history: list[tuple[int, Tensor]] = []
        self.keep, self.clears = keep, clears

    def train(self, mode: bool = True) -> "Keeps":
        super().train(mode)
        if mode and self.clears:
            self.kept = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x) * self.keep(self, self.scale)


def in_a_dict(module: Keeps, value: Tensor) -> Tensor:
    """As LeViT does: in evaluation mode alone."""
    return value if module.training else module.kept.setdefault("cpu", value.detach())


def in_an_attribute(module: Keeps, value: Tensor) -> Tensor:
    if module.last is None:
        module.last = value.detach().clone()
    return module.last if not module.training else value


def in_a_new_attribute(module: Keeps, value: Tensor) -> Tensor:
    if not hasattr(module, "anew"):
        module.anew = value.detach().clone()
    return value if module.training else module.anew


def in_a_list(module: Keeps, value: Tensor) -> Tensor:
    if not module.history:
        module.history.append((1, value.detach().clone()))
    return value if module.training else module.history[0][1]


class KeepsAlone(nn.Module):
    """No layer in it, so that each task has a copy of it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.last is None or self.training:
            self.last = self.scale * 2
        return x * self.last


def net(middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), middle, nn.ReLU(), nn.Linear(6, 5), nn.ReLU())


KINDS: dict[str, Callable[[], nn.Module]] = {
    "a dict that training clears": lambda: Keeps(in_a_dict, clears=True),
    "a dict": lambda: Keeps(in_a_dict),
    "an attribute": lambda: Keeps(in_an_attribute),
    "a new attribute": lambda: Keeps(in_a_new_attribute),
    "a list": lambda: Keeps(in_a_list),
    "a module of the task's own": KeepsAlone,
}
X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def masked(kind: str, used_before: bool = False, **options):
    torch.manual_seed(0)
    backbone = net(KINDS[kind]())
    if used_before:
        backbone.eval()(X)
    return mask_neurons(backbone, example_input=X[:1], **options)


def taught(model, tasks: int = 2):
    """Tasks whose own parameters all differ."""
    for task in range(tasks):
        model.add_task(3)
        model.train()
        with torch.no_grad():
            for parameter in model.own_parameters(task):
                parameter.add_(torch.randn_like(parameter))
        model(X, task)
        model.commit(task)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_with_a_cache_is_accepted_and_forgets_nothing(kind):
    model = masked(kind)
    assert model.caches is not None
    assert not forgets(model, X)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_in_which_tasks_are_asked_changes_nothing(kind):
    model = taught(masked(kind), tasks=3)
    fresh = masked(kind)
    fresh.load_state_dict(model.state_dict())
    expected = {}
    for task in range(3):
        expected[task] = copy.deepcopy(fresh).eval()(X, task)
    assert not torch.equal(expected[0], expected[1])
    for order in itertools.permutations(range(3)):
        assert all(torch.equal(model(X, task), expected[task]) for task in order)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_amid_training_is_not_remembered(kind):
    model = masked(kind)
    model.add_task(3)
    model.train()
    for _ in range(2):
        with evaluating(model):
            seen = model(X, 0)
        twin = masked(kind)
        twin.load_state_dict(model.state_dict())
        assert torch.equal(seen, twin.eval()(X, 0))
        with torch.no_grad():
            for parameter in model.own_parameters(0):
                parameter.mul_(1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_subnetwork_has_its_own_cache_and_no_hook(kind):
    model = taught(masked(kind))
    expected = {task: model(X, task) for task in (0, 1)}
    nets = {task: model.subnetwork(task) for task in (1, 0)}
    for task, cut in nets.items():
        assert torch.allclose(cut(X), expected[task], atol=1e-5)
        assert not any(module._forward_pre_hooks for module in cut.modules())


@pytest.mark.parametrize("kind", ["a dict that training clears", "a dict"])
def test_the_backbone_is_handed_back_empty_even_if_it_was_full(kind):
    backbone = masked(kind, used_before=kind != "a dict").unmask()
    assert backbone[2].kept == {} and not backbone._forward_pre_hooks


def test_what_the_mode_sets_is_no_cache():
    class Merging(nn.Module):
        """Folds its scale into the layer's weight for evaluation, as LoRA does."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)
            self.merged = False

        def train(self, mode: bool = True) -> "Merging":
            self.merged = not mode
            return super().train(mode)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if self.merged else self.layer(x) * 1.0

    model = mask_neurons(net(Merging()), example_input=X[:1])
    assert model.caches is None
    assert model.eval().backbone[2].merged and not model.train().backbone[2].merged


@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm1d(6)], ids=["no norm", "batch norm"])
def test_what_is_kept_elsewhere_is_refused_by_name(norm):
    """With a norm, made-up tasks are in training mode before they are asked, and so begin without it."""
    elsewhere: dict[str, Tensor] = {}

    def outside(module: Keeps, value: Tensor) -> Tensor:
        if module.training:
            elsewhere.clear()
            return value
        return elsewhere.setdefault("kept", value.detach())

    with pytest.raises(InputError, match="keep.* between passes"):
        mask_neurons(net(nn.Sequential(norm(), Keeps(outside))), example_input=X[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_other_strategies_empty_them_too(kind):
    torch.manual_seed(0)
    model = TaskNetwork(net(KINDS[kind]()), X.shape[1:])
    for task in range(2):
        model.add_task(3, task)
        with torch.no_grad():
            for parameter in model.own_parameters(task):
                parameter.add_(torch.randn_like(parameter))
    model.eval()
    twins = {task: copy.deepcopy(model) for task in range(2)}
    expected = {task: twins[task](X, task) for task in range(2)}
    for order in ((0, 1), (1, 0)):
        assert all(torch.equal(model(X, task), expected[task]) for task in order)
    assert not torch.equal(expected[0], expected[1])
