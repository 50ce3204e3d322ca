"""Escapes, labels, the bold of a table, the forecast, published numbers."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsn.errors import InputError
from dsn.evaluation import Neurons
from dsn.experiment.report.figures.forecast import forecast, scarcest
from dsn.experiment.report.figures.grids import overlap
from dsn.experiment.report.figures.palette import DARK, SERIES, series_of
from dsn.experiment.report.figures.topology import room_warnings, topology
from dsn.experiment.report.latex import SPECIAL, escape
from dsn.experiment.report.markdown import escape as escape_markdown
from dsn.experiment.report.measures import ACC, winners
from dsn.experiment.report.published import Protocol, differences, load_published
from dsn.experiment.report.source import Run, StreamRuns
from dsn.experiment.report.table import Column, Table, words
from dsn.experiment.result.labels import spread
from dsn.experiment.result.result import TaskUse

ROOT = Path(__file__).parents[3]


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_latex_is_balanced_and_has_no_bare_special_character(names):
    table = Table(
        "t", "caption " + names[0], [Column("strategy", numeric=False)], [[words(n)] for n in names]
    )
    text = table.latex()
    assert text.count(r"\begin{") == text.count(r"\end{")
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert len(body) == len(names)
    for line in body:
        cell = line.removesuffix(r" \\")
        for command in sorted(SPECIAL.values(), key=len, reverse=True):
            cell = cell.replace(command, "")
        assert not re.search(r"[\\{}$&#%_^~<>|\"]", cell)


@given(st.text())
def test_latex_keeps_plain_text(text):
    plain = re.sub(r"[^a-z0-9 .,]", "", text)
    assert escape(plain) == plain


@given(st.text(alphabet="ab*_`[]<>|\\~&\n"))
def test_markdown_marks_nothing(text):
    assert not re.search(r"(?<!\\)(?:\\\\)*[*_`\[\]<>|~]", escape_markdown(text))
    assert "\n" not in escape_markdown(text)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8).map(sorted))
def test_labels_are_apart_and_in_the_order_of_their_lines(heights):
    places = spread(heights, 5.0, 0.0, 100.0)
    assert np.all(np.diff(places) >= 5 - 1e-9)
    assert min(places) >= -1e-9 and max(places) <= 100 + 1e-9


def test_labels_that_are_apart_stay_where_they_are():
    assert spread([10.0, 40.0, 90.0], 5.0, 0.0, 100.0) == [10.0, 40.0, 90.0]


def stream(make_result, matrices):
    runs = []
    for strategy, accuracies in matrices.items():
        for seed, acc in enumerate(accuracies):
            result = make_result(seed, strategy=strategy)
            metrics = result.metrics.model_copy(update={"acc": acc})
            runs.append(Run(strategy, seed, None, result.model_copy(update={"metrics": metrics})))
    return StreamRuns("s", list(matrices), runs)


def test_bold_is_the_best_and_what_is_not_significantly_worse(make_result):
    clearly = {"a": [0.90, 0.91, 0.92, 0.93], "b": [0.895, 0.915, 0.925, 0.92], "c": [0.50, 0.52, 0.51, 0.53]}
    assert winners(stream(make_result, clearly), ACC) == {"a", "b"}
    assert winners(stream(make_result, {"a": [0.9], "b": [0.89]}), ACC) == {"a"}
    assert winners(stream(make_result, {"a": [0.9, 0.8], "b": [0.9, 0.8], "c": [0.8, 0.7]}), ACC) == {
        "a",
        "b",
    }
    assert winners(stream(make_result, {"a": [0.9, 0.8]}), ACC) == set()


def uses(fresh, total=100):
    free, tasks = total, []
    for task, count in enumerate(fresh):
        free -= count
        layer = Neurons(active=count, reused=0, fresh=count, free=free, total=total)
        idle = Neurons(active=0, reused=0, fresh=0, free=total, total=total)
        tasks.append(
            TaskUse(task=task, neurons={"a": layer, "b": idle}, mask_bytes=1, similarity=[], jaccard={})
        )
    return tasks


@given(st.lists(st.integers(0, 10), min_size=1, max_size=9))
def test_going_on_at_the_present_rate_uses_up_the_free_neurons(fresh):
    a, b = forecast(uses(fresh))
    assert b.tasks_left is None
    recent = fresh[len(fresh) // 2 :]
    if a.tasks_left is None:
        assert not any(recent) and scarcest([a, b]) is None
    else:
        assert sum(fresh) + a.tasks_left * np.mean(recent) == pytest.approx(100)
        assert scarcest([b, a]) is a


def test_a_strategy_looks_the_same_beside_others_and_no_two_look_alike():
    names = list("hgfedcb") + ["dsn"]
    assert series_of(names) == series_of(names[::-1])
    assert series_of(names)["dsn"] == SERIES[0]
    looks = series_of(names).values()
    assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == 8
    assert {look.colour for look in looks} <= set(DARK)


def contrast(a, b):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted([luminance(a), luminance(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_lines_stand_out_from_the_page_in_light_and_dark():
    for look in SERIES:  # WCAG 2.2, 1.4.11: 3 to 1 for graphics
        assert contrast(look.colour, "#fdfdfc") > 3
        assert contrast(DARK[look.colour], "#14171a") > 3


def test_the_published_numbers_of_the_repository_load():
    known = load_published(ROOT / "configs" / "published.yaml")
    assert {"split_cifar100", "split_tinyimagenet", "permuted_mnist"} <= set(known)
    assert all(0 < row.acc <= 100 for rows in known.values() for row in rows)


def test_wrong_published_numbers_are_refused_by_name(tmp_path):
    file = tmp_path / "published.yaml"
    file.write_text("s: [{method: A, acc: 300, sorce: b, protocol: {task: 3}}]")
    with pytest.raises(InputError) as caught:
        load_published(file)
    text = str(caught.value)
    for part in ("s.0.acc", "nearest is 'source'", "s.0.source: missing", "nearest is 'tasks'"):
        assert part in text


def test_protocols_that_differ_are_told_apart():
    here = Protocol(tasks=20, classes_per_task=5, backbone="AlexNet", heads="one a task")
    assert differences(here, here) == "nothing that is stated"
    paper = Protocol(tasks=10, backbone="alexnet", heads="one for all", note="a reproduction")
    assert (
        differences(paper, here) == "tasks: 10, here 20; heads: one for all, here one a task; a reproduction"
    )


def test_results_without_topology_have_no_figure_and_no_warning_of_it(make_result):
    result = make_result()
    assert topology(result, "key") is not None and room_warnings(result)
    without = [use.model_copy(update={"topology": None}) for use in result.tasks]
    older = result.model_copy(update={"tasks": without})
    assert topology(older, "key") is None and room_warnings(older) == ""


@pytest.mark.parametrize(("tasks", "images"), [(12, 0), (60, 3)])
def test_a_grid_of_many_tasks_is_an_image_not_a_shape_a_cell(make_result, tasks, images):
    drawn = overlap(make_result(tasks=tasks), "overlap").wide()
    assert drawn.count("<image") - 1 == images and len(drawn) < 400_000
