"""A published protocol run here: papers' figures and ours side by side, ``reproduced.md``.

The runs are those of ``compare``, in the same folder: what is there is taken, what was interrupted goes on.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsn.errors import InputError
from dsn.evaluation.statistics import Estimate

from ..base.folder import told
from ..compare.compare import compare
from ..compare.comparison import Comparison
from ..compare.plan import make_plan
from ..config.experiment import load
from ..config.problems import nearest
from ..engine.options import Choice
from ..result.result import Result, write_whole
from .markdown import escape
from .measures import MEASURES, capacity, estimate
from .numbers import MISSING, PLUS_MINUS, counted, listed, shown, shown_estimate, signed
from .published import (
    NOTHING,
    Protocol,
    Published,
    differences,
    load_published,
    measured_protocol,
    published_for,
)
from .source import StreamRuns, load_source

FILE = "reproduced.md"
CONFIGS = Path(__file__).parents[3] / "configs"
PROTOCOLS = ("permuted_mnist_10", "cifar100_superclass", "cifar100_10", "cifar100_20", "tinyimagenet_40")
STRATEGIES = "dsn,wsn,supsup,packnet,hat,independent,joint"
ACC, BWT = (next(m for m in MEASURES if m.key == key) for key in ("acc", "bwt"))
HEADINGS = (
    "method",
    "ACC, paper",
    "ACC, ours",
    "difference",
    "agrees",
    "BWT, paper",
    "BWT, ours",
    "capacity",
    "what differs",
)
NOTE = """\
ACC in percent, BWT in points. Papers: means of five seeds; ours: mean over seeds ± half of the 95% interval.
agrees: **yes** where ours lies within the spread that the paper prints, or, where none is known, where the
paper's figure lies within our interval, which takes two seeds. Capacity: percent of one dense network's bits
that all tasks together keep, as WSN counts it: the weights that some task uses, 32 bits each, and what is
kept a task; here masks are not compressed, and heads, norms and biases count."""


@dataclass(frozen=True)
class Reproduction:
    """What differs from the protocol in every row: ``epochs`` where they were capped, else None."""

    name: str
    config: Path
    epochs: int | None
    planned_epochs: int


def reproduce(
    protocol: str,
    strategies: str,
    seeds: str,
    overrides: list[str],
    *,
    epochs: int | None = None,
    out: Path | None = None,
    engine: Choice | None = None,
    published: Path | None = None,
    command: str = "",
) -> tuple[Comparison, Path]:
    """Run ``protocol``, one of ``PROTOCOLS`` or a config file, and write the table; returns where it stands.

    Args:
        epochs: at most so many a task.
        engine: as :func:`compare` takes it.
        overrides: ``key=value`` of the config; each is named in the table.

    Raises:
        InputError: what :func:`compare` and :func:`load_published` refuse, an unknown protocol, epochs
            below 1, or a disk that refuses.
    """
    path = find(protocol)
    if epochs is not None and epochs < 1:
        raise InputError(f"--epochs {epochs}: must be 1 or more")
    known = load_published(published or CONFIGS / "published.yaml")
    planned = load(path, overrides).train.epochs
    capped = epochs if epochs is not None and epochs < planned else None
    cap = [] if capped is None else [f"train.epochs={capped}"]
    plan = make_plan([path], strategies, seeds, [*overrides, *cap], command=command)
    folder = out or Path("results") / f"{path.stem}-reproduce"
    comparison = compare(plan, folder, engine=engine)
    what = Reproduction(path.stem, path, capped, planned)
    table = text(what, load_source(folder).streams[0], known, overrides, command)
    try:
        write_whole(folder / FILE, table)
    except OSError as error:
        raise InputError(f"{told(error, folder / FILE)}; the runs stay, the same command goes on") from error
    return comparison, folder / FILE


def find(protocol: str) -> Path:
    """The config of ``protocol``. Raises InputError, naming the nearest, where there is none."""
    if protocol in PROTOCOLS and (path := CONFIGS / f"{protocol}.yaml").is_file():
        return path
    if Path(protocol).suffix in (".yaml", ".yml"):
        return Path(protocol)
    raise InputError(
        f"unknown protocol {protocol!r}{nearest(protocol, list(PROTOCOLS))}: choose one of "
        f"{', '.join(PROTOCOLS)}, or give a config file"
    )


def text(
    what: Reproduction,
    stream: StreamRuns,
    known: dict[str, list[Published]],
    overrides: list[str],
    command: str,
) -> str:
    """The whole of ``reproduced.md``: a table, a row a method, and what differs from the papers."""
    here = next((measured_protocol(stream.results(name)[0]) for name in stream.finished), None)
    papers = [row for row in published_for(stream, known) if here is None or _same_stream(row.protocol, here)]
    paired = {row.strategy for row in papers}
    rows = [_row(what, stream, row.strategy, row, here, overrides) for row in papers]
    rows += [
        _row(what, stream, name, None, here, overrides) for name in stream.finished if name not in paired
    ]
    rows.sort(key=lambda row: -row[0])
    lines = [f"# {escape(what.name)}", ""]
    lines += [f"    {' '.join(command.split())}", ""] if command else []
    lines += ["| " + " | ".join(HEADINGS) + " |", "|---|" + "---:|" * (len(HEADINGS) - 2) + "---|"]
    lines += ["| " + " | ".join(cells) + " |" for _, cells in rows]
    return "\n".join([*lines, "", NOTE, *_missing(stream)]) + "\n"


def _same_stream(paper: Protocol, here: Protocol) -> bool:
    """Whether tasks and classes are the same, as far as they are known."""
    pairs = ((paper.tasks, here.tasks), (paper.classes_per_task, here.classes_per_task))
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _row(
    what: Reproduction,
    stream: StreamRuns,
    strategy: str | None,
    paper: Published | None,
    here: Protocol | None,
    overrides: list[str],
) -> tuple[float, list[str]]:
    """What a row is sorted by, and its cells."""
    run = strategy if strategy in stream.finished else None
    acc, bwt = (None if run is None else estimate(stream, run, measure) for measure in (ACC, BWT))
    theirs = said = MISSING
    if paper is not None:
        theirs = shown(paper.acc, "percent")
        theirs += "" if paper.spread is None else f"{PLUS_MINUS}{paper.spread:.2f}"
    if run is None or acc is None:
        said = "not run here"
    else:
        said = "; ".join([*_unlike(paper, here), *_circumstances(what, stream.results(run), overrides)])
    cells = [
        escape(paper.method if paper is not None else str(strategy)),
        theirs,
        shown_estimate(acc, "percent"),
        MISSING if paper is None or acc is None else signed(acc.mean - paper.acc),
        _agrees(paper, acc),
        MISSING if paper is None or paper.bwt is None else signed(paper.bwt),
        shown_estimate(bwt, "points"),
        MISSING if run is None else _percent(stream.results(run)),
        escape(said),
    ]
    return (acc.mean if acc is not None else paper.acc if paper is not None else 0.0), cells


def _agrees(paper: Published | None, ours: Estimate | None) -> str:
    """Whether ours lies within the paper's spread, or else the paper's within our interval."""
    if paper is None or ours is None:
        return MISSING
    if paper.spread is not None:
        return "**yes**" if abs(ours.mean - paper.acc) <= paper.spread else "no"
    if ours.low is None or ours.high is None:
        return MISSING
    return "**yes**" if ours.low <= paper.acc <= ours.high else "no"


def _percent(results: list[Result]) -> str:
    found = [value for value in map(capacity, results) if value is not None]
    return f"{np.mean(found):.1f}%" if found else MISSING


def _unlike(paper: Published | None, here: Protocol | None) -> list[str]:
    if paper is None:
        return []
    said = differences(paper.protocol, here)
    return [] if said == NOTHING else [said]


def _circumstances(what: Reproduction, results: list[Result], overrides: list[str]) -> list[str]:
    """Seeds, epochs, hardware, and settings that were changed; where the images lie changes nothing."""
    said = [counted(len(results), "seed")]
    if what.epochs is not None:
        said.append(f"epochs capped at {what.epochs} of {what.planned_epochs}")
    said.append(f"on {listed(sorted({_hardware(result) for result in results}))}")
    return said + [f"--set {override}" for override in overrides if not override.startswith("stream.root=")]


def _hardware(result: Result) -> str:
    """What a run was made on, from its environment."""
    environment = result.environment
    on_gpu = str(environment.get("device", "cpu")).startswith("cuda")
    name = environment.get("device_name" if on_gpu else "processor")
    return str(name or "a machine that is not told")


def _missing(stream: StreamRuns) -> list[str]:
    if not stream.missing:
        return []
    runs = [f"{run.strategy} seed {run.seed} ({run.problem})" for run in stream.missing]
    return ["", f"Missing: {escape('; '.join(runs))}."]
