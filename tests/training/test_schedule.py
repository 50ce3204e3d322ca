"""The plateau schedule: when the rate falls, when the epochs end, by accuracy and by loss."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dsn.errors import InputError
from dsn.training.schedule import Plateau, Scheduler, summed_score
from dsn.training.settings import Schedule


def optimizer(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def rates(scores: list[float], judge: str = "loss", **plateau: Any) -> list[float]:
    """The rate after each epoch, up to the one that ends the task."""
    opt = optimizer()
    schedule = Scheduler("plateau", opt, len(scores), judge, Plateau(**plateau))
    found = []
    for score in scores:
        ended = schedule.step(score)
        found.append(opt.param_groups[0]["lr"])
        if ended:
            break
    return found


@given(
    st.lists(st.floats(-9, 0), min_size=1, max_size=30),
    st.integers(1, 6),
    st.sampled_from([2.0, 3.0, 10.0]),
    st.floats(1e-3, 0.5),
)
def test_the_rate_falls_and_the_epochs_end_as_in_the_loop_of_the_papers(scores, patience, factor, lr_min):
    lr, left, best, expected = 1.0, patience, -math.inf, []
    for score in scores:  # the loop of HAT, GPM and WSN
        if score > best:
            best, left = score, patience
        else:
            left -= 1
            if left <= 0:
                lr, left = lr / factor, patience
        expected.append(lr)
        if lr < lr_min:
            break
    found = rates(scores, patience=patience, factor=factor, lr_min=lr_min)
    assert found == pytest.approx(expected)


def test_the_default_divides_by_three_after_six_epochs_and_never_ends():
    found = rates([0.5] * 15, judge="accuracy")
    assert found == pytest.approx([1.0] * 6 + [1 / 3] * 6 + [1 / 9] * 3)


def test_where_a_minimum_ends_phases_each_begins_with_the_full_rate():
    opt = optimizer()
    schedule = Scheduler("plateau", opt, 9, "loss", Plateau(patience=1, factor=2.0, lr_min=0.4))
    schedule.begin_phase()
    assert [schedule.step(-1.0) for _ in range(3)] == [False, False, True]
    schedule.begin_phase()
    assert opt.param_groups[0]["lr"] == 1.0
    assert [schedule.step(-2.0) for _ in range(3)] == [False, False, True]
    opt = optimizer()
    endless = Scheduler("plateau", opt, 9, "loss", Plateau(patience=1, factor=2.0))
    for _ in range(3):
        endless.step(-1.0)
    endless.begin_phase()
    assert opt.param_groups[0]["lr"] == 0.25


def test_scores_are_sums_over_samples():
    logits, targets = torch.randn(7, 3), torch.randint(0, 3, (7,))
    assert summed_score(logits, targets, "accuracy") == (logits.argmax(1) == targets).sum()
    loss = nn.functional.cross_entropy(logits, targets)
    assert float(summed_score(logits, targets, "loss")) == pytest.approx(-7 * float(loss), rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "judge", "plateau", "said"),
    [
        ("step", "loss", {}, "schedule is 'step'"),
        ("plateau", "f1", {}, "judge is 'f1'"),
        ("plateau", "loss", {"factor": 0.5}, "factor must be above 1"),
        ("plateau", "loss", {"patience": 0}, "patience 1 or more"),
        ("plateau", "loss", {"lr_min": -1e-3}, "lr_min 0 or more"),
        ("plateau", "loss", {"factor": math.nan}, "factor must be above 1"),
    ],
)
def test_what_cannot_be_is_refused(schedule, judge, plateau, said):
    with pytest.raises(InputError, match=said):
        Schedule(rate=schedule, judge=judge, plateau=Plateau(**plateau))


@pytest.mark.parametrize("name", ["dsn", "wsn", "packnet", "joint"])
@pytest.mark.parametrize("judge", ["accuracy", "loss"])
def test_every_strategy_ends_a_task_at_the_smallest_rate(name, judge, monkeypatch):
    """Scores that never rise: each phase ends once the rate is below lr_min, long before its epochs do."""
    from benchmarks import streams
    from dsn.experiment.config.experiment import Config
    from dsn.experiment.run.build import build_strategy

    config = Config.model_validate(
        {
            "stream": {"name": "split_digits", "tasks": 2, "train_per_class": 8, "validation": 0.25},
            "backbone": {"name": "mlp", "widths": [12]},
            "train": {
                "epochs": 40,
                "lr": 0.1,
                "schedule": "plateau",
                "judge": judge,
                "plateau": {"factor": 2.0, "patience": 2, "lr_min": 0.04},
            },
            "strategy": name,
        }
    )
    benchmark = streams.build(config.stream, 0)
    shape = benchmark.train_stream[0].dataset[0][0].shape
    strategy = build_strategy(config, shape, torch.device("cpu"), EvaluationPlugin(), tasks=2)
    monkeypatch.setattr("dsn.training.phases.summed_score", constant)
    epochs = []
    strategy.plugins.append(SimpleNamespace(after_training_epoch=lambda *_a, **_k: epochs.append(1)))
    experience = benchmark.train_stream[:2] if name == "joint" else benchmark.train_stream[0]
    strategy.train(experience, eval_streams=[benchmark.valid_stream])
    phases = 2 if name == "packnet" else 1
    assert len(epochs) == 5 * phases  # the first sets the score; two and two more halve the rate twice


def constant(logits, targets, judge):
    return torch.zeros(())
