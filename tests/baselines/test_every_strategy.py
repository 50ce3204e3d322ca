"""All strategies on the same small stream: they learn, forget as they should, and repeat themselves."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dsn.baselines import STRATEGIES
from dsn.errors import InputError
from dsn.experiment.config.baselines import NAMES, BaselinesConfig
from dsn.experiment.config.experiment import Config
from dsn.experiment.config.problems import describe

from .setups import (
    ADAMW,
    BASELINES,
    CONV,
    DECAYING_SGD,
    NEVER_FORGET,
    TASKS,
    Trained,
    config,
    learnt,
    learnt_once,
)


def test_every_strategy_has_a_name_in_the_config_and_a_block():
    assert set(NAMES) == {"dsn", *STRATEGIES}
    assert set(BaselinesConfig.model_fields) == set(STRATEGIES)


def test_an_unknown_strategy_is_answered_with_the_nearest():
    with pytest.raises(ValidationError) as caught:
        config("pacnet")
    assert describe(caught.value, Config) == ["strategy: unknown 'pacnet', nearest is 'packnet'"]


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_the_last_task_and_every_row_is_there(name):
    result = learnt_once(name)
    assert result.matrix[-1, -1] > 0.75  # chance is 0.5
    assert np.array_equal(np.isnan(result.matrix), np.tri(TASKS) == 0)
    assert len(result.times) == len(result.memory.bytes_per_task) == TASKS


@pytest.mark.parametrize("name", NEVER_FORGET)
def test_columns_of_those_that_never_forget_are_constant(name):
    matrix = learnt_once(name).matrix
    for task in range(TASKS):
        assert len(set(matrix[task:, task])) == 1


def test_finetuning_forgets_and_rehearsal_forgets_less():
    def lost(name):
        matrix = learnt_once(name).matrix
        return np.diag(matrix)[:-1].mean() - matrix[-1, :-1].mean()

    assert lost("naive") > 0.1
    for name in ("gem", "replay", "cumulative", "lwf"):
        assert lost(name) < lost("naive") - 0.05


def test_joint_training_sees_all_tasks_at_once_and_fills_the_matrix_with_its_only_row():
    result = learnt_once("joint")
    assert all(
        np.array_equal(row[: i + 1], result.matrix[-1, : i + 1]) for i, row in enumerate(result.matrix)
    )
    assert result.matrix[-1].min() > 0.8
    assert result.times[0].evaluate < result.times[-1].evaluate


@pytest.mark.parametrize("name", BASELINES)
def test_the_seed_fixes_everything(name):
    short = {"epochs": 2, "batch_size": 32, "lr": 0.05}
    first, again = (Trained(config(name, train=short)).after for _ in range(2))
    other = Trained(config(name, train=short, seed=1)).after
    assert all(torch.equal(first[-1][k], again[-1][k]) for k in range(TASKS))
    assert not any(torch.equal(first[-1][k], other[-1][k]) for k in range(TASKS))


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("train", [DECAYING_SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("name", NEVER_FORGET)
def test_logits_of_earlier_tasks_stay_bit_identical_with_batch_norm(name, train):
    after = Trained(config(name, images=True, backbone=CONV, train=train), images=True).after
    for task in range(TASKS):
        assert all(torch.equal(after[task][task], later[task]) for later in after[task:])
        assert after[task][task].std() > 0


@pytest.mark.parametrize("name", ["naive", "ewc", "lwf", "replay"])
def test_other_strategies_change_earlier_logits(name):
    after = Trained(config(name, images=True, backbone=CONV, train=DECAYING_SGD), images=True).after
    assert not torch.equal(after[0][0], after[-1][0])


@pytest.mark.parametrize("name", BASELINES)
def test_schedules_and_early_stopping_are_the_same_for_all(name):
    train = {"epochs": 3, "batch_size": 32, "lr": 0.03, "patience": 1, "restore_best": True}
    for schedule in ("cosine", "plateau"):
        setup = config(name, validation=0.2, train=train | {"schedule": schedule})
        assert np.isfinite(learnt(setup, validation=0.2).matrix[-1]).all()


@pytest.mark.parametrize("name", ["naive", "packnet", "supsup"])
def test_a_rate_of_its_own_replaces_the_common_one(name):
    trained = Trained(config(name, baselines={name: {"lr": 0.007}}, train={"epochs": 2, "lr": 0.1}))
    assert {group["lr"] for group in trained.strategy.optimizer.param_groups} == {0.007}


@pytest.mark.parametrize("name", ["wsn", "supsup"])
@pytest.mark.parametrize(
    "optimizer", [{"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.05}, {"optimizer": "adamw"}]
)
def test_scores_have_a_rate_of_their_own(name, optimizer):
    train = {"epochs": 2, "batch_size": 32, "lr": 0.02, "schedule": "cosine", **optimizer}
    setup = config(name, train=train, baselines={name: {"score_lr_factor": 10.0}})
    strategy = Trained(setup).strategy
    assert len(strategy.optimizer.param_groups) == 1  # as the user made it
    strategy.groups.put_options(strategy.groups.options)
    strategy.model.add_task(2, TASKS)
    strategy.make_optimizer()
    with strategy._undecayed:
        others, scores = strategy.optimizer.param_groups
    assert {id(p) for p in scores["params"]} == {id(p) for p in strategy.scores()}
    assert scores["lr"] == pytest.approx(10 * others["lr"]) and others["lr"] > 0
    assert scores["weight_decay"] == 0 and others["weight_decay"] == optimizer.get("weight_decay", 0.0)


@pytest.mark.parametrize("name", ["wsn", "supsup"])
def test_a_factor_of_1_is_the_common_rate_and_another_is_not(name):
    def last(**block):
        trained = Trained(config(name, train={"epochs": 2, "batch_size": 32}, baselines={name: block}))
        return trained.after[-1][0]

    assert torch.equal(last(), last(score_lr_factor=1.0))
    assert not torch.equal(last(), last(score_lr_factor=30.0))


def test_all_phases_count_into_the_epochs_of_every_strategy():
    train = {"epochs": 2, "warmup_epochs": 1, "consolidation_epochs": 3, "batch_size": 32}
    for name in ("naive", "packnet", "hat", "joint"):
        strategy = Trained(config(name, train=train)).strategy
        assert strategy.clock.train_exp_epochs == 6


def test_evaluating_tasks_before_they_are_learnt_changes_nothing():
    for name in ("ewc", "pnn", "wsn"):
        short = {"epochs": 2, "batch_size": 16}
        plain = learnt(config(name, train=short))
        ahead = learnt(config(name, train=short, evaluation={"random": True}))
        assert np.array_equal(plain.matrix[-1], ahead.matrix[-1])
        assert ahead.random is not None and len(ahead.random) == TASKS


@pytest.mark.parametrize("name", ["naive", "lwf", "pnn"])
def test_a_loss_that_is_not_finite_is_refused_with_its_place(name):
    with pytest.raises(InputError, match="task 0, epoch [0-9]+, iteration [0-9]+: the loss is not finite"):
        Trained(config(name, train={"epochs": 5, "lr": 1e30}))


def test_packnet_refuses_a_single_epoch():
    with pytest.raises(InputError, match="2 epochs or more"):
        Trained(config("packnet", train={"epochs": 1}))
