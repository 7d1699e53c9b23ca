#!/usr/bin/env bash
# From a folder of DFDC parts to training data: the five preprocessing steps, in order, and a page that shows what
# they made (DATA_ROOT/report/index.html).
#
#   ./preprocess_data.sh DATA_ROOT [--workers N] [--device auto|cpu|cuda] [--detector-scale auto|FACTOR]
#                                  [--png-level 0..9] [--max-failed FRACTION] [--force]
#
# Stopped or killed, the same command goes on where it was; what is finished is not done again. Each step can be
# run by itself as well, and has --help. benchmarks/RESULTS.md says what a video costs.
set -euo pipefail
unset CDPATH

usage() { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

[ $# -ge 1 ] || { usage >&2; exit 2; }
case $1 in -h | --help) usage; exit 0 ;; esac
data_root=$1
shift
common=() device=() detector=() png=()
while [ $# -gt 0 ]; do
    case $1 in
        --workers | --max-failed | --device | --detector-scale | --png-level)
            [ $# -ge 2 ] || { echo "preprocess_data.sh: $1 needs a value" >&2; exit 2; } ;;&
        --workers | --max-failed) common+=("$1" "$2"); shift 2 ;;
        --device) device+=("$1" "$2"); shift 2 ;;
        --detector-scale) detector+=("$1" "$2"); shift 2 ;;
        --png-level) png+=("$1" "$2"); shift 2 ;;
        --force) common+=("$1"); shift ;;
        *) echo "preprocess_data.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
done
given=$data_root
data_root=$(cd -- "$given" 2>/dev/null && pwd) || {
    echo "preprocess_data.sh: there is no folder '$given'; give the one in which the dfdc_train_part_* folders lie" >&2
    exit 2
}
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
VENV=${VENV:-.venv}
python=$VENV/bin/python
[ -x "$python" ] || python=python3

report() {
    printf '\n'
    "$python" preprocessing/report.py --root-dir "$data_root"
}

# A step in which too many videos failed ends the run, but not without the page that says which and why.
stop() {
    [ "$1" -ne 1 ] || report
    exit "$1"
}

number=0
step() {
    local name=$1 started=$SECONDS
    shift
    number=$((number + 1))
    printf '\n[%d/5] %s\n' "$number" "$name"
    "$python" "preprocessing/$name.py" --root-dir "$data_root" "$@" || stop $?
    printf '[%d/5] %s took %d s\n' "$number" "$name" $((SECONDS - started))
}

step detect_original_faces "${common[@]}" "${device[@]}" "${detector[@]}"   # REAL videos -> bboxes/
step extract_crops "${common[@]}" "${png[@]}"                               # REAL and FAKE -> crops/
step generate_landmarks "${common[@]}" "${device[@]}"                       # REAL crops -> landmarks/
step generate_diffs "${common[@]}" "${png[@]}"                              # pairs of crops -> diffs/
step generate_folds "${common[@]}"                                          # -> folds.csv
report                                                                      # all of it -> report/index.html
