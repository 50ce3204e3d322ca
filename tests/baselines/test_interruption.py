"""A baseline whose training is interrupted learns that task again, or another, as if nothing had been."""

import pytest
import torch
from avalanche.core import SupervisedPlugin

from dsn.evaluation.plugin import TransferMetrics, evaluator
from dsn.experiment.config.machine import seed_everything
from dsn.experiment.run.build import build_strategy
from dsn.experiment.run.learn import sample_shape
from tests.baselines.setups import BASELINES, benchmark, config

NAMES = [name for name in BASELINES if name != "hat"]  # a DSN


class CtrlC(SupervisedPlugin):
    armed = True

    def after_training_epoch(self, strategy, **_kwargs):
        if self.armed and len(strategy.model.tasks) == 2:
            self.armed = False
            raise KeyboardInterrupt


def shared(strategy) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in strategy.model.state_dict().items()}


@pytest.mark.filterwarnings("ignore:the training of task")
@pytest.mark.parametrize("following", [1, 2])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "independent"])
def test_that_task_or_another_is_learnt(name: str, following: int) -> None:
    made, setup = benchmark(), config(name, train={"epochs": 2, "batch_size": 32, "lr": 0.05})
    seed_everything(0)
    metrics = TransferMetrics()
    strategy = build_strategy(setup, sample_shape(made), torch.device("cpu"), evaluator(metrics, []), tasks=2)
    strategy.plugins.insert(0, CtrlC())
    strategy.train(made.train_stream[0], eval_streams=[])
    before = shared(strategy)
    with pytest.raises(KeyboardInterrupt):
        strategy.train(made.train_stream[1], eval_streams=[])
    strategy._begun.restore(strategy)
    strategy._begun = None
    after = shared(strategy)
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    strategy.train(made.train_stream[following], eval_streams=[])
    strategy.eval([made.test_stream[0], made.test_stream[following]])
    assert strategy.model.tasks == metrics.order == [0, following]
    assert metrics.matrix[1].min() >= 0
