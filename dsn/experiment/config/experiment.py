"""The YAML of one experiment as typed blocks. Config objects never leave ``dsn.experiment``."""

from collections.abc import Iterable
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from benchmarks.base import StreamConfig
from benchmarks.streams import STREAMS
from dsn.errors import InputError
from dsn.presets import filled

from .backbone import Backbone, MLPConfig
from .baselines import BaselinesConfig, Strategy
from .blocks import Block, NonNegative, Positive, PositiveFloat, wrong
from .problems import nearest, problems
from .selection import SelectionConfig
from .train import TrainConfig
from .yaml_file import parse, read_yaml

if TYPE_CHECKING:
    Stream = StreamConfig
else:
    Stream = Annotated[reduce(or_, (block for block, _ in STREAMS.values())), Field(discriminator="name")]


class ReplayConfig(Block):
    """Arguments of ``dsn.replay.synthesise``; used only where transfer or its acceptance needs impressions.

    generator: a name in ``dsn.replay.GENERATORS``
    images: impressions of a task, at least one a class
    steps, lr: of Adam
    temperature: divides the logits
    beta: scale of the soft targets' Dirichlet concentration
    statistics_weight, tv_weight: of the activation statistics and the total variation
    jitter, flip: pixels an image is shifted by at most, and whether it is mirrored, before each step
    batch_size: impressions optimised at once
    """

    generator: str = "statistics"
    images: Positive = 200
    steps: Positive = 150
    lr: Annotated[float, Field(gt=0)] = 0.1
    temperature: Annotated[float, Field(gt=0)] = 2.0
    beta: Annotated[float, Field(gt=0)] = 1.0
    statistics_weight: Annotated[float, Field(ge=0)] = 1.0
    tv_weight: Annotated[float, Field(ge=0)] = 0.1
    jitter: NonNegative = 1
    flip: bool = False
    batch_size: Positive = 100

    @field_validator("generator")
    @classmethod
    def _known_generator(cls, name: str) -> str:
        from dsn.replay import GENERATORS

        return _known(name, GENERATORS)


class TransferConfig(Block):
    """Transfer between tasks; it needs validation data (``stream.validation``) to judge by.

    forward: how many earlier tasks, most similar first, a new one may read features of; 0: none
    tasks: how many earlier tasks, most similar first, may gain from a task once it is learnt; 0: none
    mechanism: how they gain, a name in ``dsn.transfer.MECHANISMS``
    acceptance: what decides whether the change is kept, a name in ``dsn.transfer.ACCEPTANCE``
    """

    forward: NonNegative = 8
    tasks: NonNegative = 3
    mechanism: str = "correspondence"
    acceptance: str = "closeness"

    @field_validator("mechanism")
    @classmethod
    def _known_mechanism(cls, name: str) -> str:
        from dsn.transfer import MECHANISMS

        return _known(name, MECHANISMS)

    @field_validator("acceptance")
    @classmethod
    def _known_acceptance(cls, name: str) -> str:
        from dsn.transfer import ACCEPTANCE

        return _known(name, ACCEPTANCE)


class EvaluationConfig(Block):
    """What is evaluated beside the accuracy matrix.

    independent: also train one dense network a task, for ``fwt_independent`` and ``trans``
    random: also evaluate untrained networks and the next task, for ``fwt_random``
    class_incremental: also evaluate without saying which task an input is of, for ``cil_acc``; each task is
        known again by statistics of its training data, calibrated on its validation data
    """

    independent: bool = False
    random: bool = False
    class_incremental: bool = False


class CheckpointConfig(Block):
    """When a run keeps its state, so that ``run.py run ... --resume`` can go on; both null: at signals alone.

    minutes: after so many minutes
    iterations: after so many training iterations
    """

    minutes: PositiveFloat | None = 10.0
    iterations: Positive | None = None


class ResourcesConfig(Block):
    """What a run asks a cluster for (``--engine ray`` or ``slurm``); on this machine they are not used.

    cpus: processors; also torch's threads, unless ``threads`` says otherwise
    gpus: whole ones
    memory: in GB (10^9 bytes); null: what the cluster gives
    minutes: limit of SLURM's job; a run that is not done by then goes on in a new one
    """

    cpus: Positive = 1
    gpus: NonNegative = 0
    memory: PositiveFloat | None = None
    minutes: Positive = 60


class Config(Block):
    """One experiment.

    preset: paper: the method as published, with the settings of its released code; default: this project's
        own best. It fills in what the config does not say (``dsn.presets``); ``config.yaml`` shows all of it
    strategy: dsn or one of ``dsn.baselines.STRATEGIES``; ``baselines`` has their hyper-parameters
    device: auto takes a GPU if there is one; else as torch names it, e.g. cpu or cuda:1
    threads: CPU threads of torch; null leaves torch's own choice
    tracker: where curves and results go beside the folder of the run: tensorboard (into that folder), wandb,
        mlflow; their own environment variables say where they keep them (``dsn.evaluation.trackers``)
    """

    preset: Literal["paper", "default"] | None = None
    stream: Stream
    backbone: Backbone = MLPConfig()
    train: TrainConfig = TrainConfig()
    selection: SelectionConfig = SelectionConfig()
    replay: ReplayConfig = ReplayConfig()
    transfer: TransferConfig = TransferConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    strategy: Strategy = "dsn"
    baselines: BaselinesConfig = BaselinesConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    resources: ResourcesConfig = ResourcesConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: str = "auto"
    threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"

    @model_validator(mode="before")
    @classmethod
    def _filled_by_the_preset(cls, values: Any) -> Any:
        return filled(without_old_names(values))

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        import torch

        if device != "auto":
            try:
                torch.device(device)
            except RuntimeError:
                raise ValueError(f"unknown {device!r}, e.g. auto, cpu, cuda, cuda:1, mps") from None
        return device

    @model_validator(mode="after")
    def _validation_where_needed(self) -> Self:
        needing = {
            "patience": self.train.patience is not None,
            "restore_best": self.train.restore_best,
            "schedule": self.train.schedule == "plateau",
        }
        needing = {f"train.{key}": needed for key, needed in needing.items()}
        needing["evaluation.class_incremental"] = self.evaluation.class_incremental
        for key, needed in needing.items():
            if needed and self.stream.validation == 0:
                raise wrong(key, "needs a validation split: set stream.validation, e.g. 0.1")
        return self

    @model_validator(mode="after")
    def _edges_go_with_the_rest(self) -> Self:
        selection = self.selection
        if selection.first_edges == "balanced" and selection.edges != "own_and_read":
            raise wrong(
                "selection.first_edges", "balanced chooses what edges: own_and_read reads: leave it out"
            )
        if selection.edges == "none" or self.strategy != "dsn":
            return self
        if selection.planned_tasks is None:
            raise wrong("selection.planned_tasks", "edges need it, to share the neurons: e.g. stream")
        if selection.budget is not None:
            raise wrong(
                "selection.budget", "edges choose what a task reads, the plan what it owns: leave it out"
            )
        if selection.initial.choice != "all" or selection.initial.he:
            raise wrong(
                "selection.initial", "chooses by gates that learn, which edges have not: leave it out"
            )
        if self.transfer.mechanism == "gates":
            raise wrong(
                "transfer.mechanism", "gates changes masks, which say who owns a weight: take another"
            )
        return self

    @model_validator(mode="after")
    def _heads_go_with_the_rest(self) -> Self:
        selection = self.selection
        if selection.attention == "rows" or self.strategy != "dsn":
            return self
        if selection.edges != "none" or selection.fresh is not None or selection.initial.choice != "all":
            raise wrong(
                "selection.attention",
                "heads need gates that learn: leave it out, or edges, fresh and initial",
            )
        return self

    @model_validator(mode="after")
    def _fresh_goes_with_pretrained(self) -> Self:
        selection = self.selection
        if selection.fresh is None or self.strategy != "dsn":
            return self
        if not getattr(self.backbone, "pretrained", False):
            raise wrong(
                "selection.fresh", "keeps pretrained weights: set backbone.pretrained: true, or leave it out"
            )
        if selection.edges != "none":
            raise wrong(
                "selection.edges", "gives the backbone weights of its own making: leave out fresh or edges"
            )
        if selection.initial.choice != "all" or selection.initial.he:
            raise wrong(
                "selection.initial", "begins with another network than the pretrained one: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _references_have_a_use(self) -> Self:
        useless = {
            ("independent", "independent"): "independent networks transfer nothing, set it to false",
            ("independent", "random"): "independent networks transfer nothing, set it to false",
            ("joint", "random"): "joint training knows no order of tasks, set it to false",
        }
        for key, wanted in self.evaluation:
            if wanted and (self.strategy, key) in useless:
                raise wrong(f"evaluation.{key}", useless[self.strategy, key])
        return self


WITHOUT_INFLUENCE = ("checkpoint", "resources", "tracker")
"""keys that say how a run is made, and nothing about what it finds"""


def without_old_names(values: Any) -> Any:
    """``tensorboard: true``, of older folders, is ``tracker: tensorboard``."""
    if not isinstance(values, dict) or not isinstance(values.get("tensorboard"), bool):
        return values
    values = dict(values)
    old = "tensorboard" if values.pop("tensorboard") else "none"
    return {"tracker": old, **values}


def load(path: Path, overrides: list[str] | None = None) -> Config:
    """The config in the YAML file ``path``, with ``a.b=value`` overrides put in, later ones last.

    Raises InputError for a missing file, YAML that cannot be read, and all wrong keys and values at once,
    one line each.
    """
    values = read_yaml(path)
    origins: dict[str, str] = {}
    wrong: list[str] = []
    for override in overrides or []:
        try:
            origins[_put(values, override)] = f"--set {override}"
        except InputError as error:
            wrong.append(f"--set {override}: {error}")
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        wrong += [f"{_origin(key, origins) or path}: {key}: {text}" for key, text in problems(error, Config)]
    if wrong:
        raise InputError("\n".join(wrong))
    return config


def dump(config: Config) -> str:
    """The resolved config as YAML that :func:`load` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=False)


def _put(values: dict[str, Any], override: str) -> str:
    """Put ``a.b=value`` into ``values`` and return ``a.b``."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError("must be key=value, e.g. train.epochs=5")
    value = parse(text, "the value")
    here = values
    for depth, part in enumerate(parts[:-1], start=1):
        inner = here.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(f"'{'.'.join(parts[:depth])}' is {inner!r}, not a block of keys")
        here = inner
    here[parts[-1]] = value
    return ".".join(parts)


def _origin(key: str, origins: dict[str, str]) -> str | None:
    """The override that set ``key`` or a block that ``key`` lies in."""
    holders = [origin for put, origin in origins.items() if f"{key}.".startswith(f"{put}.")]
    return holders[-1] if holders else None


def _known(name: str, known: Iterable[str]) -> str:
    """``name`` where it is among ``known``; a ValueError with the nearest one otherwise."""
    known = list(known)
    if name not in known:
        raise ValueError(f"unknown {name!r}{nearest(name, known)}")
    return name
