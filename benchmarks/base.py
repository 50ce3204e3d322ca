"""What the config blocks of all streams share. Imports pydantic only, so that configs are quick to read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _named(folder: object) -> object:
    if folder == "":
        raise ValueError("is empty, which would be the current folder: give a folder's path, . for this one")
    if isinstance(folder, str | Path):
        try:
            os.lstat(Path(folder).expanduser())
        except RuntimeError as error:  # ~ of a user who is not there
            raise ValueError(f"{error}: write the folder's whole path") from None
        except ValueError:
            raise ValueError("holds a character that no path can hold") from None
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                raise ValueError(f"{error.strerror}: give another") from None
    return folder


Count = Annotated[int, Field(strict=True, gt=0, le=1_000_000)]
Folder = Annotated[Path, BeforeValidator(_named)]

DEFAULT_CACHE = Path("~/.cache/dsn")


class StreamConfig(BaseModel):
    """Fields of every stream.

    train_per_class: at most this many training images a class and task; a list has one limit a task.
    validation: share in [0, 1) of the training images, drawn class by class after ``train_per_class``.
    normalize: subtract the mean and divide by the standard deviation; otherwise pixels lie in [0, 1].
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    tasks: Count
    train_per_class: Count | list[Count] | None = None
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    normalize: bool = True


class ClassSplitConfig(StreamConfig):
    """Fields of the streams that cut the classes of one data set into tasks.

    classes_per_task: None divides all classes evenly among the tasks.
    shared_classes: so many classes of a task are those that ended the one before; needs classes_per_task.
    class_order: "shuffled" (by the seed), "sorted" (the data set's own order) or a list of class names.
    """

    classes_per_task: Count | None = None
    shared_classes: int = Field(default=0, strict=True, ge=0, le=1_000_000)
    class_order: Literal["shuffled", "sorted"] | list[str | int] = "shuffled"
