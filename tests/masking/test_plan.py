import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dsn import InputError, backbones, mask_neurons
from dsn.masking.gates import within_budget
from dsn.masking.initial import edges, fans_of
from dsn.masking.plan import always_live, fresh_neurons, planned_widths
from dsn.masking.reach import needed_inputs
from tests.masking.test_wrapping import Free
from tests.nets import NETS, learn, logits, make, same

PLAN = 3


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.integers(1, 5), st.integers(1, 20))
def test_tasks_get_even_shares_of_the_edges(sizes: list[int], inputs: int, tasks: int) -> None:
    """No layer rounded up or down can be closer to the share that is planned."""
    widths = {str(i): n for i, n in enumerate(sizes)}
    fans = {path: float(inputs) for path in widths}
    before = dict.fromkeys(widths, 0)
    for task in range(tasks):
        planned = planned_widths(widths, fans, task, tasks)
        wanted = edges(widths, fans) * (task + 1) / tasks
        lower = {path: max(n - 1, 0) for path, n in planned.items()}
        upper = {path: n + 1 for path, n in planned.items()}
        assert edges(lower, fans) <= wanted <= edges(upper, fans)
        assert all(before[path] <= n <= widths[path] for path, n in planned.items())
        before = planned
    assert before == widths


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("net", NETS)
def test_a_plan_holds_and_nothing_is_forgotten(net: str) -> None:
    model, x = make(net)
    before: dict[int, torch.Tensor] = {}
    for task in range(PLAN):
        planned = planned_widths(model.layers, fans_of(model), task, PLAN, always_live(model))
        room = fresh_neurons(model, PLAN)
        learn(model, x, task, planned_tasks=PLAN)
        used = model.used()
        for path, mask in model.masks(task).items():
            fresh = int((mask & ~model.used(before=task)[path]).sum())
            # a layer in which a task would have no neuron gets its best one
            assert fresh <= room[path] or int(mask.sum()) == 1
            assert int(used[path].sum()) <= planned[path] + task + 1
        assert same(before, logits(model, x))
        before = logits(model, x)


def prenorm() -> nn.Module:
    """Residual blocks behind free norms: every input of ``up`` is live whatever is masked."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        h = s.embed(x)
        for up, down, norm in ((s.up1, s.down1, s.norm1), (s.up2, s.down2, s.norm2)):
            h = h + down(torch.relu(up(norm(h))))
        return h

    return Free(
        forward,
        embed=nn.Linear(8, 60),
        **{f"up{i}": nn.Linear(60, 90) for i in (1, 2)},
        **{f"down{i}": nn.Linear(90, 60) for i in (1, 2)},
        **{f"norm{i}": nn.LayerNorm(60) for i in (1, 2)},
    )


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("build", [prenorm, lambda: nn.Sequential(backbones.mlp(8, (90, 90, 90)))])
def test_tasks_keep_even_shares_of_the_weights_also_where_inputs_are_always_live(build) -> None:
    torch.manual_seed(0)
    model = mask_neurons(build(), example_input=torch.zeros(1, 8))
    for task in range(3):
        model.add_task(2, task, planned_tasks=3)
        model.commit(task)
        needed, kept, total = needed_inputs(model), 0, 0
        for path, layer in model.layer_modules():
            kept += int(model.used()[path].sum()) * int(needed[path].sum())
            total += layer.weight.numel()
        assert abs(kept / total - (task + 1) / 3) < 0.02


def test_without_a_plan_more_is_taken() -> None:
    """What the plan's limits are held against: the same network without them."""
    model, x = make("mlp")
    room = fresh_neurons(model, 30)
    learn(model, x, 0)
    assert any(int(mask.sum()) > room[path] for path, mask in model.masks(0).items())


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 2**16))
@settings(deadline=None)
def test_a_limit_among_some_leaves_the_others_alone(n: int, budget: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, generator=generator)
    among = (torch.rand(n, generator=generator) > 0.4).float()
    limited = within_budget(logits, budget, among)
    assert torch.equal(limited[among == 0], logits[among == 0])
    counted = limited[among > 0]
    assert int((counted > 0).sum()) == min(budget, int((logits[among > 0] > 0).sum()))
    assert torch.equal(counted.argsort(), logits[among > 0].argsort())


def test_a_task_starts_with_the_neurons_that_the_plan_gives_it() -> None:
    model, x = make("small_cnn")
    learn(model, x, 0, planned_tasks=PLAN)
    room, used = fresh_neurons(model, PLAN), model.used()
    model.add_task(2, planned_tasks=PLAN)
    for path, gate in model.gates_by_path.items():
        opened = gate.may_open()
        assert int((opened & ~used[path]).sum()) == room[path]
        assert bool(opened[used[path]].all())


def test_bad_plans_are_refused() -> None:
    model, _ = make("mlp")
    with pytest.raises(InputError, match="planned_tasks is 0: plan for at least 1 task"):
        model.add_task(2, planned_tasks=0)
    assert model.tasks == []
