#!/bin/sh
# The linter, then the tests: sh run_tests.sh [pytest's arguments]
CDPATH="" cd "$(dirname "$0")" || exit
. scripts/set_up.sh
set_up requirements-dev.txt
"$PYTHON" -m ruff check . && "$PYTHON" -m ruff format --check . && exec "$PYTHON" -m pytest "$@"
