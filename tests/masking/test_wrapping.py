"""What is found, what is refused, and that wrapping can be undone, copied and saved."""

import copy

import pytest
import torch
from torch import Tensor, nn

from dsn import InputError, backbones, mask_neurons
from dsn.masking.reach import coupled_layers, live_inputs
from dsn.masking.records import Lateral
from tests.nets import NETS, learn, logits, make, same


class Free(nn.Module):
    """A network whose forward is given."""

    def __init__(self, forward, **modules: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


REFUSED = {
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Flatten()),
        (4, 2, 2),
        "no Linear, Conv1d or Conv2d layer without groups",
    ),
    "tied": (tied, (4,), "'0.weight' and '2.weight' are one"),
    "unreached": (lambda: Free(lambda s, x: s.a(x), a=nn.Linear(4, 4), aux=nn.Linear(4, 2)), (4,), "'aux'"),
    "images out": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1)),
        (3, 4, 4),
        r"shape \(1, 4, 4, 4\), not features",
    ),
    "wrong input": (lambda: nn.Sequential(nn.Linear(5, 4)), (4,), "does not run on the example input"),
    "nothing to mask": (lambda: nn.Sequential(nn.Flatten()), (4,), "no Linear"),
    "single layer": (lambda: nn.Linear(4, 4), (4,), "single Linear"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), (4,), "is lazy"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_masked_is_refused_by_name(case: str) -> None:
    build, shape, message = REFUSED[case]
    backbone = build()
    kinds = [type(module) for module in backbone.modules()]
    with pytest.raises(InputError, match=message):
        mask_neurons(backbone, example_input=torch.zeros(1, *shape))
    assert [type(module) for module in backbone.modules()] == kinds  # the backbone is handed back as it was


def test_heads_are_found_by_path() -> None:
    net, head = backbones.torchvision_model("resnet18")
    assert head == "fc"
    model = mask_neurons(net, head=head, example_input=torch.zeros(1, 3, 64, 64))
    assert len(model.layers) == 20
    model.add_task(10)
    assert model.heads["0"].in_features == 512
    with pytest.raises(InputError, match="not in the backbone.*'0'"):
        mask_neurons(nn.Sequential(nn.Linear(3, 2)), head="fc", example_input=torch.zeros(1, 3))
    with pytest.raises(InputError, match="is a ReLU"):
        mask_neurons(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), head="1", example_input=torch.zeros(1, 3))


@pytest.mark.parametrize("name", ["vgg11_bn", "alexnet", "densenet121", "no_such_net"])
def test_torchvision_models(name: str) -> None:
    if name == "no_such_net":
        with pytest.raises(InputError, match="no model 'no_such_net'"):
            backbones.torchvision_model(name)
        return
    net, head = backbones.torchvision_model(name)
    mask_neurons(net, head=head, example_input=torch.zeros(1, 3, 64, 64)).add_task(2)


def test_live_inputs_are_those_that_matter() -> None:
    """Against brute force: changing weights from dead inputs changes nothing, from any live one something."""
    model, x = make("concatenation")
    learn(model, x, 0)
    masks = model.masks(0)
    live, _ = live_inputs(model, masks)
    assert torch.equal(live["left"], torch.ones(3, dtype=torch.bool))
    assert torch.equal(live["joint"], torch.cat([masks["left"], masks["right"]]))
    assert torch.equal(live["last"], masks["joint"].repeat_interleave(9))
    before = logits(model, x)
    for path, layer in model.layer_modules():
        layer.weight.data[:, ~live[path]] += 1.0
        layer.weight.data[~masks[path]] += 1.0
    assert same(before, logits(model, x))
    model.layer("joint").weight.data[:, live["joint"]] += 1.0
    assert not same(before, logits(model, x))


def test_layers_that_meet_in_a_sum_are_coupled() -> None:
    model, _ = make("resnet18")
    groups = coupled_layers(model)
    assert ["conv1", "blocks.0.conv2", "blocks.1.conv2"] in groups
    assert ["blocks.2.conv2", "blocks.2.shortcut.0", "blocks.3.conv2"] in groups
    assert ["blocks.0.conv1"] in groups
    assert sorted(p for group in groups for p in group) == sorted(model.layers)


@pytest.mark.parametrize("net", NETS)
def test_unmask_gives_the_backbone_back(net: str) -> None:
    build, shape = NETS[net]
    torch.manual_seed(0)
    backbone = build(True).eval()
    x = torch.randn(4, *shape)
    before, keys = backbone(x), list(backbone.state_dict())
    model = mask_neurons(backbone, example_input=torch.zeros(1, *shape))
    back = model.unmask()
    assert back is backbone
    assert list(back.state_dict()) == keys
    assert torch.equal(back(x), before)
    assert all(p.requires_grad for p in back.parameters())


def test_unmask_after_training_computes_without_gates() -> None:
    model, x = make("mlp")
    learn(model, x, 0)
    backbone = model.unmask()
    h = x.flatten(1)
    for layer in (backbone[1], backbone[3]):
        h = torch.relu(layer(h))
    assert torch.equal(backbone(x), h)


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("net", NETS)
def test_copies_and_state_dicts_compute_the_same(net: str) -> None:
    model, x = make(net)
    learn(model, x, 0)
    learn(model, x, 4)
    before = logits(model, x)

    twin = copy.deepcopy(model)
    loaded, _ = make(net)
    loaded.load_state_dict(model.state_dict())
    assert same(before, logits(twin, x))
    assert same(before, logits(loaded, x))
    assert loaded.tasks == loaded.committed == [0, 4]

    for other in (twin, loaded):  # they are models of their own, as well protected
        learn(other, x, 5)
        assert same(before, logits(other, x))
        assert not all(
            torch.equal(other.layer(path).weight, model.layer(path).weight) for path in model.layers
        )
    assert same(before, logits(model, x))
    assert model.tasks == [0, 4]


def test_a_model_can_be_copied_right_after_a_commit() -> None:
    model, x = make("mlp")
    learn(model, x, 0)
    twin = copy.deepcopy(model)  # fails where a gate still holds values with a graph
    assert same(logits(model, x), logits(twin, x))


def test_state_while_learning_is_loaded_too() -> None:
    model, x = make("mlp")
    learn(model, x, 0)
    model.add_task(3)
    loaded, _ = make("mlp")
    loaded.load_state_dict(model.state_dict())
    assert loaded.learning == 1
    for one, other in zip(model.gates_by_path.values(), loaded.gates_by_path.values(), strict=True):
        assert torch.equal(one.logits, other.logits)
        assert torch.equal(one.free, other.free)


def test_moving_takes_everything_along() -> None:
    model, x = make("resnet18")
    learn(model, x, 0)
    model.add_task(2)
    model.to("meta")
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}


def test_half_precision_models_work() -> None:
    net = backbones.mlp(8, (6,)).to(torch.bfloat16)
    model = mask_neurons(net, example_input=torch.zeros(1, 8, dtype=torch.bfloat16))
    x = torch.randn(12, 8, dtype=torch.bfloat16)
    learn(model, x, 0)
    before = logits(model, x)
    learn(model, x, 1)
    assert before[0].dtype == torch.bfloat16
    assert same(before, logits(model, x))


def test_records_and_laterals_are_part_of_the_state() -> None:
    model, x = make("mlp")
    learn(model, x, 0)
    learn(model, x, 1)
    before = logits(model, x)
    model.record(0).put("accuracy", torch.tensor([0.5, 0.25, 1.0]))
    lateral = Lateral(1, torch.tensor(0.5), torch.randn(3, 20), torch.randn(3))
    model.lateral_heads(0).append(lateral)
    after = logits(model, x)
    expected = 0.5 * before[0] + model.features(x, 1) @ lateral.weight.T + lateral.bias
    assert torch.allclose(after[0], expected, atol=1e-6)
    assert torch.equal(after[1], before[1])

    loaded, _ = make("mlp")
    loaded.load_state_dict(model.state_dict())
    assert same(after, logits(loaded, x))
    assert torch.equal(loaded.record(0).get("accuracy"), torch.tensor([0.5, 0.25, 1.0]))
    assert loaded.record(1).get("accuracy") is None


def test_a_refused_backbone_keeps_its_head() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4), nn.Linear(4, 2))
    with pytest.raises(InputError, match="lazy"):
        mask_neurons(net, head="2", example_input=torch.zeros(1, 4))
    assert isinstance(net[2], nn.Linear)
