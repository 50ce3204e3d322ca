"""Nothing of anybody's is removed but what the program wrote, and what is finished stays."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from dsn.errors import InputError, Stopped
from dsn.experiment.base import folder as module
from dsn.experiment.base.folder import output_folder, partial_folder, partial_of
from dsn.experiment.compare.plan import make_plan
from dsn.experiment.compare.work import remove_stale
from dsn.experiment.run.checkpoint import FORMAT, LATEST, VERSION, owner_of
from dsn.experiment.run.run import run
from dsn.experiment.run.run_folder import held
from dsn.storage import write_tree
from tests.experiment.resuming import TINY, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:task .* no free neuron"),
    pytest.mark.usefixtures("quick_pictures"),
]
QUICK = (
    "stream.tasks=2",
    "stream.angles=[0, 9]",
    "train.epochs=1",
    "transfer={tasks: 0, forward: 0}",
    "stream.train_per_class=3",
)
QUIET = Console(quiet=True)


def quick(folder, *overrides):
    return tiny(folder, *QUICK, *overrides)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# ---- the last step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".DS_Store", "result.json", "deep/er.txt"])
def test_a_finished_folder_that_cannot_take_its_place_stays(tmp_path, name):
    with (
        pytest.raises(InputError, match="what is finished stays, in .*out-2$"),
        output_folder(tmp_path / "out", "name") as (partial, target),
    ):
        (partial / "result.json").write_text("finished")
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text("mine")
    assert contents(tmp_path) == {f"out/{name}": b"mine", "out-2/result.json": b"finished"}


def test_what_is_finished_stays_under_its_hidden_name_where_nothing_can_be_renamed(tmp_path, monkeypatch):
    rename = Path.rename

    def busy(self, target):
        if self.name == ".out.partial":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", busy)
    with (
        pytest.raises(InputError, match=r"busy\); what is finished stays, in .*/\.out\.partial$"),
        output_folder(tmp_path / "out", "name") as (partial, _),
    ):
        (partial / "result.json").write_text("finished")
    assert contents(tmp_path) == {".out.partial/result.json": b"finished"}
    with pytest.raises(InputError, match="in the way"), output_folder(tmp_path / "out", "name"):
        pass
    assert contents(tmp_path) == {".out.partial/result.json": b"finished"}


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV, errno.EROFS, errno.EACCES])
def test_a_place_that_cannot_be_taken_is_refused_before_anything_is_done(tmp_path, monkeypatch, number):
    (tmp_path / "out").mkdir()

    def refuse(self, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(InputError, match="cannot be replaced by a finished one"),
        output_folder(tmp_path / "out", "name"),
    ):
        pytest.fail("it began")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_to_an_empty_folder_is_gone_through(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with output_folder(tmp_path / "out", "name") as (partial, target):
        (partial / "result.json").write_text("finished")
    assert target == tmp_path / "out" and target.is_symlink()
    assert contents(tmp_path / "real") == {"result.json": b"finished"}
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_last_step_waits_for_its_end(tmp_path, monkeypatch, number):
    to_disk = module._to_disk

    def signalled(folder):
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        to_disk(folder)

    monkeypatch.setattr(module, "_to_disk", signalled)
    with pytest.raises(Stopped) as stopped:
        run(quick(tmp_path), tmp_path / "out", console=QUIET)
    assert stopped.value.kept and stopped.value.signal == number
    assert (tmp_path / "out" / "result.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# ---- files of others -------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.parametrize("place", ["out.checkpoint", ".out.partial-123", ".out.partial-x", ".other.partial"])
@pytest.mark.parametrize("name", ["thesis.tex", "deep/result.json", "result.json", ".dsn-owner"])
def test_folders_of_others_with_such_names_stay(tmp_path, place, name, refused):
    theirs = tmp_path / place / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    if refused:
        (tmp_path / "out").write_text("in the way")
        with pytest.raises(InputError):
            run(quick(tmp_path), tmp_path / "out", console=QUIET)
    else:
        with held(tmp_path / "out", "name", resume=False) as (out, _), output_folder(out, "name") as (p, _):
            (p / "result.json").write_text("finished")
    assert contents(tmp_path / place) == {name: b"mine"}


@pytest.mark.parametrize("name", ["lock", "owner"])
@pytest.mark.parametrize("link", [True, False])
def test_a_file_of_others_with_the_name_of_a_lock_is_refused_and_stays(tmp_path, name, link):
    (tmp_path / "out.checkpoint").mkdir()
    theirs = tmp_path / "thesis.tex" if link else tmp_path / "out.checkpoint" / name
    theirs.write_text("mine")
    if link:
        (tmp_path / "out.checkpoint" / name).symlink_to(theirs)
    for resume in (False, True):
        with pytest.raises(InputError, match="not from this program"):
            run(quick(tmp_path), tmp_path / "out", console=QUIET, resume=resume)
    assert theirs.read_text() == "mine" and (tmp_path / "out.checkpoint" / name).exists()


def test_an_empty_folder_of_the_user_stays(tmp_path):
    (tmp_path / "out.checkpoint").mkdir()
    with held(tmp_path / "out", "name", resume=False):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out.checkpoint"]


def test_files_of_others_amid_a_run_that_is_not_up_to_date_stay_with_it(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("result.json", "notes.txt"):
        (tmp_path / "out" / name).write_text("x")
    (tmp_path / "key.json").write_text("x")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="is not empty: notes.txt is not from the run"):
        remove_stale(tmp_path / "out", tmp_path / "key.json")
    assert contents(tmp_path) == before
    (tmp_path / "out" / "notes.txt").unlink()
    remove_stale(tmp_path / "out", tmp_path / "key.json")
    assert list(tmp_path.iterdir()) == []


def test_resume_keeps_the_checkpoint_of_a_run_that_the_result_is_not_of(tmp_path):
    config, other = quick(tmp_path), quick(tmp_path, "seed=4")
    run(config, tmp_path / "out", console=QUIET)
    kept = tmp_path / "out.checkpoint" / LATEST
    kept.parent.mkdir()
    for owner, asked in ((other, other), (other, config)):
        tree = {"owner": {**owner_of(owner), "device": "cpu"}, "state": {}}
        write_tree(kept, tree, format=FORMAT, version=VERSION)
        before = kept.read_bytes()
        if asked is other:
            with pytest.raises(InputError, match="another run is finished there"):
                run(asked, tmp_path / "out", console=QUIET, resume=True)
        else:
            run(asked, tmp_path / "out", console=QUIET, resume=True)
        assert kept.read_bytes() == before


# ---- several at once, and the dead -----------------------------------------------------------------------


def test_a_second_one_in_the_same_place_is_told_the_process(tmp_path):
    out = tmp_path / "out"
    with output_folder(out, "name") as (partial, _):
        (partial / "lab.json").write_text("{}")
        with (
            pytest.raises(InputError, match=f"process {os.getpid()} is writing there"),
            output_folder(out, "x"),
        ):
            pytest.fail("it began")
        with pytest.raises(InputError, match=f"process {os.getpid()} is writing there"):
            run(quick(tmp_path), out, console=QUIET)
        assert (partial / "lab.json").is_file()
    assert contents(tmp_path) == {"out/lab.json": b"{}"}


def killed(folder, files, out=None):
    """A process that has written as many ``files`` into its unfinished folder, and is killed."""
    child = os.fork()  # all is imported here already
    if not child:
        try:
            os.chdir(folder)
            with output_folder(out and Path(out), "name") as (partial, _):
                for name in ("lab.json", "precious.txt")[:files]:
                    (partial / name).write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    killed(tmp_path, 1)
    killed(tmp_path, 1, "results/other")
    (tmp_path / "results" / "empty").mkdir()
    killed(tmp_path, 1, "results/empty")
    assert (tmp_path / "results" / ".empty.partial" / "lab.json").is_file()
    with output_folder(None, "name") as (_, target):
        assert target == Path("results/name")
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["empty", "name"]


def test_a_file_of_others_amid_what_a_killed_process_left_stays(tmp_path):
    killed(tmp_path, 2, "out")
    with output_folder(tmp_path / "else", "name"):
        pass
    assert contents(partial_of(tmp_path / "out")) == {"precious.txt": b"half"}


def test_what_a_living_process_has_stays(tmp_path):
    with partial_folder(tmp_path / "one") as partial:
        (partial / "lab.json").write_text("x")
        with output_folder(tmp_path / "two", "name"):
            pass
        assert (partial / "lab.json").is_file()


# ---- disks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_a_disk_that_refuses_is_one_error_in_every_command(tmp_path, number):
    with (
        pytest.raises(InputError, match=os.strerror(number)),
        output_folder(tmp_path / "out", "name") as (p, _),
    ):
        (p / "lab.json").write_text("half")
        raise OSError(number, os.strerror(number))
    with pytest.raises(InputError, match="encoder error"), output_folder(tmp_path / "out", "name"):
        raise OSError("encoder error -2 when writing image file")  # as Pillow says it
    assert list(tmp_path.iterdir()) == []


# ---- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("", "must end in the name"),
        (".", "must end in the name"),
        ("..", "must end in the name"),
        ("/", "must end in the name"),
        ("a/..", "must end in the name"),
        ("here", "the folder you are in"),
        ("x" * 250, "File name too long"),
        ("x/" * 3000 + "y", "File name too long"),
        ("a\0b", "NUL"),
        ("dangling", "is a link to nowhere"),
        ("loop", "is a link to loop"),
        ("dangling/out", "cannot be made"),
        ("file/out", "cannot be made"),
        ("file", "is a file"),
    ],
)
@pytest.mark.parametrize("command", ["run", "lab"])
def test_names_that_cannot_be_are_one_error(tmp_path, monkeypatch, out, message, command):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    out = Path(out) if out in ("", ".", "..", "/") else tmp_path / out
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message):
        if command == "run":
            run(quick(tmp_path), out, console=QUIET)
        else:
            with output_folder(out, "name"):
                pytest.fail("it began")
    assert sorted(tmp_path.rglob("*")) == before


def test_results_that_is_a_link_to_nothing_is_no_endless_search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to("nowhere")
    with pytest.raises(InputError, match="cannot be made"), output_folder(None, "name"):
        pass
    with pytest.raises(InputError, match="cannot be made"):
        run(quick(tmp_path), console=QUIET)


def test_a_file_in_the_place_of_the_checkpoints_is_one_error(tmp_path):
    (tmp_path / "out.checkpoint").write_text("mine")
    with pytest.raises(InputError, match="is a file, but checkpoints go there"):
        run(quick(tmp_path), tmp_path / "out", console=QUIET)
    assert (tmp_path / "out.checkpoint").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["...yaml", "figures.yaml", "comparison.json.yaml", ".lock.yaml", f"{'x' * 230}.yaml"]
)
def test_a_config_whose_runs_would_lie_elsewhere_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text(yaml.safe_dump(TINY))
    with pytest.raises(InputError, match="rename it"):
        make_plan([path], "dsn", "0", [])
