"""The command line. Heavy imports wait until a command needs them, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
ROUNDED, CRASHED = 3, 70  # of verify
OURS = ("dsn", "benchmarks")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 when a run of several failed, 2 for bad input, 130 when
    interrupted, 143 or 129 when ended by SIGTERM or SIGHUP."""
    options = make_parser().parse_args(arguments)
    words = ["run.py", *(sys.argv[1:] if arguments is None else arguments)]
    try:
        return _do(options, words)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        print(
            f"error: the package {error.name} is missing; install what this needs with pip install -e . in "
            f"{Path(__file__).resolve().parent}",
            file=sys.stderr,
        )
        return BAD_INPUT


def _do(options: argparse.Namespace, words: list[str]) -> int:
    from dsn.errors import InputError, Stopped
    from dsn.experiment.base.interrupts import Ending

    try:
        with Ending() as ending:
            options.do(options, words)
    except InputError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        stopped = interrupt if isinstance(interrupt, Stopped) else Stopped(signal.SIGINT)
        if stopped.kept:
            print(f"stopped; go on with: {_to_go_on(words, stopped.out)}", file=sys.stderr)
        else:
            print("interrupted, nothing was written", file=sys.stderr)
        return 128 + stopped.signal
    return 0 if ending.came is None else 128 + ending.came


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Task-incremental continual learning with subnetworks that are never forgotten.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="learn one stream, evaluate, write the result")
    run.set_defaults(do=run_experiment)
    _add_config(run)
    run.add_argument("--seed", type=int, metavar="N", help="seed, instead of the config's")
    run.add_argument(
        "--out", type=Path, metavar="DIR", help="new or empty folder; default: results/<config>-seed<N>"
    )
    run.add_argument(
        "--verbose", action="store_true", help="also print each epoch's loss, each task's topology"
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run that was interrupted in --out; without one, begin",
    )
    verify = commands.add_parser(
        "verify", help="whether every task of a finished run is still what it was, by its certificate"
    )
    verify.set_defaults(do=run_verify)
    verify.add_argument("run", type=Path, metavar="RUN", help="folder that run.py run wrote")
    lab = commands.add_parser(
        "transfer-lab", help="measure backward transfer beside its controls and an oracle, over seeds"
    )
    lab.set_defaults(do=run_lab)
    _add_config(lab)
    lab.add_argument("--seeds", default="0,1,2,3,4", metavar="N,N,...", help="default: 0,1,2,3,4")
    lab.add_argument(
        "--out", type=Path, metavar="DIR", help="new or empty folder; default: results/<config>-lab"
    )
    impressions = commands.add_parser("impressions", help="synthetic inputs of a finished run's tasks")
    impressions.set_defaults(do=run_impressions)
    impressions.add_argument("run", type=Path, metavar="RUN", help="folder that run.py run wrote")
    impressions.add_argument("--images", type=int, metavar="N", help="a task, instead of the config's")
    impressions.add_argument("--generator", metavar="NAME", help="instead of the config's")
    impressions.add_argument(
        "--out", type=Path, metavar="DIR", help="new or empty folder; default: results/<run>-impressions"
    )
    subnetwork = commands.add_parser("subnetwork", help="a task's subnetwork, cut out, as a file of its own")
    subnetwork.set_defaults(do=run_subnetwork)
    subnetwork.add_argument("run", type=Path, metavar="RUN", help="folder that run.py run wrote")
    subnetwork.add_argument("--task", type=int, required=True, metavar="N")
    subnetwork.add_argument("--out", type=Path, required=True, metavar="FILE", help="new file")
    subnetwork.add_argument(
        "--format",
        choices=["safetensors", "torchscript", "onnx"],
        help="default: by the ending of FILE, .safetensors, .pt or .onnx",
    )
    ablation = commands.add_parser(
        "transfer-ablation", help="what each setting of replay and transfer is worth, on the same networks"
    )
    ablation.set_defaults(do=run_ablation)
    _add_config(ablation)
    ablation.add_argument("--seeds", default="0,1,2,3,4", metavar="N,N,...", help="default: 0,1,2,3,4")
    ablation.add_argument(
        "--vary",
        action="append",
        required=True,
        metavar="'KEY=VALUE ...'",
        help="a variant: settings of transfer and replay, parted by spaces; may be repeated",
    )
    ablation.add_argument(
        "--out", type=Path, metavar="DIR", help="new or empty folder; default: results/<config>-ablation"
    )
    variants = commands.add_parser(
        "settings-ablation", help="what any settings are worth: ACC of variants, paired by seed"
    )
    variants.set_defaults(do=run_settings)
    _add_config(variants)
    variants.add_argument("--seeds", default="0,1,2,3,4", metavar="N,N,...", help="default: 0,1,2,3,4")
    variants.add_argument(
        "--vary",
        action="append",
        required=True,
        metavar="'KEY=VALUE ...'",
        help="a variant: settings parted by spaces; may be repeated",
    )
    variants.add_argument(
        "--out", type=Path, metavar="DIR", help="new or empty folder; default: results/<config>-settings"
    )
    _add_topology(commands)
    _add_compare(commands)
    _add_reproduce(commands)
    report = commands.add_parser("report", help="a page, tables and figures of a run or a comparison")
    report.set_defaults(do=run_report)
    report.add_argument("folder", type=Path, metavar="DIR", help="folder that run.py run or compare wrote")
    report.add_argument("--out", type=Path, metavar="DIR", help="where it is written; default: DIR itself")
    report.add_argument(
        "--impressions", type=int, default=10, metavar="N", help="pictures a task; 0: none; default: 10"
    )
    report.add_argument(
        "--published", type=Path, metavar="FILE", help="published numbers; default: configs/published.yaml"
    )
    return parser


def _add_topology(commands: Any) -> None:
    command = commands.add_parser(
        "topology", help="masks chosen before training: accuracy beside effective nodes and paths"
    )
    command.set_defaults(do=run_topology)
    _add_config(command)
    command.add_argument("--densities", default="0.1,0.03,0.01", metavar="D,D,...", help="0.1,0.03,0.01")
    command.add_argument(
        "--pruners",
        default="random,regular,narrow,synflow,npb,snip,magnitude",
        metavar="NAME,NAME,...",
        help="default: random,regular,narrow,synflow,npb,snip,magnitude",
    )
    command.add_argument("--seeds", default="0,1,2,3,4", metavar="N,N,...", help="default: 0,1,2,3,4")
    command.add_argument("--task", type=int, default=0, metavar="N", help="of the stream; default: 0")
    command.add_argument(
        "--rescale", action="store_true", help="start from weights scaled to each neuron's active fan-in"
    )
    command.add_argument("--alpha", type=float, default=0.01, metavar="A", help="of npb, nodes; 0.01")
    command.add_argument("--beta", type=float, default=1.0, metavar="B", help="of npb, kernels; 1")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="new or empty folder; default: results/<config>-topology"
    )


def _add_compare(commands: Any) -> None:
    command = commands.add_parser(
        "compare", help="several strategies over several seeds: what is missing is run, then statistics"
    )
    command.set_defaults(do=run_compare)
    command.add_argument(
        "configs", type=Path, nargs="+", metavar="CONFIG", help="YAML file; several: one stream each"
    )
    command.add_argument("--strategies", required=True, metavar="NAME,NAME,...", help="e.g. dsn,ewc,naive")
    command.add_argument("--seeds", default="0,1,2", metavar="N,N,...", help="default: 0,1,2")
    _add_settings(command)
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once; default: 1")
    command.add_argument("--reference", metavar="NAME", help="strategy that others are compared with; dsn")
    command.add_argument(
        "--tune",
        type=int,
        metavar="N",
        help="choose hyper-parameters by validation accuracy on the first tasks, N trials a strategy",
    )
    command.add_argument("--tune-tasks", type=int, default=2, metavar="N", help="the first N tasks; 2")
    command.add_argument(
        "--tune-seeds", metavar="N,N,...", help="seeds of each trial; default: the first of --seeds"
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the same folder goes on where it was stopped; default: results/<config>-compare",
    )


def _add_reproduce(commands: Any) -> None:
    command = commands.add_parser(
        "reproduce", help="a published protocol: the papers' figures and ours in one table, reproduced.md"
    )
    command.set_defaults(do=run_reproduce)
    command.add_argument(
        "protocol", metavar="PROTOCOL", help="e.g. permuted_mnist_10, or a YAML file; a wrong one lists all"
    )
    command.add_argument(
        "--strategies", metavar="NAME,NAME,...", help="dsn,wsn,supsup,packnet,hat,independent,joint"
    )
    command.add_argument("--seeds", default="0,1,2", metavar="N,N,...", help="default: 0,1,2")
    command.add_argument("--epochs", type=int, metavar="N", help="at most N a task; said in the table")
    _add_settings(command)
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once; default: 1")
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the same folder goes on where it was stopped; default: results/<protocol>-reproduce",
    )
    command.add_argument(
        "--published", type=Path, metavar="FILE", help="published numbers; default: configs/published.yaml"
    )


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "config", type=Path, metavar="CONFIG", help="YAML file, e.g. configs/quickstart.yaml"
    )
    _add_settings(command)


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key of the config, e.g. train.epochs=5; may be repeated",
    )
    command.add_argument("--device", metavar="D", help="auto, cpu, cuda, ..., instead of the config's")


def run_experiment(options: argparse.Namespace, _command: list[str]) -> None:
    """``run.py run``."""
    from dsn.experiment.config.experiment import load

    seed = [] if options.seed is None else [f"seed={options.seed}"]
    config = load(options.config, [*options.overrides, *seed, *_device(options)])

    from dsn.experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from dsn.experiment.run.run import run

    run(config, options.out, name=options.config.stem, verbose=options.verbose, resume=options.resume)


def run_verify(options: argparse.Namespace, _command: list[str]) -> None:
    """``run.py verify``; exit status 1 when something is broken, 3 when logits differ by rounding alone, 70
    when it could not be found out."""
    from dsn.errors import InputError
    from dsn.experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from dsn.experiment.result.verify import verify

    try:
        found = verify(options.run)
    except InputError:
        raise
    except Exception as error:
        traceback.print_exc()
        print(f"error: verify itself failed, nothing is known of the run: {error}", file=sys.stderr)
        sys.exit(CRASHED)
    for verdict in found.tasks:
        print(verdict)
    for breach in found.breaches:
        print(f"BROKEN, {breach}")
    for line in found.unchecked:
        print(line)
    if found.elsewhere:
        print(f"not the machine of the run: {'; '.join(found.elsewhere)}")
    if found.status != "intact":
        sys.exit(FAILED if found.status == "BROKEN" else ROUNDED)


def run_lab(options: argparse.Namespace, command: list[str]) -> None:
    """``run.py transfer-lab``."""
    from dsn.experiment.config.experiment import load
    from dsn.experiment.config.seeds import parse_seeds
    from dsn.experiment.config.unused import say_unused

    seeds = parse_seeds(options.seeds)
    say_unused(options.config, options.overrides, "transfer-lab", seeds)
    config = load(options.config, [*options.overrides, *_device(options)])

    from dsn.experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from dsn.experiment.labs.transfer import lab

    lab(config, seeds, options.out, name=options.config.stem, command=_shown(command))


def run_impressions(options: argparse.Namespace, _command: list[str]) -> None:
    """``run.py impressions``."""
    from dsn.experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from dsn.experiment.result.impressions import show_impressions

    show_impressions(options.run, options.out, images=options.images, generator=options.generator)


def run_subnetwork(options: argparse.Namespace, _command: list[str]) -> None:
    """``run.py subnetwork``."""
    from dsn.experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from dsn.experiment.result.subnetwork import export_subnetwork

    export_subnetwork(options.run, options.task, options.out, kind=options.format)


def run_ablation(options: argparse.Namespace, command: list[str]) -> None:
    """``run.py transfer-ablation``."""
    from dsn.experiment.config.seeds import parse_seeds
    from dsn.experiment.config.unused import say_unused

    seeds = parse_seeds(options.seeds)
    say_unused(options.config, options.overrides, "transfer-ablation", seeds)

    from dsn.experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from dsn.experiment.labs.ablation import ablation, load_variants

    variants = load_variants(options.config, [*options.overrides, *_device(options)], options.vary)
    ablation(variants, seeds, options.out, name=options.config.stem, command=_shown(command))


def run_settings(options: argparse.Namespace, command: list[str]) -> None:
    """``run.py settings-ablation``."""
    from dsn.experiment.config.seeds import parse_seeds
    from dsn.experiment.config.unused import say_unused

    seeds = parse_seeds(options.seeds)
    say_unused(options.config, options.overrides, "settings-ablation", seeds)

    from dsn.experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from dsn.experiment.labs.settings import load_settings, settings_ablation

    variants = load_settings(options.config, [*options.overrides, *_device(options)], options.vary)
    settings_ablation(variants, seeds, options.out, name=options.config.stem, command=_shown(command))


def run_topology(options: argparse.Namespace, command: list[str]) -> None:
    """``run.py topology``."""
    from dsn.experiment.config.experiment import load
    from dsn.experiment.config.seeds import parse_seeds
    from dsn.experiment.config.unused import say_unused

    seeds = parse_seeds(options.seeds)
    say_unused(options.config, options.overrides, "topology", seeds)
    config = load(options.config, [*options.overrides, *_device(options)])

    from dsn.experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from dsn.experiment.labs.topology import parse_densities, parse_pruners, topology_lab

    topology_lab(
        config,
        parse_pruners(options.pruners),
        parse_densities(options.densities),
        seeds,
        options.out,
        task=options.task,
        rescale=options.rescale,
        npb={"alpha": options.alpha, "beta": options.beta},
        name=options.config.stem,
        command=_shown(command),
    )


def run_compare(options: argparse.Namespace, command: list[str]) -> None:
    """``run.py compare``; exit status 1 when a run failed."""
    from dsn.errors import InputError
    from dsn.experiment.compare.plan import make_plan
    from dsn.experiment.config.seeds import parse_seeds
    from dsn.experiment.config.unused import say_unused

    if options.jobs < 1:
        raise InputError(f"--jobs {options.jobs}: must be 1 or more")
    seeds = parse_seeds(options.seeds)
    for path in options.configs:
        say_unused(path, options.overrides, "compare", seeds)
    plan = make_plan(
        options.configs,
        options.strategies,
        options.seeds,
        [*options.overrides, *_device(options)],
        reference=options.reference,
        tune=options.tune,
        tune_tasks=options.tune_tasks,
        tune_seeds=options.tune_seeds,
        command=_shown(command),
    )
    out = options.out or Path("results") / ("+".join(path.stem for path in options.configs) + "-compare")

    from dsn.experiment.compare.compare import compare

    try:
        comparison = compare(plan, out, jobs=options.jobs)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if comparison.failed:
        sys.exit(FAILED)


def run_reproduce(options: argparse.Namespace, command: list[str]) -> None:
    """``run.py reproduce``; exit status 1 when a run failed."""
    from dsn.errors import InputError

    if options.jobs < 1:
        raise InputError(f"--jobs {options.jobs}: must be 1 or more")
    from dsn.experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from dsn.experiment.report.reproduce import STRATEGIES, reproduce

    try:
        comparison, table = reproduce(
            options.protocol,
            options.strategies or STRATEGIES,
            options.seeds,
            [*options.overrides, *_device(options)],
            epochs=options.epochs,
            out=options.out,
            jobs=options.jobs,
            published=options.published,
            command=_shown(command),
        )
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    print(f"papers and ours side by side: {table}")
    if comparison.failed:
        sys.exit(FAILED)


def run_report(options: argparse.Namespace, _command: list[str]) -> None:
    """``run.py report``."""
    from dsn.experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from dsn.experiment.report import report

    usual = Path(__file__).parent / "configs" / "published.yaml"
    published = options.published or (usual if usual.is_file() else None)
    page = report(options.folder, options.out, impressions=options.impressions, published=published)
    print(f"written to {page}")


def _to_go_on(command: list[str], out: str) -> str:
    """The command that resumes the run that ``command`` began in ``out``."""
    named = any(word == "--out" or word.startswith("--out=") for word in command)
    resumed = "--resume" in command
    return _shown([*command, *([] if named else ["--out", out]), *([] if resumed else ["--resume"])])


def _shown(command: list[str]) -> str:
    """The command as it can be typed again, the home folder as ``~``."""
    from dsn.experiment.base.paths import shortened

    return shortened(shlex.join(["python", *command]))


def _device(options: argparse.Namespace) -> list[str]:
    return [] if options.device is None else [f"device={options.device}"]


class _Output:
    """Standard output or error. Where its reader is gone or its disk full, what is said is lost, not the run.

    ``lost``: the first such error.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost: OSError | None = None
        stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def _command_line() -> int:
    """:func:`main` as a program of its own: whatever its three standard streams are, it does its work."""
    if sys.hexversion < 0x030A0000:
        print(f"error: needs Python 3.10 or newer, this is {sys.version.split()[0]}", file=sys.stderr)
        return BAD_INPUT
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: the next file that is opened must not take its place
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    output, errors = sys.stdout, sys.stderr = _Output(sys.stdout), _Output(sys.stderr)
    try:
        status: Any = main()
    except SystemExit as end:
        status = end.code
    output.flush()
    if output.lost is not None and output.lost.errno != errno.EPIPE:
        print(f"error: standard output: {output.lost.strerror}", file=sys.stderr)
        status = status or FAILED
    errors.flush()
    return int(status or 0)


if __name__ == "__main__":
    sys.exit(_command_line())
