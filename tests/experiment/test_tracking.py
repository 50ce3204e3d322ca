"""What a tracker holds after a run is what the run's own folder holds."""

import io
import json
import struct
import sys
import types
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from dsn.errors import InputError
from dsn.evaluation.trackers import NumberLogger, start_tracker
from dsn.experiment.report.write import report
from dsn.experiment.run.run import run
from tests.experiment.resuming import Killed, killed_at, tiny

SHORT = ("stream.tasks=2", "stream.angles=[0, 9]", "train.epochs=2", "transfer.tasks=0")


def page(folder, out):
    return report(folder, out)


def quiet(config, out, **options):
    return run(config, out, console=Console(file=io.StringIO()), **options)[0]


@pytest.fixture
def wandb_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture
def mlflow_store(monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    yield mlflow
    mlflow.set_tracking_uri(before)


def offline_records(path):
    """The records of W&B's offline file: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for a header at the end of a block
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def names(update):
    return update.key or "/".join(update.nested_key)


def test_wandb_holds_the_numbers_and_the_files(wandb_offline, tmp_path):
    config = tiny(tmp_path, *SHORT)
    plain = quiet(config, tmp_path / "plain")
    logged = quiet(config.model_copy(update={"tracker": "wandb"}), tmp_path / "logged", page=page)
    assert logged.accuracy_matrix == plain.accuracy_matrix
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    summary, curves, files, run_names = {}, {}, set(), set()
    for record in offline_records(path):
        summary |= {names(u): json.loads(u.value_json) for u in record.summary.update}
        for item in record.history.item:
            curves.setdefault(names(item), []).append(json.loads(item.value_json))
        files |= {entry.path for entry in record.artifact.manifest.contents}
        files |= {entry.path for entry in record.request.log_artifact.artifact.manifest.contents}
        run_names |= {record.run.display_name} - {""}
    assert run_names == {"logged"}
    for name, value in logged.metrics:
        if value is not None:
            assert summary[f"result/{name}"] == value
    for task in range(2):
        losses = curves[f"Loss_Epoch/train_phase/train_stream/Task{task:03d}"]
        assert len(losses) == 2 and losses[-1] < losses[0]
    assert curves["acc/eval_phase/test_stream"][-1] == pytest.approx(logged.metrics.acc)
    assert files >= {"result.json", "matrix.csv", "accuracy_matrix.png", "report.html"}
    assert "model.safetensors" not in files


def test_mlflow_holds_the_numbers_and_the_files(mlflow_store, tmp_path):
    config = tiny(tmp_path, *SHORT)
    plain = quiet(config, tmp_path / "plain")
    logged = quiet(config.model_copy(update={"tracker": "mlflow"}), tmp_path / "logged", page=page)
    assert logged.accuracy_matrix == plain.accuracy_matrix
    client = mlflow_store.MlflowClient()
    (kept,) = client.search_runs(["0"])
    assert (kept.info.run_name, kept.info.status) == ("logged", "FINISHED")
    for name, value in logged.metrics:
        if value is not None:
            assert kept.data.metrics[f"result/{name}"] == value
    assert kept.data.params["train.epochs"] == "2"
    losses = client.get_metric_history(kept.info.run_id, "Loss_Epoch/train_phase/train_stream/Task001")
    assert len(losses) == 2 and losses[-1].value < losses[0].value
    files = {entry.path for entry in client.list_artifacts(kept.info.run_id)}
    assert files >= {"result.json", "matrix.csv", "accuracy_matrix.png", "report.html"}
    assert "model.safetensors" not in files
    for name in ("result.json", "matrix.csv"):
        copy = client.download_artifacts(kept.info.run_id, name, str(tmp_path))
        assert Path(copy).read_bytes() == (tmp_path / "logged" / name).read_bytes()


def test_a_run_that_goes_on_is_one_run_there_too(mlflow_store, tmp_path):
    config = tiny(tmp_path, *SHORT, "tracker=mlflow", "checkpoint.iterations=1")
    with pytest.raises(Killed), killed_at(5):
        quiet(config, tmp_path / "out")
    client = mlflow_store.MlflowClient()
    (cut,) = client.search_runs(["0"])
    assert cut.info.status == "KILLED"
    quiet(config, tmp_path / "out", resume=True)
    (whole,) = client.search_runs(["0"])
    assert (whole.info.run_id, whole.info.status) == (cut.info.run_id, "FINISHED")


def test_a_run_that_goes_on_with_another_tracker_begins_there(wandb_offline, mlflow_store, tmp_path):
    config = tiny(tmp_path, *SHORT, "tracker=wandb", "checkpoint.iterations=1")
    with pytest.raises(Killed), killed_at(5):
        quiet(config, tmp_path / "out")
    quiet(config.model_copy(update={"tracker": "mlflow"}), tmp_path / "out", resume=True)
    (whole,) = mlflow_store.MlflowClient().search_runs(["0"])
    assert whole.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("kind", "stands_for", "said"),
    [("mlflow", None, "mlflow is not installed"), ("wandb", "refuses", "wandb does not start")],
)
def test_a_tracker_that_does_not_start_is_one_error_and_leaves_nothing(
    kind, stands_for, said, monkeypatch, tmp_path
):
    def refusing(**_options):
        raise ValueError("no key\nof yours")

    module = None if stands_for is None else types.SimpleNamespace(init=refusing)
    monkeypatch.setitem(sys.modules, kind, module)
    with pytest.raises(InputError, match=said):
        quiet(tiny(tmp_path, *SHORT, f"tracker={kind}"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_results_that_are_not_taken_are_said_and_the_run_is_finished(monkeypatch, mlflow_store, tmp_path):
    def full(*_args):
        raise OSError("no space left")

    monkeypatch.setattr(mlflow_store, "log_artifact", full)
    text = io.StringIO()
    config = tiny(tmp_path, *SHORT, "tracker=mlflow")
    run(config, tmp_path / "out", console=Console(file=text, width=200))
    assert "the results were not taken (OSError: no space left)" in text.getvalue()
    assert (tmp_path / "out" / "result.json").is_file()
    assert not (tmp_path / "out.checkpoint").exists()


def test_a_logger_that_fails_says_so_once():
    told = []

    def log(name, value, step):
        told.append((name, value, step))
        if step == 2:
            raise ConnectionError("gone\nfor good")

    logger = NumberLogger(log)
    logger.log_single_metric("a", 1, 1)
    logger.log_single_metric("a", "a text", 1)
    with pytest.warns(UserWarning, match=r"no more numbers \(gone\)"):
        logger.log_single_metric("b", 0.5, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logger.log_single_metric("b", 0.5, 3)
    assert told == [("a", 1.0, 1), ("b", 0.5, 2)]


def test_older_folders_said_tensorboard(tmp_path):
    assert tiny(tmp_path, "tensorboard=true").tracker == "tensorboard"
    assert tiny(tmp_path, "tensorboard=false").tracker == "none"
    with pytest.raises(InputError, match="tracker"):
        tiny(tmp_path, "tracker=comet")
    assert start_tracker("none", "name", {}, tmp_path) is None
