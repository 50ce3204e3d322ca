"""A whole run on scikit-learn's digits: its files, its numbers, what failures leave behind."""

import importlib.metadata
import importlib.util
import json
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import avalanche
import pytest
import torch
import yaml
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dsn.errors import InputError
from dsn.evaluation import all_metrics
from dsn.experiment.config.experiment import load
from dsn.experiment.config.network import build_model
from dsn.experiment.result.result import Forward, Transfer, read_result
from dsn.experiment.run.run import run
from dsn.transfer import ForwardOutcome, TransferOutcome

ROOT = Path(__file__).parents[2]
TINY = {
    "stream": {"name": "split_digits", "tasks": 3, "train_per_class": 40, "validation": 0.2},
    "backbone": {"name": "mlp", "widths": [24, 16]},
    "train": {"epochs": 15, "batch_size": 8, "lr": 0.1, "momentum": 0.9},
    "threads": 1,
}
FILES = [
    "accuracy_matrix.png",
    "config.yaml",
    "matrix.csv",
    "model.safetensors",
    "neurons.png",
    "result.json",
]


@pytest.fixture
def tiny(tmp_path):
    def make(*overrides):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(TINY))
        config = load(path, list(overrides))
        path.unlink()
        return config

    return make


def quiet_run(config, out, verbose=False):
    console = Console(file=open(out.parent / "log.txt", "w"), width=200)  # noqa: SIM115
    result, target = run(config, out, console=console, verbose=verbose)
    console.file.close()
    log = out.parent / "log.txt"
    text = log.read_text()
    log.unlink()
    return result, target, text


def without_times(path):
    values = json.loads(path.read_text())
    return {key: value for key, value in values.items() if key not in ("timings", "environment")}


def test_a_run_writes_all_its_files_and_the_numbers_agree(tiny, tmp_path):
    config = tiny()
    result, target, _ = quiet_run(config, tmp_path / "out")
    assert sorted(path.name for path in target.iterdir()) == FILES
    assert read_result(target / "result.json") == result
    assert load(target / "config.yaml") == config
    assert result.metrics.model_dump(exclude={"cil_acc", "task_inference"}) == all_metrics(result.matrix)
    assert result.metrics.forgetting == 0.0
    assert result.metrics.acc > 0.6
    rows = (target / "matrix.csv").read_text().splitlines()[1:]
    for row, values in zip(rows, result.accuracy_matrix, strict=True):
        assert [float(cell) if cell else None for cell in row.split(",")[1:]] == values
    assert [use.task for use in result.tasks] == [0, 1, 2]
    assert all(use.mask_bytes == 3 + 2 for use in result.tasks)
    assert all(use.similarity[use.task] == pytest.approx(1.0) for use in result.tasks)


def test_a_run_does_not_end_in_an_error_where_avalanche_was_not_installed_but_lies_on_the_path(
    tiny, tmp_path, monkeypatch
):
    distribution = importlib.metadata.Distribution.from_name

    def found(name):
        if name == "avalanche-lib":
            raise importlib.metadata.PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", found)
    result, _, _ = quiet_run(tiny(), tmp_path / "out")
    assert result.environment["avalanche"] == avalanche.__version__


NO_TRANSFER = ("transfer.tasks=0", "transfer.forward=0")
TRANSFERRING = [
    "stream={name: rotated, data: digits, tasks: 3, angles: [0, 9, 5], train_per_class: 20, validation: 0.3}",
    "train={epochs: 10, batch_size: 8, lr: 0.03, momentum: 0.9}",
    "selection={sparsity: 0.1, annealing: task, logit_mean: 2.0}",
    "backbone.widths=[64, 48]",
]


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
def test_every_attempt_at_transfer_is_in_the_result_and_a_line_after_its_task(tiny, tmp_path):
    result, target, text = quiet_run(tiny(*TRANSFERRING, "transfer.acceptance=always"), tmp_path / "out")
    assert [(t.task, t.source) for t in sorted(result.transfers, key=lambda t: (t.source, t.task))] == [
        (0, 1),
        (0, 2),
        (1, 2),
    ]
    assert set(Transfer.model_fields) == {field.name for field in fields(TransferOutcome)}
    assert all(t.accepted and t.mechanism == "correspondence" for t in result.transfers)
    assert read_result(target / "result.json").transfers == result.transfers
    lines = text.splitlines()
    after = next(i for i, line in enumerate(lines) if line.startswith("task 1 (2/3)"))
    gain = next(line for line in lines[after + 1 :] if "task 0 gains from task 1" in line)
    before, now = (f"{row[0]:.2%}" for row in result.accuracy_matrix[:2])
    assert f"accuracy {before} to {now}" in gain
    assert sum("gains from task 2" in line for line in lines) == 2
    assert [(f.task, sorted(f.sources)) for f in result.forward_transfers] == [(1, [0]), (2, [0, 1])]
    assert set(Forward.model_fields) == {field.name for field in fields(ForwardOutcome)}
    model = build_model(load(target / "config.yaml"), torch.Size([64]))
    model.load_state_dict(load_file(target / "model.safetensors"))
    assert len(model.lateral_heads(0)) > 0


@pytest.mark.filterwarnings("ignore:task .* no free neuron")
@pytest.mark.parametrize("verbose", [False, True])
def test_what_is_refused_is_one_line_a_task_and_verbose_has_each_attempt(tiny, tmp_path, verbose):
    result, _, text = quiet_run(tiny(*TRANSFERRING), tmp_path / "out", verbose=verbose)
    assert len(result.transfers) == 3 and not any(t.accepted for t in result.transfers)
    tried = [line for line in text.splitlines() if line.startswith("  - ") and "reads nothing" not in line]
    assert len(tried) == (3 if verbose else 2)
    assert all("similarity" in line for line in tried) == verbose
    for line, source in zip(tried, (1, 2, 2) if verbose else (1, 2), strict=True):
        assert f"task {source} has hardly more data" in line
        assert ("1.0 times" in line) == verbose


QUICKSTART = ROOT / "configs" / "quickstart.yaml"


def test_the_quickstart_shows_a_task_that_learns_backwards(tmp_path):
    """One column rises where a transfer was accepted, all others stay."""
    result, _, text = quiet_run(load(QUICKSTART), tmp_path / "out")
    r = result.matrix
    accepted = {(t.task, t.source) for t in result.transfers if t.accepted}
    assert accepted and len(result.transfers) > len(accepted)
    assert result.metrics.bwt > 0 and result.metrics.forgetting == 0
    for task in range(len(r)):
        for row in range(task + 1, len(r)):
            assert (r[row, task] > r[row - 1, task]) == ((task, row) in accepted), (task, row)
    assert all(f"task {task} gains from task {source}" in text for task, source in accepted)
    assert text.count("  - ") <= len(r) - 1


@pytest.mark.filterwarnings("error::UserWarning")
def test_without_validation_data_one_line_says_that_nothing_is_transferred(tiny, tmp_path):
    result, _, text = quiet_run(tiny("stream.validation=0", "train.epochs=1"), tmp_path / "a")
    assert result.transfers == [] and text.count("transfer is off") == 1
    *_, text = quiet_run(tiny("stream.validation=0", "train.epochs=1", *NO_TRANSFER), tmp_path / "b")
    assert "transfer is off" not in text
    *_, text = quiet_run(
        tiny("stream.validation=0", "strategy=independent", "train.epochs=1"), tmp_path / "c"
    )
    assert "transfer is off" not in text


def test_switching_transfer_off_changes_no_training(tiny, tmp_path):
    on, *_ = quiet_run(tiny(*TRANSFERRING), tmp_path / "on")
    off, *_ = quiet_run(tiny(*TRANSFERRING, "transfer.tasks=0"), tmp_path / "off")
    assert off.transfers == [] and len(on.transfers) == 3
    diagonals = [[row[i] for i, row in enumerate(result.accuracy_matrix)] for result in (on, off)]
    assert diagonals[0] == diagonals[1] and off.metrics.bwt == 0.0


def test_the_model_file_rebuilds_the_model(tiny, tmp_path):
    config = tiny()
    result, target, _ = quiet_run(config, tmp_path / "out")
    model = build_model(config, torch.Size([64]))
    model.load_state_dict(load_file(target / "model.safetensors"))
    with safe_open(target / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["run"])["config"] == result.config
        assert list(file.metadata()) == ["run"]  # of several, the order changes from file to file
    for use in result.tasks:
        counts = {layer: int(mask.sum()) for layer, mask in model.masks(use.task).items()}
        assert counts == {layer: n.active for layer, n in use.neurons.items()}


def test_same_seed_same_result_and_another_seed_another(tiny, tmp_path):
    folders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(7)  # what ran before must not matter
        folders.append(quiet_run(tiny(f"seed={seed}"), tmp_path / name)[1])
    first, again, other = (without_times(folder / "result.json") for folder in folders)
    assert first == again
    assert (folders[0] / "model.safetensors").read_bytes() == (folders[1] / "model.safetensors").read_bytes()
    assert first["accuracy_matrix"] != other["accuracy_matrix"]


def test_comparison_runs_fill_their_metrics_and_change_no_other(tiny, tmp_path):
    plain, *_ = quiet_run(tiny(), tmp_path / "plain")
    full, *_ = quiet_run(tiny("evaluation={independent: true, random: true}"), tmp_path / "full")
    assert None not in full.metrics.model_dump(exclude={"cil_acc", "task_inference"}).values()
    for name in ("acc", "bwt", "forgetting", "learning_accuracy"):
        assert getattr(plain.metrics, name) == getattr(full.metrics, name)
    assert plain.accuracy_matrix[0][1] is None and full.accuracy_matrix[0][1] is not None


def test_independent_networks_are_a_strategy(tiny, tmp_path):
    result, target, text = quiet_run(tiny("strategy=independent"), tmp_path / "out")
    assert [f"task {task} ({task + 1}/3)  loss" in text for task in (0, 1, 2)] == [True] * 3
    reference, *_ = quiet_run(tiny("evaluation.independent=true"), tmp_path / "dsn")
    assert sorted(path.name for path in target.iterdir()) == [
        name for name in FILES if name not in ("model.safetensors", "neurons.png")
    ]
    assert result.tasks == [] and result.metrics.forgetting == 0.0
    gain = reference.metrics.acc - result.metrics.acc
    assert reference.metrics.trans == pytest.approx(gain, abs=1e-12)


def test_plain_output_names_each_task_and_verbose_each_epoch(tiny, tmp_path):
    *_, text = quiet_run(tiny(), tmp_path / "a")
    assert [f"task {task} ({task + 1}/3)  loss" in text for task in (0, 1, 2)] == [True] * 3
    assert "epoch" not in text and "\x1b" not in text and "forgetting" in text
    *_, text = quiet_run(tiny("train.warmup_epochs=1", "train.consolidation_epochs=1"), tmp_path / "b", True)
    assert [f"task 2 (3/3)  epoch {epoch}/17" in text for epoch in range(1, 19)] == [True] * 17 + [False]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=1e30", "task 0, epoch [0-9]+, iteration"),
        ("backbone={name: small_cnn}", "takes images, but the stream gives vectors of 64"),
        ("selection.budget={nowhere: 0.5}", "nowhere"),
        ("device=cuda:99", "cannot be used here"),
        ("train={optimizer: adam, optimizer_args: {betas: 3}}", "adam refuses its arguments"),
    ],
)
def test_a_failed_run_leaves_nothing_behind(tiny, tmp_path, override, message):
    config = tiny(override)
    with pytest.raises(InputError, match=message):
        run(config, tmp_path / "deep" / "out", console=Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused_before_training(tiny, tmp_path):
    (tmp_path / "mine").write_text("x")
    started = time.perf_counter()
    with pytest.raises(InputError, match="choose another --out"):
        run(tiny("train.epochs=100000"), tmp_path, console=Console(quiet=True))
    assert time.perf_counter() - started < 5
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# ---- the command line ------------------------------------------------------------------------------------


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def main(monkeypatch):
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return module


def test_help_answers_within_a_second(tmp_path):
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        shown = command("run", "--help", cwd=tmp_path)
        seconds.append(time.perf_counter() - started)
        assert shown.returncode == 0 and "--seed" in shown.stdout
    assert min(seconds) < 1


def test_bad_input_is_one_line_each_and_status_2(tmp_path):
    (tmp_path / "x.yaml").write_text("stream: {name: split_digits}\ntrain: {epoch: 1}\n")
    failed = command("run", "x.yaml", "--seed", "-1", cwd=tmp_path)
    assert failed.returncode == 2
    assert sorted(failed.stderr.splitlines()) == [
        "error: --set seed=-1: seed: must be greater than or equal to 0, got -1",
        "error: x.yaml: train.epoch: unknown key, nearest is 'epochs'",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_options_reach_the_run(main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    arguments = ["run", "tiny.yaml", "--seed", "3", "--device", "cpu", "--set", "train.epochs=1"]
    assert main.main(arguments) == 0
    result = read_result(tmp_path / "results" / "tiny-seed3" / "result.json")
    assert (result.seed, result.config["device"], result.config["train"]["epochs"]) == (3, "cpu", 1)
    assert main.main([*arguments, "--out", "results/tiny-seed3"]) == 2
    assert main.main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["tiny-seed3", "tiny-seed3-2"]


def test_an_interrupted_run_that_cannot_be_kept_ends_with_130_and_leaves_nothing(
    main, tmp_path, monkeypatch, capsys
):
    from dsn.baselines.strategy import Baseline

    def interrupted(self, *_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Baseline, "eval", interrupted)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    command = ["run", str(tmp_path / "tiny.yaml"), "--set", "strategy=naive", "--out", str(tmp_path / "out")]
    assert main.main(command) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_the_command_of_the_parser_is_required(main, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main([])
    assert stopped.value.code == 2 and "COMMAND" in capsys.readouterr().err


def test_tensorboard_gets_every_epoch_and_the_metrics_and_changes_nothing(tiny, tmp_path) -> None:
    short = ["stream.tasks=2", "train.epochs=3", "transfer.tasks=0", "transfer.forward=0"]
    plain, *_ = quiet_run(tiny(*short), tmp_path / "plain")
    logged, *_ = quiet_run(tiny(*short, "tracker=tensorboard"), tmp_path / "logged")
    assert logged.accuracy_matrix == plain.accuracy_matrix
    logs = EventAccumulator(str(tmp_path / "logged" / "tensorboard"))
    logs.Reload()
    for task in range(2):
        losses = logs.Scalars(f"Loss_Epoch/train_phase/train_stream/Task{task:03d}")
        assert len(losses) == 3
        assert losses[-1].value < losses[0].value
    assert logs.Scalars("acc/eval_phase/test_stream")[-1].value == pytest.approx(logged.metrics.acc)
    assert not (tmp_path / "plain" / "tensorboard").exists()
    assert not (tmp_path / "logged.checkpoint").exists()
