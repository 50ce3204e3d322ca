import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsn import InputError, mask_neurons, sparsity
from dsn.masking.annealing import annealed_sigmoid
from dsn.masking.bits import pack_bits, unpack_bits
from dsn.masking.gates import within_budget
from tests.nets import learn, make


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_bits_are_numpys(mask: list[bool]) -> None:
    packed = pack_bits(torch.tensor(mask))
    assert packed.tolist() == np.packbits(np.array(mask)).tolist()
    assert unpack_bits(packed, len(mask)).tolist() == mask


@given(st.floats(-6, 6), st.floats(1 / 400, 400), st.sampled_from([50.0, 400.0]))
def test_gradient_is_hats(logit: float, scale: float, s_max: float) -> None:
    """The closed form against the paper's two steps: d sigma(s e)/de, then the compensation."""
    fast = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    annealed_sigmoid(fast, scale, s_max).sum().backward()
    e = fast.detach()
    slope = (
        scale * torch.sigmoid(scale * e) * torch.sigmoid(-scale * e)
    )  # of sigma(s e), without cancellation
    factor = s_max / scale * (torch.cosh((scale * e).clamp(-50, 50)) + 1) / (torch.cosh(e) + 1)
    assert torch.allclose(fast.grad, slope * factor, rtol=1e-9, atol=1e-280)  # sigma(-s e) underflows


@given(st.lists(st.floats(-6, 6), min_size=2, max_size=40, unique=True), st.integers(1, 40))
def test_budget_keeps_the_best(values: list[float], budget: int) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    chosen = within_budget(logits, budget) > 0
    positive = int((logits > 0).sum())
    assert int(chosen.sum()) == min(budget, positive)
    if chosen.any():
        assert logits[chosen].min() >= logits[(logits > 0) & ~chosen].max() if positive > budget else True


@given(
    st.lists(st.floats(-6, 6) | st.sampled_from([-6.0, 0.0, 6.0]), min_size=1, max_size=40),
    st.integers(0, 41),
    st.integers(0, 41),
    st.integers(0, 2**40 - 1),
)
def test_limits_leave_no_gate_half_open(values: list[float], fresh: int, budget: int, free: int) -> None:
    """Ties and clamped logits included; both limits, as a task with a plan and a budget has them."""
    logits = torch.tensor(values, requires_grad=True)
    among = torch.tensor([float(free >> i & 1) for i in range(len(values))])
    once = within_budget(logits, fresh, among)
    both = within_budget(once, budget)
    for limited, limit, before, counted in (
        (once, fresh, logits, among > 0),
        (both, budget, once, among >= 0),
    ):
        was_open = (before > 0) & counted
        now_open = (limited > 0) & counted
        assert int(now_open.sum()) == min(limit, int(was_open.sum()))
        if limit < int(was_open.sum()):
            gates = torch.sigmoid(400 * limited[counted])
            assert ((gates < 0.001) | (gates > 0.999)).all()
        if limit >= int((before[counted] > -0.05).sum()):
            assert torch.equal(limited, before)
    both.sum().backward()
    assert torch.equal(logits.grad, torch.ones_like(logits))


@pytest.mark.parametrize(
    "limits", [{"planned_tasks": 4}, {"budget": 0.3}, {"planned_tasks": 3, "budget": 0.4}]
)
@pytest.mark.parametrize("start", ["drawn", "clamped"])
def test_what_is_open_at_the_end_of_annealing_is_committed(limits: dict[str, float], start: str) -> None:
    model, x = make("small_cnn")
    learn(model, x, 0, planned_tasks=4)
    model.add_task(3, 1, **limits)
    if start == "clamped":
        for logits in model.gate_logits():
            torch.nn.init.constant_(logits, 6.0)
    model.train().anneal(1.0)
    model(x, 1)
    gates = {path: gate.values.detach().clone() for path, gate in model.gates_by_path.items()}
    for path, mask in model.commit(1).items():
        assert torch.equal(gates[path] >= 0.5, mask)


@pytest.mark.parametrize("progress", [0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("net", ["mlp", "alexnet", "resnet18"])
def test_no_gate_and_no_gradient_of_a_weight_is_denormal(net: str, progress: float) -> None:
    """A CPU multiplies such numbers a hundred times more slowly."""
    model, x = make(net)
    model.add_task(3)
    for gate in model.gates_by_path.values():
        gate.logits.data = torch.linspace(-6, 6, gate.n)
    model.train().anneal(progress)
    torch.nn.functional.cross_entropy(model(x, 0), torch.arange(len(x)) % 3).backward()
    weights = [layer.weight.grad for _, layer in model.layer_modules()]
    for values in [*weights, *(gate.values.detach() for gate in model.gates_by_path.values())]:
        assert not ((values != 0) & (values.abs() < torch.finfo(values.dtype).tiny)).any()


def test_a_closed_gate_is_exactly_0_and_can_open_again() -> None:
    logits = torch.tensor([-6.0, -0.0689, 6.0], requires_grad=True)  # sigma(-0.0689 * 400) = 1.1e-12
    gates = annealed_sigmoid(logits, 400.0, 400.0)
    assert gates[0] == 0 and 1e-12 < gates[1] < 1.2e-12 and gates[2] == 1
    (gradient,) = torch.autograd.grad(gates.sum(), logits)
    slope = 400 / 2 / (torch.cosh(logits.detach()) + 1)
    slope[[0, 2]] *= torch.exp(torch.tensor(50.0 - 2400.0))
    assert torch.allclose(gradient, slope, rtol=1e-6)
    (gradient,) = torch.autograd.grad(annealed_sigmoid(logits, 8.0, 400.0)[0], logits)
    assert annealed_sigmoid(logits, 8.0, 400.0)[0] == 0
    assert gradient[0].item() == pytest.approx(200 / (np.cosh(6.0) + 1), rel=1e-6)


def test_sparsity_is_the_share_of_free_neurons_taken() -> None:
    model, x = make("mlp")
    learn(model, x, 0)
    model.add_task(3, 1)
    model.anneal(1.0)
    used = model.used()
    taken = free = 0.0
    for path, gate in model.gates_by_path.items():
        for neuron in range(gate.n):  # the equation of METHOD.md, section 1, one term at a time
            price = 1.0 - float(used[path][neuron])
            taken += float(torch.sigmoid(400.0 * gate.logits.detach()[neuron])) * price
            free += price
    assert 0 < free < sum(model.layers.values())
    assert sparsity(model, 1).item() == pytest.approx(taken / free, rel=1e-5)
    model.anneal(0.0)  # gates beyond |s e| = 50 hardly move
    sparsity(model, 1).backward()
    for path, gate in model.gates_by_path.items():
        assert (gate.logits.grad[used[path]] == 0).all()  # reuse is free of charge
        assert (gate.logits.grad[~used[path]] > 0).all()


@pytest.mark.parametrize("net", ["mlp", "alexnet", "resnet18"])
def test_gates_and_price_share_one_slope(net: str) -> None:
    """Both from one forward pass against a twin: the two gradients taken apart and added."""
    model, x = make(net)
    learn(model, x, 0)
    model.add_task(3, 1)
    model.train().anneal(0.3)

    def gradients(*, gates: bool, price: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)  # dropout
        terms = [model(x, 1).square().sum()] if gates else []
        terms += [0.75 * sparsity(model, 1)] if price else []
        return list(torch.autograd.grad(sum(terms), model.gate_logits()))

    together = gradients(gates=True, price=True)
    apart = zip(gradients(gates=True, price=False), gradients(gates=False, price=True), strict=True)
    assert all(torch.equal(one, a + b) for one, (a, b) in zip(together, apart, strict=True))


def test_the_price_is_never_that_of_older_gates() -> None:
    model, x = make("mlp")
    model.add_task(3)
    model.train().anneal(0.5)
    model(x, 0)
    with torch.no_grad():
        for logits in model.gate_logits():
            logits.fill_(-6.0)
    assert sparsity(model, 0) < 1e-3
    model(x, 0)
    model.anneal(0.0)
    assert sparsity(model, 0) > 0.4
    model(x, 0)
    model.commit(0)
    model.add_task(3, 1)
    assert 0.4 < sparsity(model, 1) < 0.6  # fresh logits


def test_soft_while_training_bits_otherwise() -> None:
    model, x = make("small_cnn")
    model.add_task(3)
    model.anneal(0.0)
    model.train()
    model(x, 0)
    assert all(torch.allclose(g.values, torch.tensor(0.5), atol=0.01) for g in model.gates_by_path.values())
    model.eval()
    model(x, 0)
    selected = {path: g.values.bool() for path, g in model.gates_by_path.items()}
    assert all(g.values.eq(g.values.bool()).all() for g in model.gates_by_path.values())
    model.commit(0)
    assert all(torch.equal(mask, selected[path]) for path, mask in model.masks(0).items())


def test_a_mask_takes_an_eighth_of_a_byte_a_neuron() -> None:
    model, x = make("small_cnn")
    for task in range(3):
        learn(model, x, task)
    for path, gate in model.gates_by_path.items():
        stored = model.state_dict()[f"gates.{path.replace('.', '/')}.masks"]
        assert stored.dtype == torch.uint8
        assert stored.shape == (3, -(-gate.n // 8))


def test_budget_bounds_every_layer_and_can_name_one() -> None:
    model, x = make("mlp")
    model.add_task(3, budget={"1": 0.2})
    for gate in model.gates_by_path.values():
        torch.nn.init.uniform_(gate.logits, 0.5, 1.0)
    masks = model.commit(0)
    assert int(masks["1"].sum()) == 6
    assert int(masks["3"].sum()) == 20
    with pytest.raises(InputError, match="budget names"):
        model.add_task(3, budget={"nowhere": 0.5})
    with pytest.raises(InputError, match="share in"):
        model.add_task(3, budget=1.5)


def test_a_task_that_closes_every_gate_keeps_one_neuron_a_layer() -> None:
    model, x = make("mlp")
    model.add_task(3)
    for gate in model.gates_by_path.values():
        torch.nn.init.uniform_(gate.logits, -2.0, -1.0)
    assert [int(mask.sum()) for mask in model.commit(0).values()] == [1, 1]


def test_full_layers_warn_by_name_and_the_task_still_learns() -> None:
    model, x = make("mlp")
    model.add_task(3)
    torch.nn.init.constant_(model.gates_by_path["1"].logits, 1.0)
    model.commit(0)
    with pytest.warns(UserWarning, match="no free neuron is left in 1;"):
        model.add_task(3)
    before = [p.detach().clone() for p in model.heads["1"].parameters()]
    model.commit(1, freeze=False)
    loss = torch.nn.functional.cross_entropy(model(x, 1), torch.randint(0, 3, (len(x),)))
    loss.backward()
    torch.optim.SGD(model.own_parameters(1), lr=0.1).step()
    assert not torch.equal(before[0], model.heads["1"].weight)


def test_tasks_come_one_at_a_time() -> None:
    model = mask_neurons(torch.nn.Sequential(torch.nn.Linear(4, 5)), example_input=torch.zeros(1, 4))
    with pytest.raises(InputError, match="unknown"):
        model(torch.zeros(1, 4), 0)
    model.add_task(2, task=7)
    with pytest.raises(InputError, match="still being learnt"):
        model.add_task(2)
    with pytest.raises(InputError, match="not being learnt"):
        model.commit(3)
    model.commit(7)
    with pytest.raises(InputError, match="exists already"):
        model.add_task(2, task=7)
    assert model.add_task(2) == 8
    with pytest.raises(InputError, match="no committed mask"):
        model.masks(8)
