"""Batch norms with the statistics of what is evaluated."""

import pytest
import torch
from torch import nn

from dsn.training.precise_norm import measure_norms
from tests.baselines.setups import CONV, NEVER_FORGET, Trained, benchmark, config

MANY = 10_000


def dropping() -> nn.Sequential:
    """Dropout, then a batch norm."""
    torch.manual_seed(0)
    layers = [
        nn.Linear(6, 8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(8, 5),
        nn.BatchNorm1d(5),
        nn.Linear(5, 3),
    ]
    return nn.Sequential(*layers)


def batches(net: nn.Module, sizes: list[int], samples: int) -> torch.Tensor:
    """The samples [n, 6] that its norm was measured on, in batches of these sizes."""
    x = torch.randn(sum(sizes), 6)
    measure(net, net.buffers(), x.split(sizes), samples, net)
    return x


def measure(net: nn.Module, buffers, parts, samples: int, run: nn.Module) -> None:
    """``measure_norms`` for a single task."""
    measure_norms(net, {0: buffers}, ((x, torch.zeros(len(x))) for x in parts), samples, lambda x, _: run(x))


def test_statistics_are_those_of_the_samples_without_dropout() -> None:
    net = dropping()
    x = batches(net, [40, 40], MANY)
    with torch.no_grad():
        inside = net[:4].eval()(x)
    assert torch.allclose(net[4].running_mean, inside.mean(0), atol=1e-6)
    parts = torch.stack([part.var(0) for part in inside.split(40)])
    assert torch.allclose(net[4].running_var, parts.mean(0), atol=1e-6)


def test_no_more_samples_are_read_than_asked_for() -> None:
    net = dropping()
    read = []
    measure(net, net.buffers(), (read.append(i) or torch.randn(10, 6) for i in range(9)), 25, net)
    assert read == [0, 1, 2]


def test_tasks_are_measured_in_one_pass_each_on_its_own_samples() -> None:
    nets = nn.ModuleList([dropping(), dropping()])
    x, tasks = torch.randn(60, 6), torch.arange(60) % 3 % 2  # 40 of task 0, 20 of task 1
    read = []

    def batches():
        for part in zip(x.split(12), tasks.split(12), strict=True):
            read.append(len(part))
            yield part

    measure_norms(nets, {t: nets[t].buffers() for t in (0, 1)}, batches(), 16, lambda x, t: nets[t](x))
    assert len(read) == 4  # of 4 samples of task 1 each
    for task, count in ((0, 16), (1, 16)):
        alone = dropping()
        own = [part[of == task] for part, of in zip(x.split(12), tasks.split(12), strict=True)]
        measure(alone, alone.buffers(), own, count, alone)
        for one, other in zip(alone.buffers(), nets[task].buffers(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("sizes", [[], [1], [1, 1]])
def test_without_a_variance_all_stays(sizes: list[int]) -> None:
    net = dropping()
    before = [buffer.clone() for buffer in net.buffers()]
    batches(net, sizes, MANY)
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))


def test_modes_momentum_random_state_and_other_norms_stay() -> None:
    net = nn.ModuleList([dropping(), nn.BatchNorm1d(5)]).train()
    net[0][1].eval()
    modes = [module.training for module in net.modules()]
    random = torch.get_rng_state()
    mine = net[0][4].running_mean, net[0][4].running_var
    measure(net, mine, (torch.randn(8, 6) for _ in range(3)), MANY, net[0])
    assert torch.equal(random, torch.get_rng_state())
    assert [module.training for module in net.modules()] == modes
    assert net[0][4].momentum == 0.1
    assert not net[1].running_mean.any()
    assert net[0][4].running_mean.any()


def trained(name: str, samples: int, **more) -> Trained:
    train = {"epochs": 3, "batch_size": 16, "lr": 0.05, "momentum": 0.9, "norm_samples": samples}
    setup = config(name, images=True, backbone={**CONV, "dropout": 0.5}, train=train, **more)
    return Trained(setup, images=True)


@pytest.mark.parametrize(
    "name", ["dsn", "hat", "wsn", "supsup", "independent", "random", "naive", "joint", "replay"]
)
def test_only_statistics_differ_where_nothing_is_judged_or_read(name: str) -> None:
    """The others learn from what an evaluated network says: PackNet, PNN, LwF, EWC, ..."""
    with_it, without = (trained(name, samples).strategy.model for samples in (MANY, 0))
    pairs = zip(with_it.parameters(), without.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = zip(with_it.buffers(), without.buffers(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", NEVER_FORGET)
def test_earlier_tasks_feel_nothing_of_it(name: str) -> None:
    learnt = trained(name, MANY)
    for task, now in learnt.after[-1].items():
        assert torch.equal(now, learnt.after[task][task])


@pytest.mark.parametrize("name", ["dsn", "joint", "replay", "independent"])
def test_each_task_has_the_statistics_of_its_own_samples(name: str) -> None:
    learnt = trained(name, MANY)
    model = learnt.strategy.model.eval()
    for task, experience in enumerate(benchmark(images=True).train_stream):
        if name == "replay" and task < 2:  # of earlier tasks it has a few samples left
            continue
        x = torch.stack([experience.dataset[i][0] for i in range(len(experience.dataset))])
        norms = (m for m in model.modules() if hasattr(m, "original"))
        norm = next(m for m in norms if str(task) in m.tasks).of(task)
        seen = []
        hook = norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            model(x, task)
        hook.remove()
        assert torch.allclose(
            norm.running_mean, seen[0].mean((0, 2, 3)), atol=0.01
        )  # a lone last sample is left out


def test_it_mends_what_dropout_before_a_norm_spoils() -> None:
    """Variance shift: the running variance is that of activations with half of them doubled, half 0."""
    data = benchmark().train_stream[0].dataset
    x = torch.stack([data[i][0] for i in range(len(data))])
    torch.manual_seed(0)
    wide = [nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.8), nn.Linear(256, 256), nn.BatchNorm1d(256)]
    net = nn.Sequential(
        *wide, nn.ReLU(), nn.Dropout(0.8), nn.Linear(256, 64), nn.BatchNorm1d(64), nn.Linear(64, 2)
    )
    for _ in range(60):
        net.train()(x)
    with torch.no_grad():
        before = net.eval()(x)
        measure(net, net.buffers(), [x], MANY, net)
        after = net.eval()(x)
        target = net[:8](x).var(0).mean()
    assert float(net[8].running_var.mean()) == pytest.approx(float(target), rel=0.05)
    assert after.var() > 1.1 * before.var()  # the norm had divided by too large a variance
