"""DSN in the scripts that people write: data sets, generators, arguments, schedulers, interruptions."""

import copy
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from avalanche.benchmarks import (
    benchmark_with_validation_stream,
    class_incremental_benchmark,
    dataset_benchmark,
    nc_benchmark,
    task_incremental_benchmark,
    tensors_benchmark,
    with_classes_timeline,
)
from avalanche.benchmarks.utils import (
    ConstantSequence,
    DataAttribute,
    TaskAwareSupervisedClassificationDataset,
    as_classification_dataset,
)
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin, LRSchedulerPlugin
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision import transforms

from benchmarks import split_digits
from dsn import DSN, InputError, backbones, mask_neurons
from dsn.evaluation.plugin import TransferMetrics, evaluator
from dsn.training.loader import StreamLoader, TensorLoader
from dsn.training.samples import is_fixed
from tests.nets import logits, same
from tests.training.flat import dsn

CENTRES = 3 * torch.randn(8, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def digits():
    return split_digits.build(split_digits.SplitDigitsConfig(tasks=3, validation=0.2, train_per_class=30), 0)


class Points(Dataset):
    """``n`` points of 16 numbers around the centres of ``classes``, each given as ``shape`` makes it."""

    def __init__(self, classes: int = 2, n: int = 60, shape: Callable = lambda x: x, seed: int = 0) -> None:
        noise = torch.randn(n, 16, generator=torch.Generator().manual_seed(seed))
        self.targets = [i % classes for i in range(n)]
        self.x, self.shape = CENTRES[self.targets] + noise, shape

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple:
        return self.shape(self.x[index]), self.targets[index]


def as_tensors(points: Points, shape: tuple[int, ...] = (16,)) -> TensorDataset:
    """The points as a TensorDataset that shares memory with them, with the ``targets`` Avalanche asks for."""
    data = TensorDataset(points.x.view(-1, *shape), torch.tensor(points.targets))
    data.targets = points.targets
    return data


def make(**settings) -> DSN:
    torch.manual_seed(0)
    model = mask_neurons(backbones.mlp(settings.pop("size", 16), (20,)), example_input=torch.zeros(1, 16))
    optimizer = settings.pop("optimizer", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    metrics = EvaluationPlugin(accuracy_metrics(experience=True), loss_metrics(experience=True), loggers=[])
    settings = {"transfer_tasks": 0, "forward_tasks": 0, "evaluator": metrics, "train_epochs": 2, **settings}
    return dsn(model=model, optimizer=optimizer(model.parameters()), **settings)


def on_digits(**settings) -> DSN:
    torch.manual_seed(0)
    model = mask_neurons(backbones.mlp(64, (20,)), example_input=torch.zeros(1, 64))
    settings = {"transfer_tasks": 0, "forward_tasks": 0, "evaluator": None, "train_epochs": 2, **settings}
    return dsn(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **settings)


def labelled(data, task: int = 0):
    attributes = [
        DataAttribute(data.targets, "targets"),
        DataAttribute(ConstantSequence(task, len(data)), "targets_task_labels", use_in_getitem=True),
    ]
    return TaskAwareSupervisedClassificationDataset([data], data_attributes=attributes)


def one_task(train, test=None):
    return dataset_benchmark([labelled(train)], [labelled(train if test is None else test)])


def accuracy(strategy: DSN, stream) -> list[float]:
    return [v for k, v in sorted(strategy.eval(stream).items()) if k.startswith("Top1_Acc_Exp")]


def truth(strategy: DSN, stream) -> list[float]:
    """Accuracies of the model itself, on items read one by one."""
    strategy.model.eval()
    shares = []
    for task, experience in enumerate(stream):
        x = torch.stack([torch.as_tensor(item[0]) for item in experience.dataset])
        y = torch.tensor([int(item[1]) for item in experience.dataset])
        shares.append(float((strategy.model(x, task).argmax(1) == y).double().mean()))
    return shares


# ---- data sets and generators --------------------------------------------------------------------------


def incremental(test_seed: int = 5, noise: Callable = lambda x: x):
    train = as_classification_dataset(Points(6, 240))
    test = as_classification_dataset(Points(6, 240, noise, test_seed))
    classes = class_incremental_benchmark({"train": train, "test": test}, num_experiences=3, seed=1)
    return task_incremental_benchmark(classes)


def tensors():
    train, test = ([pair(Points(c, seed=seed)) for c in (2, 4)] for seed in (0, 1))
    return tensors_benchmark(train_tensors=train, test_tensors=test, task_labels=[0, 1])


def pair(points: Points) -> tuple[torch.Tensor, torch.Tensor]:
    return points.x, torch.tensor(points.targets)


def classic(make_data: Callable = lambda points: points, **points):
    train, test = (make_data(Points(4, seed=seed, **points)) for seed in (0, 1))
    return nc_benchmark(train, test, 2, task_labels=True, class_ids_from_zero_in_each_exp=True)


STREAMS = {
    "tensors_benchmark": tensors,
    "nc_benchmark of a TensorDataset": lambda: classic(as_tensors),
    "nc_benchmark of a Subset": lambda: classic(lambda p: Subset(as_tensors(p), list(range(10, 60)))),
    "numpy samples": lambda: classic(shape=lambda x: x.numpy()),
    "task_incremental_benchmark": incremental,
    "with_classes_timeline": lambda: with_classes_timeline(incremental()),
    "validation stream of old": lambda: benchmark_with_validation_stream(classic(n=120), 0.2),
    "validation stream of new": lambda: benchmark_with_validation_stream(incremental(), 0.2, shuffle=True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cache", [True, False, "always"])
@pytest.mark.parametrize("name", STREAMS)
def test_every_data_set_and_generator_is_learnt(name: str, cache) -> None:
    stream, strategy = STREAMS[name](), make(cache=cache, train_epochs=6, train_mb_size=16, patience=50)
    valid = stream.streams.get("valid", stream.streams["test"])
    for experience, judged in zip(stream.train_stream, valid, strict=True):
        strategy.train(experience, eval_streams=[[judged]])
    assert accuracy(strategy, stream.test_stream) == pytest.approx(truth(strategy, stream.test_stream))
    assert min(accuracy(strategy, stream.train_stream)) > 0.8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Points(shape=lambda x: {"x": x}), "a sample is a dict"),
        (Points(shape=lambda x: "text"), "a sample is a str"),
        (Points(shape=lambda x: x.double()), r"torch\.float64.*weights torch\.float32"),
        (Points(shape=lambda x: (255 * x).byte()), r"torch\.uint8.*weights torch\.float32"),
        (Points(shape=lambda x: x[: 8 + int(x[0] > 0)]), "cannot be put into one tensor"),
        (Points(n=0), "no samples to train on"),
    ],
)
@pytest.mark.parametrize("cache", ["always", False])
def test_samples_that_are_no_tensors_are_refused(data, message: str, cache) -> None:
    with pytest.raises(InputError, match=message):
        make(cache=cache).train(one_task(data, Points()).train_stream[0], eval_streams=[])


@pytest.mark.parametrize("label", [-1, -100, 0.5, float("nan"), "cat", 2**40, torch.tensor([1, 0])])
@pytest.mark.parametrize("cache", ["always", False])
def test_labels_that_are_no_class_numbers_are_refused(label, cache) -> None:
    data = Points()
    stream = one_task(data)
    data.targets[7] = label
    with pytest.raises(InputError, match="labels must be the classes' numbers|its classes are 0 to 1"):
        make(cache=cache).train(stream.train_stream[0], eval_streams=[])


@pytest.mark.parametrize("labels", [torch.rand(60), torch.eye(2)[[0, 1] * 30], -torch.arange(60)])
def test_tensors_that_are_no_class_numbers_are_refused(labels: torch.Tensor) -> None:
    data = TensorDataset(Points().x, labels)
    data.targets = [0, 1] * 30
    with pytest.raises(InputError, match="labels"):
        make().train(one_task(data).train_stream[0], eval_streams=[])


@pytest.mark.parametrize("cache", [True, False])
def test_a_class_that_only_the_test_has_counts_as_wrong(cache) -> None:
    stream = one_task(Points(2), Points(3))
    strategy = make(cache=cache, train_epochs=8, train_mb_size=16)
    strategy.train(stream.train_stream[0], eval_streams=[])
    results = strategy.eval(stream.test_stream)
    assert accuracy(strategy, stream.test_stream) == pytest.approx(truth(strategy, stream.test_stream))
    assert accuracy(strategy, stream.test_stream)[0] <= 2 / 3
    assert all(np.isfinite(value) for value in results.values())


def test_a_class_that_only_validation_has_is_refused() -> None:
    stream = one_task(Points(2), Points(3))
    with pytest.raises(InputError, match="validation samples of class 2.*trained on the classes 0 to 1"):
        make(patience=2).train(stream.train_stream[0], eval_streams=[stream.test_stream])


def test_an_empty_experience_is_not_evaluated() -> None:
    strategy = make()
    strategy.train(one_task(Points()).train_stream[0], eval_streams=[])
    with pytest.raises(InputError, match="experience 0 of stream 'test' has no samples to evaluate"):
        strategy.eval(one_task(Points(), Points(n=0)).test_stream)


@pytest.mark.parametrize("name", ["train_mb_size", "eval_mb_size", "train_epochs", "warmup_epochs", "growth"])
@pytest.mark.parametrize("number", [0, -3])
def test_sizes_of_nothing_are_refused(name: str, number: int) -> None:
    if number == 0 and name in ("warmup_epochs", "growth"):
        return
    with pytest.raises(InputError, match=rf"{name}.*(at least|both 0)"):
        make(**{name: number})


def test_a_plugin_that_calls_the_model_without_a_task_is_told_so() -> None:
    class Calls(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs):
            strategy.model(strategy.mb_x)

    with pytest.raises(InputError, match="called without a task"):
        make(plugins=[Calls()]).train(one_task(Points()).train_stream[0], eval_streams=[])


# ---- what may be kept ----------------------------------------------------------------------------------


def jitter(x: torch.Tensor) -> torch.Tensor:
    return x + torch.randn_like(x)


class Once:
    """Random in one sample of fifty, from a generator of its own."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x) if self.random.random() < 0.02 else x


class Noisy(Points):
    def __getitem__(self, index: int) -> tuple:
        return jitter(self.x[index]), self.targets[index]


def picture(x: torch.Tensor) -> torch.Tensor:
    return x.view(1, 4, 4)


CROP = transforms.Compose([transforms.RandomCrop(4, padding=1), transforms.Normalize((0.5,), (2.0,))])
RANDOM = {
    "a function": (Points(), jitter),
    "erasing now and then": (Points(shape=picture), transforms.RandomErasing(p=0.1)),
    "a generator of its own": (Points(), Once()),
    "crop and flip": (Points(), partial(lambda t, x: t(picture(x)), CROP)),
    "compose": (as_tensors(Points(), (1, 4, 4)), CROP),
    "random choice": (
        as_tensors(Points(), (1, 4, 4)),
        transforms.RandomChoice([transforms.CenterCrop(4), transforms.Pad(0)]),
    ),
    "the data set itself": (Noisy(), None),
}


class Watch(SupervisedPlugin):
    """Keeps the batches of each epoch, sorted by label, and the loader."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[torch.Tensor] = []

    def before_training_epoch(self, strategy, **kwargs):
        self.seen, self.loader = [], strategy.dataloader

    def after_training_iteration(self, strategy, **kwargs):
        self.seen.append(strategy.mb_x.flatten(1).clone())

    def after_training_epoch(self, strategy, **kwargs):
        self.epochs.append(torch.cat(self.seen))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", RANDOM)
def test_random_transforms_are_drawn_anew_in_each_epoch(name: str, workers: int) -> None:
    if workers and name not in ("a function", "compose"):
        return
    data, transform = RANDOM[name]
    stream = nc_benchmark(data, data, n_experiences=1, task_labels=True, train_transform=transform)
    watch = Watch()
    strategy = make(plugins=[watch], train_epochs=6, train_mb_size=64)
    strategy.train(stream.train_stream[0], eval_streams=[], shuffle=False, num_workers=workers)
    assert isinstance(watch.loader, StreamLoader)
    if name != "random choice":
        first, *others = watch.epochs
        assert any(not torch.equal(first, other) for other in others)
    if name in ("a function", "compose"):
        assert len({epoch.sum().item() for epoch in watch.epochs}) == 6


def test_a_transform_runs_once_a_sample_and_epoch() -> None:
    reads = []
    stream = nc_benchmark(
        Points(),
        Points(),
        n_experiences=1,
        task_labels=True,
        train_transform=lambda x: (reads.append(1), x)[1],
    )
    make(train_epochs=3).train(stream.train_stream[0], eval_streams=[])
    assert len(reads) == 3 * 60


FIXED = {
    "tensors": (as_tensors(Points()), None),
    "normalised tensors": (
        as_tensors(Points(), (1, 4, 4)),
        transforms.Compose([transforms.CenterCrop(4), transforms.Normalize((0.5,), (2.0,))]),
    ),
    "some rows": (Subset(as_tensors(Points(n=90)), list(range(0, 90, 2))), None),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FIXED)
def test_what_draws_nothing_is_kept(name: str) -> None:
    data, transform = FIXED[name]
    stream = nc_benchmark(data, data, n_experiences=1, task_labels=True, train_transform=transform)
    watch = Watch()
    make(plugins=[watch]).train(stream.train_stream[0], eval_streams=[], shuffle=False)
    assert isinstance(watch.loader, TensorLoader)
    dataset = stream.train_stream[0].dataset.train()
    assert is_fixed(dataset)
    assert torch.equal(watch.epochs[0], torch.stack([item[0] for item in dataset]).flatten(1))


def test_wrappers_that_reorder_samples_are_followed() -> None:
    """Only the first and the last sample stay: the tensors must be taken in the subset's order."""
    data = labelled(as_tensors(Points(3)))
    order = [0, *range(58, 0, -1), 59]
    stream = dataset_benchmark([data.subset(order)], [data])
    watch = Watch()
    make(plugins=[watch]).train(stream.train_stream[0], eval_streams=[], shuffle=False)
    assert isinstance(watch.loader, TensorLoader)
    assert torch.equal(watch.epochs[0], Points(3).x[order])


# ---- evaluation ----------------------------------------------------------------------------------------


def test_each_test_set_gets_its_own_numbers() -> None:
    """Streams of current generators have no benchmark and the same names; objects' ids are used again."""
    strategy = make(train_epochs=8, train_mb_size=16)
    clean = incremental()
    for experience in clean.train_stream:
        strategy.train(experience, eval_streams=[])
    seen = set()
    for seed in range(4):
        stream = incremental(seed, lambda x, seed=seed: x + 3 * seed * torch.sin(97 * x))
        seen.add(tuple(accuracy(strategy, stream.test_stream)))
        assert accuracy(strategy, stream.test_stream) == pytest.approx(truth(strategy, stream.test_stream))
        del stream
    assert len(seen) == 4


def test_changed_test_data_are_noticed() -> None:
    """The same experience: another subset of it, another transform, other values in the same tensor."""
    points = Points(3, 90)
    data = labelled(as_tensors(points))
    strategy = make(train_epochs=20, train_mb_size=16, sparsity=0.0)
    stream = dataset_benchmark([data], [data])
    strategy.train(stream.train_stream[0], eval_streams=[])
    whole = accuracy(strategy, stream.test_stream)
    assert whole[0] > 0.9
    flipped = dataset_benchmark([data], [data.eval().replace_current_transform_group(lambda x: -x)])
    assert accuracy(strategy, flipped.test_stream) < whole
    points.x.neg_()
    assert accuracy(strategy, stream.test_stream) < whole


@pytest.mark.parametrize("given", [None, "the same", "the stream"])
def test_training_data_never_judge(digits, given) -> None:
    """Without eval_streams Avalanche gives the training experience."""
    experience = digits.train_stream[0]
    streams = {None: None, "the same": [experience], "the stream": [digits.train_stream]}[given]
    with pytest.raises(InputError, match="need validation data"):
        on_digits(patience=2).train(experience, eval_streams=streams)
    strategy = on_digits(transfer_tasks=3, forward_tasks=8)
    with pytest.warns(UserWarning, match="without validation data no transfer can be judged"):
        strategy.train(experience, eval_streams=streams)
    assert strategy._validation is None
    both = [experience, digits.valid_stream[0]]
    strategy.train(digits.train_stream[1], eval_streams=[both, [digits.valid_stream[1]]])
    assert len(strategy._validation[1]) == len(digits.valid_stream[1].dataset)


# ---- loader arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
def test_avalanches_loader_arguments_are_obeyed(digits, cache) -> None:
    dataset = digits.train_stream[0].dataset
    items = torch.stack([item[0] for item in dataset])
    watch = Watch()
    strategy = on_digits(cache=cache, plugins=[watch], train_mb_size=9)
    strategy.train(
        digits.train_stream[0],
        eval_streams=[],
        shuffle=False,
        drop_last=True,
        pin_memory=False,
        persistent_workers=True,
        num_workers=2,
    )
    assert [torch.equal(epoch, items[: len(items) // 9 * 9]) for epoch in watch.epochs] == [True, True]
    strategy.eval(digits.test_stream[:1], num_workers=1, persistent_workers=True, pin_memory=False)


def test_drop_last_that_leaves_nothing_is_refused(digits) -> None:
    with pytest.raises(InputError, match="drop_last leaves no batch of 64"):
        on_digits().train(digits.train_stream[0], eval_streams=[], drop_last=True)


# ---- schedulers ----------------------------------------------------------------------------------------

SCHEDULERS = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda epoch: 0.5**epoch),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda epoch: 0.5),
    "StepLR": lambda o: schedulers.StepLR(o, 1),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [1]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.5, 1),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.5, total_iters=2),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.5),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 4),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 2),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 1),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=20),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, 0.5, 1), schedulers.ExponentialLR(o, 0.5)], [1]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 1), schedulers.ExponentialLR(o, 0.5)]
    ),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0, threshold=10.0),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_change_the_rate_as_they_do_without_dsn(digits, name: str, groups: int) -> None:
    """The rates of each epoch are those that the scheduler gives to an optimizer that nobody touches."""
    if name == "LambdaLR" and groups == 2:
        build = lambda o: schedulers.LambdaLR(o, [lambda e: 0.5**e, lambda e: 0.25**e])  # noqa: E731
    else:
        build = SCHEDULERS[name]
    torch.manual_seed(0)
    model = mask_neurons(backbones.mlp(64, (20, 10)), example_input=torch.zeros(1, 64))
    optimizer, alone = (optimizer_of(model, groups) for _ in range(2))
    plain = build(alone)
    metric = "train_loss" if name == "ReduceLROnPlateau" else None
    rates = Rates()
    strategy = dsn(
        model=model, optimizer=optimizer, train_epochs=3, evaluator=None, transfer_tasks=0, forward_tasks=0,
        plugins=[rates, LRSchedulerPlugin(build(optimizer), metric=metric)],
    )  # fmt: skip
    for experience in digits.train_stream[:2]:
        strategy.train(experience, eval_streams=[])
    expected = []
    for _ in range(3):
        expected.append([group["lr"] for group in alone.param_groups])
        alone.step()
        plain.step(metrics=1.0) if metric else plain.step()
    assert rates.seen[:3] == [pytest.approx(rate) for rate in expected]
    assert len(rates.seen) == 6
    assert len(optimizer.param_groups) == groups


def optimizer_of(model, groups: int) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    parts = [parameters] if groups == 1 else [parameters[:2], parameters[2:]]
    made = [{"params": part, "lr": 0.1 / (1 + i), "weight_decay": 1e-3} for i, part in enumerate(parts)]
    return torch.optim.SGD(made, lr=0.1, momentum=0.9)


class Rates(SupervisedPlugin):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[float]] = []

    def before_training_epoch(self, strategy, **kwargs):
        self.seen.append([group["lr"] for group in strategy.optimizer.param_groups])


def test_a_rate_that_is_not_to_be_reset_goes_on(digits) -> None:
    rates = Rates()
    model = mask_neurons(backbones.mlp(64, (20,)), example_input=torch.zeros(1, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = LRSchedulerPlugin(schedulers.ExponentialLR(optimizer, 0.5), reset_lr=False)
    strategy = dsn(
        model=model, optimizer=optimizer, evaluator=None, transfer_tasks=0, forward_tasks=0,
        plugins=[rates, scheduler],
    )  # fmt: skip
    for experience in digits.train_stream:
        strategy.train(experience, eval_streams=[])
    assert rates.seen == [[pytest.approx(rate)] for rate in (0.1, 0.05, 0.025)]


def test_weights_stay_in_the_group_where_the_user_put_them(digits) -> None:
    model = mask_neurons(backbones.mlp(64, (20, 10)), example_input=torch.zeros(1, 64))
    (first, a), (second, b) = list(model.layer_modules())
    groups = [{"params": [*a.parameters()]}, {"params": [*b.parameters()], "lr": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    frozen = b.weight.detach().clone()
    strategy = dsn(model=model, optimizer=optimizer, evaluator=None, transfer_tasks=0, forward_tasks=0)
    strategy.train(digits.train_stream[0], eval_streams=[])
    assert torch.equal(b.weight, frozen)


# ---- interruptions -------------------------------------------------------------------------------------


class Fails(SupervisedPlugin):
    """Raises ``error`` once, in the task ``task``, at the call ``event``."""

    def __init__(self, event: str, error: BaseException, task: int = 1) -> None:
        super().__init__()
        self.armed = True

        def fail(strategy, **kwargs):
            if self.armed and strategy.is_training and strategy.clock.train_exp_counter == task:
                self.armed = False
                raise error

        setattr(self, event, fail)


@pytest.mark.filterwarnings("ignore:the training of task", "ignore:No loggers")
@pytest.mark.parametrize("following", [1, 2])
@pytest.mark.parametrize(
    ("event", "error"),
    [
        ("after_training_epoch", KeyboardInterrupt()),
        ("before_training_exp", RuntimeError("out of memory")),
        ("before_forward", KeyboardInterrupt()),
        ("after_update", SystemExit(1)),
    ],
)
def test_after_an_interruption_that_task_or_another_is_learnt(digits, event, error, following) -> None:
    strategy = on_digits(
        plugins=[Fails(event, error)], warmup_epochs=1, consolidation_epochs=1, train_mb_size=16, growth=3
    )
    strategy.train(digits.train_stream[0], eval_streams=[])
    x = torch.randn(20, 64)
    first = logits(strategy.model, x)
    before = {name: value.clone() for name, value in strategy.model.state_dict().items()}
    with pytest.raises(type(error)):
        strategy.train(digits.train_stream[1], eval_streams=[])
    seen = []
    strategy.plugins.insert(
        0, AtStart(lambda s: seen.append({k: v.clone() for k, v in s.model.state_dict().items()}))
    )
    strategy.train(digits.train_stream[following], eval_streams=[])
    assert strategy.model.committed == [0, following]
    assert same(first, logits(strategy.model, x))
    assert all(torch.equal(value, seen[0][name]) for name, value in before.items())
    assert seen[0].keys() == before.keys()
    strategy.eval(digits.test_stream)


class AtStart(SupervisedPlugin):
    def __init__(self, call) -> None:
        super().__init__()
        self.before_training = lambda strategy, **kwargs: call(strategy)


@pytest.mark.filterwarnings("ignore:the training of task", "ignore:No loggers")
@pytest.mark.parametrize("when", ["loss", "consolidation", "end"])
def test_whatever_was_left_half_done_is_undone(digits, when: str) -> None:
    strategy = on_digits(consolidation_epochs=1, transfer_tasks=3, forward_tasks=3, train_mb_size=16)
    for task in range(2):
        strategy.train(digits.train_stream[task], eval_streams=[digits.valid_stream[task]])
    x = torch.randn(20, 64)
    first, plain = logits(strategy.model, x), strategy._criterion
    if when == "loss":
        strategy._criterion = lambda out, y: plain(out, y) * float("nan")
    elif when == "consolidation":
        strategy.plugins.insert(0, Fails("before_training_epoch", KeyboardInterrupt(), task=2))
        strategy.train_epochs = 0
    else:
        strategy.at_rest = lambda event: (_ for _ in ()).throw(KeyboardInterrupt) if event == "end" else None
    with pytest.raises((InputError, KeyboardInterrupt)):
        strategy.train(digits.train_stream[2], eval_streams=[digits.valid_stream[2]])
    strategy._criterion, strategy.at_rest, strategy.train_epochs = plain, None, 2
    with pytest.warns(UserWarning, match="the training of task 2 did not come to its end"):
        strategy.train(digits.train_stream[2], eval_streams=[digits.valid_stream[2]])
    assert strategy.model.committed == [0, 1, 2]
    assert all(value.isfinite().all() for value in logits(strategy.model, x).values())
    if not any(outcome.accepted for outcome in strategy.transfers):
        assert same(first, logits(strategy.model, x))


@pytest.mark.filterwarnings("ignore:the training of task", "ignore:No loggers")
def test_metrics_forget_an_interrupted_task(digits) -> None:
    metrics = TransferMetrics()
    plugin = Fails("after_training_epoch", KeyboardInterrupt())
    strategy = on_digits(evaluator=evaluator(metrics, []), plugins=[plugin])
    strategy.train(digits.train_stream[0], eval_streams=[])
    strategy.eval(digits.test_stream[:1])
    with pytest.raises(KeyboardInterrupt):
        strategy.train(digits.train_stream[1], eval_streams=[])
    strategy.eval(digits.test_stream[:2])
    strategy.train(digits.train_stream[2], eval_streams=[])
    strategy.eval([digits.test_stream[0], digits.test_stream[2]])
    assert metrics.order == [0, 2]
    assert metrics.matrix.shape == (2, 2) and np.isfinite(metrics.matrix[1]).all()
    assert np.isnan(metrics.matrix[0, 1])


@pytest.mark.filterwarnings("ignore:No loggers")
def test_an_interruption_behind_a_loaded_state_goes_on_from_it(digits, tmp_path) -> None:
    def begin(*plugins) -> DSN:
        strategy = on_digits(train_mb_size=16, plugins=list(plugins))
        strategy.train(digits.train_stream[0], eval_streams=[])
        return strategy

    whole, rests = begin(), []

    def keep(event: str) -> None:
        rests.append(event)
        if len(rests) == 3:
            whole.save(str(tmp_path))

    whole.at_rest = keep
    whole.train(digits.train_stream[1], eval_streams=[])
    again = begin(Fails("after_training_epoch", KeyboardInterrupt()))
    again.load(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        again.train(digits.train_stream[1], eval_streams=[])
    again.train(digits.train_stream[1], eval_streams=[])
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())


# ---- copies --------------------------------------------------------------------------------------------


class Copies(SupervisedPlugin):
    """At each call ``event`` keeps deep copies of the strategy and of its model, three of them at most."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self.made: list[tuple[DSN, nn.Module]] = []

        def make_copy(strategy, **kwargs):
            made, self.made = self.made, []
            if strategy.is_training and strategy.clock.train_exp_counter == 1 and len(made) < 3:
                made.append((copy.deepcopy(strategy), copy.deepcopy(strategy.model)))
            self.made = made

        setattr(self, event, make_copy)


@pytest.mark.filterwarnings("ignore:the training of task", "ignore:No loggers")
@pytest.mark.parametrize("edges", ["none", "own_and_read"])
@pytest.mark.parametrize(
    "event", ["before_forward", "after_forward", "after_training_iteration", "after_training_epoch"]
)
def test_a_deep_copy_amid_learning_is_one_that_was_interrupted(digits, event: str, edges: str) -> None:
    def learn(*plugins) -> DSN:
        torch.manual_seed(0)
        model = mask_neurons(backbones.mlp(64, (20,)), example_input=torch.zeros(1, 64), edges=edges)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        schedule = LRSchedulerPlugin(schedulers.StepLR(optimizer, 1))
        metrics = EvaluationPlugin(accuracy_metrics(minibatch=True, experience=True), loggers=[TextLogger()])
        strategy = dsn(
            model=model,
            optimizer=optimizer,
            planned_tasks=3,
            warmup_epochs=1,
            consolidation_epochs=1,
            plugins=[*plugins, schedule],
            evaluator=metrics,
            restore_best=True,
            transfer_tasks=0,
            forward_tasks=0,
        )
        for task in range(2):
            torch.manual_seed(task)
            strategy.train(digits.train_stream[task], eval_streams=[digits.valid_stream[task]])
        return strategy

    copies = Copies(event)
    strategy, never_copied = learn(copies), learn()
    state = {name: value.clone() for name, value in strategy.model.state_dict().items()}
    assert all(torch.equal(value, never_copied.model.state_dict()[name]) for name, value in state.items())
    x = torch.randn(20, 64)
    first = {0: logits(never_copied.model, x)[0]}
    assert len(copies.made) == 3
    for other, model in copies.made:
        assert same(first, {0: model.eval()(x, 0)}) and same(first, {0: other.model.eval()(x, 0)})
        if model.learning is not None:
            torch.nn.functional.cross_entropy(
                model.train()(x, 1), torch.zeros(20, dtype=torch.long)
            ).backward()
    other, _ = copies.made[-1]
    other.eval(digits.test_stream[:1])
    for task in (1, 2):
        other.train(digits.train_stream[task], eval_streams=[digits.valid_stream[task]])
    assert other.model.committed == [0, 1, 2] and same(first, logits(other.model, x))
    after = strategy.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in state.items())


def test_paths_may_be_text(digits, tmp_path) -> None:
    strategy = on_digits()
    strategy.train(digits.train_stream[0], eval_streams=[])
    strategy.save(str(tmp_path))
    strategy.load(str(tmp_path))
    strategy.model.save_task(0, str(tmp_path / "task.safetensors"))
    assert on_digits().model.load_task(str(tmp_path / "task.safetensors")) == 0


def test_no_warning_in_a_plain_script(digits) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "No loggers")
        on_digits().train(digits.train_stream[0], eval_streams=[digits.valid_stream[0]])
