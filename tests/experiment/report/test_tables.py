"""What the tables of a comparison say: differences, ranks, what was tuned, papers' figures beside ours."""

import html
import json
from pathlib import Path

import pytest
import yaml

from dsn.experiment.report import report
from dsn.experiment.result.result import UnlabelledRow, read_result, write_result
from dsn.masking.recognition import SCORES

ROOT = Path(__file__).parents[3]
DIFFERENCES = [
    {
        "strategy": "naive", "seeds": [0, 1], "mean": -0.0125, "low": -0.02, "high": -0.005, "p": 2e-4,
        "p_holm": 0.04,
    },
    {"strategy": "ewc", "seeds": [0], "mean": 0.03, "low": None, "high": None, "p": None, "p_holm": None},
]  # fmt: skip
TRIALS = [
    {"values": {"train.lr": 0.1}, "accuracy": 0.81, "seconds": 2.0},
    {"values": {"train.lr": 0.2}, "accuracy": 0.9037, "seconds": 2.0},
    {"values": {"train.lr": 9.0}, "accuracy": None, "seconds": 1.0, "error": "the loss is not finite"},
]
TUNING = [
    {"strategy": "dsn", "seed": 7, "seeds": [7], "tasks": 2, "trials": TRIALS, "chosen": {"train.lr": 0.2}},
    {"strategy": "naive", "seed": 7, "seeds": [7], "tasks": 2, "trials": TRIALS[2:], "chosen": None},
]
RANKS = [
    {"strategy": "dsn", "rank": 1.5, "streams": 2},
    {"strategy": "naive", "rank": 1.75, "streams": 2},
]


@pytest.fixture(scope="module")
def whole(comparison_folder):
    """A comparison on two streams, with published figures of one of them, and all else that there can be."""
    folder = comparison_folder(names=("permuted_mnist", "digits"))
    path = folder / "comparison.json"
    values = json.loads(path.read_text())
    values["streams"][0] |= {"differences": DIFFERENCES, "tuning": TUNING}
    values["statistics"] |= {"comparisons": 1, "ranks": RANKS}
    path.write_text(json.dumps(values))
    report(folder, published=ROOT / "configs" / "published.yaml")
    return folder


def rows(folder):
    """The cells of every row of a table in the Markdown."""
    text = html.unescape((folder / "report.md").read_text(encoding="utf-8"))
    lines = text.replace("\u00a0", " ").replace("\\<", "<").splitlines()
    return [
        [cell.strip(" *") for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")
    ]


def test_differences_have_intervals_and_corrected_p_values_where_there_are_any(whole):
    found = {tuple(row) for row in rows(whole)}
    assert ("ewc", "1", "+3.00", "–", "–", "–") in found
    assert ("naive", "2", "\u22121.25", "\u22122.00 to \u22120.50", "< 0.001", "0.040") in found


def test_ranks_over_streams(whole):
    found = [row for row in rows(whole) if row[:1] in (["dsn"], ["naive"]) and row[-1] == "2"]
    assert [row[:2] for row in found] == [["dsn", "1.50"], ["naive", "1.75"]]


def test_what_was_chosen_and_that_nothing_could_be(whole):
    found = [row for row in rows(whole) if len(row) == 4 and row[0] in ("dsn", "naive")]
    assert ["dsn", "3", "90.37", "train.lr=0.2"] in found
    assert any(row[:2] == ["naive", "1"] and row[3] == "none: every trial failed" for row in found)


def test_papers_stand_as_they_print_beside_what_was_measured_best_first(whole):
    table = [
        row for row in rows(whole) if len(row) == 6 and ("published" in row[1] or row[1] == "measured here")
    ]
    published = {row[0]: row for row in table if "published" in row[1]}
    assert published["WSN"][1:3] == ["published: Kang et al., ICML 2022", "96.41"]
    assert published["GPM"][3] == "\u22122.00"
    assert "tasks: 10, here 4" in published["WSN"][4] and "10 tasks" in published["WSN"][5]
    acc = [
        100 * read_result(path).metrics.acc for path in whole.glob("permuted_mnist/runs/naive*/result.json")
    ]
    assert next(row for row in table if row[:2] == ["naive", "measured here"])[2].startswith(f"{acc[0]:.2f}")
    figures = [float(row[2].split()[0]) for row in table]
    assert figures == sorted(figures, reverse=True) and len({row[1] for row in table}) > 2


def test_the_page_and_latex_have_them_too(whole):
    page, tex = ((whole / name).read_text(encoding="utf-8") for name in ("report.html", "comparison.tex"))
    for text in ("none: every trial failed", "Kang et al., ICML 2022", "1.75"):
        assert text in html.unescape(page)
    assert "96.41" in page and "naive" in tex


def test_published_figures_of_ones_own_with_a_spread(comparison_folder, tmp_path):
    folder = comparison_folder(names=("mine",))
    file = tmp_path / "published.yaml"
    protocol = {"tasks": 4, "backbone": "MLP ", "heads": "one a task", "note": "other images"}
    row = {"method": "Theirs", "acc": 91.5, "spread": 0.25, "source": "a paper", "protocol": protocol}
    file.write_text(yaml.safe_dump({"mine": [row]}))
    report(folder, published=file)
    found = next(row for row in rows(folder) if row[0] == "Theirs")
    assert found[2:5] == ["91.50 ± 0.25", "–", "other images"]


def test_scores_without_task_ids_stand_with_intervals_over_seeds(comparison_folder):
    folder = comparison_folder()
    for seed, right in ((0, 0.5), (1, 0.54)):
        path = folder / "digits" / "runs" / f"dsn-seed{seed}" / "result.json"
        result = read_result(path)
        shares = {score: [right] * 4 for score in SCORES}
        row = UnlabelledRow(accuracy=shares, inference={score: [0.75] * 4 for score in SCORES})
        write_result(result.model_copy(update={"class_incremental": [row]}), path)
    report(folder)
    found = [row for row in rows(folder) if row[:2] == ["dsn", "combined"]]
    assert found == [["dsn", "combined", "52.00 ± 25.41", "75.00 ± 0.00"]]  # t(1) = 12.706, times 2
