"""``verify``: exit status 1 when something is broken, 3 when logits differ by rounding alone, 70
when it could not be found out."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path
from typing import Any

from .status import CRASHED, FAILED, ROUNDED


def add(commands: Any) -> None:
    """Its parser."""
    command = commands.add_parser(
        "verify", help="whether every task of a finished run is still what it was, by its certificate"
    )
    command.set_defaults(do=do)
    command.add_argument("run", type=Path, metavar="RUN", help="folder that run.py run wrote")


def do(options: argparse.Namespace, _words: list[str]) -> None:
    """Its call."""
    from ..errors import InputError
    from ..experiment.base.quiet import importing_avalanche

    with importing_avalanche():
        from ..experiment.result.verify import verify

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
