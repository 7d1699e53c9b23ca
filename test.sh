#!/usr/bin/env bash
# Set-up, then all checks and tests. About 10 minutes on two CPU cores; arguments go to pytest (./test.sh -k video).
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
./setup.sh
bin=${VENV:-.venv}/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
exec "$bin/python" -m pytest "$@"
