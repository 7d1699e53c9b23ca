#!/usr/bin/env bash
# Turns a folder of DFDC parts into training data: runs the five preprocessing steps in order, then writes a report
# (DATA_ROOT/report/index.html).
#
#   ./preprocess_data.sh DATA_ROOT [--workers N] [--device auto|cpu|cuda] [--detector-scale auto|FACTOR]
#                                  [--png-level 0..9] [--max-failed FRACTION] [--crops-dir NAME]
#                                  [--n-splits N] [--seed N] [--val-ids FILE|FOLDER|none] [--similar BITS|off]
#                                  [--force] [--force-folds] [--prune [PART ...]] [--shard I/N]
#                                  [--engine local|ray] [--ray-address HOST:PORT|auto|local]
#
# After an interruption, run the same command again: it resumes and skips finished videos. --force redoes the first four
# steps. Folds and hold-out never change without --force-folds. --prune removes artifacts of videos that no
# metadata.json lists. --engine ray runs steps 1 to 4 on a cluster (docs/cluster.md). --shard I/N runs steps 1 to 4 on
# shard I of N of the videos, numbered from 1; after all shards, the same command without --shard checks their work and
# runs step 5. Each step also runs on its own and has --help. See generate_folds.py for --n-splits, --seed, --val-ids and
# --similar, detect_original_faces.py for --device and --detector-scale, and extract_crops.py for the others.
# benchmarks/RESULTS.md lists the time per video.
set -euo pipefail
unset CDPATH

usage() { sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

[ $# -ge 1 ] || { usage >&2; exit 2; }
case $1 in -h | --help) usage; exit 0 ;; esac
data_root=$1
shift
started_in=$PWD
common=() prune=() crops=() device=() detector=() png=() folds=() shard=()
while [ $# -gt 0 ]; do
    case $1 in
        --workers | --max-failed | --device | --detector-scale | --png-level | --crops-dir | --n_splits | --n-splits | \
            --seed | --val-ids | --engine | --ray-address | --similar | --shard)
            [ $# -ge 2 ] || { echo "preprocess_data.sh: $1 needs a value" >&2; exit 2; } ;;&
        --workers | --engine | --ray-address | --max-failed) common+=("$1" "$2"); shift 2 ;;
        --device) device+=("$1" "$2"); shift 2 ;;
        --detector-scale) detector+=("$1" "$2"); shift 2 ;;
        --png-level)
            case $2 in [0-9]) png+=("$1" "$2") ;; *) echo "preprocess_data.sh: --png-level $2: give a number from 0 to 9" >&2; exit 2 ;; esac
            shift 2 ;;
        --crops-dir) crops+=("$1=$2"); shift 2 ;;
        --n_splits | --n-splits | --seed | --similar) folds+=("$1" "$2"); shift 2 ;;
        --val-ids)
            case $2 in none | /*) folds+=("$1" "$2") ;; *) folds+=("$1" "$started_in/$2") ;; esac
            shift 2 ;;
        --shard) shard=("$1" "$2"); shift 2 ;;
        --force) common+=("$1"); shift ;;
        --force-folds) folds+=(--force); shift ;;
        --prune)
            prune+=("$1"); shift
            while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do prune+=("$1"); shift; done ;;
        *) echo "preprocess_data.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
done
given=$data_root
data_root=$(cd -- "$given" 2>/dev/null && pwd) || {
    echo "preprocess_data.sh: there is no folder '$given'; pass the folder that holds the dfdc_train_part_* folders" >&2
    exit 2
}
shopt -s nullglob
parts=("$data_root"/metadata.json "$data_root"/*/metadata.json)
[ -e "${parts[0]}" ] || [ -e "${parts[1]:-}" ] || {
    echo "preprocess_data.sh: no folder in $given contains a metadata.json. Your own videos need one:" \
        "docs/preprocessing.md, \"Your own videos\". To score videos, use predict_folder.py" >&2
    exit 2
}
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
VENV=${VENV:-.venv}
python=$VENV/bin/python
[ -x "$python" ] || python=python3

# Write the page however the run ends. Remove an old page first, because it could hide a failure of this run.
report() {
    local status=$?
    trap - EXIT
    if [ ${#shard[@]} -gt 0 ]; then
        : # the page is about all videos
    elif [ "$status" -eq 2 ]; then # wrong usage: keep its message last
        "$python" preprocessing/report.py --root-dir "$data_root" "${crops[@]}" >/dev/null 2>&1 || true
    else
        printf '\n'
        "$python" preprocessing/report.py --root-dir "$data_root" "${crops[@]}" || true
    fi
    if [ "$status" -ne 0 ] && [ "$number" -ne 0 ]; then
        local advice=""
        case $status in
            130 | 143) ;; # Ctrl-C and SIGTERM: the step itself has said it
            129 | 1[3-9][0-9]) # killed by another signal
                advice="; run the same command again to resume"
                case " ${common[*]} " in *" --force "*) advice+=" (without --force, which would start over)" ;; esac ;;
        esac
        printf '\npreprocess_data.sh: stopped in step %d with status %d%s\n' "$number" "$status" "$advice" >&2
    fi
    exit "$status"
}
number=0
[ ${#shard[@]} -gt 0 ] || rm -f "$data_root/report/index.html"
trap report EXIT


step() {
    local name=$1 started=$SECONDS
    shift
    number=$((number + 1))
    printf '\n[%d/5] %s\n' "$number" "$name"
    "$python" "preprocessing/$name.py" --root-dir "$data_root" "$@"
    printf '[%d/5] %s took %d s\n' "$number" "$name" $((SECONDS - started))
}

# Check the options of the last step now, not after days of work.
"$python" preprocessing/generate_folds.py --root-dir "$data_root" "${crops[@]}" "${folds[@]}" --check-options

work=("${common[@]}" "${prune[@]}" "${shard[@]}")
step detect_original_faces "${work[@]}" "${device[@]}" "${detector[@]}"   # REAL videos -> bboxes/
step extract_crops "${work[@]}" "${crops[@]}" "${png[@]}"                 # REAL and FAKE -> crops/
step generate_landmarks "${work[@]}" "${crops[@]}" "${device[@]}"         # REAL crops -> landmarks/
step generate_diffs "${work[@]}" "${crops[@]}" "${png[@]}"                # pairs of crops -> diffs/
if [ ${#shard[@]} -gt 0 ]; then
    printf '\nShard %s is done. After all shards, run the same command without --shard and --force: ' "${shard[1]}"
    printf './preprocess_data.sh %q ...\n' "$data_root"
    exit
fi
step generate_folds "${crops[@]}" "${folds[@]}"                           # -> folds.csv; then -> report/index.html
