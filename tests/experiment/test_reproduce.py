"""Papers and ours in one table: which rows stand in it, what they say, how it goes on."""

import errno
import io
import os

import pytest
import yaml
from compare_inline import Inline
from rich.console import Console

from dsn.cli.main import main
from dsn.errors import InputError
from dsn.experiment.compare import compare as compare_module
from dsn.experiment.config.experiment import load
from dsn.experiment.engine import choice
from dsn.experiment.report import reproduce as module
from dsn.experiment.report.published import Protocol, load_published
from dsn.experiment.report.reproduce import CONFIGS, FILE, PROTOCOLS, STRATEGIES, capacity, find, reproduce
from dsn.experiment.result.result import Memory, read_result

TINY = {
    "stream": {"name": "split_digits", "tasks": 2, "train_per_class": 20, "classes_per_task": 2},
    "backbone": {"name": "mlp", "widths": [16]},
    "train": {"epochs": 2, "batch_size": 8, "lr": 0.1, "momentum": 0.9},
    "transfer": {"tasks": 0, "forward": 0},
    "threads": 1,
}
HERE = {"tasks": 2, "classes_per_task": 2, "backbone": "MLP 16", "heads": "one a task"}
PUBLISHED = {
    "split_digits": [
        {"method": "WSN", "strategy": "wsn", "acc": 50.0, "spread": 50.0, "bwt": 0.0, "protocol": HERE},
        {"method": "Finetuning", "strategy": "naive", "acc": 0.5, "spread": 0.1, "protocol": HERE},
        {
            "method": "Independent",
            "strategy": "independent",
            "acc": 99.0,
            "protocol": {**HERE, "backbone": "X"},
        },
        {"method": "Elsewhere_1", "acc": 99.9, "bwt": 1.5, "protocol": HERE},
        {"method": "Longer", "strategy": "wsn", "acc": 99.0, "protocol": {**HERE, "tasks": 5}},
    ]
}


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setattr(choice, "LocalEngine", Inline)
    monkeypatch.setattr(compare_module, "make_console", lambda: Console(file=io.StringIO()))
    Inline.done, Inline.stop_after = [], None
    return Inline.done


@pytest.fixture
def files(tmp_path):
    config, published = tmp_path / "tiny.yaml", tmp_path / "published.yaml"
    config.write_text(yaml.safe_dump(TINY))
    rows = {key: [{**row, "source": "a paper"} for row in rows] for key, rows in PUBLISHED.items()}
    published.write_text(yaml.safe_dump(rows))
    return config, published


def table(path):
    """The rows by method, each by heading."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert {len(row) for row in [cells[0], *cells[2:]]} == {len(cells[0])}
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}


def test_a_row_a_method_of_the_protocol_and_of_what_was_run(files, tmp_path, inline):
    config, published = files
    out = tmp_path / "out"
    arguments = {"epochs": 1, "out": out, "published": published, "command": "python run.py reproduce x"}
    comparison, path = reproduce(
        str(config), "dsn,wsn,naive,independent", "0,1", ["train.lr=0.2"], **arguments
    )
    assert comparison.complete and path == out / FILE
    rows = table(path)
    assert set(rows) == {"WSN", "Finetuning", "Independent", "Elsewhere\\_1", "dsn"}

    acc = 100 * (sum(run.measures["acc"] for run in comparison.streams[0].runs if run.strategy == "wsn") / 2)
    assert rows["WSN"]["ACC, ours"].startswith(f"{acc:.2f}")
    assert float(rows["WSN"]["difference"].replace("−", "-")) == pytest.approx(acc - 50, abs=0.01)
    assert (rows["WSN"]["agrees"], rows["Finetuning"]["agrees"]) == ("**yes**", "no")
    assert rows["dsn"]["ACC, paper"] == rows["dsn"]["difference"] == rows["dsn"]["agrees"] == "–"
    assert rows["Elsewhere\\_1"]["what differs"] == "not run here"
    assert rows["Elsewhere\\_1"]["BWT, paper"] == "+1.50"
    for name in ("WSN", "dsn"):
        said = rows[name]["what differs"]
        assert "2 seeds" in said and "epochs capped at 1 of 2" in said and "train.lr=0.2" in said
    assert "backbone: X, here MLP 16" in rows["Independent"]["what differs"]
    assert load(out / "tiny" / "runs" / "wsn-seed0" / "config.yaml").train.epochs == 1

    done = len(inline)
    reproduce(str(config), "dsn,wsn,naive,independent", "0,1", ["train.lr=0.2"], **arguments)
    assert len(inline) == done and table(path) == rows


def test_the_command_says_where_the_table_is_and_ends_with_1_where_a_run_failed(
    files, tmp_path, inline, capsys
):
    config, published = files
    words = [
        "reproduce",
        str(config),
        "--seeds",
        "0",
        "--published",
        str(published),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*words, "--strategies", "naive", "--epochs", "1"]) == 0
    assert f"side by side: {tmp_path / 'o' / FILE}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([*words, "--strategies", "packnet", "--set", "train.epochs=1"])
    assert ended.value.code == 1 and "side by side" in capsys.readouterr().out


def test_a_cap_above_the_protocols_epochs_is_none(files, tmp_path, inline):
    config, published = files
    _, path = reproduce(str(config), "naive", "0", [], epochs=9, out=tmp_path / "o", published=published)
    row = table(path)["Finetuning"]
    assert "capped" not in row["what differs"] and "1 seed;" in row["what differs"]
    assert row["agrees"] == "no"  # the paper's spread is known


def test_without_a_known_spread_two_seeds_are_needed_to_agree(files, tmp_path, inline):
    config, published = files
    text = published.read_text().replace("spread: 50.0", "bwt: 0.0").replace("bwt: 0.0\n    bwt", "bwt")
    published.write_text(yaml.safe_dump({"split_digits": [{k: v for k, v in row.items() if k != "spread"}
        for row in yaml.safe_load(text)["split_digits"]]}))  # fmt: skip
    _, path = reproduce(str(config), "wsn", "0", [], epochs=1, out=tmp_path / "o", published=published)
    assert table(path)["WSN"]["agrees"] == "–"


def test_a_failed_run_is_named_and_the_others_stand(files, tmp_path, inline, monkeypatch):
    config, published = files
    comparison, path = reproduce(
        str(config), "naive,packnet", "0", ["train.epochs=1"], out=tmp_path / "o", published=published
    )
    assert comparison.failed  # packnet needs two epochs
    assert "Finetuning" in table(path) and "Missing: packnet seed 0" in path.read_text()


def test_a_disk_that_is_full_for_the_table_is_one_error(files, tmp_path, inline, monkeypatch):
    config, published = files
    write = module.write_whole

    def full(path, text):
        if path.name == FILE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, text)

    monkeypatch.setattr(module, "write_whole", full)
    out = tmp_path / "o"
    with pytest.raises(InputError, match=rf"{FILE}: No space left on device; the runs stay"):
        reproduce(str(config), "naive", "0", [], epochs=1, out=out, published=published)
    assert (out / "tiny" / "runs" / "naive-seed0" / "result.json").is_file()


def test_capacity_counts_used_weights_and_what_is_kept_beside_them(files, tmp_path, inline):
    config, published = files
    out = tmp_path / "o"
    reproduce(str(config), "wsn,independent", "0", [], epochs=1, out=out, published=published)
    result = read_result(out / "tiny" / "runs" / "independent-seed0" / "result.json")
    weights, biases, head = 64 * 16, 16, 16 * 2 + 2
    assert capacity(result) == pytest.approx(100 * 2 * (weights + biases + head) / weights)
    older = Memory(bytes_per_task=[1, 1], shared_bytes=0, stored_samples=0, stored_sample_bytes=0)
    assert capacity(result.model_copy(update={"memory": older})) is None


@pytest.mark.parametrize(
    ("protocol", "options", "said"),
    [
        ("permuted_mnist", {}, "nearest is 'permuted_mnist_10'"),
        ("../x", {}, "choose one of permuted_mnist_10"),
        ("absent.yaml", {}, "absent.yaml: no such file"),
        ("permuted_mnist_10", {"epochs": 0}, "--epochs 0: must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, protocol, options, said):
    with pytest.raises(InputError, match=said):
        reproduce(protocol, "dsn", "0", [], out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_its_config_and_the_papers_rows(name):
    config = load(find(name))
    kind = {"permuted_mnist_10": "permuted_mnist", "cifar100_superclass": "split_cifar100_superclass"}
    rows = load_published(CONFIGS / "published.yaml")[kind.get(name, config.stream.name)]
    classes = {"permuted_mnist_10": 10, "cifar100_superclass": 5}.get(name) or config.stream.classes_per_task
    here = Protocol(tasks=config.stream.tasks, classes_per_task=classes)
    assert [row for row in rows if module._same_stream(row.protocol, here)]
    assert config.train.restore_best and config.train.judge == "loss"
    assert {"dsn", "wsn", "supsup", "packnet", "independent", "joint"} <= set(STRATEGIES.split(","))
