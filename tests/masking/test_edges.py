"""Own and read: a weight learns once, in the task that owns its neuron; bits say what others are read."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dsn import InputError, ProtectedWeights, grow, mask_neurons
from dsn.backbones import alexnet, lenet, small_cnn
from dsn.baselines.memory import masked_model_memory
from dsn.masking.bits import pack_bits
from dsn.masking.computes import weights_of
from dsn.masking.edges import EDGES
from dsn.masking.records import Lateral
from dsn.masking.state.fingerprint import Fingerprints
from dsn.masking.state.fit import refuse_unfit
from dsn.topology.tasks import task_topology
from dsn.transfer.similarity import similarity
from tests.masking.test_zero_forgetting import random_nets
from tests.nets import NETS, OPTIMIZERS, learn, logits, same

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")
TASKS = 3


def make(net, mode="own_and_read", bias=True, seed=0):
    build, shape = NETS[net]
    torch.manual_seed(seed)
    model = mask_neurons(build(bias), example_input=torch.zeros(1, *shape), edges=mode)
    return model, torch.randn(12, *shape)


def taught(net, mode="own_and_read", bias=True, tasks=TASKS, optimizer="adam"):
    model, x = make(net, mode, bias)
    for task in range(tasks):
        learn(model, x, task, optimizer, planned_tasks=TASKS)
    return model, x


CASES = [
    *itertools.product(NETS, ["own_and_read", "own_and_sign"], [True], OPTIMIZERS),
    *itertools.product(["mlp", "small_cnn", "concatenation"], ["own_and_read", "own"], [False], OPTIMIZERS),
]


@pytest.mark.parametrize(("net", "mode", "bias", "optimizer"), CASES)
def test_earlier_tasks_are_bit_identical(net, mode, bias, optimizer):
    model, x = make(net, mode, bias)
    kept, hashes = {}, []
    for task in range(TASKS):
        learn(model, x, task, optimizer, planned_tasks=TASKS)
        now = logits(model, x)
        assert all(value.isfinite().all() for value in now.values())
        assert same(kept, now)
        assert Fingerprints(model).of(*range(task)) == hashes
        kept, hashes = now, Fingerprints(model).of(*range(task + 1))
    assert not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("net", ["mlp", "small_cnn", "concatenation"])
def test_without_protection_decay_changes_them(net, optimizer):
    model, x = make(net)
    learn(model, x, 0, optimizer, planned_tasks=TASKS)
    before = logits(model, x)
    learn(model, x, 1, optimizer, planned_tasks=TASKS, protect=False)
    assert not same(before, logits(model, x))


@given(net=random_nets(), mode=st.sampled_from(EDGES[1:]), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_random_nets_keep_their_tasks_through_growth_and_copies(net, mode, seed):
    backbone, shape = net
    torch.manual_seed(seed)
    model = mask_neurons(backbone, example_input=torch.zeros(1, *shape), edges=mode)
    x = torch.randn(12, *shape)
    kept = {}
    for task in range(TASKS):
        learn(model, x, task, "adam", planned_tasks=2)
        assert same(kept, now := logits(model, x))
        kept = now
        if seed % 2:
            grow(model, by=2)
            assert same(kept, logits(model, x))
    twin = mask_neurons(copy.deepcopy(model).unmask(), example_input=torch.zeros(1, *shape), edges=mode)
    if not seed % 2:
        twin.load_state_dict(model.state_dict())
        assert same(kept, logits(twin, x))
    assert same(kept, logits(copy.deepcopy(model), x))


@pytest.mark.parametrize("mode", ["own_and_read", "own_and_sign"])
def test_what_a_task_computes_with_edge_by_edge(mode):
    model, _ = make("mlp", mode)
    x = torch.randn(12, 3, 4, 4)
    first = {path: layer.weight.detach().clone() for path, layer in model.layer_modules()}
    chosen, felt = [], []
    for task in range(TASKS):
        model.add_task(3, planned_tasks=TASKS)
        optimizer = torch.optim.SGD(model.task_parameters(task), lr=0.5)
        protected = ProtectedWeights(model)
        model.train()
        F.cross_entropy(model(x, task), torch.randint(0, 3, (12,))).backward()
        felt.append({path: layer.weight.grad.ne(0).any(1) for path, layer in model.layer_modules()})
        with protected:
            optimizer.step()
        scores = {path: edges.scores.detach().clone() for path, edges in model.edges.by_path()}
        half = {
            path: s.abs() >= s.abs().flatten().sort().values[s.numel() // 2] for path, s in scores.items()
        }
        signs = {path: s >= 0 for path, s in scores.items()}
        chosen.append(half if mode == "own_and_read" else signs)
        model.commit(task)
    owner = {path: torch.full((n,), TASKS) for path, n in model.layers.items()}
    for task in reversed(range(TASKS)):
        for path, mask in model.masks(task).items():
            owner[path][mask] = task
    learnt = 0
    for task in range(TASKS):
        found = weights_of(model, task)
        for path, layer in model.layer_modules():
            place, own = 0, 0
            for j, row in enumerate(layer.weight.detach()):
                if owner[path][j] == task:
                    own += 1
                    assert torch.equal(found[f"{path}.weight"][j], row)
                    assert torch.equal(row, first[path][j]) != felt[task][path][j]  # a neuron may be dead
                    learnt += int(felt[task][path][j])
                    continue
                source = row if owner[path][j] < task else first[path][j]
                for i, value in enumerate(source):
                    bit = bool(chosen[task][path][place, i])
                    off = 0 if mode == "own_and_read" else -value
                    assert found[f"{path}.weight"][j, i] == (value if bit else off)
                place += 1
            n = len(layer.weight)
            assert own == round(n * (task + 1) / TASKS) - round(n * task / TASKS)
            assert torch.equal(found[f"{path}.bias"], model.edges.of(path).biases[str(task)])
    assert learnt > sum(model.layers.values()) / 2


@pytest.mark.parametrize(("mode", "gain"), [("own", 2), ("own_and_read", 2), ("own_and_sign", 1)])
def test_initial_values_are_signed_constants_that_the_seed_gives_again(mode, gain):
    model, _ = make("small_cnn", mode)
    other, _ = make("small_cnn", mode, seed=1)
    for path, layer in model.layer_modules():
        size = (gain / layer.weight[0].numel()) ** 0.5
        assert torch.allclose(layer.weight.abs(), torch.tensor(size))
        assert abs(float(layer.weight.detach().sign().mean())) < 0.3
        assert torch.equal(model.edges.initial(path, layer.weight), layer.weight)
        assert not torch.equal(other.layer(path).weight, layer.weight)


def test_a_state_taken_while_a_task_is_learnt_goes_on_there():
    model, x = taught("concatenation", tasks=1)
    model.add_task(3, planned_tasks=TASKS)
    model.train()
    twin, _ = make("concatenation", seed=7)
    twin.load_state_dict(model.state_dict())
    twin.train()
    batch, y = x[:8], torch.arange(8) % 3
    for one in (model, twin):
        protected = ProtectedWeights(one)
        optimizer = torch.optim.SGD(one.task_parameters(1), lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(one(batch, 1), y).backward()
            with protected:
                optimizer.step()
        one.commit(1)
    assert same(logits(model, x), logits(twin, x))


def test_training_on_with_the_committed_mask_changes_own_rows_alone():
    model, x = taught("concatenation", tasks=2)
    before = logits(model, x)
    model.add_task(3, planned_tasks=TASKS)
    model.train()
    model.commit(2, freeze=False)
    bits = {path: edges.bits.get("2").clone() for path, edges in model.edges.by_path() if not edges.whole}
    protected = ProtectedWeights(model, before=2)
    optimizer = torch.optim.SGD(model.task_parameters(2), lr=0.1, momentum=0.9, weight_decay=0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x, 2), torch.arange(12) % 3)
        loss.backward()
        losses.append(float(loss))
        with protected:
            optimizer.step()
    model.freeze(2)
    assert losses[-1] < losses[0]
    assert same(before, logits(model, x))
    assert all(torch.equal(model.edges.of(path).bits.get("2"), kept) for path, kept in bits.items())
    with torch.no_grad():
        model.eval()
        last = F.cross_entropy(model(x, 2), torch.arange(12) % 3)
    assert float(last) != losses[0]  # evaluation sees the trained rows, not those kept ready before


@pytest.mark.parametrize("mode", EDGES[1:])
@pytest.mark.parametrize("net", list(NETS))
def test_the_subnetwork_computes_the_same(net, mode):
    model, x = taught(net, mode, optimizer="adam")
    for task, expected in logits(model, x).items():
        assert torch.allclose(model.subnetwork(task)(x), expected, atol=1e-4)


def test_neurons_without_edges_and_bias_are_cut_away():
    model, x = taught("mlp")
    full = sum(p.numel() for p in model.subnetwork(0).parameters())
    edges = model.edges.of("1")
    read = ~model.masks(0)["1"]
    bits = torch.zeros(int(read.sum()), 48, dtype=torch.bool)
    bits[4:] = True
    edges.bits.put("0", pack_bits(bits.flatten()))
    with torch.no_grad():
        edges.biases["0"][read.nonzero().flatten()[:4]] = 0
    small = model.subnetwork(0)
    assert torch.allclose(small(x), logits(model, x)[0], atol=1e-5)
    assert full - sum(p.numel() for p in small.parameters()) == 4 * (48 + 1 + 20)


@pytest.mark.parametrize("net", ["mlp", "small_cnn", "concatenation"])
def test_task_files_put_tasks_into_another_model_in_the_order_of_learning(tmp_path, net):
    model, x = taught(net)
    before = logits(model, x)
    head = model.heads["0"]
    model.lateral_heads(1).append(
        Lateral(0, torch.tensor(0.5), torch.randn(3, head.in_features), torch.randn(3))
    )
    before = logits(model, x)
    for task in range(TASKS):
        model.save_task(task, tmp_path / f"{task}")
    other, _ = make(net, seed=5)
    with pytest.raises(InputError, match="in the order of learning"):
        other.load_task(tmp_path / "1")
    assert other.tasks == []
    for task in range(TASKS):
        other.load_task(tmp_path / f"{task}")
        assert same(before | logits(other, x), before)
    assert Fingerprints(other).of(*range(TASKS)) == Fingerprints(model).of(*range(TASKS))
    plain = mask_neurons(NETS[net][0](True), example_input=torch.zeros(1, *NETS[net][1]))
    with pytest.raises(InputError, match="edges"):
        plain.load_task(tmp_path / "0")


def test_a_state_with_edges_does_not_fit_a_model_without():
    model, _ = taught("mlp", tasks=1)
    plain = mask_neurons(NETS["mlp"][0](True), example_input=torch.zeros(1, 3, 4, 4))
    with pytest.raises(InputError, match=r"edges\.(seed|signs)"):
        refuse_unfit(plain, model.state_dict())
    with pytest.raises(InputError, match=r"edges\.(seed|signs)"):
        refuse_unfit(model, plain.state_dict())
    refuse_unfit(make("mlp", seed=3)[0], model.state_dict())


def test_bits_that_are_signs_are_read_as_nothing_else(tmp_path):
    """State and task file look alike but for what the bits mean."""
    model, _ = taught("mlp", tasks=1)
    signs, _ = make("mlp", "own_and_sign")
    model.save_task(0, tmp_path / "task")
    with pytest.raises(InputError, match="in another way"):
        refuse_unfit(signs, model.state_dict())
    with pytest.raises(
        InputError, match="its edges are 'own_and_read', those of the model here 'own_and_sign'"
    ):
        signs.load_task(tmp_path / "task")
    assert signs.tasks == []


def test_plastic_edges_and_parameters_are_those_counted_one_by_one():
    model, _ = taught("mlp")
    for task in range(TASKS):
        own = {path: mask & ~model.used(before=task)[path] for path, mask in model.masks(task).items()}
        found = task_topology(model, task)
        for path, layer in model.layer_modules():
            assert found.plastic_edges[path] == int(own[path].sum()) * layer.weight.shape[1]
        maps = model.edges.read(model, task)
        for path, weight in weights_of(model, task).items():
            if path.endswith("weight"):
                assert torch.equal(maps[path.removesuffix(".weight")], weight.ne(0))
        assert found.effective_parameters <= sum(int(m.sum()) for m in maps.values()) + 3 * 20
        assert 0 <= found.frozen_paths <= 1 and 0 < found.free_paths < 1


def test_tasks_that_read_the_same_edges_are_more_alike():
    model, _ = taught("mlp")
    assert similarity(model, 1, 1) == pytest.approx(1)
    before = similarity(model, 0, 1)
    for path, edges in model.edges.by_path():
        mine, theirs = (model.edges.read(model, task)[path] for task in (0, 1))
        read = ~model.masks(0)[path]
        bits = torch.where(theirs.any(1)[:, None], theirs, mine)[read]
        edges.bits.put("0", pack_bits(bits.flatten()))
    assert similarity(model, 0, 1) > before + 0.1


def test_bytes_a_task_are_bits_of_what_it_does_not_own_own_biases_and_small_layers():
    model, _ = taught("small_cnn")
    for task, found in enumerate(masked_model_memory(model).bytes_per_task):
        expected = 4 * (3 * 20 + 3)  # head
        for path, layer in model.layer_modules():
            n, own = len(layer.weight), int((model.masks(task)[path] & ~model.used(before=task)[path]).sum())
            expected += -(-n // 8) + 4 * n * (layer.bias is not None)
            whole = model.edges.of(path).whole
            expected += 4 * layer.weight.numel() if whole else -(-(n - own) * layer.weight[0].numel() // 8)
        norms = sum(t.numel() * t.element_size() for norm in model.norms() for t in norm.of(task).buffers())
        norms += sum(p.numel() * 4 for norm in model.norms() for p in norm.of(task).parameters())
        assert found == expected + norms


def test_bad_settings_are_refused_by_name():
    with pytest.raises(InputError, match="edges is 'read'"):
        make("mlp", "read")
    model, _ = make("mlp")
    with pytest.raises(InputError, match="planned_tasks"):
        model.add_task(3)
    with pytest.raises(InputError, match="budget"):
        model.add_task(3, planned_tasks=2, budget=0.5)
    with pytest.raises(InputError, match="at least 1"):
        model.add_task(3, planned_tasks=0)
    assert model.tasks == []


def test_a_first_convolution_is_a_tasks_own_at_any_width_and_a_stored_model_says_which_are():
    x = torch.zeros(1, 3, 32, 32)
    for net in (*(small_cnn(width=width) for width in (16, 24, 48)), lenet(), alexnet()):
        model = mask_neurons(net, example_input=x, edges="own_and_read", rehearse=False)
        first, *others = [edges.whole for _, edges in model.edges.by_path()]
        assert first and not any(others)
    model, x = taught("small_cnn")
    path = next(path for path, edges in model.edges.by_path() if edges.whole)
    logits = model.eval()(x, 0)
    other, _ = make("small_cnn")
    other.edges.of(path).whole = False  # as an older version chose
    other.load_state_dict(model.state_dict())
    assert other.edges.of(path).whole and torch.equal(other.eval()(x, 0), logits)
