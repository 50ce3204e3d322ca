"""A task in a file of its own: the same logits in any model of the backbone, or a refusal by name."""

import pytest
import torch

from dsn import InputError, backbones, mask_neurons
from dsn.masking.records import Lateral
from tests.nets import NETS, learn, logits, make, same

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


def fresh(net, seed=5, bias=True):
    build, shape = NETS[net]
    torch.manual_seed(seed)
    return mask_neurons(build(bias), example_input=torch.zeros(1, *shape))


def taught(net, tasks=2, bias=True):
    model, x = make(net, bias)
    for task in range(tasks):
        learn(model, x, task)
    return model, x


@pytest.mark.parametrize("net", ["mlp", "small_cnn", "concatenation"])
def test_a_loaded_task_has_the_same_logits_bit_for_bit(tmp_path, net):
    model, x = taught(net, bias=net != "small_cnn")
    head = model.heads["0"]
    read = [torch.tensor(0.5), torch.randn(3, head.in_features), torch.randn(3)]
    model.lateral_heads(1).append(Lateral(0, *read))
    before = logits(model, x)
    for task in (0, 1):
        model.save_task(task, tmp_path / f"task{task}")
    other = fresh(net, bias=net != "small_cnn")
    drawn = torch.get_rng_state()
    with pytest.raises(InputError, match="reads from task 0, which is not here"):
        other.load_task(tmp_path / "task1")
    assert other.tasks == []
    assert [other.load_task(tmp_path / f"task{task}") for task in (0, 1)] == [0, 1]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert same(logits(other, x), before)
    assert all(torch.equal(other.masks(t)[p], m) for t in (0, 1) for p, m in model.masks(t).items())
    learn(other, x, 2)  # and they are protected as ever
    assert same({t: v for t, v in logits(other, x).items() if t < 2}, before)


def test_a_task_that_would_change_another_is_refused_and_changes_nothing(tmp_path):
    model, x = taught("mlp", tasks=1)
    model.save_task(0, tmp_path / "task")
    other = fresh("mlp")
    learn(other, x, 0)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(
        InputError, match=r"task: the weight of layer '1' from input \d+ to neuron \d+ differs"
    ):
        other.load_task(tmp_path / "task", task=7)
    with pytest.raises(InputError, match="task 0 is there already"):
        other.load_task(tmp_path / "task")
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert model.load_task(tmp_path / "task", task=7) == 7  # its own weights are no others
    assert torch.equal(logits(model, x)[7], logits(model, x)[0])


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: backbones.mlp(48, (30, 21)), "layer '3' has 20 neurons there, 21 here"),
        (lambda: backbones.mlp(48, (30,)), "layers is"),
        (lambda: backbones.mlp(48, (30, 20), False), "layer '1' has a bias there"),
        (lambda: backbones.mlp(48, (30, 20)).double(), "type of weights is torch.float32 there"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_first_difference(tmp_path, other, named):
    model, _ = taught("mlp", tasks=1)
    model.save_task(0, tmp_path / "task")
    net = other()
    example = torch.zeros(1, 3, 4, 4, dtype=next(net.parameters()).dtype)
    with pytest.raises(InputError, match=named):
        mask_neurons(net, example_input=example).load_task(tmp_path / "task")


def test_a_damaged_file_or_one_of_another_kind_is_refused(tmp_path):
    model, _ = taught("mlp", tasks=1)
    model.save_task(0, tmp_path / "task")
    content = bytearray((tmp_path / "task").read_bytes())
    content[-5] ^= 1
    (tmp_path / "task").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        fresh("mlp").load_task(tmp_path / "task")
    with pytest.raises(InputError, match="no such file"):
        fresh("mlp").load_task(tmp_path / "none")
