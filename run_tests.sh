#!/bin/sh
# The linter, the type checker, then the tests: sh run_tests.sh [pytest's arguments]
# Without arguments all tests run, in a process per core (4 at most); with some, pytest is called with those alone.
CDPATH="" cd "$(dirname "$0")" || exit
. scripts/set_up.sh
set_up requirements-dev.txt
leftovers=$(find . \( -name .git -o -name .venv -o -name runs -o -name data -o -name results \) -prune -o \
  \( -name '*.orig' -o -name '*.rej' -o -name '*.bak' -o -name '*.sw[op]' -o -name '*~' -o -name .DS_Store \) -print)
[ -z "$leftovers" ] || stop "left over by a tool, to be removed:" "$leftovers"
# A file's tests stay in one process: they share what it trains or draws. conftest.py has the longest files begin first.
[ $# -gt 0 ] || set -- --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
"$PYTHON" -m ruff check . && "$PYTHON" -m ruff format --check . && "$PYTHON" -m mypy && exec "$PYTHON" -m pytest "$@"
