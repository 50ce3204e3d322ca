"""How a task is trained, as a typed block."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from dsn.augment import Augment
from dsn.errors import InputError

from .blocks import Block, NonNegative, NonNegativeFloat, Positive, wrong
from .optimizers import optimizer_arguments, optimizer_class


class PlateauConfig(Block):
    """When ``train.schedule`` is plateau.

    factor: the rate is divided by it
    patience: after so many epochs in a row without a better validation score
    lr_min: once the rate is below it the task's epochs end; 0: never
    """

    factor: Annotated[float, Field(gt=1)] = 3.0
    patience: Positive = 6
    lr_min: NonNegativeFloat = 0.0


class TrainConfig(Block):
    """How a task is trained.

    epochs: with the task's gates, ``warmup_epochs`` and ``consolidation_epochs`` not counted
    warmup_epochs: before them, dense: every neuron is open
    consolidation_epochs: after them, with the committed mask
    optimizer: any class of torch.optim in lower case; ``optimizer_args``: its other arguments
    judge: what an epoch's validation score is: accuracy, or loss (cross-entropy)
    patience: stop after so many epochs without a better validation score; null: never
    restore_best: end with the state of the best validation score
    average_epochs: what is judged and kept is the mean of the weights over the steps of about so many of the
        last epochs; 0: the weights after the last step
    norm_samples: batch norms are judged and kept with the statistics of so many training samples, measured
        without dropout, which AlexNet has before them; 0: with those of training
    precision: bfloat16 runs passes under torch's autocast; weights stay float32 (strategy dsn)
    channels_last: memory format of convolutions (dsn)
    compile: training passes through torch.compile (dsn)
    augment: what training images go through, for every strategy: none, crop_flip (a shift by up to an eighth
        and mirror images), trivial (TrivialAugmentWide), or a list of torchvision.transforms.v2 names, with
        arguments as {name: {argument: value}}
    shards: parts that each batch is computed in, by one process or, with torchrun, by as many as divide it;
        results depend on it, and not on the number of processes (docs/scale.md); 1: batches stay whole
    """

    epochs: Positive = 10
    warmup_epochs: NonNegative = 0
    consolidation_epochs: NonNegative = 0
    batch_size: Positive = 64
    optimizer: str = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.05
    momentum: Annotated[float, Field(ge=0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    optimizer_args: dict[str, Any] = {}
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    plateau: PlateauConfig = PlateauConfig()
    judge: Literal["accuracy", "loss"] = "accuracy"
    patience: Positive | None = None
    restore_best: bool = False
    average_epochs: NonNegativeFloat = 0.0
    norm_samples: NonNegative = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    augment: str | list[str | dict[str, Any]] = "none"
    shards: Positive = 1

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, name: str) -> str:
        optimizer_class(name)
        return name

    @field_validator("augment")
    @classmethod
    def _known_transforms(cls, transforms: Any) -> Any:
        if transforms != "none":
            Augment(transforms)
        return transforms

    @model_validator(mode="after")
    def _optimizer_takes_its_arguments(self) -> Self:
        try:
            optimizer_arguments(
                self.optimizer,
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                extra=self.optimizer_args,
            )
        except InputError as error:
            raise wrong(*str(error).split(": ", 1)) from error
        return self
