"""A run that is also evaluated without task labels: every strategy, its rows, resume, report."""

import numpy as np
import pytest
from rich.console import Console

from dsn.cli.main import main
from dsn.errors import InputError
from dsn.experiment.report.sections import stream_reports
from dsn.experiment.report.source import load_source
from dsn.experiment.result.files import load_model
from dsn.experiment.run.run import run
from dsn.masking.recognition import SCORES
from tests.experiment.resuming import Killed, assert_same_result, killed_at, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:task .* no free neuron"),
    pytest.mark.usefixtures("quick_pictures"),
]
QUIET = Console(quiet=True)
ON = ("evaluation.class_incremental=true", "train.epochs=2")


@pytest.mark.parametrize(
    "strategy", ["dsn", "hat", "wsn", "supsup", "packnet", "naive", "independent", "pnn"]
)
def test_every_strategy_has_rows(strategy: str, tmp_path) -> None:
    result, out = run(tiny(tmp_path, *ON, f"strategy={strategy}"), tmp_path / "run", console=QUIET)
    rows = result.class_incremental
    assert [len(row.accuracy["combined"]) for row in rows] == [1, 2, 3]
    matrix = result.matrix
    for i, row in enumerate(rows):
        assert set(row.accuracy) == set(row.inference) == set(SCORES)
        for score in SCORES:
            found = np.array(row.accuracy[score])
            assert (found <= np.array(row.inference[score]) + 1e-9).all()
            assert (found <= matrix[i, : i + 1] + 1e-9).all()  # with the task it would be as often right
    assert rows[0].inference["confidence"] == [1.0]
    assert rows[0].accuracy["energy"][0] == pytest.approx(matrix[0, 0])
    assert result.metrics.cil_acc == pytest.approx(np.mean(rows[-1].accuracy["combined"]))
    assert result.metrics.task_inference == pytest.approx(np.mean(rows[-1].inference["combined"]))
    (report,) = stream_reports(load_source(out), {}, 0)
    assert "without-task-section" in [section.key for section in report.sections]


def test_joint_training_has_the_last_row(tmp_path) -> None:
    result, _ = run(tiny(tmp_path, *ON, "strategy=joint"), tmp_path / "run", console=QUIET)
    (row,) = result.class_incremental
    assert len(row.accuracy["combined"]) == 3


def test_it_changes_nothing_else_and_goes_on_after_a_kill(tmp_path) -> None:
    whole, out = run(tiny(tmp_path, *ON), tmp_path / "whole", console=QUIET)
    plain, _ = run(tiny(tmp_path, ON[1]), tmp_path / "plain", console=QUIET)
    assert plain.accuracy_matrix == whole.accuracy_matrix
    assert (plain.class_incremental, plain.metrics.cil_acc) == (None, None)
    with killed_at(None) as rests:
        run(tiny(tmp_path, *ON), tmp_path / "again", console=QUIET)
    for place in (rests.index("evaluation"), len(rests) - 2):
        out = tmp_path / f"killed{place}"
        config = tiny(tmp_path, *ON, "checkpoint.iterations=1", "checkpoint.minutes=0.0001")
        with pytest.raises(Killed), killed_at(place):
            run(config, out, console=QUIET)
        run(config, out, console=QUIET, resume=True)
        assert_same_result(out, tmp_path / "whole")
    model, _, _ = load_model(tmp_path / "whole")
    found = model.predict(torch_noise(model))
    assert set(found.tasks.tolist()) <= {0, 1, 2}


def torch_noise(model):
    import torch

    return torch.randn(5, *model.input_shape[1:])


def test_it_needs_validation_data(tmp_path, capsys) -> None:
    with pytest.raises(InputError, match="evaluation.class_incremental: needs a validation split"):
        tiny(tmp_path, *ON, "stream.validation=0")
    assert main(["run", "configs/quickstart.yaml", "--set", "stream.validation=0", "--set", ON[0]]) == 2
    assert "needs a validation split" in capsys.readouterr().err
