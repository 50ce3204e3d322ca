"""Hyper-parameters by validation accuracy: as many trials for each strategy, and no test data."""

import io
import json

import pytest
import yaml
from compare_inline import Inline
from rich.console import Console

from benchmarks import streams
from dsn.errors import InputError
from dsn.experiment.compare import work as compare_job
from dsn.experiment.compare.compare import compare
from dsn.experiment.compare.comparison import load_comparison
from dsn.experiment.compare.plan import make_plan
from dsn.experiment.compare.spaces import SPACES, lies_in, space_of, value_at, with_values
from dsn.experiment.config.baselines import NAMES
from dsn.experiment.config.experiment import Config, load
from dsn.experiment.engine import choice
from dsn.experiment.result.result import read_result

TINY = {
    "stream": {"name": "split_digits", "tasks": 3, "train_per_class": 30, "validation": 0.3},
    "backbone": {"name": "mlp", "widths": [12, 8]},
    "train": {"epochs": 2, "batch_size": 8, "lr": 0.05, "momentum": 0.9},
    "transfer": {"tasks": 0},
    "threads": 1,
}
TRIALS = 3


@pytest.fixture(autouse=True)
def inline(monkeypatch):
    monkeypatch.setattr(choice, "LocalEngine", Inline)
    Inline.done, Inline.stop_after = [], None
    return Inline


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def tuned(path, out, *overrides, trials=TRIALS, strategies="dsn,independent", seeds=None):
    plan = make_plan([path], strategies, "0", list(overrides), tune=trials, tune_seeds=seeds)
    text = io.StringIO()
    return compare(plan, out, console=Console(file=text, width=200)), text.getvalue()


def choices(comparison):
    return {
        t.strategy: (t.chosen, [(trial.values, trial.accuracy) for trial in t.trials])
        for t in comparison.streams[0].tuning
    }


def test_every_strategy_has_its_trials_and_runs_with_the_best(inline, tiny, tmp_path):
    found, text = tuned(tiny, tmp_path / "out")
    assert load_comparison(tmp_path / "out") == found
    assert [len(trials) for _, trials in choices(found).values()] == [TRIALS, TRIALS]
    for strategy, (chosen, trials) in choices(found).items():
        best = max(accuracy for _, accuracy in trials)
        assert chosen == next(values for values, accuracy in trials if accuracy == best)
        config = read_result(tmp_path / f"out/tiny/runs/{strategy}-seed0/result.json").config
        assert Config.model_validate_json(json.dumps(config)) == with_values(
            load(tiny, [f"strategy={strategy}"]), chosen
        )
        given = load(tiny, [f"strategy={strategy}"])
        assert trials[0][0] == {key: value_at(given, key) for key in chosen}  # the config as it is
        assert len({tuple(values.values()) for values, _ in trials}) == TRIALS
        for values, _ in trials:
            assert all(lies_in(d, values[key]) for key, d in space_of(given).items())
        assert f"{strategy}, of {TRIALS} trials" in text


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(inline, tiny, tmp_path):
    whole, _ = tuned(tiny, tmp_path / "whole")
    inline.done.clear()
    inline.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        tuned(tiny, tmp_path / "stopped")
    inline.stop_after = None
    again, _ = tuned(tiny, tmp_path / "stopped")
    assert choices(again) == choices(whole)
    assert len(inline.done) == 2 * TRIALS + 2 == len(set(inline.done))
    inline.done.clear()
    more, _ = tuned(tiny, tmp_path / "stopped", trials=TRIALS + 1, strategies="independent")
    assert [name for name in inline.done if "trial" in name] == [
        f"independent trial {TRIALS + 1}/{TRIALS + 1}"
    ]
    assert choices(more)["independent"][1][:TRIALS] == choices(whole)["independent"][1]
    inline.done.clear()
    _, text = tuned(tiny, tmp_path / "stopped", "train.momentum=0.5", trials=1, strategies="independent")
    assert "trials, they are made again" in text and "independent trial 1/1" in inline.done


def test_with_tune_only_settings_are_chosen_and_nothing_is_run(inline, tiny, tmp_path):
    plan = make_plan([tiny], "wsn", "0,1", [], tune=2, tune_only=True)
    text = io.StringIO()
    found = compare(plan, tmp_path / "out", console=Console(file=text, width=200))
    assert inline.done == ["wsn trial 1/2", "wsn trial 2/2"]
    assert [run.status for run in found.streams[0].runs] == ["missing", "missing"]
    assert not (tmp_path / "out/tiny/runs").exists()
    (tuning,) = found.streams[0].tuning
    config = load(tmp_path / "out/tiny/tuned.yaml", ["strategy=wsn"])
    assert {key: value_at(config, key) for key in tuning.chosen} == tuning.chosen
    assert "tiny, wsn, of 2 trials: " in text.getvalue() and "ACC" not in text.getvalue()
    inline.done.clear()
    whole, _ = tuned(tiny, tmp_path / "out", trials=2, strategies="wsn")  # goes on from there
    assert inline.done == ["tiny: wsn seed 0"] and choices(whole) == choices(found)
    with pytest.raises(InputError, match="--tune-only: needs --tune"):
        make_plan([tiny], "wsn", "0", [], tune_only=True)


def test_trials_see_no_test_data_and_the_first_tasks_only(tiny, monkeypatch):
    config = load(tiny)
    expected = compare_job.trial(config, 2)

    class Guarded:
        """A benchmark whose test stream must not be looked at, nor any task after the second."""

        def __init__(self, benchmark):
            self._benchmark = benchmark

        def __getattr__(self, name):
            assert name != "test_stream"
            found = getattr(self._benchmark, name)
            return found[:2] if name in ("train_stream", "valid_stream") else found

    build = streams.build
    monkeypatch.setattr(streams, "build", lambda *arguments: Guarded(build(*arguments)))
    for strategy in ("dsn", "independent"):
        accuracy = compare_job.trial(load(tiny, [f"strategy={strategy}"]), 2)
        assert 0.4 < accuracy <= 1
        # validation images of two classes: accuracies are counts out of these
        counts = [len(build(config.stream, 0).valid_stream[task].dataset) for task in (0, 1)]
        assert any(
            accuracy == pytest.approx((a / counts[0] + b / counts[1]) / 2)
            for a in range(counts[0] + 1)
            for b in range(counts[1] + 1)
        )
        if strategy == "dsn":
            assert accuracy == expected


def test_a_trial_that_fails_counts_and_is_never_chosen(tiny, tmp_path):
    found, _ = tuned(tiny, tmp_path / "out", "train.lr=1e30", trials=2, strategies="independent")
    (tuning,) = found.streams[0].tuning
    assert tuning.chosen is None and all(t.accuracy is None and t.error for t in tuning.trials)
    assert [run.status for run in found.streams[0].runs] == ["failed"]


def test_a_trial_is_the_mean_over_its_seeds(inline, tiny, tmp_path):
    alone = {}
    for seed in (5, 6):
        found, _ = tuned(tiny, tmp_path / f"seed{seed}", trials=1, strategies="wsn", seeds=f"{seed}")
        assert found.streams[0].tuning[0].seed == seed
        alone[seed] = choices(found)["wsn"][1][0]
    inline.done.clear()
    both, _ = tuned(tiny, tmp_path / "both", trials=2, strategies="wsn", seeds="5,6")
    assert inline.done[:4] == [f"wsn trial {n}/2 seed {seed}" for n in (1, 2) for seed in (5, 6)]
    (tuning,) = both.streams[0].tuning
    assert tuning.seeds == [5, 6] and len(tuning.trials) == 2
    assert tuning.trials[0].accuracy == pytest.approx((alone[5][1] + alone[6][1]) / 2)
    assert [run.seed for run in both.streams[0].runs] == [0]
    inline.done.clear()
    inline.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        tuned(tiny, tmp_path / "stopped", trials=2, strategies="wsn", seeds="5,6")
    inline.stop_after = None
    again, _ = tuned(tiny, tmp_path / "stopped", trials=2, strategies="wsn", seeds="5,6")
    assert choices(again) == choices(both)
    with pytest.raises(InputError, match="--tune-seeds 5,5: a seed stands twice"):
        make_plan([tiny], "wsn", "0", [], tune=2, tune_seeds="5,5")


def test_what_was_chosen_is_a_config_with_which_every_strategy_runs_as_tuned(tiny, tmp_path):
    names = "dsn,independent,wsn,supsup"
    plan = make_plan([tiny], names, "0", ["train.epochs=1"], tune=2, command="run.py compare --tune 2")
    found = compare(plan, tmp_path / "out", console=Console(file=io.StringIO()))
    file = tmp_path / "out/tiny/tuned.yaml"
    assert "`run.py compare --tune 2`" in file.read_text()
    for tuning in found.streams[0].tuning:
        config = load(file, [f"strategy={tuning.strategy}"])
        assert {key: value_at(config, key) for key in tuning.chosen} == tuning.chosen
        assert config.train.epochs == 2  # --set is not in it
        path = tmp_path / f"out/tiny/runs/{tuning.strategy}-seed0/result.json"
        ran = Config.model_validate_json(json.dumps(read_result(path).config))
        assert {key: value_at(ran, key) for key in tuning.chosen} == tuning.chosen


def last_of(distribution):
    return distribution.choices[-1] if hasattr(distribution, "choices") else distribution.high


def test_every_key_of_every_space_is_one_of_the_config_and_its_own(tiny):
    assert set(SPACES) == set(NAMES)
    for strategy in SPACES:
        config = load(tiny, [f"strategy={strategy}"])
        space = space_of(config)
        assert any(key.endswith(".lr") for key in space)
        for key, distribution in space.items():
            assert key.split(".")[0] in ("train", "selection") if strategy == "dsn" else strategy in key
            other = last_of(distribution)
            changed = with_values(config, {key: other})
            assert value_at(changed, key) == other
            assert with_values(changed, {key: value_at(config, key)}).stream == config.stream
