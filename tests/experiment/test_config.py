"""Configs: what is read, what is refused and how the message helps."""

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsn.errors import InputError
from dsn.experiment.config.experiment import Config, ReplayConfig, TransferConfig, dump, load
from dsn.experiment.config.selection import SelectionConfig
from dsn.experiment.config.train import PlateauConfig, TrainConfig
from dsn.presets import PRESETS
from dsn.replay import synthesise
from dsn.training import Compute, Plateau, Schedule, Selection, Transfer, preset

ROOT = Path(__file__).parents[2]
MINIMAL = "stream: {name: split_digits}\n"

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
relaxed = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "x.yaml"


def errors(file, text, *overrides):
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load(file, list(overrides))
    return str(caught.value).replace(str(file), "x.yaml").splitlines()


CONFIGS = sorted(set((ROOT / "configs").glob("*.yaml")) - {ROOT / "configs" / "published.yaml"})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_repository_loads_and_survives_a_round_trip(path, file):
    config = load(path)
    file.write_text(dump(config), encoding="utf-8")
    assert load(file) == config


def test_defaults_and_overrides(file):
    file.write_text(MINIMAL, encoding="utf-8")
    assert load(file).train.epochs == Config.model_fields["train"].default.epochs
    config = load(
        file,
        [
            "train.epochs=3",
            "train.lr=1e-3",
            "train.epochs=4",
            "selection.budget={fc1: 0.5}",
            "backbone={name: mlp, widths: [8]}",
            "train.patience=null",
            "device=cpu",
        ],
    )
    assert config.train.epochs == 4
    assert config.train.lr == 0.001
    assert config.selection.budget == {"fc1": 0.5}
    assert config.backbone.model_dump() == {"name": "mlp", "widths": [8], "bias": True}
    assert config.device == "cpu"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: {epoch: 3}", "x.yaml: train.epoch: unknown key, nearest is 'epochs'"),
        ("epochs: 3", "x.yaml: epochs: unknown key, nearest is 'train.epochs'"),
        ("train: {batch_size: ten}", "x.yaml: train.batch_size: must be a valid integer, got 'ten'"),
        ("train: {batch_size: true}", "x.yaml: train.batch_size: must be a valid integer, got True"),
        ("train: {lr: '0.1'}", "x.yaml: train.lr: must be a valid number, got '0.1'"),
        ("train: {lr: 0}", "x.yaml: train.lr: must be greater than 0, got 0"),
        ("train: {lr: .inf}", "x.yaml: train.lr: must be a finite number, got inf"),
        ("train: 3", "x.yaml: train: must be a block of keys, got 3"),
        ("train: {optimizer: sdg}", "x.yaml: train.optimizer: unknown 'sdg', nearest is 'sgd'"),
        ("train: {optimizer: lbfgs}", "x.yaml: train.optimizer: 'lbfgs' cannot be used: it needs a closure"),
        (
            "train: {optimizer: adam, momentum: 0.9}",
            "x.yaml: train.momentum: adam takes none, remove it",
        ),
        (
            "train: {optimizer: adam, optimizer_args: {beta: 1}}",
            "x.yaml: train.optimizer_args.beta: unknown to adam, nearest is 'betas'",
        ),
        (
            "train: {optimizer_args: {lr: 1}}",
            "x.yaml: train.optimizer_args.lr: set it one level up, as train.lr",
        ),
        (
            "train: {schedule: cosin}",
            "x.yaml: train.schedule: must be 'constant', 'cosine' or 'plateau', got 'cosin'",
        ),
        (
            "train: {patience: 3}",
            "x.yaml: train.patience: needs a validation split: set stream.validation, e.g. 0.1",
        ),
        ("backbone: {name: mpl}", "x.yaml: backbone.name: unknown 'mpl', nearest is 'mlp'"),
        ("backbone: {name: mlp, width: [3]}", "x.yaml: backbone.width: unknown key, nearest is 'widths'"),
        (
            "backbone: {name: mlp, widths: [3, x]}",
            "x.yaml: backbone.widths.1: must be a valid integer, got 'x'",
        ),
        (
            "selection: {budget: {fc: 2}}",
            "x.yaml: selection.budget.fc: must be less than or equal to 1, got 2",
        ),
        (
            "{evaluation: {random: true}, strategy: independent}",
            "x.yaml: evaluation.random: independent networks transfer nothing, set it to false",
        ),
        (
            "replay: {generator: statistic}",
            "x.yaml: replay.generator: unknown 'statistic', nearest is 'statistics'",
        ),
        ("replay: {images: 0}", "x.yaml: replay.images: must be greater than 0, got 0"),
        ("transfer: {tasks: -1}", "x.yaml: transfer.tasks: must be greater than or equal to 0, got -1"),
        (
            "transfer: {mechanism: correspondance}",
            "x.yaml: transfer.mechanism: unknown 'correspondance', nearest is 'correspondence'",
        ),
        (
            "transfer: {acceptance: closenes}",
            "x.yaml: transfer.acceptance: unknown 'closenes', nearest is 'closeness'",
        ),
        ("transfer: {task: 3}", "x.yaml: transfer.task: unknown key, nearest is 'tasks'"),
        ("transfer: {mechanism: 3}", "x.yaml: transfer.mechanism: must be a valid string, got 3"),
        ("device: cuda0", "x.yaml: device: unknown 'cuda0', e.g. auto, cpu, cuda, cuda:1, mps"),
    ],
)
def test_each_mistake_has_one_line(file, text, line):
    values = yaml.safe_load(MINIMAL) | yaml.safe_load(text)
    assert errors(file, yaml.safe_dump(values)) == [line]


def test_stream_names_are_checked(file):
    assert errors(file, "stream: {name: split_digts}") == [
        "x.yaml: stream.name: unknown 'split_digts', nearest is 'split_digits'"
    ]
    assert errors(file, "seed: 1") == ["x.yaml: stream: missing"]
    assert errors(file, "stream: {tasks: 3}")[0].startswith(
        "x.yaml: stream.name: missing, one of split_digits"
    )


def test_all_mistakes_are_reported_at_once_and_overrides_by_their_own_name(file):
    text = "stream: {name: split_digits, task: 5}\ntrain: {lr: fast}\nsede: 1\n"
    assert sorted(errors(file, text, "train.epochs=x", "device", "seed=-1", "train.schedule=[")) == [
        "--set device: must be key=value, e.g. train.epochs=5",
        "--set seed=-1: seed: must be greater than or equal to 0, got -1",
        "--set train.epochs=x: train.epochs: must be a valid integer, got 'x'",
        "--set train.schedule=[: the value: line 1: expected the node content, but found '<stream end>'",
        "x.yaml: sede: unknown key, nearest is 'seed'",
        "x.yaml: stream.task: unknown key, nearest is 'tasks'",
        "x.yaml: train.lr: must be a valid number, got 'fast'",
    ]


@pytest.mark.parametrize("override", ["", "=3", "a..b=3", ".a=3", "seed"])
def test_an_override_without_key_and_value_is_refused(file, override):
    assert errors(file, MINIMAL, override) == [f"--set {override}: must be key=value, e.g. train.epochs=5"]


def test_an_override_below_a_value_is_refused(file):
    assert errors(file, MINIMAL + "seed: 3", "seed.x=1") == [
        "--set seed.x=1: 'seed' is 3, not a block of keys"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("stream: {name: split_digits}\ntrain: [1,\n", "x.yaml: line 3:"),
        ("seed: 1\nseed: 2\n", "x.yaml: line 2: key 'seed' stands twice"),
        ("train: {lr: 1, lr: 2}\n", "x.yaml: line 1: key 'lr' stands twice"),
        ("", "x.yaml: is empty"),
        ("- 1\n", "x.yaml: must be a block of keys at its top"),
        ("a: !!python/object:os.system {}\n", "x.yaml: line 1:"),
        ("a: \0\n", "x.yaml:"),
        ("--- 1\n--- 2\n", "x.yaml: line 2:"),
    ],
)
def test_files_that_are_no_yaml_block_are_refused(file, text, line):
    assert errors(file, text)[0].startswith(line)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"seed: \xff")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "latin.yaml")


@relaxed
@given(
    block=st.sampled_from([None, *Config.model_fields]), key=st.text(min_size=1, max_size=12), value=anything
)
def test_unknown_keys_are_only_ever_input_errors(file, block, key, value):
    values = {"stream": {"name": "split_digits"}}
    here = values if block is None else {}
    here[f"{key}?"] = value
    if block is not None:
        values[block] = values.get(block, {}) | here
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    with pytest.raises(InputError):
        load(file)


@relaxed
@given(
    key=st.sampled_from(
        [
            *Config.model_fields,
            *(
                f"{block}.{key}"
                for block in ("train", "selection", "replay", "transfer", "evaluation", "backbone", "stream")
                for key in getattr(
                    type(Config.model_fields[block].default), "model_fields", ("name", "tasks")
                )
            ),
        ]
    ),
    value=anything,
)
def test_any_value_of_any_key_is_read_or_an_input_error(file, key, value):
    values = {"stream": {"name": "split_digits"}}
    block, _, inner = key.partition(".")
    values |= {block: values.get(block, {}) | {inner: value}} if inner else {block: value}
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    try:
        assert isinstance(load(file), Config)
    except InputError as error:
        assert str(error)


def test_replay_has_the_defaults_of_the_function_that_it_is_for():
    synthesis, replay = inspect.signature(synthesise).parameters, ReplayConfig()
    assert {"images", "generator", "steps"} < set(ReplayConfig.model_fields) < set(synthesis)
    assert set(synthesis) - set(ReplayConfig.model_fields) == {"model", "task", "seed", "pixel_range"}
    for name, value in replay.model_dump(exclude={"images"}).items():
        assert value == synthesis[name].default, name


@pytest.mark.parametrize(
    ("group", "block", "renamed"),
    [
        (Selection(), SelectionConfig(), {}),
        (Transfer(), TransferConfig(), {}),
        (Schedule(), TrainConfig(), {"rate": "schedule"}),
        (Compute(), TrainConfig(), {}),
        (Plateau(), PlateauConfig(), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_blocks_of_a_config_mirror_the_settings_of_a_strategy(group, block, renamed):
    """By name and default; a strategy alone has a cache, a config alone says what edges and what fresh
    neurons its network has."""
    settings = {f.name: getattr(group, f.name) for f in fields(group)}
    there = {renamed.get(name, name): value for name, value in settings.items() if "cache" not in name}
    for name, value in there.items():
        kept = getattr(block, name)
        assert name in ("plateau", "initial") or kept == value, name
    if not isinstance(block, TrainConfig):
        alone = {"edges", "fresh", "attention"} if isinstance(group, Selection) else set()
        assert set(type(block).model_fields) == set(there) | alone


def test_reading_a_config_imports_no_avalanche():
    code = "import sys; from dsn.experiment.config.experiment import TransferConfig, ReplayConfig; "
    code += "TransferConfig(mechanism='gates', acceptance='always'); ReplayConfig(generator='inversion'); "
    code += "sys.exit('avalanche' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("selection.planned_tasks=null", "selection.planned_tasks"),
        ("selection.budget=0.5", "selection.budget"),
        ("selection.initial.he=true", "selection.initial"),
        ("transfer.mechanism=gates", "transfer.mechanism"),
    ],
)
@pytest.mark.parametrize("edges", ["own_and_read", "own"])
def test_what_needs_gates_does_not_go_with_edges(tmp_path, edges, override, key):
    path = tmp_path / "config.yaml"
    path.write_text("stream: {name: split_digits}\nselection: {planned_tasks: stream}\n")
    assert load(path, [f"selection.edges={edges}"]).selection.edges == edges
    with pytest.raises(InputError, match=f"{key}: "):
        load(path, [f"selection.edges={edges}", override])
    load(path, [override])


def test_a_preset_fills_what_a_config_leaves_open_and_the_saved_config_shows_it(file):
    file.write_text(f"{MINIMAL}preset: paper\ntrain: {{lr: 0.2}}\nselection: {{s_max: 30.0}}\n")
    config = load(file, ["transfer.tasks=7"])
    assert (config.transfer.mechanism, config.transfer.acceptance) == ("gates", "held_out_impressions")
    assert (config.replay.steps, config.train.epochs, config.selection.sparsity) == (1500, 50, 0.75)
    assert (config.train.lr, config.selection.s_max, config.transfer.tasks) == (0.2, 30.0, 7)
    assert config.stream.validation > 0  # transfers are tried
    saved = dump(config)
    assert "mechanism: gates" in saved and "preset: paper" in saved
    file.write_text(saved)
    assert load(file) == config
    assert load(file, ["preset=null"]).model_dump(exclude={"preset"}) == config.model_dump(exclude={"preset"})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_key_of_a_preset_is_one_of_the_schema_and_what_it_says_is_what_is_used(file, name):
    file.write_text(f"{MINIMAL}preset: {name}\n")
    values = load(file).model_dump()
    for block, keys in PRESETS[name].items():
        for key, value in keys.items():
            assert values[block][key] == value, (block, key)
    file.write_text(MINIMAL)
    plain = load(file).model_dump()
    assert plain["preset"] is None and plain != values


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_script_gets_the_same_preset_as_a_config(file, name):
    given = preset(name, tasks=4, transfer={"tasks": 9}, replay={"images": 33})
    assert given["transfer"].tasks == 9 and given["replay"]["images"] == 33
    file.write_text(f"{MINIMAL}preset: {name}\ntransfer: {{tasks: 9}}\nreplay: {{images: 33}}\n")
    config = load(file)
    assert given["train_epochs"] == config.train.epochs and given["schedule"].rate == config.train.schedule
    for field in fields(given["transfer"]):
        assert getattr(given["transfer"], field.name) == getattr(config.transfer, field.name)
    for key, value in given["replay"].items():
        assert getattr(config.replay, key) == value
    for field in fields(given["selection"]):
        wanted = getattr(config.selection, field.name)
        if field.name != "initial":
            assert getattr(given["selection"], field.name) == (4 if wanted == "stream" else wanted)


def test_an_unknown_preset_or_part_of_one_is_refused_with_what_is_known(file):
    assert any("preset" in line and "paper" in line for line in errors(file, f"{MINIMAL}preset: papre\n"))
    assert any("preset" in line for line in errors(file, f"{MINIMAL}preset: 3\n"))
    assert any("train" in line for line in errors(file, f"{MINIMAL}preset: paper\ntrain: 3\n"))
    for call, said in [
        (lambda: preset("papre"), "preset is 'papre': choose one of paper, default"),
        (lambda: preset("paper", optimizer={}), "argument is 'optimizer'"),
        (lambda: preset("paper", transfer={"task": 3}), "transfer is 'task': choose one of forward, tasks"),
        (lambda: preset("default"), "tasks=5"),
    ]:
        with pytest.raises(InputError, match=said):
            call()


@pytest.mark.parametrize("edges", ["none", "own", "own_and_sign"])
def test_balanced_first_edges_need_edges_that_are_read_or_not(edges):
    overrides = [
        f"selection.edges={edges}",
        "selection.planned_tasks=stream",
        "selection.first_edges=balanced",
    ]
    with pytest.raises(InputError, match="selection.first_edges"):
        load(ROOT / "configs" / "quickstart.yaml", overrides)
