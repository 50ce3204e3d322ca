"""The certificate of a run: what it calls unchanged, changed by a transfer, and broken."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dsn import grow
from dsn.errors import InputError
from dsn.experiment.result.certificate import judge
from dsn.experiment.result.files import load_model
from dsn.experiment.result.result import Row, Transfer, read_result
from dsn.experiment.result.seal import breaches, sealed
from dsn.experiment.result.verify import verify
from dsn.experiment.run.run import run
from dsn.masking.state.fingerprint import Fingerprints
from dsn.storage import checksum
from tests.experiment.resuming import tiny
from tests.nets import learn, make

pytestmark = [
    pytest.mark.filterwarnings("ignore:task .* no free neuron"),
    pytest.mark.usefixtures("quick_pictures"),
]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    config = tiny(folder, "train.epochs=2", "selection.budget=0.3")
    run(config, folder / "out", console=Console(quiet=True))
    return folder / "out"


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def main(monkeypatch):
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def status(*arguments):
        try:
            return module.main(list(arguments))
        except SystemExit as ended:
            return ended.code

    return status


def statuses(folder):
    found = verify(folder)
    assert found.elsewhere == []
    return [verdict.status for verdict in found.tasks]


def edited(folder, change, *, seal="as it was"):
    """Change result.json; its seal stays, is "removed" as in an older file, or is made "anew"."""
    values = json.loads((folder / "result.json").read_text())
    change(values)
    if seal != "as it was":
        values.pop("seal", None), values["environment"].pop("seal", None)
    if seal == "removed":
        for name in ("cpu_capability", "blas"):
            values["environment"].pop(name, None)
        for row in values["certificate"] or []:
            row.pop("levels", None)
        unseal_model(folder / "model.safetensors")
    if seal == "anew":
        values = sealed(values, folder)
    (folder / "result.json").write_text(json.dumps(values))


def unseal_model(path):
    with safe_open(path, "pt") as file:
        run = json.loads(file.metadata()["run"])
    state = load_file(path)
    run.pop("sealed", None), run.pop("sha256")
    run["sha256"] = checksum({}, run, state)
    save_file(state, path, metadata={"run": json.dumps(run)})


CHANGED = "changed by an accepted transfer"


def test_a_run_passes_and_transfers_are_told(finished, main, capsys):
    assert statuses(finished) == [CHANGED, CHANGED, "unchanged"]
    assert main("verify", str(finished)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "task 0: changed by an accepted transfer, from task 1, 2",
        "task 1: changed by an accepted transfer, from task 2",
        "task 2: unchanged",
    ]


def offset_of(path, name, index):
    """The place of one element's lowest byte in a safetensors file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return 8 + size + json.loads(content[8 : 8 + size])[name]["data_offsets"][0] + index


def test_a_single_flipped_bit_is_found_and_its_task_named(copy, main, capsys):
    """In each kind of state that a task has for itself, and in a protected weight."""
    path = copy / "model.safetensors"
    whole, model = path.read_bytes(), load_model(copy)[0]
    only = {task: mask["1"] for task in (0, 1, 2) for mask in [model.masks(task)]}
    neuron = int(only[0].nonzero()[0])
    flips = [("backbone.1.weight", 4 * 64 * neuron), ("backbone.1.bias", 4 * neuron), ("heads.0.bias", 0)]
    flips += [("laterals.0.0.weight", 8), ("gates.1.masks", 0)]
    for name, index in flips:
        content = bytearray(whole)
        content[offset_of(path, name, index)] ^= 1
        path.write_bytes(content)
        assert main("verify", str(copy)) == 1, name
        told = capsys.readouterr().out
        assert "task 0: BROKEN, its " in told and "in the file are not those of the run" in told, name
        with pytest.raises(InputError, match="damaged"):
            load_model(copy)
        path.write_bytes(whole)
    assert main("verify", str(copy)) == 0


def test_a_weight_that_no_task_needs_breaks_no_task_but_the_file(copy, main, capsys):
    path = copy / "model.safetensors"
    model = load_model(copy)[0]
    free = (~model.used()["1"]).nonzero()
    assert len(free), "the network of this test has free neurons"
    content = bytearray(path.read_bytes())
    content[offset_of(path, "backbone.1.weight", 4 * 64 * int(free[0]))] ^= 1
    path.write_bytes(content)
    assert statuses(copy) == [CHANGED, CHANGED, "unchanged"]
    assert main("verify", str(copy)) == 1
    told = capsys.readouterr().out.splitlines()
    assert "BROKEN, model.safetensors is not the file that the run wrote" in told
    assert "BROKEN, model.safetensors: its checksum is not that of its content" in told


def places(path):
    """By tensor of a model file: where it begins and ends."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    return 8 + size, {
        n: [8 + size + at for at in v["data_offsets"]] for n, v in header.items() if n[0] != "_"
    }


def test_one_flipped_bit_of_any_tensor_is_found(copy, main, capsys):
    """In the first, a middle and the last byte of every tensor of the model file, and in its metadata."""
    path = copy / "model.safetensors"
    whole = path.read_bytes()
    header, tensors = places(path)
    assert {name.split(".")[0] for name in tensors} >= {
        "backbone",
        "gates",
        "heads",
        "laterals",
        "records",
        "task_ids",
    }
    flips = [(name, at) for name, (a, b) in tensors.items() for at in {a, (a + b) // 2, b - 1} if b > a]
    flips += [("metadata", at) for at in range(8, header, 97)]
    for name, at in flips:
        content = bytearray(whole)
        content[at] ^= 1
        path.write_bytes(content)
        assert main("verify", str(copy)) == 1, name
        assert "BROKEN, model.safetensors" in capsys.readouterr().out, name
    path.write_bytes(whole)
    assert main("verify", str(copy)) == 0


def leaves(values, *place):
    """(place, value) of everything in result.json that is no list or object, and of empty ones."""
    if isinstance(values, (dict, list)) and values:
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from leaves(value, *place, key)
    else:
        yield place, values


def other(value):
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return value[::-1] + "x" if isinstance(value, str) else type(value)(["x"] if value == [] else {"x": 1})


def test_any_other_value_in_result_json_is_found(copy, monkeypatch):
    """Without the certificate's help: what the file says against its seal, or it is refused as bad input."""
    whole = (copy / "result.json").read_text()
    found = list(leaves(json.loads(whole)))
    assert len(found) > 300
    for place, value in found:
        values = json.loads(whole)
        *inner, last = place
        part = values
        for key in inner:
            part = part[key]
        part[last] = other(value)
        try:
            told = read_result_of(copy, values)
        except InputError:
            continue
        assert told, place


def read_result_of(folder, values):
    (folder / "result.json").write_text(json.dumps(values))
    read_result(folder / "result.json")
    return breaches(values, folder)


FORGED = {
    "a row of the certificate removed": lambda v: v["certificate"].pop(1),
    "the last row removed": lambda v: v["certificate"].pop(),
    "rows swapped": lambda v: v["certificate"].__setitem__(slice(0, 2), v["certificate"][1::-1]),
    "tasks of a row swapped": lambda v: v["certificate"][2]["tasks"].reverse(),
    "hashes of a row swapped": lambda v: v["certificate"][2]["weights"].reverse(),
    "one hash fewer": lambda v: v["certificate"][2]["reads"].pop(),
    "no row": lambda v: v["certificate"].clear(),
    "a better matrix": lambda v: v["accuracy_matrix"][2].__setitem__(0, 1.0),
    "a better matrix, metrics as well": lambda v: (
        v["accuracy_matrix"][2].__setitem__(2, 1.0),
        v["metrics"].update(acc=0.99),
    ),
    "matrix rows swapped": lambda v: v["accuracy_matrix"][1].__setitem__(0, 0.123),
    "better metrics": lambda v: v["metrics"].update(forgetting=-0.5),
    "another seed": lambda v: v.update(seed=9),
    "another config": lambda v: v["config"]["train"].update(lr=9.0),
    "fewer neurons": lambda v: next(iter(v["tasks"][1]["neurons"].values())).update(active=1),
    "tasks swapped": lambda v: v["tasks"].reverse(),
}


@pytest.mark.parametrize("seal", ["as it was", "anew", "removed"])
@pytest.mark.parametrize("forgery", FORGED)
def test_forged_results_are_found(copy, main, forgery, seal):
    """By the seal; and where that is made anew or not there, by what then contradicts the rest."""
    edited(copy, FORGED[forgery], seal=seal)
    assert main("verify", str(copy)) == 1


def test_a_seal_that_was_removed_is_missed(copy, main, capsys):
    values = json.loads((copy / "result.json").read_text())
    del values["seal"]
    (copy / "result.json").write_text(json.dumps(values))
    assert main("verify", str(copy)) == 1
    assert "its seal has been removed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["config.yaml", "matrix.csv", "model.safetensors"])
@pytest.mark.parametrize("what", ["changed", "removed"])
def test_files_beside_it_are_sealed(copy, name, what):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content + b" ") if what == "changed" else (copy / name).unlink()
    assert verify(copy).status == "BROKEN"


def test_a_run_made_before_runs_were_sealed_is_checked_as_far_as_it_goes(copy, main, capsys):
    edited(copy, lambda values: None, seal="removed")
    assert main("verify", str(copy)) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[2].startswith("task 2: unchanged") and "was made before runs were sealed" in told[3]


def test_equal_runs_have_equal_seals_and_what_differs_between_them_is_sealed_too(finished, tmp_path):
    config = tiny(tmp_path, "train.epochs=2", "selection.budget=0.3")
    result, _ = run(config, tmp_path / "out", console=Console(quiet=True))
    assert read_result(tmp_path / "out" / "result.json") == result
    first = read_result(finished / "result.json")
    assert first.seal == result.seal
    assert first.environment["seal"] != result.environment["seal"]
    assert breaches(json.loads((finished / "result.json").read_text()), finished) == []


def test_a_change_without_a_transfer_is_broken_and_a_refused_transfer_is_none(copy):
    edited(copy, lambda values: values["transfers"][0].update(accepted=False), seal="anew")
    verdicts = verify(copy).tasks
    assert str(verdicts[0]) == "task 0: BROKEN, its reads and logits changed while task 1 was learnt"
    assert [verdict.status for verdict in verdicts[1:]] == [CHANGED, "unchanged"]


ROUNDED = "unchanged but for rounding"


def hashed_elsewhere(values):
    """What a machine with other kernels would have written."""
    for row in values["certificate"]:
        row["logits"] = [one[::-1] for one in row["logits"]]
        row["levels"] = [level * (1 + 1e-6) for level in row["levels"]]


def test_equal_weights_and_nearly_equal_logits_have_a_status_of_their_own(copy, main, capsys):
    edited(copy, hashed_elsewhere, seal="anew")
    assert verify(copy).status == "rounding"
    assert statuses(copy) == [ROUNDED] * 3
    assert main("verify", str(copy)) == 3
    assert "task 0: unchanged but for rounding" in capsys.readouterr().out

    def others(values):
        values["certificate"][2]["levels"][1] *= 1.01

    edited(copy, others, seal="anew")
    assert statuses(copy) == [ROUNDED, "BROKEN", ROUNDED]


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="there are no other kernels")
def test_other_kernels_of_the_processor_break_nothing(copy):
    """In a process of its own, since torch chooses them as it starts."""
    command = [sys.executable, str(ROOT / "run.py"), "verify", str(copy)]
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode in (0, 3), ended.stdout + ended.stderr
    assert "BROKEN" not in ended.stdout
    assert "is DEFAULT" in ended.stdout


def test_on_another_machine_logits_of_an_older_file_say_nothing_and_weights_all(copy):
    def other_torch(values):
        values["environment"]["torch"] = "1.0"
        for row in values["certificate"]:
            row["logits"] = [one[::-1] for one in row["logits"]]

    edited(copy, other_torch, seal="removed")
    found = verify(copy)
    assert found.status == "intact" and "torch was 1.0" in found.elsewhere[0]
    assert "logits were made on another machine" in found.tasks[2].reason


def test_what_has_no_certificate_is_refused(copy, main):
    edited(copy, lambda values: values.update(certificate=None), seal="removed")
    assert read_result(copy / "result.json").certificate is None
    with pytest.raises(InputError, match="has no certificate"):
        verify(copy)
    assert main("verify", str(copy / "nowhere")) == 2


def test_a_crash_has_a_status_of_its_own(copy, main, monkeypatch, capsys):
    def crash(*_):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("dsn.experiment.result.verify.row_of", crash)
    assert main("verify", str(copy)) == 70
    assert "nothing is known of the run: oh" in capsys.readouterr().err


@pytest.mark.parametrize("threads", [1, 10**6])
def test_the_process_stays_as_it_is(copy, threads):
    edited(copy, lambda values: values["config"].update(threads=threads, device="meta"), seal="anew")
    torch.manual_seed(5)
    before = torch.get_num_threads(), torch.get_rng_state(), torch.backends.cudnn.deterministic
    verify(copy)
    after = torch.get_num_threads(), torch.get_rng_state(), torch.backends.cudnn.deterministic
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and before[2] == after[2]


@pytest.mark.parametrize("net", ["mlp", "small_cnn", "concatenation", "resnet18"])
def test_fingerprints_stay_while_others_learn_and_layers_grow(net):
    model, x = make(net)
    learn(model, x, 0)
    prints = Fingerprints(model)
    [before] = prints.of(0)
    learn(model, x, 1)
    assert prints.of(0) == Fingerprints(model).of(0) == [before]
    assert grow(model, by=4, below=10_000)
    learn(model, x, 2)
    assert prints.of(0) == Fingerprints(model).of(0) == [before]
    learn(model, x, 3, protect=False)
    [after] = prints.of(0)
    assert after.weights != before.weights and after.logits != before.logits


def test_fingerprints_follow_a_model_that_moves():
    """A run makes them before its strategy moves the model to a GPU; another type is a move too."""
    model, x = make("small_cnn")
    learn(model, x, 0)
    prints = Fingerprints(model)
    model.double()
    assert prints.of(0) == Fingerprints(model).of(0)


def test_the_rows_alone_decide():
    def row(*logits):
        return Row(
            tasks=list(range(len(logits))),
            weights=["w"] * len(logits),
            reads=["r"] * len(logits),
            logits=list(logits),
        )

    given = Transfer(
        task=0, source=1, mechanism="m", similarity=1, neurons=0, accepted=True, reason="", measures={}
    )

    def told(rows, now, transfers):
        return [v.status for v in judge(rows, now.by_task(), transfers, same_machine=True)]

    assert told([row("a"), row("a", "b")], row("a", "b"), []) == ["unchanged", "unchanged"]
    assert told([row("a"), row("c", "b")], row("c", "b"), [given]) == [CHANGED, "unchanged"]
    assert told([row("a"), row("c", "b")], row("c", "b"), []) == ["BROKEN", "unchanged"]
    late = [row("a"), row("a", "b"), row("c", "b", "d")]
    assert told(late, row("c", "b", "d"), [given]) == ["BROKEN", "unchanged", "unchanged"]
    assert told([row("a"), row("a", "b")], row("a", "x"), []) == ["unchanged", "BROKEN"]
