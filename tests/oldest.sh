#!/usr/bin/env bash
# The fast part of the suite on the oldest Python with the lowest versions that pyproject.toml names, and with
# "newest" on the newest Python that was tried, with the newest versions there are. "quick" takes the files alone
# that versions have broken so far: files and states, configs, compiled code, edges.
#
#   tests/oldest.sh [oldest|newest] [quick]
#
# PYTHON_OLDEST and PYTHON_NEWEST name interpreters; otherwise they are looked for on the PATH and where pyenv
# keeps its own. Where there is none the check is skipped, with exit status 0. An environment of 5 GB is made in
# a temporary folder (TMPDIR) and removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

which="${1:-oldest}"
case "$which" in
  oldest) version=3.10 chosen="${PYTHON_OLDEST:-}" constraints=(-c tests/oldest.txt) ;;
  newest) version=3.13 chosen="${PYTHON_NEWEST:-}" constraints=() ;;
  *) echo "usage: tests/oldest.sh [oldest|newest] [quick]" >&2; exit 2 ;;
esac
case "${2:-whole}" in
  whole) parts=(tests/masking tests/training tests/evaluation tests/test_storage.py
    tests/experiment/test_config.py tests/experiment/test_run.py) ;;
  quick) parts=(tests/masking/test_edges.py tests/masking/test_task_file.py tests/training/test_settings.py
    tests/training/test_state.py tests/evaluation/test_statistics.py tests/test_storage.py
    tests/experiment/test_config.py) ;;
  *) echo "usage: tests/oldest.sh [oldest|newest] [quick]" >&2; exit 2 ;;
esac

is_it() {
  [ "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null)" = "$version" ]
}

if [ -n "$chosen" ]; then
  is_it "$chosen" || { echo "$chosen is no Python $version" >&2; exit 2; }
else
  for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
    if is_it "$candidate"; then chosen="$candidate"; break; fi
  done
fi
if [ -z "$chosen" ]; then
  echo "skipped: no Python $version; put python$version on the PATH, or set PYTHON_${which^^}"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r dsn benchmarks configs tests run.py pyproject.toml README.md LICENSE "$work"
cd "$work"
unset PYTHONPATH
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

"$chosen" -m venv venv
venv/bin/python -m pip install -q --upgrade pip
venv/bin/python -m pip install -q --no-cache-dir "${constraints[@]}" . \
  "pytest>=8.0" "pytest-xdist>=3.5" "hypothesis>=6.100" "psutil>=5.9"
venv/bin/python -m pip check
venv/bin/python - << 'END'
import sys
from importlib.metadata import version

names = "torch torchvision avalanche-lib numpy pydantic scipy scikit-learn matplotlib".split()
print("Python", sys.version.split()[0], *(f"{name} {version(name)}" for name in names))
END

venv/bin/python -m pytest -q -n 2 --dist worksteal "${parts[@]}"
