"""Impressions of a finished run's tasks: how good they are, and what they look like."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dsn.replay import Quality, contact_sheet, quality, synthesise

from ..base.console import make_console, say, show_table
from ..base.folder import output_folder
from ..config.faults import explained
from ..config.machine import set_up
from ..config.network import replay_arguments
from .files import load_model


def show_impressions(
    run: Path,
    out: Path | None = None,
    *,
    images: int | None = None,
    generator: str | None = None,
    console: Console | None = None,
) -> dict[int, Quality]:
    """Make impressions of every task of the run in the folder ``run`` and judge them.

    Args:
        out: the folder for the contact sheets, a PNG a task, new or empty; by default a fresh
            ``results/<run>-impressions``. Inputs that are no images get none.
        images, generator: instead of those of the run's config.

    Raises:
        InputError: ``run`` holds no model, or what :func:`dsn.replay.synthesise` refuses.
    """
    console = console or make_console()
    model, config, pixel_range = load_model(run)
    model.to(set_up(config))
    settings = replay_arguments(config, pixel_range)
    settings |= {
        name: value for name, value in (("images", images), ("generator", generator)) if value is not None
    }
    pictured = len(model.input_shape) == 4
    table = Table("task", "impressions", "agreement", "distance", "duplicates", "balance")
    found: dict[int, Quality] = {}
    with output_folder(out, f"{run.name}-impressions") as (folder, target), explained(config):
        for task in model.committed:
            made = synthesise(model, task, seed=config.seed, **settings)
            found[task] = quality(model, made, task)
            shown = {k: "-" if v is None else f"{v:.3f}" for k, v in asdict(found[task]).items()}
            table.add_row(str(task), str(len(made)), *shown.values())
            if pictured:
                contact_sheet(made, folder / f"task{task:03d}.png", pixel_range)
        lines = [",".join(["task", *Quality.__dataclass_fields__])]
        lines += [",".join(map(str, [task, *asdict(q).values()])) for task, q in found.items()]
        (folder / "quality.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    show_table(console, table)
    say(console, f"written to {target}" + ("" if pictured else "; the inputs are vectors: no contact sheets"))
    return found
