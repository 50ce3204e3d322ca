"""The topology lab: what masks chosen before training are worth on one task, beside their nodes and paths."""

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import streams
from dsn.errors import InputError
from dsn.topology import PRUNERS, prune
from dsn.topology.layers import weights_of
from dsn.topology.measures import Topology, topology
from dsn.topology.start import apply_masks
from dsn.training.loader import read_samples

from ..base.console import make_console, say, show_table
from ..config.experiment import Config
from ..config.machine import environment, seed_everything, set_up
from ..config.problems import nearest
from ..engine.options import Choice
from .frame import lab_folder, write_lab
from .parts import SeedJob, measured, parts_of
from .topology_picture import draw_topology
from .topology_result import (
    DENSE,
    REFERENCE,
    PrunedRun,
    TopologyResult,
    head,
    markdown,
    sentences,
    summarise,
    table,
)
from .topology_store import RunStore
from .topology_train import accuracy_of, make_network, refuse_untrainable, train_pruned

BALANCED = ("npb", "npb_forward", "npb_paper")  # which take alpha and beta
REFUSING = (*BALANCED, "narrow")  # densities that are too low
SCORED = 10  # samples a class that snip scores weights by


def topology_lab(
    config: Config,
    pruners: list[str],
    densities: list[float],
    seeds: list[int],
    out: Path | None = None,
    *,
    reference: str = REFERENCE,
    task: int = 0,
    rescale: bool = False,
    npb: Mapping[str, float] | None = None,
    kept: Path | None = None,
    engine: Choice | None = None,
    name: str = "run",
    command: str = "",
    console: Console | None = None,
) -> tuple[TopologyResult, Path]:
    """Prune and train one network a pruner, density and seed; return the result and the folder written.

    All networks of a seed start from the same weights and see the same batches; the dense one is trained too.
    ``magnitude`` reads its mask off the trained dense network and starts anew from the same initial weights
    (Frankle and Carbin 2019).

    Args:
        config: from :func:`dsn.experiment.config.experiment.load`; its strategy and seed are not used.
        out: the folder to write, new or empty; by default a fresh ``results/<name>-topology``.
        reference: the pruner that all others are compared with, paired by seed.
        task: which task of the stream.
        rescale: start from weights rescaled to each neuron's active fan-in (``apply_masks``).
        npb: alpha and beta of Node-Path Balancing.
        kept: a folder in which every trained network leaves its measures, a file each; what is found there
            from the same settings is not trained again: a lab may stop, and parts of it run side by side.
        engine: what measures the seeds, by default this process, one after the other.

    Raises:
        InputError: what cannot be trained, or a task that the stream does not have. Nothing is left then.
    """
    refuse_untrainable(config)
    if not 0 <= task < config.stream.tasks:
        raise InputError(f"--task {task}: the stream has tasks 0 to {config.stream.tasks - 1}")
    console = console or make_console()
    started = time.perf_counter()
    what = {
        "pruners": pruners,
        "densities": densities,
        "task": task,
        "rescale": rescale,
        "npb": dict(npb or {}),
        "kept": None if kept is None else str(kept.absolute()),
    }
    with lab_folder(out, f"{name}-topology", config) as (folder, target):
        parts = parts_of(f"{__name__}:measure_seed", config, seeds, target, **what)
        values = measured(parts, engine, target, console)
        runs = [PrunedRun.model_validate(value) for found in values for value in found]
        rows, principle = summarise(runs, reference)
        dense = next(run for run in runs if run.pruner == DENSE)
        result = TopologyResult(
            command=command,
            config=config.model_dump(mode="json"),
            task=task,
            seeds=seeds,
            rescaled=rescale,
            reference=reference,
            nodes=dense.effective_nodes,
            parameters=dense.live_parameters,
            rows=rows,
            principle=principle,
            runs=runs,
            seconds=time.perf_counter() - started,
            environment=environment(set_up(config)),
        )
        write_lab(result, config, folder, "topology", markdown(result))
        draw_topology(result, folder / "topology.png")
    _show(console, result)
    say(console, f"written to {target}")
    return result, target


def measure_seed(job: SeedJob, config: Config, console: Console | None = None) -> list[dict[str, Any]]:
    """The networks of ``config.seed``: each a :class:`PrunedRun` as JSON."""
    asked = dict(job.arguments)
    kept, pruners, densities = (asked.pop(name) for name in ("kept", "pruners", "densities"))
    settings = config.model_dump(mode="json", exclude={"device", "threads", "resources"})
    store = RunStore(None if kept is None else Path(kept), {"config": settings, **asked})
    runs = _one_seed(config, pruners, densities, **asked, store=store, console=console or make_console())
    return [run.model_dump(mode="json") for run in runs]


def parse_densities(text: str) -> list[float]:
    """The densities in ``0.1,0.01``. Raises InputError unless they are different numbers in (0, 1)."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--densities {text}: must be numbers with commas between, e.g. 0.1,0.01") from None
    if any(not 0 < density < 1 for density in found):
        raise InputError(f"--densities {text}: every density must lie between 0 and 1, e.g. 0.1")
    if len(set(found)) < len(found):
        raise InputError(f"--densities {text}: a density stands twice")
    return found


def parse_pruners(text: str) -> list[str]:
    """The names in ``random,npb``. Raises InputError for an unknown one, or one that stands twice."""
    found = text.split(",")
    for name in found:
        if name not in PRUNERS:
            raise InputError(f"--pruners: unknown {name!r}{nearest(name, list(PRUNERS))}")
    if len(set(found)) < len(found):
        raise InputError(f"--pruners {text}: a pruner stands twice")
    return found


def parse_reference(name: str | None, pruners: Sequence[str]) -> str:
    """The pruner that all others are compared with. Raises InputError for one that is not among them."""
    if name is not None and name not in pruners:
        raise InputError(f"--reference {name}: must be one of the pruners, {', '.join(pruners)}")
    return name or REFERENCE


def _one_seed(
    config: Config,
    pruners: list[str],
    densities: list[float],
    task: int,
    rescale: bool,
    npb: Mapping[str, float],
    store: RunStore,
    console: Console,
) -> list[PrunedRun]:
    device = set_up(config)
    benchmark = streams.build(config.stream, config.seed)
    x, y = (t.to(device) for t in read_samples(benchmark.train_stream[task].dataset.eval()))
    test = tuple(t.to(device) for t in read_samples(benchmark.test_stream[task].dataset.eval()))
    seed_everything(config.seed)
    start = make_network(config, x.shape[1:], int(y.max()) + 1).to(device)
    shape, scored = (1, *x.shape[1:]), _few_a_class(x, y)
    everything = {p: torch.ones_like(w, dtype=torch.bool) for p, w in weights_of(start).items()}

    def trained(masks: Mapping[str, Tensor]) -> nn.Module:
        network = copy.deepcopy(start)
        apply_masks(network, masks, rescale=rescale)
        train_pruned(network, masks, x, y, config)
        return network

    def tell(pruner: str, density: float, network: nn.Module, found: Topology, seconds: float) -> PrunedRun:
        accuracy = accuracy_of(network, *test)
        run = _pruned_run(config.seed, pruner, density, accuracy, found, seconds)
        store.put(run)
        lost = f"  collapsed: {', '.join(run.collapsed)}" if run.collapsed else ""
        say(
            console,
            f"seed {config.seed}  {density:.2%}  {pruner}: accuracy {run.accuracy:.2%}, "
            f"{run.effective_nodes} nodes  {seconds:.1f} s{lost}",
        )
        return run

    _refuse_low(start, shape, pruners, densities, npb)
    wanted = [(DENSE, 1.0), *((pruner, density) for density in densities for pruner in pruners)]
    runs: list[PrunedRun] = []
    dense: nn.Module | None = None
    for pruner, density in wanted:
        if (known := store.get(config.seed, pruner, density)) is not None:
            runs.append(known)
            continue
        began = time.perf_counter()
        masks: Mapping[str, Tensor] = everything
        dense = dense or (trained(everything) if pruner == "magnitude" else None)
        if pruner != DENSE:
            source = dense if pruner == "magnitude" and dense else start
            options = dict(npb) if pruner in BALANCED else {}
            masks = prune(
                source, density, pruner, input_shape=shape, samples=scored, seed=config.seed, **options
            )
        network = trained(masks)
        dense = network if pruner == DENSE else dense
        runs.append(
            tell(pruner, density, network, topology(start, masks, shape), time.perf_counter() - began)
        )
    return runs


def _refuse_low(
    network: nn.Module,
    shape: Sequence[int],
    pruners: Sequence[str],
    densities: Sequence[float],
    npb: Mapping[str, float],
) -> None:
    """Raise InputError before anything trains, where a density is too low for a pruner."""
    for density in densities:
        for pruner in (name for name in REFUSING if name in pruners):
            options: dict[str, Any] = dict(npb) if pruner in BALANCED else {}
            prune(network, density, pruner, input_shape=shape, **options)


def _pruned_run(
    seed: int, pruner: str, density: float, accuracy: float, found: Topology, seconds: float
) -> PrunedRun:
    return PrunedRun(
        seed=seed,
        pruner=pruner,
        density=density,
        accuracy=accuracy,
        live_parameters=found.live_parameters,
        effective_parameters=found.effective_parameters,
        effective_kernels=found.effective_kernels,
        effective_nodes=found.effective_nodes,
        log10_paths=found.log10_paths,
        collapsed=found.collapsed,
        seconds=seconds,
    )


def _few_a_class(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The first samples of each class."""
    rows = torch.cat([y.eq(label).nonzero().flatten()[:SCORED] for label in y.unique()])
    return x[rows], y[rows]


def _show(console: Console, result: TopologyResult) -> None:
    shown = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    names = head(result.reference)
    for index, name in enumerate(names):
        shown.add_column(name, justify="left" if index == 1 else "right", no_wrap=index != len(names) - 1)
    for row in table(result):
        shown.add_row(*row)
    console.print()
    show_table(console, shown)
    for sentence in sentences(result):
        say(console, sentence)
