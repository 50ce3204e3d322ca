"""The transfer lab on turned digits: its files, its numbers, and the runs that it replays on one network."""

import csv
import importlib.util
import json
import math
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from dsn.errors import InputError
from dsn.evaluation import all_metrics
from dsn.experiment.base.quiet import importing_avalanche
from dsn.experiment.config.experiment import load
from dsn.experiment.config.seeds import parse_seeds
from dsn.experiment.labs.ablation import AS_IT_IS, ablation, load_variants
from dsn.experiment.labs.transfer import lab, learn_base, try_pairs, whole_run
from dsn.experiment.labs.transfer_result import Acceptance, LabResult, Pair, SeedRun, summarise
from dsn.experiment.result.interval import Interval
from dsn.experiment.run.run import run
from dsn.transfer.lab import Trial

ROOT = Path(__file__).parents[2]
TINY = {
    "stream": {
        "name": "rotated",
        "data": "digits",
        "tasks": 3,
        "angles": [0, 10, 5],
        "train_per_class": [20, 20, 60],
        "validation": 0.3,
    },
    "backbone": {"name": "mlp", "widths": [64, 48]},
    "train": {"epochs": 12, "batch_size": 8, "lr": 0.03, "momentum": 0.9},
    "selection": {"sparsity": 0.1, "annealing": "task", "logit_mean": 2.0},
    "replay": {"images": 20, "steps": 5},
    "threads": 1,
}
FILES = ["config.yaml", "lab.csv", "lab.json", "lab.md", "lab.png"]
QUIET = Console(quiet=True)
pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture
def main(monkeypatch):
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return module


def test_the_command_measures_and_writes_everything(main, file, tmp_path, capsys):
    out = tmp_path / "lab"
    assert main.main(["transfer-lab", str(file), "--seeds", "0,1", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    values = json.loads((out / "lab.json").read_text())
    result = LabResult.model_validate(values)
    assert result.seeds == [0, 1] and len(result.pairs) == 2 * 3
    with open(out / "lab.csv") as text:
        rows = list(csv.DictReader(text))
    assert [float(row["transfer"]) for row in rows] == [pair.transfer for pair in result.pairs]
    for name, interval in result.gains.items():
        assert interval.low <= interval.mean <= interval.high, name
    by_seed = [np.mean([p.transfer for p in result.pairs if p.seed == seed]) for seed in (0, 1)]
    assert result.gains["transfer"].mean == pytest.approx(np.mean(by_seed), abs=1e-12)
    for found in result.seed_runs:
        metrics = all_metrics(found.accuracy_matrix)
        assert (found.bwt, found.forgetting) == (metrics["bwt"], metrics["forgetting"])
    assert result.runs["bwt_above_own"].mean == pytest.approx(
        np.mean([found.bwt - found.bwt_own for found in result.seed_runs]), abs=1e-12
    )
    table = (out / "lab.md").read_text()
    assert f"$ python run.py transfer-lab {file} --seeds 0,1" in table.replace("~", str(Path.home()))
    assert f"{100 * result.gains['oracle'].mean:+.2f}" in table
    shown = capsys.readouterr().out
    assert "precision" in shown and "BWT of the whole run" in shown


@pytest.mark.parametrize(
    "overrides",
    [
        ["transfer.acceptance=always"],
        ["transfer={mechanism: impressions, acceptance: held_out_impressions, tasks: 1}"],
        ["transfer={mechanism: gates, acceptance: always}"],
        [
            "stream.flatten=false",
            "backbone={name: small_cnn, width: 6, features: 24}",
            "train.epochs=3",
            "transfer.acceptance=always",
        ],
    ],
    ids=["correspondence", "impressions", "gates", "small_cnn"],
)
def test_the_replayed_run_is_the_real_run(file, tmp_path, overrides):
    config = load(file, [*overrides, "seed=3"])
    base = learn_base(config, QUIET)
    before = {key: value.clone() for key, value in base.model.state_dict().items()}
    matrix, outcomes = whole_run(base, config, config.transfer.mechanism)
    real, _ = run(config, tmp_path / "real", console=QUIET)
    assert outcomes and any(outcome.accepted for outcome in outcomes)
    np.testing.assert_array_equal(matrix, real.matrix)
    assert [o.measures for o in outcomes] == [t.measures for t in real.transfers]
    assert [(o.task, o.source, o.reason) for o in outcomes] == [
        (t.task, t.source, t.reason) for t in real.transfers
    ]
    after = base.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_trying_pairs_leaves_the_network_as_it_was_and_is_repeatable(file):
    config = load(file)
    base = learn_base(config, QUIET)
    before = {key: value.clone() for key, value in base.model.state_dict().items()}
    pairs = try_pairs(base, config)
    after = base.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert try_pairs(base, config) == pairs
    assert [pair.source for pair in pairs] == [1, 2, 2]
    fewer = try_pairs(
        base, config.model_copy(update={"transfer": config.transfer.model_copy(update={"tasks": 1})})
    )
    assert fewer == pairs[:2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0,x"], "--seeds 0,x: must be whole numbers with commas between, e.g. 0,1,2"),
        (["--seeds", ""], "--seeds : must be whole numbers with commas between, e.g. 0,1,2"),
        (["--seeds", "-1"], "--seeds -1: every seed must lie between 0 and 4294967295"),
        (["--seeds", "2,2"], "--seeds 2,2: a seed stands twice"),
        (["--set", "transfer.tasks=0"], "transfer.tasks: is 0, so there is nothing to measure"),
        (["--set", "stream.validation=0"], "stream.validation: is 0, but transfers are judged by validation"),
        (["--set", "strategy=independent"], "strategy: independent transfers nothing"),
        (["--set", "stream={name: rotated, data: digits, tasks: 1, validation: 0.2}"], "stream.tasks: is 1"),
        (["--set", "transfer.tasks=x"], "transfer.tasks=x: transfer.tasks: must be a valid integer"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(
    main, file, tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    assert main.main(["transfer-lab", str(file), *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_failure_leaves_nothing_behind(file, tmp_path):
    with pytest.raises(InputError, match="fewer|at least"):
        lab(
            load(file, ["replay.images=3", "transfer.mechanism=impressions", "train.epochs=1"]),
            [0],
            tmp_path / "out",
            console=QUIET,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def make_trial(transfer, oracle, accepted=True, own=0.0):
    return Trial(
        task=0,
        source=1,
        similarity=0.5,
        neurons=3,
        accuracy=0.5,
        transfer=transfer,
        own_features=own,
        random_features=0.0,
        oracle=oracle,
        accepted=accepted,
        reason="r",
        measures={"ratio": math.inf},
    )


def make_result(trials_by_seed):
    pairs = [Pair.of(seed, trial) for seed, trials in trials_by_seed.items() for trial in trials]
    runs = [
        SeedRun(
            seed=seed,
            bwt=0.01 * seed,
            forgetting=0.0,
            bwt_own=0.0,
            forgetting_own=0.0,
            accuracy_matrix=[[0.5]],
            accuracy_matrix_own=[[0.5]],
            transfers=[],
            seconds=1.0,
        )
        for seed in trials_by_seed
    ]
    return summarise(
        pairs,
        runs,
        command="c",
        config={"transfer": {"mechanism": "m", "acceptance": "a", "tasks": 1}},
        seconds=1.0,
        environment={},
    )


def test_statistics_over_pairs_and_seeds():
    result = make_result(
        {
            0: [make_trial(0.02, 0.04), make_trial(-0.02, 0.04, accepted=False)],
            1: [make_trial(0.04, 0.02, own=0.01), make_trial(0.0, 0.02)],
        }
    )
    assert result.gains["transfer"].mean == pytest.approx(0.01)
    assert result.gains["policy"].mean == pytest.approx(0.015)
    # two seeds, 0.01 and 0.02: half = t(0.975, 1) * std / sqrt(2) = 12.706 * 0.005
    assert result.gains["policy"].high == pytest.approx(0.015 + 12.7062 * 0.005, abs=1e-5)
    assert result.gains["policy_above_own"].mean == pytest.approx(0.0125)
    assert result.share == pytest.approx(0.04 / 0.12)
    assert result.policy_share == pytest.approx(0.06 / 0.12)
    assert (result.precision, result.recall) == (pytest.approx(2 / 3), 1.0)
    assert result.pairs[0].measures == {"ratio": None}


def test_what_is_not_known_is_null():
    result = make_result({0: [make_trial(-0.02, -0.01, accepted=False)]})
    assert (result.share, result.policy_share, result.precision, result.recall) == (None,) * 4
    assert result.gains["transfer"].low is None
    assert Interval.of([0.5, 0.5]) == Interval(mean=0.5, low=0.5, high=0.5)
    counts = Acceptance.of([make_trial(0.0, 0.0)])
    assert (counts.accepted_gain, counts.accepted_no_gain) == (0, 1)


def test_seeds():
    assert parse_seeds("0, 7,4294967295") == [0, 7, 2**32 - 1]


def test_the_warning_of_an_unused_solver_alone_is_hidden():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with importing_avalanche():
            warnings.warn("no QP solver found on your system, you can", UserWarning, stacklevel=1)
            warnings.warn("another", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["another"]


def test_an_ablation_replays_each_variant_on_the_same_networks(file, tmp_path):
    varied = ["transfer.acceptance=always", "transfer.mechanism=impressions replay.generator=inversion"]
    result, folder = ablation(load_variants(file, [], varied), [0, 1], tmp_path / "out", console=QUIET)
    names = [variant.name for variant in result.variants]
    assert names == [AS_IT_IS, *varied]
    base = learn_base(load(file, ["seed=1"]), QUIET)
    matrix, outcomes = whole_run(base, load(file, ["seed=1", varied[0]]), "correspondence")
    always = result.variants[1]
    assert always.bwt[1] == all_metrics(matrix)["bwt"]
    assert always.accepted == always.tried == 2 * len(outcomes)
    differences = np.subtract(always.bwt, result.variants[0].bwt)
    assert always.above.mean == pytest.approx(differences.mean())
    table = (folder / "ablation.md").read_text()
    assert all(f"| {name} |" in table for name in names)
    assert sorted(path.name for path in folder.iterdir()) == ["ablation.json", "ablation.md", "config.yaml"]


@pytest.mark.parametrize("entry", ["train.epochs=3", "transfer.tasks", " ", "replay.imags=3"])
def test_wrong_variants_are_refused(main, file, tmp_path, capsys, entry):
    arguments = ["transfer-ablation", str(file), "--vary", entry, "--out", str(tmp_path / "out")]
    assert main.main(arguments) == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
