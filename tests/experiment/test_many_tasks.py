"""What must not grow with the number of tasks, in a run."""

import json
from collections import Counter

import pytest

from dsn import DSN, MaskedModel
from dsn.experiment.config.experiment import Config
from dsn.experiment.result.certificate import changes, standing, unchanged, whole
from dsn.experiment.result.result import Row
from dsn.experiment.run import course as course_module
from dsn.experiment.run.run import run
from dsn.training.loading import Loading

TASKS = 5
CONFIG = {
    "stream": {"name": "split_digits", "tasks": TASKS, "train_per_class": 25, "validation": 0.2},
    "backbone": {"name": "mlp", "widths": [24, 16]},
    "train": {"epochs": 3, "batch_size": 8, "lr": 0.1, "momentum": 0.9},
    "threads": 1,
    "device": "cpu",
}


def learnt(folder, **more):
    result, _ = run(Config.model_validate({**CONFIG, **more}), folder)
    values = json.loads(result.model_dump_json())
    for name in ("timings", "environment", "seal"):
        values.pop(name)
    return values


@pytest.mark.parametrize("more", [{}, {"evaluation": {"random": True}}, {"transfer": {"tasks": 0}}])
def test_a_task_is_evaluated_again_just_where_its_answers_changed(
    tmp_path, monkeypatch, quick_pictures, more
):
    evaluated = Counter()
    load = Loading.make_eval_dataloader

    def counted(self, **kwargs):
        if self.experience.origin_stream.name == "test":
            evaluated[self.experience.current_experience] += 1
        load(self, **kwargs)

    monkeypatch.setattr(Loading, "make_eval_dataloader", counted)
    carried = learnt(tmp_path / "carried", **more)
    ahead = 2 if "evaluation" in more else 0
    accepted = Counter(transfer["task"] for transfer in carried["transfers"] if transfer["accepted"])
    for task in range(TASKS):
        assert evaluated[task] == 1 + accepted[task] + (ahead if task else ahead // 2)
    monkeypatch.setattr(course_module, "unchanged", lambda *_rows: [])
    assert learnt(tmp_path / "whole", **more) == carried


def test_an_evaluation_moves_the_model_once_however_many_tasks_it_has(tmp_path, monkeypatch, quick_pictures):
    moved = []
    move = MaskedModel.to
    monkeypatch.setattr(MaskedModel, "to", lambda self, *a, **k: moved.append(self) or move(self, *a, **k))
    monkeypatch.setattr(course_module, "unchanged", lambda *_rows: [])  # all tasks are evaluated each time
    learnt(tmp_path / "run", transfer={"tasks": 0, "forward": 0})
    assert len(moved) < 5 * TASKS


def test_the_last_row_takes_nothing_on_trust(tmp_path, monkeypatch, quick_pictures):
    begin = DSN._begin_phase

    def spoiled(self, task):
        begin(self, task)
        if task == TASKS - 1:
            self.model.heads["0"].weight.data.mul_(-1)  # a write that torch does not count

    monkeypatch.setattr(DSN, "_begin_phase", spoiled)
    found = learnt(tmp_path / "run", transfer={"tasks": 0, "forward": 0})
    assert [row["tasks"] for row in found["certificate"]] == [[0], [1], [2], [3], [0, 4]]


def row(tasks, logits):
    same = ["a"] * len(tasks)
    return Row(tasks=tasks, weights=same, reads=same, logits=logits, levels=[0.0] * len(tasks))


def test_a_row_keeps_what_is_new_or_changed_and_the_rows_say_all_again():
    first, second, third = row([3], ["x"]), row([3, 0], ["x", "y"]), row([3, 0, 1], ["x", "z", "y"])
    assert unchanged({}, first.by_task()) == [] and unchanged(first.by_task(), second.by_task()) == [3]
    kept = [first, row([0], ["y"]), row([0, 1], ["z", "y"])]
    made = []
    for full in (first, second, third):
        made.append(changes(standing(made), full.by_task()))
    assert made == kept and whole(made) == whole([first, second, third]) == [first, second, third]
    assert standing(made) == third.by_task()
