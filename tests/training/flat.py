"""DSN from settings in one row, so that tests can be parametrised by any of them."""

from dataclasses import fields
from typing import Any

from dsn import DSN, Compute, Plateau, Schedule, Selection, Transfer

RENAMED = {
    "schedule": ("schedule", "rate"),
    "transfer_tasks": ("transfer", "tasks"),
    "forward_tasks": ("transfer", "forward"),
    "transfer": ("transfer", "mechanism"),
    "acceptance": ("transfer", "acceptance"),
}
GROUPS = {"selection": Selection, "schedule": Schedule, "transfer": Transfer, "compute": Compute}
PLACES = {f.name: (group, f.name) for group, made in GROUPS.items() for f in fields(made)} | RENAMED


def dsn(kind: type[DSN] = DSN, **settings: Any) -> Any:
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    rest = {}
    for name, value in settings.items():
        if isinstance(value, tuple(GROUPS.values())) or name not in PLACES:
            rest[name] = value
        else:
            group, field = PLACES[name]
            groups[group][field] = Plateau(**value) if field == "plateau" else value
    return kind(**{group: GROUPS[group](**values) for group, values in groups.items() if values}, **rest)
