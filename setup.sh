#!/usr/bin/env bash
# Creates .venv next to this file and installs the pinned versions of requirements.txt and the packages of this folder.
#   ./setup.sh                       about 2 minutes and 6.7 GB the first time; later runs do nothing
#   PYTHON=python3.12 ./setup.sh     uses another interpreter (3.10 or newer)
#   VENV=/opt/venv ./setup.sh        uses another location
set -euo pipefail
unset CDPATH
case ${1:-} in -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")"

python=${PYTHON:-python3}
venv=${VENV:-.venv}
list_stamp="$venv/.installed" # the installed list of versions
own_stamp="$venv/.project"   # the installed project folder
need_gb=8

die() { printf 'setup.sh: %s\n' "$1" >&2; exit 1; }

own() { cat pyproject.toml && pwd -P; }
works() { "$venv/bin/python" -c '' 2>/dev/null; }

install_list() {
    command -v "$python" >/dev/null ||
        die "there is no '$python'. Install Python 3.10 or newer (Debian, Ubuntu: apt-get install python3 python3-venv) or choose one: PYTHON=/path/to/python3 ./setup.sh"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "'$python' is $("$python" -V 2>&1), but Python 3.10 or newer is required. Choose another one: PYTHON=python3.12 ./setup.sh"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "'$python -m venv' does not work here. Debian, Ubuntu: apt-get install python3-venv"

    mkdir -p "$venv"
    free_gb=$(df -Pk "$venv" | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free_gb" -ge "$need_gb" ] ||
        die "$venv has $free_gb GB of free space, but the packages need $need_gb GB. Free some space or choose another disk: VENV=/big/disk/venv ./setup.sh"

    rm -f "$list_stamp" "$own_stamp"
    echo "setup.sh: installing into $venv (about 2 minutes, 6.7 GB)"
    "$python" -m venv "$venv" || die "could not create $venv with '$python -m venv'; remove $venv and try again"
    # --no-deps: the list is complete, and facenet-pytorch's own pins are from 2024.
    # --only-binary: avoids the need for a compiler. grad-cam is pure Python but is published only as a source archive.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --no-binary=grad-cam \
        -r requirements.txt ||
        die "pip could not install requirements.txt (its message is above). Check the network and the disk, then run ./setup.sh again"
    cp requirements.txt "$list_stamp.tmp" && mv "$list_stamp.tmp" "$list_stamp"
    echo "setup.sh: done; activate it with 'source $venv/bin/activate'"
}

# Lets every script import the packages of this folder from any working directory. Downloads nothing.
install_own() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . ||
        die "pip could not install the packages of this folder (its message is above)"
    own >"$own_stamp.tmp" && mv "$own_stamp.tmp" "$own_stamp"
}

cmp -s requirements.txt "$list_stamp" && works || install_list
[ -e pyproject.toml ] || exit 0 # the Dockerfile installs the list before it copies the rest
own | cmp -s - "$own_stamp" || install_own
