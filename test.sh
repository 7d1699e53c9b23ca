#!/usr/bin/env bash
# Set-up, then all checks and tests; ends with a list of what was skipped here, and why.
# About 18 minutes on two CPU cores; arguments go to pytest (./test.sh -k video).
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,3s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
./setup.sh
bin=${VENV:-.venv}/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/ty" check --python "$bin/python" --quiet
exec "$bin/python" -m pytest --no-fold-skipped "$@"
