"""Attention heads as units: whole heads are selected, within limits, and earlier tasks stay bit-equal."""

from collections.abc import Callable

import pytest
import torch
import yaml
from torch import Tensor, nn

from benchmarks.census.outputs import Encoder
from dsn import InputError, MaskedModel, backbones, mask_neurons
from dsn.cli.main import main
from dsn.experiment.result.files import load_model
from dsn.masking.initial import start_task
from dsn.masking.protection import ProtectedWeights
from tests.nets import learn, logits, same

SHAPE, HEADS, SIZE = torch.Size([3, 16, 16]), 3, 4


def encoder() -> nn.Module:
    return Encoder(48, HEADS * SIZE, HEADS, 16, 1)


NETS: dict[str, Callable[[], nn.Module]] = {
    "in three layers": encoder,
    "in one layer": lambda: backbones.vit(3, 16, dim=HEADS * SIZE, depth=1, heads=HEADS),
}


def wrapped(net: str, attention: str = "heads") -> MaskedModel:
    torch.manual_seed(0)
    return mask_neurons(NETS[net](), example_input=torch.zeros(1, *SHAPE), attention=attention)


def heads_of(model: MaskedModel, masks: dict[str, Tensor]) -> Tensor:
    """Bool [layers or parts of one, heads, rows of a head]."""
    tied = [masks[path] for path, gate in model.gates_by_path.items() if gate.heads]
    return torch.cat([mask.view(-1, HEADS, SIZE) for mask in tied])


@pytest.mark.parametrize("net", NETS)
def test_a_task_has_whole_heads_the_same_ones_of_q_k_and_v(net: str) -> None:
    model, x = wrapped(net), torch.randn(6, *SHAPE)
    for task in range(4):
        before = logits(model, x)
        learn(model, x, task)
        found = heads_of(model, model.masks(task))
        assert found.shape == (3, HEADS, SIZE)
        assert torch.equal(found, found[:1, :, :1].expand_as(found)) and found.any()
        assert same(before, logits(model, x))


@pytest.mark.parametrize("net", NETS)
def test_rows_are_free_to_differ_without_it(net: str) -> None:
    model = wrapped(net, "rows")
    assert not any(gate.heads for gate in model.gates_by_path.values())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("budget", "most"), [(0.1, 1), (0.4, 1), (0.6, 2), (0.99, 3)])
def test_a_budget_counts_heads(net: str, budget: float, most: int) -> None:
    model = wrapped(net)
    model.add_task(2, budget=budget, logit_mean=2.0, logit_std=0.1)
    model.commit(0)
    assert int(heads_of(model, model.masks(0))[0, :, 0].sum()) == most


@pytest.mark.parametrize("net", NETS)
def test_a_plan_leaves_heads_to_later_tasks(net: str) -> None:
    model = wrapped(net)
    used = []
    for task in range(3):
        model.add_task(2, planned_tasks=3)
        model.commit(task)
        used.append(int(heads_of(model, model.used())[0, :, 0].sum()))
    assert used[0] < HEADS and used == sorted(used)


def test_soft_gates_of_a_head_are_one_number_and_learn_from_all_its_rows() -> None:
    model, x = wrapped("in three layers"), torch.randn(4, *SHAPE)
    model.add_task(2)
    model.train().anneal(0.0)
    model(x, 0).square().sum().backward()
    q, k = (model.gates_by_path[f"layers.layers.0.self_attn.{name}"] for name in ("q_proj", "k_proj"))
    for gate in (q, k):
        values = gate.values.view(HEADS, SIZE)
        assert torch.equal(values, values[:, :1].expand_as(values))
    assert q.logits.grad.view(HEADS, SIZE)[:, 0].ne(0).all()
    assert q.logits.grad.view(HEADS, SIZE)[:, 1:].eq(0).all() and k.logits.grad is None


def test_a_state_goes_on_amid_a_task() -> None:
    model, other = wrapped("in one layer"), wrapped("in one layer")
    model.add_task(2)
    other.load_state_dict(model.state_dict())
    for one in (model, other):
        one.commit(0)
    assert torch.equal(heads_of(model, model.masks(0)), heads_of(other, other.masks(0)))
    assert same(logits(model, torch.ones(2, *SHAPE)), logits(other, torch.ones(2, *SHAPE)))


@pytest.mark.parametrize(
    ("net", "options", "said"),
    [
        (lambda: backbones.small_cnn(3, 16), {}, "no module of the backbone has num_heads"),
        (encoder, {"edges": "own_and_read"}, "weight by weight"),
        (encoder, {"pretrained": True}, "all heads of a pretrained backbone are open"),
        (encoder, {"attention": "head"}, "choose one of rows, heads"),
    ],
)
def test_what_heads_do_not_go_with(net: Callable[[], nn.Module], options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        mask_neurons(net(), example_input=torch.zeros(1, *SHAPE), **{"attention": "heads"} | options)


def test_widths_chosen_before_are_of_single_rows() -> None:
    model = wrapped("in one layer")
    model.add_task(2)
    with pytest.raises(InputError, match="leave one out"):
        start_task(model, ProtectedWeights(model), choice="widths")


def test_a_run_whose_config_asks_for_heads_selects_them(tmp_path) -> None:
    config = {
        "stream": {"name": "split_digits", "tasks": 2, "train_per_class": 10, "flatten": False},
        "backbone": {"name": "vit", "patch": 4, "dim": HEADS * SIZE, "depth": 1, "heads": HEADS},
        "train": {"epochs": 1},
        "selection": {"attention": "heads"},
        "transfer": {"tasks": 0, "forward": 0},
    }
    (tmp_path / "heads.yaml").write_text(yaml.safe_dump(config))
    assert main(["run", str(tmp_path / "heads.yaml"), "--out", str(tmp_path / "run")]) == 0
    model, _, _ = load_model(tmp_path / "run")
    for task in (0, 1):
        found = heads_of(model, model.masks(task))
        assert torch.equal(found, found[:1, :, :1].expand_as(found))
