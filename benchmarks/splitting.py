"""Which classes and which images a task gets: pure functions of labels and a seed (numpy only).

Every draw has a generator of its own, so that no global random state moves and one setting (say
``validation``) does not change what another one draws (say the class order).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dsn.errors import InputError

CLASS_ORDER, IMAGES, PIXELS = range(3)


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """A generator for one purpose; raises InputError for a negative seed."""
    if seed < 0:
        raise InputError(f"seed is {seed}; use 0 or a positive number")
    return np.random.default_rng([seed, *purpose])


def order_classes(classes: Sequence[str], class_order: str | Sequence[str | int], seed: int) -> list[int]:
    """Class ids in the order of the stream. A list of names may leave classes out."""
    if class_order == "sorted":
        return list(range(len(classes)))
    if class_order == "shuffled":
        return generator(seed, CLASS_ORDER).permutation(len(classes)).tolist()
    names = [str(name) for name in class_order]
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise InputError(
            f"stream.class_order: no class is called {', '.join(unknown)}; "
            f"the classes are {', '.join(classes)}"
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            f"stream.class_order: {', '.join(repeated)} stands there twice; name each class once"
        )
    return [classes.index(name) for name in names]


def group_classes(
    order: Sequence[int], tasks: int, classes_per_task: int | None, shared: int = 0
) -> list[list[int]]:
    """The class ids of each task: ``order`` cut into ``tasks`` groups of equal size.

    Each group begins with the last ``shared`` classes of the one before.
    """
    if shared and (classes_per_task is None or shared >= classes_per_task):
        raise InputError(
            f"stream.shared_classes: is {shared}, with stream.classes_per_task {classes_per_task}; "
            "a task shares fewer than it has: set a larger stream.classes_per_task"
        )
    if classes_per_task is None:
        if len(order) % tasks:
            raise InputError(
                f"stream.tasks: {len(order)} classes cannot be divided evenly into {tasks} tasks; "
                "set stream.classes_per_task"
            )
        classes_per_task = len(order) // tasks
    fresh = classes_per_task - shared
    needed = tasks * fresh + shared
    if needed > len(order):
        sharing = f" that share {shared}" if shared else ""
        raise InputError(
            f"stream.tasks: {tasks} tasks of {classes_per_task} classes{sharing} need {needed}, "
            f"but there are {len(order)}; lower stream.tasks or stream.classes_per_task"
        )
    return [list(order[t * fresh : t * fresh + classes_per_task]) for t in range(tasks)]


def limit_per_task(train_per_class: int | Sequence[int] | None, tasks: int) -> list[int | None]:
    """One limit a task (None: no limit)."""
    if train_per_class is None or isinstance(train_per_class, int):
        return [train_per_class] * tasks
    if len(train_per_class) != tasks:
        raise InputError(
            f"stream.train_per_class lists {len(train_per_class)} limits for {tasks} tasks; "
            "give one a task, or one number for all"
        )
    return list(train_per_class)


def pick_rows(
    labels: np.ndarray,
    classes: Sequence[int],
    *,
    limit: int | None,
    validation: float,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a task's training and validation images.

    Of each class, ``limit`` images are drawn (all, if there are fewer); of these, round(validation × n)
    go to validation, at least 1 and at most n − 1. A smaller limit draws a subset of what a larger one does.

    labels: int64 [N]
    returns: two sorted, disjoint int64 arrays; the second is empty if ``validation`` is 0
    raises: InputError if a class has one image and validation needs one of it
    """
    train, valid = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for label in classes:
        rows = random.permutation(np.flatnonzero(labels == label))[:limit]
        held_out = 0
        if validation > 0:
            if len(rows) < 2:
                raise InputError(
                    f"stream.validation: a class has {len(rows)} training image(s), too few to hold one out; "
                    "set it to 0, or raise stream.train_per_class or the number of images"
                )
            held_out = min(max(round(validation * len(rows)), 1), len(rows) - 1)
        train.append(rows[held_out:])
        valid.append(rows[:held_out])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(valid))
