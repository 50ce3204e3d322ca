"""The certificate of a run: what it calls unchanged, changed by a transfer, and broken."""

import importlib.util
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console

from dsn import grow
from dsn.errors import InputError
from dsn.experiment.certificate import judge
from dsn.experiment.files import load_model
from dsn.experiment.result import Row, Transfer, read_result
from dsn.experiment.run import run
from dsn.experiment.verify import verify
from dsn.masking.fingerprint import Fingerprints
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
    verdicts, elsewhere = verify(folder)
    assert elsewhere == []
    return [verdict.status for verdict in verdicts]


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


def test_a_weight_that_no_task_needs_breaks_nothing(copy):
    path = copy / "model.safetensors"
    model = load_model(copy)[0]
    free = (~model.used()["1"]).nonzero()
    assert len(free), "the network of this test has free neurons"
    content = bytearray(path.read_bytes())
    content[offset_of(path, "backbone.1.weight", 4 * 64 * int(free[0]))] ^= 1
    path.write_bytes(content)
    assert "BROKEN" not in statuses(copy)


def test_a_change_without_a_transfer_is_broken_and_a_refused_transfer_is_none(copy):
    result = json.loads((copy / "result.json").read_text())
    result["transfers"][0]["accepted"] = False
    (copy / "result.json").write_text(json.dumps(result))
    verdicts, _ = verify(copy)
    assert str(verdicts[0]) == "task 0: BROKEN, its reads and logits changed while task 1 was learnt"
    assert [verdict.status for verdict in verdicts[1:]] == [CHANGED, "unchanged"]


def test_on_another_machine_logits_say_nothing_and_weights_all(copy):
    result = json.loads((copy / "result.json").read_text())
    result["environment"]["torch"] = "1.0"
    for row in result["certificate"]:
        row["logits"] = [one[::-1] for one in row["logits"]]
    (copy / "result.json").write_text(json.dumps(result))
    verdicts, elsewhere = verify(copy)
    assert "BROKEN" not in {verdict.status for verdict in verdicts} and "torch was 1.0" in elsewhere[0]
    assert "logits were made on another machine" in verdicts[2].reason
    result["environment"]["torch"] = torch.__version__
    (copy / "result.json").write_text(json.dumps(result))
    assert statuses(copy) == ["BROKEN"] * 3


def test_what_has_no_certificate_is_refused(copy, main):
    result = json.loads((copy / "result.json").read_text())
    del result["certificate"]
    (copy / "result.json").write_text(json.dumps(result))
    assert read_result(copy / "result.json").certificate is None
    with pytest.raises(InputError, match="has no certificate"):
        verify(copy)
    assert main("verify", str(copy / "nowhere")) == 2


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
    told = lambda rows, now, transfers: [v.status for v in judge(rows, now, transfers, same_machine=True)]  # noqa: E731
    assert told([row("a"), row("a", "b")], row("a", "b"), []) == ["unchanged", "unchanged"]
    assert told([row("a"), row("c", "b")], row("c", "b"), [given]) == [CHANGED, "unchanged"]
    assert told([row("a"), row("c", "b")], row("c", "b"), []) == ["BROKEN", "unchanged"]
    late = [row("a"), row("a", "b"), row("c", "b", "d")]
    assert told(late, row("c", "b", "d"), [given]) == ["BROKEN", "unchanged", "unchanged"]
    assert told([row("a"), row("a", "b")], row("a", "x"), []) == ["unchanged", "BROKEN"]
