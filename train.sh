#!/usr/bin/env bash
# Trains the ensemble: five EfficientNet-B7 networks with five seeds, one after the other.
#
#   ./train.sh DATA_ROOT NUM_GPUS [FLAGS OF training/train_classifier.py]
#   BATCH_SIZE=6 ./train.sh /dataset 2 --set accumulate=2    # for GPUs with less than 12 GB: still 24 crops per step
#   PRETRAINED_PATH=b7.pth ./train.sh /dataset 2      # reads the encoder weights from a file, without internet
#   CONFIG=configs/demo.json SEEDS="111 555" ./train.sh DATA_ROOT 0    # trains a small network on the CPU
#   ./train.sh /dataset 2 --keep 3                    # keeps the newest 3 and the best 3 epochs: 3 GB per seed, not 11
#
# OUTPUT_DIR sets the folder of the checkpoints (default: weights), LOG_DIR that of the logs (default: logs).
# Choose other folders for another DATA_ROOT. Relative paths in flags start from the folder of this script.
# The defaults suit 2 GPUs with 12 GB or more: 12 crops on each, 24 per step (the winners used 24 or 48).
# One B7 trains 40 epochs of 2500 steps.
# Re-running the command resumes the interrupted seed, skips finished ones, and appends to the logs.
# A failed seed stops the script.
set -euo pipefail
unset CDPATH

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; }
case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -ge 2 ] || { usage >&2; echo "train.sh: DATA_ROOT or NUM_GPUS is missing; give both (NUM_GPUS 0: train on the CPU)" >&2; exit 2; }
data_root=$1 num_gpus=$2
[[ $num_gpus =~ ^[0-9]+$ ]] || { echo "train.sh: NUM_GPUS must be a number (0: train on the CPU), not '$num_gpus'" >&2; exit 2; }
data_root=$(cd -- "$data_root" 2>/dev/null && pwd) || {
    echo "train.sh: there is no folder '$1'; give a DATA_ROOT preprocessed by preprocess_data.sh" >&2
    exit 2
}
for flag in "${@:3}"; do
    case $flag in --seed* | --prefix* | --device* | --config* | --data-dir* | --output-dir* | --log-dir* | --batch-size*)
        echo "train.sh: ${flag%%=*} is set by train.sh; use SEEDS, CONFIG, OUTPUT_DIR, LOG_DIR, BATCH_SIZE or NUM_GPUS" >&2
        exit 2 ;;
    esac
done
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
bin=${VENV:-.venv}/bin
[ ! -x "$bin/python" ] || PATH="$(cd "$bin" && pwd):$PATH"

config=${CONFIG:-configs/b7.json}
seeds=${SEEDS:-111 555 777 888 999}
output=${OUTPUT_DIR:-weights}
name=$(basename "$config" .json)
options=(--config "$config" --data-dir "$data_root" --output-dir "$output" --resume auto "${@:3}")
[ -z "${BATCH_SIZE:-}" ] || options+=(--batch-size "$BATCH_SIZE")
[ -z "${PRETRAINED_PATH:-}" ] || options+=(--pretrained-path "$PRETRAINED_PATH")
[ -z "${LOG_DIR:-}" ] || options+=(--log-dir "$LOG_DIR")
if [ "$num_gpus" -eq 0 ]; then
    launch=(python)
    options+=(--device cpu)
else
    launch=(python)
    [ "$num_gpus" -eq 1 ] || launch=(torchrun --standalone --nproc_per_node "$num_gpus")
    options+=(--device cuda)
fi

for seed in $seeds; do
    printf '\nseed %s: %s\n' "$seed" "$config"
    # Runs in the background, so that the trap can forward a SIGTERM to the training, which then saves its state.
    "${launch[@]}" training/train_classifier.py "${options[@]}" --seed "$seed" --prefix "${name}_${seed}_" &
    child=$!
    trap 'kill -TERM "$child"; wait "$child"; exit 143' TERM INT
    wait "$child" || {
        status=$?
        echo "train.sh: seed $seed ended with status $status; run the same command again to resume" >&2
        exit "$status"
    }
done
printf '\nAll seeds are trained. Choose an epoch of each:\n'
printf '  python plot_loss.py --log-file %q/%q_*.log --select 1 --select-file %q/selected.txt\n' \
    "${LOG_DIR:-logs}" "$name" "$output"
