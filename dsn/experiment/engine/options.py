"""Which engine, with what: ``--engine``, ``--engine-args`` and ``--jobs``."""

from collections.abc import Collection
from dataclasses import dataclass, field

from dsn.errors import InputError

from ..config.problems import nearest

ENGINES = ("local", "ray", "slurm")


@dataclass(frozen=True)
class Choice:
    """An engine by name.

    jobs: at once; None: one on this machine, elsewhere as many as there is room for
    arguments: the engine's own, docs/scale.md
    """

    name: str = "local"
    jobs: int | None = None
    arguments: dict[str, str] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether it is one job after the other on this machine."""
        return self.name == "local" and self.jobs in (None, 1)


def parse_choice(name: str, jobs: int | None, arguments: list[str]) -> Choice:
    """The choice of a command line. Raises InputError for what no engine can be told."""
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs}: must be 1 or more")
    if name not in ENGINES:
        raise InputError(f"--engine {name}: unknown{nearest(name, list(ENGINES))}; {', '.join(ENGINES)}")
    found: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key or not value:
            raise InputError(f"--engine-args {argument}: must be KEY=VALUE, e.g. address=auto")
        if key in found:
            raise InputError(f"--engine-args {argument}: {key} stands twice")
        found[key] = value
    if name == "local" and found:
        raise InputError(
            f"--engine-args {arguments[0]}: the engine local has none; give --engine ray or slurm"
        )
    return Choice(name, jobs, found)


def refuse_unknown(choice: Choice, known: Collection[str]) -> None:
    """Raise InputError for an argument that the engine has not."""
    for key in choice.arguments:
        if key not in known:
            raise InputError(
                f"--engine-args {key}: unknown to {choice.name}{nearest(key, list(known))}; it takes "
                f"{', '.join(known)}"
            )
