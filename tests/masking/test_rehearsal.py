"""Nothing that is accepted may forget: what is refused by name, what is protected, what a rehearsal finds."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from dsn import InputError, grow, mask_neurons
from dsn.masking.rehearsal import refuse_forgetting
from tests.masking.grammar import CHANNELS, SIZE, STEPS, TO_VECTORS, Backbone, forgets, same_bits, wrapped
from tests.masking.test_wrapping import Free
from tests.nets import learn, logits, make, same


@settings(max_examples=25, deadline=None, derandomize=True)  # at random: tests.masking.grammar
@given(
    st.lists(st.sampled_from(STEPS), max_size=4),
    st.sampled_from(sorted(TO_VECTORS)),
    st.lists(st.sampled_from(STEPS), max_size=4),
    st.integers(2, 8),
    st.integers(0, 2**16),
)
def test_no_accepted_backbone_forgets(
    maps: list[str], pool: str, vectors: list[str], width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    try:
        net = Backbone(maps, pool, vectors, width)
    except (RuntimeError, IndexError, ValueError):
        return  # a map became too small
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = wrapped(net)
        assert isinstance(model, str) or not forgets(model, torch.randn(12, CHANNELS, SIZE, SIZE))


def through(operation: str) -> nn.Module:
    return (
        Backbone([operation], "mean", [], 6)
        if operation not in TO_VECTORS
        else Backbone([], operation, [], 6)
    )


BLIND = (
    "high pass", "neighbour columns", "second difference", "centred map", "layer norm of maps",
    "instance norm", "deviation", "range", "variance and mean", "median of places", "top 2 neurons",
    "largest alone", "threshold", "hard shrink", "soft shrink", "greater", "round", "floor", "centred batch",
    "neighbour sample", "deviation over the batch", "sorted neurons", "top places", "if large",
)  # fmt: skip


@pytest.mark.parametrize("operation", BLIND)
def test_what_a_constant_map_hides_is_live(operation: str) -> None:
    """Each of these is 0, or lets nothing through, for one sample of values of 1 to 2, constant over a
    map."""
    torch.manual_seed(0)
    model = wrapped(through(operation))
    assert not isinstance(model, str)
    assert not forgets(model, torch.randn(12, CHANNELS, SIZE, SIZE))


class RunningNorm(nn.Module):
    """Keeps a running mean beside a layer, so that it cannot be copied whole."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.layer = nn.Linear(n, n)
        self.register_buffer("mean", torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if self.training:
            with torch.no_grad():
                self.mean += 0.1 * (x.mean(0) - self.mean)
        return x - self.mean


class Remembering(nn.Module):
    """Keeps something in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        out = x * (1 + self.last)
        self.last = x.detach().abs().mean()
        return out


class Adapted(nn.Linear):
    def __init__(self, d: int, n: int) -> None:
        super().__init__(d, n)
        self.low = nn.Parameter(torch.zeros(n, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x[:, :1] @ self.low.T


class CentredRows(nn.Linear):
    """Mixes the rows, so the neurons, of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight - self.weight.mean(0), self.bias)


def sharing_memory() -> nn.Module:
    net = mlp()
    net[2].weight = nn.Parameter(net[0].weight.data[:, :4].T.detach())
    return net


def pruned() -> nn.Module:
    net = mlp()
    prune.l1_unstructured(net[0], "weight", 0.5)
    return net


def mlp(first: nn.Module | None = None, middle: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(first or nn.Linear(4, 6), middle or nn.ReLU(), nn.Linear(6, 4), nn.ReLU())


REFUSED = {
    "weight_norm": (lambda: mlp(weight_norm(nn.Linear(4, 6))), "weight of layer '0'.*remove_weight_norm"),
    "spectral_norm": (
        lambda: mlp(spectral_norm(nn.Linear(4, 6))),
        "weight of layer '0'.*remove_spectral_norm",
    ),
    "pruned": (pruned, "weight of layer '0'.*prune.remove"),
    "parametrized": (
        lambda: mlp(parametrizations.weight_norm(nn.Linear(4, 6))),
        "'weight' of layer '0'.*is parametrized.*remove_parametrizations",
    ),
    "orthogonal": (lambda: mlp(parametrizations.orthogonal(nn.Linear(6, 6))), "'0'.*is parametrized"),
    "adapter": (lambda: mlp(Adapted(4, 6)), "'0.low' of a Adapted is neither"),
    "shared memory": (sharing_memory, "'0.weight' and '2.weight' share memory"),
    "rows mixed": (lambda: mlp(CentredRows(4, 6)), "feel changes of '0.weight' \\(CentredRows\\)"),
    "read past the layer": (
        lambda: Free(
            lambda s, x: F.relu(s.b(s.a(x))) + x @ s.a.weight.T[:, :4], a=nn.Linear(4, 6), b=nn.Linear(6, 4)
        ),
        "feel changes of 'a.weight'",
    ),
    "norm of a weight": (
        lambda: Free(
            lambda s, x: F.relu(s.b(s.a(x) * s.a.weight.norm())), a=nn.Linear(4, 6), b=nn.Linear(6, 4)
        ),
        "feel changes of 'a.weight'",
    ),
    "bias read": (
        lambda: Free(lambda s, x: F.relu(s.b(s.a(x))) * s.a.bias.sum(), a=nn.Linear(4, 6), b=nn.Linear(6, 4)),
        "feel changes of 'a.bias'",
    ),
    "running buffer": (lambda: mlp(middle=RunningNorm(6)), "buffer '1.mean' is shared"),
    "state between passes": (lambda: mlp(middle=Remembering()), "two passes over the same input"),
    "random in evaluation": (
        lambda: Free(lambda s, x: s.b(F.dropout(s.a(x))), a=nn.Linear(4, 6), b=nn.Linear(6, 4)),
        "two passes over the same input",
    ),
    "another path with gradients": (
        lambda: Free(
            lambda s, x: s.b(s.a(x)) * (1 + torch.is_grad_enabled()), a=nn.Linear(4, 6), b=nn.Linear(6, 4)
        ),
        "with gradients",
    ),
    "rows of features": (
        lambda: nn.Sequential(mlp(), nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1)),
        "rows of features",
    ),
    "dict": (lambda: Free(lambda s, x: {"features": s.a(x)}, a=nn.Linear(4, 6)), "returns a dict"),
    "tuple": (lambda: Free(lambda s, x: (s.a(x), x), a=nn.Linear(4, 6)), "returns a tuple"),
    "complex": (
        lambda: Free(lambda s, x: torch.fft.fft(s.a(x)), a=nn.Linear(4, 6)),
        "returns torch.complex64",
    ),
    "data parallel": (lambda: nn.DataParallel(mlp()), "a DataParallel.*wrap its .module"),
    "compiled": (lambda: torch.compile(mlp()), "a OptimizedModule"),
    "meta": (lambda: mlp().to("meta"), "meta device"),
    "nan for a zero": (
        lambda: Free(lambda s, x: s.b(s.a(x) / s.a(x).detach()), a=nn.Linear(4, 6), b=nn.Linear(6, 4)),
        "arrives at 'b' is infinite or not a number",
    ),
    "infinite for a zero": (
        lambda: Free(lambda s, x: s.b(1 / s.a(x)), a=nn.Linear(4, 6), b=nn.Linear(6, 4)),
        "arrives at 'b' is infinite",
    ),
    "sign of a zero": (
        lambda: Free(lambda s, x: s.b(torch.signbit(s.a(x)).float()), a=nn.Linear(4, 6), b=nn.Linear(6, 4)),
        "arrives at 'b' depends on the sign",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", REFUSED)
def test_layers_that_are_not_what_they_seem_are_refused_by_name(case: str) -> None:
    build, message = REFUSED[case]
    net, shape = build(), (2, 4)
    keys, kinds = list(net.state_dict()), [type(module) for module in net.modules()]
    with pytest.raises(InputError, match=message):
        mask_neurons(net, example_input=torch.zeros(shape))
    assert (list(net.state_dict()), [type(module) for module in net.modules()]) == (keys, kinds)


class Even(nn.Conv1d):
    """Weight standardisation: mixes the columns of a row."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2), keepdim=True)
        return self._conv_forward(x, weight / (weight.std((1, 2), keepdim=True) + 1e-3), self.bias)


class Padded(nn.Conv1d):
    """A convolution that pads by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(F.pad(x, (1, 1)), self.weight, self.bias)


class Softplus(nn.Linear):
    """Positive weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.softplus(self.weight), self.bias)


@pytest.mark.parametrize(
    "net",
    [
        lambda: nn.Sequential(
            Even(4, 6, 3), nn.ReLU(), Even(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 5)
        ),
        lambda: nn.Sequential(Padded(4, 6, 3), nn.ReLU(), Padded(6, 4, 3), nn.Flatten(), nn.Linear(20, 5)),
        lambda: nn.Sequential(nn.Flatten(), Softplus(20, 6), nn.ReLU(), Softplus(6, 6)),
    ],
)
def test_layers_with_a_forward_of_their_own_keep_whole_rows(net) -> None:
    torch.manual_seed(0)
    model = mask_neurons(net(), example_input=torch.zeros(1, 4, 5))
    assert model.whole_rows
    x = torch.randn(12, 4, 5)
    assert not forgets(model, x)
    twin = copy.deepcopy(model)
    assert same_bits(model(x, 0), twin(x, 0))


def test_a_rehearsal_changes_nothing_and_can_be_left_out() -> None:
    model, x = make("concatenation")
    learn(model, x, 0)
    before, state, random = logits(model, x), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    refuse_forgetting(model)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert same(before, logits(model, x))
    model = mask_neurons(mlp(CentredRows(4, 6)), example_input=torch.zeros(1, 4), rehearse=False)
    with pytest.raises(InputError, match="feel changes"):
        refuse_forgetting(model)


def test_rehearsing_draws_nothing() -> None:
    def after(rehearse: bool) -> Tensor:
        torch.manual_seed(3)
        model = mask_neurons(mlp(), example_input=torch.zeros(1, 4), rehearse=rehearse)
        model.add_task(2)
        return torch.cat([model.heads["0"].weight.flatten(), torch.rand(2)])

    assert torch.equal(after(True), after(False))


def test_a_backbone_that_checks_its_values_is_protected_whole() -> None:
    def checking(self: nn.Module, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        if not bool(h.isfinite().all()):
            raise ValueError("nan in my network")
        return self.b(h)

    net = Free(checking, a=nn.Linear(4, 6), b=nn.Linear(6, 4))
    with pytest.warns(UserWarning, match="nan in my network.*protected"):
        model = mask_neurons(net, example_input=torch.zeros(1, 4))
    assert not forgets(model, torch.randn(12, 4))


# ---- committed tasks in training mode, diverged tasks, growth ----------------------------------------------


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("net", ["resnet18", "concatenation", "small_cnn"])
def test_a_pass_in_training_mode_changes_no_committed_task(net: str) -> None:
    model, x = make(net)
    learn(model, x, 0)
    learn(model, x, 1)
    before = logits(model, x)
    for _ in range(2):
        model.train()
        for task in (0, 1):
            assert torch.equal(model(3 * x, task), model(3 * x, task))
        model.select(None)
        model.backbone(3 * x)
    assert same(before, logits(model, x))
    loaded, _ = make(net)
    loaded.load_state_dict(model.state_dict())
    loaded.train()
    loaded(3 * x, 0)
    assert same(before, logits(loaded, x))


@pytest.mark.parametrize("where", ["weight", "huge", "logits", "head", "norm", "consolidation"])
def test_a_diverged_task_is_refused_and_can_be_dropped(where: str) -> None:
    model, x = make("small_cnn")
    learn(model, x, 0)
    before = logits(model, x)
    task = model.add_task(3)
    if where == "consolidation":
        model.commit(task, freeze=False)
    path = list(model.layers)[1]
    with torch.no_grad():
        free = (~model.used(task)[path]).nonzero()[0] if where != "consolidation" else 0
        if where in ("weight", "consolidation"):
            model.layer(path).weight[free] = torch.nan
        elif where == "huge":
            model.layer(path).weight[free] = 1e30
        elif where == "logits":
            model.gates_by_path[path].logits[0] = torch.inf
        elif where == "head":
            model.heads[str(task)].bias[0] = torch.nan
        else:
            next(model.norms()).of(task).running_var[0] = torch.inf
    with pytest.raises(InputError, match=f"task {task} has diverged: .*not finite.*drop_task\\({task}\\)"):
        model.freeze(task) if where == "consolidation" else model.commit(task)
    model.drop_task(task)
    assert model.tasks == model.committed == [0]
    if where != "consolidation":
        assert same(before, logits(model, x))
    learn(model, x, 1)
    assert model.committed == [0, 1]


def test_a_diverging_task_does_not_answer_for_others() -> None:
    model, x = make("mlp")
    learn(model, x, 0)
    task = model.add_task(2)
    path = list(model.layers)[1]
    with torch.no_grad():
        model.layer(path).weight[(~model.used(task)[path]).nonzero()[0]] = torch.nan
    model.eval()
    with pytest.raises(InputError, match=f"task {task} has diverged"):
        model(x, 0)


class FixedWidth(nn.Module):
    """Its code needs the width of ``b``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.b(F.relu(self.a(x))))
        return F.relu(self.c(h.view(-1, 3, 4).sum(1)))


def test_layers_of_a_fixed_width_do_not_grow() -> None:
    torch.manual_seed(0)
    model = mask_neurons(FixedWidth(), example_input=torch.zeros(1, 8))
    x = torch.randn(12, 8)
    learn(model, x, 0)
    before = logits(model, x)
    with pytest.warns(UserWarning, match="'b' cannot grow.*is invalid for input"):
        assert grow(model, by=4, below=100) == {"a": 4, "c": 4}
    assert model.layers == {"a": 16, "b": 12, "c": 10}
    assert same(before, logits(model, x))
    learn(model, x, 1)
    assert same(before, logits(model, x))


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: x + s.a(x),  # meets the network's input
        lambda s, x: F.relu(s.a(x)).view(-1, 4),
        lambda s, x: s.a(x) * torch.ones(4),
    ],
)
def test_growth_that_cannot_be_is_refused_with_nothing_changed(forward) -> None:
    torch.manual_seed(0)
    model = mask_neurons(Free(forward, a=nn.Linear(4, 4)), example_input=torch.zeros(1, 4))
    x = torch.randn(12, 4)
    learn(model, x, 0)
    before, weights, random = logits(model, x), model.layer("a").weight.clone(), torch.get_rng_state()
    with pytest.raises(InputError, match="'a' cannot grow"):
        grow(model, by=4, below=100)
    assert torch.equal(torch.get_rng_state(), random)
    assert same(before, logits(model, x))
    assert torch.equal(model.layer("a").weight, weights)


@pytest.mark.parametrize(
    ("maps", "pool", "vectors"),
    [
        (["sign bit"], "mean", ["layer norm of all", "median of neurons"]),
        (["sign bit", "hardswish"], "range", ["glu"]),
        (["neighbour sample", "local response", "sign bit"], "range", []),
        (["called twice", "residual"], "range", ["sign", "layer norm of neurons", "top 2 neurons"]),
        (["sign", "crelu"], "median of places", ["layer norm of neurons", "threshold"]),
    ],
)
def test_neither_the_sign_of_a_zero_nor_fewer_rivals_are_felt(
    maps: list[str], pool: str, vectors: list[str]
) -> None:
    """What random nets found: a masked 0 may be -0; where neurons compete, fewer can be felt more; what no
    value sent has passed may pass one day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(8):
            torch.manual_seed(seed)
            model = wrapped(Backbone(maps, pool, vectors, 2 + seed))
            assert isinstance(model, str) or not forgets(model, torch.randn(12, CHANNELS, SIZE, SIZE))


def test_a_mean_over_samples_that_are_all_alike_is_off_by_a_rounding() -> None:
    """... for some numbers of samples: what a masked neuron brings is then not 0, but nearly."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        h = F.softplus(self.a(x)) * torch.linspace(0.3, 1.7, 24)
        return self.b(h - h.mean(0, keepdim=True))

    torch.manual_seed(0)
    for samples in (6, 11, 12, 20):
        model = mask_neurons(
            Free(forward, a=nn.Linear(4, 24), b=nn.Linear(24, 4)), example_input=torch.zeros(1, 4)
        )
        assert not forgets(model, torch.randn(samples, 4))


def test_what_is_felt_is_refused_by_name_with_any_weights() -> None:
    """A ReLU often lets nothing of so small a network pass: to hear nothing is not to remember."""
    make, said = REFUSED["rows mixed"]
    for seed in range(60):
        torch.manual_seed(seed)
        with pytest.raises(InputError, match=said):
            mask_neurons(make(), example_input=torch.zeros(1, 4))


@pytest.mark.parametrize("zero", [2, 4])
def test_what_is_felt_is_refused_by_name_in_front_of_a_layer_that_begins_at_0(zero: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(CentredRows(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))
    nn.init.zeros_(net[zero].weight)
    with pytest.raises(InputError, match="feel changes of '0.weight' \\(CentredRows\\)"):
        mask_neurons(net, example_input=torch.zeros(1, 4))
    assert not net[zero].weight.any()


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7])
def test_what_is_felt_is_refused_by_name_however_narrow_the_layer(n: int) -> None:
    """Made-up tasks that take all of its neurons between them would leave nothing that could be felt."""
    for seed in range(10):
        torch.manual_seed(seed)
        net = nn.Sequential(CentredRows(4, n), nn.ReLU(), nn.Linear(n, 6), nn.ReLU(), nn.Linear(6, 4))
        with pytest.raises(InputError, match="feel changes of '0.weight' \\(CentredRows\\)"):
            mask_neurons(net, example_input=torch.zeros(1, 4))


@pytest.mark.parametrize(("n", "depth"), [(2, 1), (2, 3), (3, 1), (4, 3)])
def test_what_is_felt_is_refused_by_name_in_a_branch_that_is_silent_at_first(n: int, depth: int) -> None:
    """The other branch lets the made-up tasks tell samples apart all the time."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        h = x
        for layer in self.branch:
            h = F.relu(layer(h))
        return self.last(F.relu(self.other(x) + h))

    for seed in range(10):
        torch.manual_seed(seed)
        branch = [CentredRows(4, n), *(nn.Linear(n, n) for _ in range(depth)), nn.Linear(n, 8)]
        net = Free(forward, branch=nn.ModuleList(branch), other=nn.Linear(4, 8), last=nn.Linear(8, 5))
        with pytest.raises(InputError, match="feel changes of 'branch.0.weight' \\(CentredRows\\)"):
            mask_neurons(net, example_input=torch.zeros(1, 4))


def test_a_network_whose_features_are_all_alike_is_accepted_with_a_warning() -> None:
    net = Free(lambda s, x: s.b(s.a(x)) * 0, a=nn.Linear(4, 6), b=nn.Linear(6, 4))
    with pytest.warns(UserWarning, match="could not be tried"):
        mask_neurons(net, example_input=torch.zeros(1, 4))
