"""What an Avalanche experience says of itself, whichever of Avalanche's generators made its stream."""

from typing import Any

from dsn.errors import InputError


def task_label(experience: Any) -> int:
    """The task label of an experience.

    Taken from the experience, or, where it has none (``benchmark_with_validation_stream`` drops them), from
    its samples. Raises InputError unless there is exactly one.
    """
    labels = set(getattr(experience, "task_labels", ())) or _of_samples(experience.dataset)
    if len(labels) != 1:
        raise InputError(
            f"{name_of(experience)} has the task labels {sorted(labels)}: each experience needs exactly one "
            "(return_task_id=True in Avalanche's classic streams, task_incremental_benchmark(...) around its "
            "newer ones)"
        )
    return int(labels.pop())


def _of_samples(dataset: Any) -> set[int]:
    labels = getattr(dataset, "targets_task_labels", None)
    return set() if labels is None or not len(labels) else set(labels.uniques)


def name_of(experience: Any) -> str:
    """How messages call it: its number, and its stream where that is known."""
    stream = getattr(getattr(experience, "origin_stream", None), "name", None)
    number = f"experience {getattr(experience, 'current_experience', '?')}"
    return number if stream is None else f"{number} of stream '{stream}'"
