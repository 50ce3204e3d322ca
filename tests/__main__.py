"""All checks in one command: format, lint, types, tests. ``python -m tests``; arguments go to pytest."""

import subprocess
import sys

CHECKS = (
    ["ruff", "format", "--check", "."],
    ["ruff", "check", "."],
    ["mypy"],
    ["pytest", "-n", "auto", "--dist", "worksteal", *sys.argv[1:]],
)

for check in CHECKS:
    print("$ python -m " + " ".join(check), flush=True)
    status = subprocess.run([sys.executable, "-m", *check], check=False).returncode
    if status:
        sys.exit(status)
