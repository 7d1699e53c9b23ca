#!/usr/bin/env bash
# Runs setup.sh, installs Ray for its tests, then runs all checks and tests. Lists skipped tests with their reasons.
#   ./test.sh             about 20 minutes on two CPU cores
#   ./test.sh --quick     skips tests marked slow: two minutes
#   ./test.sh -k video    passes further arguments to pytest
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
stamp=${VENV:-.venv}/.installed-cluster
cmp -s requirements-cluster.txt "$stamp" || {
    "$bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: -r requirements-cluster.txt &&
        cp requirements-cluster.txt "$stamp"
} || echo "test.sh: Ray could not be installed; its tests will be skipped" >&2
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/ty" check --python "$bin/python" --quiet
# Two tests at a time: half of them mostly wait for other processes. The tests of a file share what they have made, and
# tests/conftest.py decides which files come last.
exec "$bin/python" -m pytest --no-fold-skipped -n 2 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder "${chosen[@]}" "$@"
