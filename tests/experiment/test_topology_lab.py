"""``run.py topology`` from the command line, and the topology of tasks in a run's result."""

import json

import pytest
import torch
from rich.console import Console

import run as command_line
from dsn.errors import InputError
from dsn.experiment.config.experiment import load
from dsn.experiment.labs.topology import parse_densities, parse_pruners
from dsn.experiment.labs.topology_result import PrunedRun, summarise
from dsn.experiment.labs.topology_train import make_network, train_pruned
from dsn.experiment.result.result import read_result
from dsn.experiment.run.topology_lines import warnings_of
from dsn.topology import PRUNERS, prune
from dsn.topology.layers import weights_of
from dsn.topology.start import apply_masks

CONFIG = """
stream: {name: split_digits, tasks: 2, classes_per_task: 3}
backbone: {name: mlp, widths: [24, 16]}
train: {epochs: 3, batch_size: 32, lr: 0.1, momentum: 0.9, schedule: cosine}
threads: 1
device: cpu
"""

pytestmark = pytest.mark.filterwarnings("ignore:task .* no free neuron")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


def call(*arguments):
    return command_line.main([str(argument) for argument in arguments])


def test_the_command_writes_table_json_and_picture(config, tmp_path, capsys):
    out = tmp_path / "out"
    names = ",".join(PRUNERS)
    arguments = [
        "topology",
        config,
        "--densities",
        "0.2,0.05",
        "--seeds",
        "0,1",
        "--pruners",
        names,
        "--task",
        1,
    ]
    assert call(*arguments, "--out", out) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "config.yaml",
        "topology.json",
        "topology.md",
        "topology.png",
    ]
    found = json.loads((out / "topology.json").read_text())
    assert len(found["runs"]) == 2 * (1 + 2 * len(PRUNERS))
    assert found["parameters"] == 64 * 24 + 24 * 16 + 16 * 3 and found["nodes"] == 64 + 24 + 16 + 3
    dense = found["rows"][0]
    assert (dense["pruner"], dense["density"]) == ("dense", 1.0) and dense["accuracy"]["mean"] > 0.8
    for row in found["rows"][1:]:
        ours = [r for r in found["runs"] if (r["pruner"], r["density"]) == (row["pruner"], row["density"])]
        assert row["accuracy"]["mean"] == pytest.approx(sum(r["accuracy"] for r in ours) / 2)
        assert all(r["live_parameters"] <= 1.1 * row["density"] * found["parameters"] for r in ours)
        assert all(r["effective_parameters"] <= r["live_parameters"] for r in ours)
    text = (out / "topology.md").read_text()
    assert "$ python run.py topology" in text and text.count("| npb |") == 2
    assert "written to" in capsys.readouterr().out
    assert call(*arguments, "--out", out) == 2  # nothing is overwritten


def test_bad_input_is_one_line_and_leaves_nothing(config, tmp_path, capsys):
    out = tmp_path / "out"
    for wrong, said in {
        ("--pruners", "npd"): "unknown 'npd', nearest is 'npb'",
        ("--densities", "0.1,2"): "must lie between 0 and 1",
        ("--densities", "0.1,0.1"): "stands twice",
        ("--task", "2"): "tasks 0 to 1",
        ("--seeds", "0,0"): "stands twice",
        ("--alpha", "3"): "alpha is 3",
        ("--densities", "0.03"): "narrow: density 0.03 leaves 59 weights",
        ("--densities", "0.001"): "no path from input to output survives",
        ("--set", "train.patience=3"): "validation",
        ("--reference", "grasp"): "must be one of the pruners, ",
    }.items():
        assert call("topology", config, *wrong, "--out", out) == 2
        captured = capsys.readouterr()
        assert said in captured.err and captured.err.count("\n") == 1
        assert not out.exists()


def test_parsing():
    assert parse_densities("0.1,0.01") == [0.1, 0.01]
    assert parse_pruners("npb,random") == ["npb", "random"]
    with pytest.raises(InputError, match="numbers with commas"):
        parse_densities("much")


@pytest.mark.parametrize("rescale", [False, True])
def test_masked_weights_stay_zero_and_the_others_learn(config, rescale):
    settings = load(config, ["train.weight_decay=0.01"])
    torch.manual_seed(0)
    network = make_network(settings, torch.Size([64]), 3)
    masks = prune(network, 0.1, "random", input_shape=(1, 64))
    whole = {path: weight.detach().clone() for path, weight in weights_of(network).items()}
    apply_masks(network, masks, rescale=rescale)
    for path, weight in weights_of(network).items():
        rows = masks[path].any(1)
        ratio = (weight / whole[path]).detach()[masks[path]].square()
        expected = masks[path][0].numel() / masks[path].sum(1)[:, None].expand_as(weight)[masks[path]]
        assert ratio.tolist() == pytest.approx(expected.tolist() if rescale else [1.0] * len(ratio), rel=1e-4)
        assert rows.any()
    started = {path: weight.detach().clone() for path, weight in weights_of(network).items()}
    train_pruned(network, masks, torch.randn(64, 64), torch.arange(64) % 3, settings)
    for path, weight in weights_of(network).items():
        assert (weight[~masks[path]] == 0).all()
        assert (weight != started[path]).any()


def one(seed, pruner, paths, accuracy, nodes=9):
    counts = {
        "live_parameters": 5,
        "effective_parameters": 4,
        "effective_kernels": 4,
        "effective_nodes": nodes,
    }
    lost = [] if paths is not None else ["a"]
    values = {"seed": seed, "pruner": pruner, "density": 0.1, "accuracy": accuracy, "log10_paths": paths}
    return PrunedRun(**values, **counts, collapsed=lost, seconds=1.0)


def test_a_network_without_paths_has_no_mean_of_them():
    runs = [
        one(0, "random", 2.0, 0.5),
        one(1, "random", None, 0.1),
        one(0, "npb", 3.0, 0.75),
        one(1, "npb", 3.0, 0.5),
    ]
    rows, principle = summarise(runs)
    assert [row.pruner for row in rows] == ["npb", "random"]
    assert rows[1].log10_paths is None and rows[1].collapsed == 1 and rows[0].collapsed == 0
    assert rows[0].above_reference.mean == pytest.approx(0.325) and rows[1].above_reference is None
    turned = summarise(runs, "npb")[0]
    assert turned[1].above_reference.mean == pytest.approx(-0.325) and turned[0].above_reference is None
    assert principle[0].paths is None  # two pruners are too few


def test_the_principle_is_told_apart_from_its_halves():
    found = {"a": (40, 1.0, 0.2), "b": (30, 4.0, 0.8), "c": (25, 3.0, 0.7), "d": (10, 3.5, 0.3)}
    runs = [one(0, name, paths, accuracy, nodes) for name, (nodes, paths, accuracy) in found.items()]
    [at] = summarise(runs)[1]
    assert at.nodes == pytest.approx(-0.2)  # ranks 4 3 2 1 beside 1 4 3 2 of accuracy
    assert at.paths == pytest.approx(0.8)  # ranks 1 4 2 3
    assert at.both == pytest.approx(0.1**0.5)  # sums 5 7 4 4
    opposed = [one(0, name, 5.0 - k, 0.1 * k, 10 * k) for k, name in enumerate("abcd")]
    [at] = summarise(opposed)[1]
    assert (at.nodes, at.paths, at.both) == (pytest.approx(1), pytest.approx(-1), None)


def test_a_run_tells_the_topology_of_its_tasks_and_warns_by_name(config, tmp_path, capsys):
    out = tmp_path / "run"
    settings = ["--set", "train.epochs=2", "--set", "selection.logit_mean=5", "--set", "selection.sparsity=0"]
    assert call("run", config, *settings, "--set", "transfer.tasks=0", "--out", out, "--verbose") == 0
    said = capsys.readouterr().out
    assert "warning: task 0: saturated in '1', '3'" in said and "effective nodes, 10^" in said
    tasks = read_result(out / "result.json").tasks
    assert tasks[0].topology.effective_nodes == 64 + 24 + 16 + 3
    assert tasks[0].topology.frozen_paths == 0 and tasks[1].topology.frozen_paths == pytest.approx(1)
    assert tasks[0].topology.saturated == ["1", "3"] and tasks[1].topology.saturated == []
    assert len(warnings_of(tasks[0].topology)) == 1 and not warnings_of(tasks[1].topology)
    values = json.loads((out / "result.json").read_text())
    for task in values["tasks"]:
        del task["topology"]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(values))
    assert read_result(old).tasks[0].topology is None


def test_an_uncountable_backbone_is_said_once_and_hinders_nothing():
    from dsn import mask_neurons
    from dsn.experiment.run.topology_lines import TopologyLines

    class Product(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)

        def forward(self, x):
            return self.a(x) * self.b(x)

    model = mask_neurons(Product(), example_input=torch.zeros(1, 3))
    console = Console(record=True, width=200)
    tell = TopologyLines(console, model, verbose=True)
    for task in range(2):
        model.add_task(2)
        model.commit(task)
        tell()
    assert console.export_text().count("not measured") == 1


def test_what_is_kept_is_not_trained_again_and_other_settings_are(config, tmp_path):
    kept = tmp_path / "kept"

    def lab(out, pruners, *more):
        arguments = [
            "--densities",
            0.2,
            "--seeds",
            0,
            "--pruners",
            pruners,
            "--keep",
            kept,
            "--out",
            tmp_path / out,
        ]
        assert call("topology", config, *arguments, *more) == 0

    lab("first", "npb")
    assert len(list(kept.iterdir())) == 2
    times = {file: file.stat().st_mtime_ns for file in kept.iterdir()}
    lab("second", "npb,magnitude")
    assert len(list(kept.iterdir())) == 3
    assert all(file.stat().st_mtime_ns == time for file, time in times.items())
    first, second = (
        json.loads((tmp_path / out / "topology.json").read_text()) for out in ("first", "second")
    )
    assert second["runs"][:2] == first["runs"]
    lab("third", "npb,magnitude")
    assert json.loads((tmp_path / "third" / "topology.json").read_text())["runs"] == second["runs"]
    lab("fourth", "npb", "--alpha", 0.5)
    assert len(list(kept.iterdir())) == 5
