"""A finished run without one of its tasks: a new folder that verifies, and the old one as it was."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from dsn.cli.main import main
from dsn.errors import InputError
from dsn.experiment.result.files import read_model
from dsn.experiment.result.forget import forget_task
from dsn.experiment.result.result import read_result
from dsn.experiment.result.verify import verify
from dsn.experiment.run.run import run
from dsn.storage import checksum
from tests.experiment.resuming import tiny
from tests.experiment.test_verify import edited

pytestmark = [
    pytest.mark.filterwarnings("ignore:task .* no free neuron"),
    pytest.mark.usefixtures("quick_pictures"),
]
QUIET = Console(quiet=True)
STRATEGIES = {
    "gates": ["selection.budget=0.3", "transfer.tasks=2"],
    "forward": ["selection.budget=0.3", "transfer.forward=2", "transfer.tasks=0"],
    "edges": ["selection.edges=own_and_read", "selection.planned_tasks=stream", "selection.sparsity=0"],
    "signs": ["selection.edges=own_and_sign", "selection.planned_tasks=stream", "selection.sparsity=0"],
    "paper": ["selection.budget=0.3", "transfer.mechanism=gates", "transfer.tasks=1"],
    "hat": ["strategy=hat"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One finished run a strategy, made when it is asked for."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = folder / name
            run(tiny(folder, "train.epochs=2", *STRATEGIES[name]), made[name], console=QUIET)
        return made[name]

    return get


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "paper"])
def test_what_is_left_verifies_by_the_hashes_of_the_run(runs, name: str, tmp_path: Path) -> None:
    old = runs(name)
    before, state = contents(old), load_file(old / "model.safetensors")
    result, out = forget_task(old, 2, tmp_path / "new", console=QUIET)
    assert contents(old) == before
    found = verify(out)
    assert found.status == "intact"
    gone, first = result.forgotten[0].tasks, read_result(old / "result.json")
    assert [verdict.task for verdict in found.tasks] == [t for t in range(3) if t not in gone]
    kept = [(row.tasks[-1], row) for row in first.certificate if row.tasks[-1] not in gone]
    for (task, row), new in zip(kept, result.certificate, strict=True):
        assert new.tasks[-1] == task
        assert new.by_task()[task].weights == row.by_task()[task].weights
        if task not in result.forgotten[0].unread:
            assert new.by_task()[task] == row.by_task()[task]
    stored = b"".join(contents(out).values())
    for key, value in state.items():
        theirs = any(f".{task}." in key for task in gone) and key.partition(".")[0] != "edges"
        if theirs and value.numel() >= 8 and value.unique().numel() > 4:
            assert value.numpy().tobytes() not in stored, key


def test_a_run_from_before_a_setting_was_there_is_left_intact(runs, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(runs("gates"), old)
    edited(old, lambda values: values["config"].pop("tracker"), seal="removed")
    run, state = read_model(old / "model.safetensors")
    del run["config"]["tracker"], run["sha256"]
    run["sha256"] = checksum({}, run, state)
    save_file(state, old / "model.safetensors", metadata={"run": json.dumps(run)})
    assert verify(old).status == "intact"
    _, out = forget_task(old, 2, tmp_path / "new", console=QUIET)
    assert verify(out).status == "intact"


def test_a_reader_is_measured_anew(runs, tmp_path: Path) -> None:
    old = read_result(runs("gates") / "result.json")
    given = [t for t in old.transfers if t.accepted]
    assert given, "every transfer is accepted in this config"
    result, _ = forget_task(runs("gates"), 2, tmp_path / "new", console=QUIET)
    assert result.forgotten[0].unread == [0, 1]
    assert not [t for t in result.transfers if t.source == 2]
    assert result.accuracy_matrix[0][0] == result.accuracy_matrix[1][0]
    again = forget_task(tmp_path / "new", 1, tmp_path / "newer", keep_shared=True, console=QUIET)[0]
    assert [one.tasks for one in again.forgotten] == [[2], [1]]
    assert verify(tmp_path / "newer").status == "intact"
    with pytest.raises(InputError, match="no task would be left: remove the folder"):
        forget_task(tmp_path / "newer", 0, tmp_path / "newest", console=QUIET)


def test_a_transfer_by_gates_binds_the_reader(runs, tmp_path: Path) -> None:
    accepted = [t for t in read_result(runs("paper") / "result.json").transfers if t.accepted]
    reader, source = accepted[-1].task, accepted[-1].source
    with pytest.raises(InputError, match=f"task {source} cannot be removed alone: .*{reader}"):
        forget_task(runs("paper"), source, tmp_path / "new", keep_shared=True, console=QUIET)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "9"], "task 9 is not in the model: it holds the tasks [0, 1, 2]"),
        (["--task", "0"], "task 0 cannot be removed alone: tasks 1, 2 compute with weights that it trained"),
        (["--task", "0", "--keep-shared"], "with edges the masks say who owns a weight"),
        (["--task", "0", "--cascade"], "no task would be left"),
    ],
)
def test_what_cannot_be_done_leaves_nothing(runs, arguments, said, tmp_path: Path, capsys) -> None:
    before = contents(runs("edges"))
    assert main(["forget", str(runs("edges")), "--out", str(tmp_path / "new"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert contents(runs("edges")) == before


def test_folders_that_are_in_use_or_broken_are_refused(runs, tmp_path: Path, capsys) -> None:
    for out in (runs("edges"), tmp_path):
        (tmp_path / "mine").write_text("mine")
        assert main(["forget", str(runs("edges")), "--task", "2", "--out", str(out)]) == 2
    assert (tmp_path / "mine").read_text() == "mine"
    broken = Path(shutil.copytree(runs("edges"), tmp_path / "broken"))
    values = json.loads((broken / "result.json").read_text())
    values["accuracy_matrix"][0][0] = 0.123
    (broken / "result.json").write_text(json.dumps(values))
    assert main(["forget", str(broken), "--task", "2", "--out", str(tmp_path / "new")]) == 2
    assert "is not what it was when it ended" in capsys.readouterr().err
    assert main(["forget", str(tmp_path / "nowhere"), "--task", "2"]) == 2
