"""What the ends of tasks cost beside their training, in CPU time: `python -m benchmarks.speed.transfer`.

The quickstart, or a config that is named: a task takes stock of itself, reads earlier ones, they try to gain.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console

from dsn.experiment.config.experiment import load
from dsn.experiment.run.run import run
from dsn.training import DSN

CONFIG = Path(__file__).parent.parent.parent / "configs" / "quickstart.yaml"


def main() -> None:
    """Print the CPU seconds of both, which transfers were accepted, and the share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path, nargs="?", default=CONFIG)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    spent = {"_end_task": 0.0, "_train_exp": 0.0}
    config = load(options.config, [*options.overrides, "threads=1"])
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for name in spent:
            stack.enter_context(patch.object(DSN, name, _timed(getattr(DSN, name), name, spent)))
        result, _ = run(config, Path(folder) / "run", console=Console(file=io.StringIO()))
    ends, training = spent["_end_task"], spent["_train_exp"] - spent["_end_task"]
    accepted = [f"{t.task} from {t.source}" for t in result.transfers if t.accepted]
    print(f"{len(result.transfers)} transfers tried, accepted: {', '.join(accepted) or 'none'}")
    print(f"training {training:.2f} s, ends of tasks {ends:.2f} s of CPU time")
    print(f"ends of tasks over training: ratio {ends / training:.3f}")


def _timed(method: Callable[..., None], name: str, spent: dict[str, float]) -> Callable[..., None]:
    def timed(*args: Any, **kwargs: Any) -> None:
        started = time.thread_time()
        method(*args, **kwargs)
        spent[name] += time.thread_time() - started

    return timed


if __name__ == "__main__":
    main()
