"""The strategy inside Avalanche: its own bookkeeping against Avalanche's, and what it refuses."""

import contextlib
import io
import warnings

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin, LRSchedulerPlugin, ReplayPlugin
from avalanche.training.plugins.early_stopping import EarlyStoppingPlugin
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks import split_digits
from dsn import DSN, InputError, MaskedModel, backbones, mask_neurons
from dsn.training.loader import TensorLoader, read_samples
from tests.nets import logits, same
from tests.training.flat import dsn


@pytest.fixture(scope="module")
def stream():
    return split_digits.build(split_digits.SplitDigitsConfig(tasks=3, validation=0.2, train_per_class=40), 0)


def strategy(**settings) -> DSN:
    torch.manual_seed(0)
    model = settings.pop("model", None)
    if model is None:
        model = mask_neurons(backbones.mlp(64, (40, 30)), example_input=torch.zeros(1, 64))
    settings = {"train_epochs": 3, "evaluator": None, **settings}
    optimizer = settings.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return dsn(model=model, optimizer=optimizer, **settings)


@torch.no_grad()
def accuracy(model: MaskedModel, experience, task: int) -> float:
    x, y = read_samples(experience.dataset)
    model.eval()
    return float((model(x, task).argmax(1) == y).double().mean())


def test_a_plain_avalanche_script(stream) -> None:
    """EvaluationPlugin, a logger and two stock plugins; Avalanche's accuracies are the model's own."""
    log = io.StringIO()
    evaluator = EvaluationPlugin(
        accuracy_metrics(epoch=True, experience=True),
        loss_metrics(experience=True),
        loggers=[TextLogger(log)],
    )
    torch.manual_seed(0)
    model = mask_neurons(backbones.mlp(64, (40, 30)), example_input=torch.zeros(1, 64))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    cl = dsn(
        model=model,
        optimizer=optimizer,
        train_epochs=4,
        train_mb_size=16,
        plugins=[
            LRSchedulerPlugin(torch.optim.lr_scheduler.StepLR(optimizer, 2), reset_lr=True),
            EarlyStoppingPlugin(patience=50, val_stream_name="valid_stream"),
        ],
        evaluator=evaluator,
        eval_every=1,
    )
    first: dict[int, Tensor] = {}
    x, _ = read_samples(stream.test_stream[0].dataset)
    for task, experience in enumerate(stream.train_stream):
        cl.train(experience, eval_streams=[stream.valid_stream[: task + 1]])
        metrics = cl.eval(stream.test_stream)
        for seen in range(task + 1):
            key = f"Top1_Acc_Exp/eval_phase/test_stream/Task{seen:03d}/Exp{seen:03d}"
            assert metrics[key] == pytest.approx(accuracy(model, stream.test_stream[seen], seen), abs=1e-9)
        now = logits(model, x)
        assert same(first, now)
        first = now
    assert metrics["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp000"] > 0.8
    assert "Top1_Acc_Epoch" in log.getvalue()


def test_evaluating_unseen_tasks_has_no_side_effects(stream) -> None:
    cl = strategy()
    cl.train(stream.train_stream[0])
    state = {key: value.clone() for key, value in cl.model.state_dict().items()}
    cl.eval(stream.test_stream)
    after = cl.model.state_dict()
    assert list(state) == list(after)
    assert all(torch.equal(value, after[key]) for key, value in state.items())
    assert cl.model.tasks == [0]


def test_cached_batches_give_the_samples_of_the_stream(stream) -> None:
    x, y = read_samples(stream.train_stream[1].dataset)
    items = [stream.train_stream[1].dataset[i] for i in range(len(x))]
    assert torch.equal(x, torch.stack([item[0] for item in items]))
    assert y.tolist() == [item[1] for item in items]
    shuffled = list(TensorLoader(x, y, 1, batch_size=10, shuffle=True))
    together = torch.cat([batch[0] for batch in shuffled])
    assert sorted(together.sum(1).tolist()) == sorted(x.sum(1).tolist())
    assert not torch.equal(together, x)
    assert all(batch[2].eq(1).all() for batch in shuffled)
    assert torch.equal(torch.cat([b[0] for b in TensorLoader(x, y, 1, batch_size=10, shuffle=False)]), x)


def test_a_lone_last_sample_is_left_out_of_training() -> None:
    loader = TensorLoader(torch.zeros(9, 2), torch.zeros(9), 0, batch_size=4, shuffle=True)
    assert [len(batch[0]) for batch in loader] == [4, 4]
    assert len(loader) == 2


def test_without_cache_avalanches_loader_is_used(stream) -> None:
    cl = strategy(cache=False, train_epochs=10, train_mb_size=16)
    cl.train(stream.train_stream[0])
    cl.eval(stream.test_stream[:1])
    assert accuracy(cl.model, stream.test_stream[0], 0) > 0.8


def test_every_phase_trains_what_it_says(stream) -> None:
    """Warm-up runs dense, then gates are soft, then the committed mask; the schedule spans all of them."""
    seen: list[tuple[bool, bool, bool, float]] = []

    class Watch(LRSchedulerPlugin):
        def __init__(self) -> None:
            pass

        def before_training_exp(self, strategy, *args, **kwargs) -> None: ...
        def before_training_iteration(self, strategy, *args, **kwargs) -> None: ...
        def after_training_iteration(self, strategy, **kwargs) -> None: ...
        def after_eval(self, strategy, **kwargs) -> None: ...
        def after_training_exp(self, strategy, **kwargs) -> None: ...

        def after_training_epoch(self, strategy, **kwargs) -> None:
            gate = next(iter(strategy.model.gates_by_path.values()))
            bits = gate.values is not None and bool(gate.values.eq(gate.values.bool()).all())
            seen.append(
                (gate.values is None, gate.logits is not None, bits, strategy.optimizer.param_groups[0]["lr"])
            )

    cl = strategy(
        warmup_epochs=1, train_epochs=2, consolidation_epochs=1, schedule="cosine", plugins=[Watch()]
    )
    cl.train(stream.train_stream[0])
    dense, learning, _, rates = zip(*seen, strict=True)
    assert dense == (True, False, False, False)
    assert learning == (True, True, True, False)
    assert seen[3][2]
    assert rates == pytest.approx([0.05, 0.05 * 0.853553, 0.025, 0.05 * 0.146447], abs=1e-6)
    assert cl.model.committed == [0]
    assert not any(p.requires_grad for p in cl.model.own_parameters(0))


def test_all_warmup_is_a_dense_network(stream) -> None:
    cl = strategy(warmup_epochs=3, train_epochs=0)
    cl.train(stream.train_stream[0])
    assert all(bool(mask.all()) for mask in cl.model.masks(0).values())


def test_restore_best_and_patience_follow_validation(stream) -> None:
    scores = iter([0.2, 0.9, 0.3, 0.4, 0.5, 0.6])
    states: list[Tensor] = []
    cl = strategy(train_epochs=6, patience=3, restore_best=True)

    def scripted(task: int) -> float:
        states.append(cl.model.layer("1").weight.detach().clone())
        return next(scores)

    cl._validation_score = scripted
    cl.train(stream.train_stream[0], eval_streams=[stream.valid_stream[0]])
    assert len(states) == 5  # three epochs without a better score than the second's
    assert torch.equal(cl.model.layer("1").weight, states[1])
    with pytest.raises(InputError, match="need validation data"):
        cl.train(stream.train_stream[1], eval_streams=[])


def test_gate_logits_take_no_weight_decay_and_rates_restart(stream) -> None:
    torch.manual_seed(0)
    model = mask_neurons(backbones.mlp(64, (40, 30)), example_input=torch.zeros(1, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.1)
    cl = strategy(model=model, optimizer=optimizer, schedule="cosine")
    groups = list(optimizer.param_groups)
    cl.train(stream.train_stream[0])
    cl.experience, cl.adapted_dataset = stream.train_stream[1], stream.train_stream[1].dataset
    cl.make_train_dataloader()
    cl.check_model_and_optimizer()
    assert all(one is other for one, other in zip(optimizer.param_groups, groups, strict=True))
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert {id(p) for p in groups[0]["params"]} == {id(p) for p in cl.model.task_parameters(1)}
    assert not optimizer.state
    before = [p.detach().clone() for p in model.task_parameters(1)]
    gates = {id(p) for p in model.gate_logits()}
    for p in model.task_parameters(1):
        p.grad = torch.zeros_like(p)
    cl.protected = contextlib.nullcontext()
    cl.optimizer_step()
    for p, old in zip(model.task_parameters(1), before, strict=True):
        assert torch.allclose(p, old if id(p) in gates else old * (1 - 0.05 * 0.1), atol=1e-7)
    assert optimizer.param_groups[0] is groups[0]


def test_growth_gives_later_tasks_room(stream) -> None:
    cl = strategy(growth=6)
    cl.train(stream.train_stream[0])
    torch.nn.init.constant_(cl.model.gates_by_path["1"].masks, 255)
    cl.train(stream.train_stream[1])
    assert cl.model.layers == {"1": 46, "3": 30}


def test_bad_loss_names_task_epoch_and_iteration(stream) -> None:
    cl = strategy(train_mb_size=16)
    cl.train(stream.train_stream[0])
    x, _ = read_samples(stream.test_stream[0].dataset)
    before = logits(cl.model, x)
    calls = iter(range(1000))
    plain = cl._criterion
    cl._criterion = lambda out, y: plain(out, y) * (float("nan") if next(calls) == 6 else 1.0)
    with pytest.raises(InputError, match="task 1, epoch 1, iteration 2: the loss is not finite"):
        cl.train(stream.train_stream[1])
    assert same(before, logits(cl.model, x))


def test_what_is_refused(stream) -> None:
    cl = strategy()
    cl.train(stream.train_stream[0])
    with pytest.raises(InputError, match="label 0, which was learnt before.*return_task_id=True"):
        cl.train(stream.train_stream[0])
    with pytest.raises(InputError, match="mask_neurons"):
        dsn(model=backbones.mlp(4, (3,)), optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.1))
    with pytest.raises(InputError, match="schedule is 'linear'"):
        strategy(schedule="linear")
    with pytest.raises(InputError, match="annealing is 'no'"):
        strategy(annealing="no")
    with pytest.raises(InputError, match="learn nothing"):
        strategy(train_epochs=0)
    replay = strategy(plugins=[ReplayPlugin(mem_size=20)])
    replay.train(stream.train_stream[0])
    with pytest.raises(InputError, match=r"samples of tasks \[0\].*replay"):
        replay.train(stream.train_stream[1])


def test_a_stream_without_task_labels_is_refused() -> None:
    data = TensorDataset(torch.randn(40, 64), torch.arange(40) % 4)
    data.targets = [int(y) for y in data.tensors[1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = nc_benchmark(data, data, n_experiences=2, task_labels=False)
    cl = strategy()
    cl.train(plain.train_stream[0])
    with pytest.raises(InputError, match="does the stream carry task labels"):
        cl.train(plain.train_stream[1])


@pytest.mark.parametrize(("annealing", "batch_size"), [("epoch", 16), ("epoch", 64), ("task", 16)])
def test_annealing_ends_at_s_max(stream, annealing: str, batch_size: int) -> None:
    cl = strategy(warmup_epochs=1, train_epochs=3, annealing=annealing, train_mb_size=batch_size)
    scales: list[float] = []
    step = cl.optimizer_step
    cl.optimizer_step = lambda: (scales.append(cl.model.scale), step())
    cl.train(stream.train_stream[0])
    soft = scales[len(scales) // 4 :]
    assert scales[-1] == 400.0
    assert soft[0] == 1 / 400
    restarts = sum(later < earlier for earlier, later in zip(soft, soft[1:], strict=False))
    assert restarts == (2 if (annealing, batch_size) == ("epoch", 16) else 0)
