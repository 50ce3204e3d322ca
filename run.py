"""The command line, from a checkout; ``pip install -e .`` gives it as ``dsn`` too."""

import sys

if sys.hexversion < 0x030A0000:
    print(f"error: needs Python 3.10 or newer, this is {sys.version.split()[0]}", file=sys.stderr)
    sys.exit(2)

from dsn.cli.main import main
from dsn.cli.standard_streams import with_standard_streams

if __name__ == "__main__":
    sys.exit(with_standard_streams(main))
