"""The metric inside Avalanche: any strategy, the same numbers as Avalanche's and as ours."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import MTSimpleMLP
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from dsn.errors import InputError
from dsn.evaluation import all_metrics
from dsn.evaluation.plugin import TransferMetrics

TASKS = 3


class Silent:
    """A logger that says nothing."""

    def log_metrics(self, values):
        pass


def digits(task_labels=True):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    x, y = x[y < 2 * TASKS], y[y < 2 * TASKS]
    train, test = TensorDataset(x[::4], y[::4]), TensorDataset(x[1::4], y[1::4])
    for data in (train, test):
        data.targets = data.tensors[1].tolist()
    return nc_benchmark(
        train,
        test,
        n_experiences=TASKS,
        task_labels=task_labels,
        seed=0,
        class_ids_from_zero_in_each_exp=True,
    )


def naive(metrics, eval_every=-1):
    torch.manual_seed(0)
    model = MTSimpleMLP(input_size=64, hidden_size=8)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.3),
        train_mb_size=16,
        train_epochs=3,
        eval_mb_size=7,
        eval_every=eval_every,
        evaluator=EvaluationPlugin(metrics, accuracy_metrics(experience=True), loggers=[Silent()]),
    )


def test_the_matrix_is_avalanches_and_the_metrics_are_ours():
    benchmark, metrics = digits(), TransferMetrics()
    strategy = naive(metrics)
    expected = np.full((TASKS, TASKS), np.nan)
    for row, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, eval_streams=[])
        strategy.eval(benchmark.train_stream)  # other streams must not count
        emitted = strategy.eval(benchmark.test_stream[: row + 1])
        for k in range(row + 1):
            expected[row, k] = emitted[f"Top1_Acc_Exp/eval_phase/test_stream/Task{k:03d}/Exp{k:03d}"]
    assert np.isnan(metrics.matrix[np.triu_indices(TASKS, 1)]).all()
    assert metrics.matrix == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert metrics.result() == all_metrics(metrics.matrix)
    for name in ("acc", "bwt", "forgetting", "learning_accuracy"):
        assert emitted[f"{name}/eval_phase/test_stream"] == metrics.result()[name]
    assert "trans/eval_phase/test_stream" not in emitted


def test_an_evaluation_before_training_is_the_random_reference():
    benchmark, metrics = digits(), TransferMetrics(independent=[0.5, 0.6, 0.7])
    strategy = naive(metrics)
    strategy.eval(benchmark.test_stream)
    for row, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, eval_streams=[])
        strategy.eval(benchmark.test_stream[: row + 2])
    assert metrics.random is not None and len(metrics.random) == TASKS
    assert metrics.result() == all_metrics(metrics.matrix, [0.5, 0.6, 0.7], metrics.random)
    assert metrics.result()["fwt_random"] is not None


def test_columns_follow_the_order_of_training():
    benchmark, metrics = digits(), TransferMetrics()
    strategy = naive(metrics)
    for task in (2, 0):
        strategy.train(benchmark.train_stream[task], eval_streams=[])
        emitted = strategy.eval([benchmark.test_stream[0], benchmark.test_stream[2]])
    assert metrics.order == [2, 0]
    last = [emitted[f"Top1_Acc_Exp/eval_phase/test_stream/Task{k:03d}/Exp{k:03d}"] for k in (2, 0)]
    assert metrics.matrix[-1].tolist() == pytest.approx(last)


def test_evaluations_inside_training_and_incomplete_rows_give_no_metrics():
    benchmark, metrics = digits(), TransferMetrics()
    strategy = naive(metrics, eval_every=1)
    emitted = strategy.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream[:1]])
    assert "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp000" in emitted
    assert metrics.result() == {}
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    strategy.eval(benchmark.test_stream[:2])
    assert metrics.result() == {}, "row 0 was never evaluated"


def test_a_stream_without_task_labels_is_refused():
    benchmark = digits(task_labels=False)
    strategy = naive(TransferMetrics())
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    with pytest.raises(InputError, match="one task label of its own"):
        strategy.train(benchmark.train_stream[1], eval_streams=[])


def test_reset_forgets_the_run():
    benchmark, metrics = digits(), TransferMetrics()
    strategy = naive(metrics)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    strategy.eval(benchmark.test_stream[:1])
    assert metrics.result()
    metrics.reset()
    assert metrics.result() == {} and metrics.matrix.shape == (0, 0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("train"), st.integers(0, 2)),
        st.tuples(st.just("fail"), st.integers(0, 2)),
        st.tuples(st.just("eval"), st.dictionaries(st.integers(0, 3), st.integers(0, 4), max_size=4)),
        st.tuples(st.just("carry"), st.sets(st.integers(0, 3), max_size=3)),
        st.tuples(st.just("look"), st.none()),
    ),
    max_size=12,
)


@given(STEPS)
@example([("train", 0), ("eval", {0: 1, 1: 2}), ("fail", 1), ("look", None), ("train", 2)])
@settings(deadline=None, max_examples=400)
def test_rows_that_were_asked_for_before_are_those_of_a_matrix_made_anew(steps):
    """Training that ended or failed, evaluations of any tasks, twice or never, in any order."""
    metrics = TransferMetrics()
    for step, what in [*steps, ("look", None)]:
        learnt = metrics.order[: len(metrics.order) - (metrics._learning is not None)]
        if step in ("train", "fail") and what not in learnt:
            strategy = SimpleNamespace(experience=SimpleNamespace(task_labels=[what], current_experience=0))
            metrics.before_training_exp(strategy)
            if step == "train":
                metrics.after_training_exp(strategy)
        elif step == "eval":
            metrics.before_eval(None)
            metrics._counted = {label: [correct, 4] for label, correct in what.items()}
            metrics.after_eval(SimpleNamespace(clock=SimpleNamespace(train_iterations=0)))
        elif step == "carry" and metrics.order:
            metrics.carry_over(what)
        elif step == "look":
            anew = TransferMetrics()
            anew.put_state(metrics.take_state(), len(metrics.order))
            assert np.array_equal(metrics.matrix, anew.matrix, equal_nan=True)
