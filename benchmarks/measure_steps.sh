#!/usr/bin/env bash
# Wall time of each preprocessing step on a DATA_ROOT, from nothing; the data set itself is not touched.
#
#   benchmarks/measure_steps.sh DATA_ROOT
set -euo pipefail
unset CDPATH
case ${1:---help} in -h | --help) set -- ;; esac
[ $# -eq 1 ] || { sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
source_root=$(cd -- "$1" && pwd)
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for metadata in "$source_root"/*/metadata.json; do
    part=$(dirname "$metadata")
    mkdir "$scratch/$(basename "$part")"
    cp -- "$part"/* "$scratch/$(basename "$part")/"
done
./preprocess_data.sh "$scratch" 2>/dev/null | grep -E 'took|: [0-9]+ videos|crops of|^[a-z]+ {8,}'
