"""result.json: written and read back the same, wrong files refused; and the folder around it."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsn.errors import InputError
from dsn.evaluation import Neurons, all_metrics
from dsn.experiment.base.folder import output_folder
from dsn.experiment.result.pictures import draw_accuracy_matrix, draw_neurons
from dsn.experiment.result.result import (
    Metrics,
    Result,
    TaskUse,
    Timings,
    matrix_as_lists,
    matrix_csv,
    read_result,
    write_result,
)


def make_result(tasks=3, layers=2):
    matrix = np.where(np.tri(tasks) == 1, np.linspace(0.1, 1, tasks * tasks).reshape(tasks, tasks), np.nan)
    uses = [
        TaskUse(
            task=task,
            neurons={
                f"layer{i}": Neurons(active=3, reused=1, fresh=2, free=5, total=10) for i in range(layers)
            },
            mask_bytes=2 * layers,
            similarity=[1.0] * tasks,
            jaccard={},
        )
        for task in range(tasks)
    ]
    return Result(
        config={"seed": 3},
        seed=3,
        accuracy_matrix=matrix_as_lists(matrix),
        metrics=Metrics.model_validate(all_metrics(matrix)),
        tasks=uses,
        timings=Timings(total=1.5, references=0.0, tasks=[]),
        environment={"python": "3"},
    )


def test_a_result_is_read_back_exactly(tmp_path):
    result = make_result()
    write_result(result, tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == result
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_the_file_has_the_documented_fields(tmp_path):
    write_result(make_result(), tmp_path / "result.json")
    values = json.loads((tmp_path / "result.json").read_text())
    assert set(values) == {
        "format_version",
        "config",
        "seed",
        "accuracy_matrix",
        "metrics",
        "forward_transfers",
        "memory",
        "certificate",
        "class_incremental",
        "forgotten",
        "independent",
        "tasks",
        "transfers",
        "timings",
        "environment",
        "seal",
    }
    assert values["accuracy_matrix"][0][1] is None
    assert values["transfers"] == []


@given(st.floats(0, 1))
def test_accuracies_keep_full_precision(value):
    lists = matrix_as_lists(np.array([[value]]))
    assert json.loads(json.dumps(lists)) == [[value]]
    assert float(matrix_csv(np.array([[value]])).splitlines()[1].split(",")[1]) == value


def test_the_csv_is_empty_where_nothing_was_evaluated():
    assert matrix_csv(np.array([[0.5, np.nan], [0.25, 1.0]])) == (
        "after_task,task_0,task_1\n0,0.5,\n1,0.25,1.0\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version is 2"),
        ({"accuracy_matrix": [[0.5], [0.5, 0.5]]}, "accuracy_matrix: rows of different lengths"),
        ({"accuracy_matrix": [[1.5]]}, "accuracy_matrix: .*must lie in"),
        ({"sede": 1}, "sede: unknown key, nearest is 'seed'"),
        ({"metrics": {"acc": 1}}, "metrics.bwt: missing"),
    ],
)
def test_a_wrong_file_is_refused_with_the_field(tmp_path, change, message):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(make_result().model_dump(mode="json") | change))
    with pytest.raises(InputError, match=message):
        read_result(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\0"])
def test_what_is_no_result_is_refused(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match="result.json"):
        read_result(tmp_path / "result.json")
    with pytest.raises(InputError, match="no such file"):
        read_result(tmp_path / "absent.json")


@pytest.mark.parametrize(("tasks", "layers"), [(1, 1), (5, 2), (20, 9), (300, 2)])
def test_pictures_are_drawn_for_few_and_many_tasks(tmp_path, tasks, layers):
    from PIL import Image

    result = make_result(tasks, layers)
    for draw in (draw_accuracy_matrix, draw_neurons):
        path = tmp_path / f"{draw.__name__}.png"
        draw(result, path)
        with Image.open(path) as image:
            assert min(image.size) > 300 and max(image.size) <= 2000
            assert len(image.convert("RGB").getcolors(10**6)) > 3


def test_the_folder_appears_whole(tmp_path):
    with output_folder(tmp_path / "a" / "out", "name") as (partial, target):
        (partial / "result.json").write_text("x")
        assert not list(target.iterdir())
    assert target == tmp_path / "a" / "out"
    assert [path.name for path in target.iterdir()] == ["result.json"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [InputError, RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("out", ["out", "deep/er/out", None])
def test_a_failure_leaves_nothing_behind(tmp_path, error, out):
    path = None if out is None else tmp_path / out
    with pytest.raises(error), output_folder(path, "name", tmp_path / "results") as (partial, _):
        (partial / "result.json").write_text("x")
        raise error("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_an_empty_folder_of_the_user_alone(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError), output_folder(tmp_path / "out", "name"):
        raise InputError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_holds_anything_is_refused_and_kept(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="not empty"), output_folder(tmp_path, "name"):
        pytest.fail("the block must not run")
    with pytest.raises(InputError, match="is a file"), output_folder(tmp_path / "mine", "name"):
        pytest.fail("the block must not run")
    with pytest.raises(InputError, match="cannot be made"), output_folder(tmp_path / "mine" / "x", "name"):
        pytest.fail("the block must not run")
    assert (tmp_path / "mine").read_text() == "x"


def test_fresh_folders_are_numbered_also_while_another_run_goes_on(tmp_path):
    with (
        output_folder(None, "name", tmp_path) as (_, first),
        output_folder(None, "name", tmp_path) as (_, second),
    ):
        pass
    with output_folder(None, "name", tmp_path) as (_, third):
        pass
    assert [path.name for path in (first, second, third)] == ["name", "name-2", "name-3"]
