"""What run.py report writes: complete, true to the results, nothing on bad input."""

import csv
import io
import os
import xml.etree.ElementTree as ElementTree

import html5lib
import numpy as np
import pytest
import yaml

import run as command_line
from dsn.evaluation import all_metrics
from dsn.experiment.report import report
from dsn.experiment.report.sections import _provenance
from dsn.experiment.report.source import load_source
from dsn.experiment.result.result import read_result

XHTML = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture(scope="module")
def run(run_folder):
    folder = run_folder()
    report(folder)
    return folder


def tree(folder):
    parser = html5lib.HTMLParser(strict=True)
    return parser.parse((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("which", ["run", "comparison"])
def test_the_page_is_valid_and_every_figure_tells_its_numbers(which, request):
    page = tree(request.getfixturevalue(which))
    figures = page.findall(f".//{XHTML}figure")
    assert len(figures) >= 4
    for figure in figures:
        assert figure.get("role") == "img"
        assert any(character.isdigit() for character in figure.get("aria-label"))
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    links = [a.get("href") for a in page.iter(f"{XHTML}a")]
    assert links and all(link[0] == "#" and link[1:] in ids for link in links)
    assert "default-src 'none'" in page.find(f".//{XHTML}meta[@http-equiv]").get("content")


@pytest.mark.parametrize("which", ["run", "comparison"])
def test_every_figure_is_there_as_svg_and_pdf_and_in_the_markdown(which, request):
    folder = request.getfixturevalue(which)
    drawn = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert drawn == {path.stem for path in (folder / "figures").glob("*.pdf")}
    text = (folder / "report.md").read_text(encoding="utf-8")
    for name in drawn:
        ElementTree.parse(folder / "figures" / f"{name}.svg")
        assert f"](figures/{name}.svg)" in text
    assert not [path for path in folder.iterdir() if path.name.startswith(".report-")]


def test_the_csv_holds_the_means_of_the_results_at_full_precision(comparison):
    rows = list(csv.DictReader(io.StringIO((comparison / "comparison.csv").read_text())))
    assert [(row["strategy"], row["seeds"], row["missing"]) for row in rows] == [
        ("dsn", "2", "0"), ("naive", "1", "1"), ("ewc", "0", "2"),
    ]  # fmt: skip
    for row in rows[:2]:
        paths = sorted(comparison.glob(f"digits/runs/{row['strategy']}-seed*/result.json"))
        metrics = [all_metrics(read_result(path).matrix) for path in paths]
        for name in ("acc", "bwt", "forgetting", "learning_accuracy"):
            assert float(row[f"{name}_mean"]) == pytest.approx(100 * np.mean([m[name] for m in metrics]))
        assert float(row["stored_bytes_mean"]) == 407
        assert float(row["seconds_mean"]) == 3
    assert rows[0]["acc_low"] and not rows[1]["acc_low"]
    assert not rows[2]["acc_mean"]


def test_latex_markdown_and_page_show_the_same_numbers(comparison):
    acc = 100 * read_result(comparison / "digits/runs/naive-seed0/result.json").metrics.acc
    for name in ("comparison.tex", "report.md", "report.html"):
        assert f"{acc:.2f}" in (comparison / name).read_text(encoding="utf-8")


def test_runs_that_failed_or_are_missing_are_shown(comparison):
    text = "".join(tree(comparison).itertext())
    assert "the loss is not finite" in text
    assert "not run yet" in text
    assert "3 runs of 6 are missing" in text
    tex = (comparison / "comparison.tex").read_text(encoding="utf-8")
    assert "1 of 2" in tex and "ewc & 0 of 2" in tex


def test_reasons_of_transfers_are_text_not_markup(run):
    assert "reason <1> & more" in "".join(tree(run).itertext())


@pytest.mark.parametrize("which, where", [("run", ""), ("comparison", " of dsn, seed 0")])
def test_the_topology_of_every_subnetwork_is_drawn_and_told(which, where, request):
    page = tree(request.getfixturevalue(which))
    told = [figure.get("aria-label") for figure in page.findall(f".//{XHTML}figure")]
    [topology] = [text for text in told if text.startswith("Topology")]
    assert topology == (
        f"Topology of 4 subnetworks{where}. Plastic edges: 65 for the first task, 62 for the last. Of the "
        "last task's paths 18.75% are frozen throughout and 62.50% free throughout. Narrowest is layer "
        "classifier_1 of task 3 with 6 neurons. At the end 67.44% of the neurons are free."
    )
    text = "".join(page.itertext())
    assert "Task 2: saturated in 'classifier_1', where no free neuron is left" in text
    assert "Task 1: saturated" not in text


def test_names_of_two_streams_do_not_collide(comparison_folder):
    folder = comparison_folder(("a b", "a-b"), masks=False)
    report(folder, impressions=0)
    ids = [element.get("id") for element in tree(folder).iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert {"a-b-matrices.svg", "a-b-2-matrices.svg"} <= {
        path.name for path in (folder / "figures").iterdir()
    }


@pytest.mark.parametrize(
    "options", [{"transfers": 0}, {"masked": False, "transfers": 0}, {"tasks": 1, "transfers": 0}]
)
def test_no_section_is_empty_where_a_run_has_less(run_folder, options):
    folder = run_folder(**options)
    report(folder)
    sections = tree(folder).findall(f".//{XHTML}section")
    assert len(sections) >= 4
    for section in sections:
        assert len(list(section)) >= 2  # the heading and something under it
    assert ("Backward transfer attempts" in "".join(tree(folder).itertext())) == bool(options["transfers"])


def test_a_second_report_replaces_the_first_and_out_keeps_the_run_as_it_is(run_folder, tmp_path):
    folder = run_folder(tasks=2, masked=False)
    before = sorted(folder.rglob("*"))
    first = report(folder, tmp_path / "new" / "out").read_bytes()
    assert sorted(folder.rglob("*")) == before
    assert report(folder, tmp_path / "new" / "out").read_bytes() == first


def test_bad_input_ends_with_status_2_and_one_line(run_folder, comparison_folder, edited, tmp_path, capfd):
    empty, broken, foreign, comparison = tmp_path / "empty", run_folder(), run_folder(), comparison_folder()
    empty.mkdir()
    (broken / "result.json").write_text("{")
    edited(foreign / "result.json", format_version=99)
    edited(comparison / "comparison.json", format_version=99)
    for folder in (empty, tmp_path / "nothing", broken, foreign, comparison):
        assert command_line.main(["report", str(folder)]) == 2
        out, err = capfd.readouterr()
        assert err.startswith("error: ") and err.count("\n") == 1 and str(folder) in err
        assert not (folder / "report.html").exists()
    assert command_line.main(["report", str(run_folder()), "--impressions", "-1"]) == 2


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"a: \xe9", None, "folder", "pipe", "link"])
def test_a_config_that_cannot_be_read_is_shown_as_the_result_has_it(run_folder, damage):
    folder = run_folder()
    file = folder / "config.yaml"
    file.unlink()
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    elif damage == "folder":
        file.mkdir()
    elif damage == "pipe":
        os.mkfifo(file)
    elif damage == "link":
        file.symlink_to(file.name)
    result = read_result(folder / "result.json")
    blocks = _provenance(load_source(folder).streams[0], "x")
    assert yaml.safe_load(blocks[-1].text) == result.config
