#!/usr/bin/env bash
# Set-up, then all checks and tests; ends with a list of what was skipped here, and why.
#   ./test.sh             about 18 minutes on two CPU cores
#   ./test.sh --quick     without the tests that are marked slow: under two minutes
#   ./test.sh -k video    further arguments go to pytest
set -euo pipefail
unset CDPATH
chosen=()
case ${1:-} in
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    --quick) chosen=(-m "not slow"); shift ;;
esac
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
./setup.sh
bin=${VENV:-.venv}/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/ty" check --python "$bin/python" --quiet
exec "$bin/python" -m pytest --no-fold-skipped "${chosen[@]}" "$@"
