#!/bin/sh
# Tests and measures IEF on this machine's GPU, in at most 6 minutes: sh run_gpu_checks.sh [--table]
# --table: then training steps of two models in all precisions, at most 12 rows in at most 8 minutes more.
#
# Nothing is installed, and no network is needed: the active environment is used, else .venv, else python3, with whatever
# packages are there. OUT=folder gets the report as gpu_checks.md. Without a GPU it runs on the CPU as far as that goes.
CDPATH="" cd "$(dirname "$0")" || exit
. scripts/set_up.sh
find_python
[ -x "$PYTHON" ] || [ -z "$venv_is_ours" ] || PYTHON=python3
command -v "$PYTHON" >/dev/null || stop "there is no $PYTHON: activate the environment that has torch"
check_version "$PYTHON"
exec "$PYTHON" -m benchmarks.gpu_checks "$@"
