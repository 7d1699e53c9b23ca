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
#
# On several machines, run the same command on each. NUM_GPUS is the number per machine.
#   srun --ntasks-per-node 1 ./train.sh DATA_ROOT 8     # under SLURM: nodes, addresses and port come from the job
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=HOST ./train.sh DATA_ROOT 8     # NODE_RANK 0 on HOST, 1 on the other machine
#   NNODES=2 RDZV_ENDPOINT=HOST:29500 ./train.sh DATA_ROOT 8         # without ranks: torchrun assigns them
# MASTER_PORT is the port of the first seed (default: 29500); each further seed uses the next port.
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

fail() { echo "train.sh: $1" >&2; exit 2; }

# The machines of this run: sets nodes, and with more than one the rendezvous: node_rank, address and port, or endpoint.
find_nodes() {
    nodes=${NNODES:-} node_rank=${NODE_RANK:-} address=${MASTER_ADDR:-} port=${MASTER_PORT:-29500} endpoint=${RDZV_ENDPOINT:-}
    [ -n "$nodes" ] || [ -z "${SLURM_JOB_ID:-}" ] || find_slurm_nodes
    nodes=${nodes:-1}
    [[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "NNODES must be a number of machines, not '$nodes'"
    [ "$nodes" -gt 1 ] || return 0
    if [ -n "$endpoint" ]; then
        [[ $endpoint =~ ^.+:[0-9]+$ ]] || fail "RDZV_ENDPOINT must be HOST:PORT, not '$endpoint'"
        address=${endpoint%:*} port=${endpoint##*:}
    else
        [ -n "$address" ] || fail "NNODES is $nodes: set MASTER_ADDR to the name of the first machine, or RDZV_ENDPOINT"
        [[ $node_rank =~ ^[0-9]+$ ]] && [ "$node_rank" -lt "$nodes" ] ||
            fail "NNODES is $nodes: set NODE_RANK to the number of this machine, 0 to $((nodes - 1)), not '$node_rank'"
    fi
    [[ $port =~ ^[0-9]{1,5}$ ]] && [ "$port" -gt 0 ] && [ "$port" -lt 65500 ] ||
        fail "MASTER_PORT must be a number from 1 to 65499, not '$port'"
}

# Nodes, rank, address and port from the variables that srun sets. Variables of the user take precedence.
find_slurm_nodes() {
    local tasks=${SLURM_STEP_NUM_TASKS:-} hosts
    nodes=${SLURM_STEP_NUM_NODES:-${SLURM_NNODES:-${SLURM_JOB_NUM_NODES:-1}}}
    # On one node without srun, SLURM_NTASKS only says how many tasks the job could start.
    [ -n "$tasks" ] || [ "$nodes" = 1 ] || tasks=${SLURM_NTASKS:-}
    [ "${tasks:-$nodes}" = "$nodes" ] ||
        fail "SLURM runs $tasks tasks on $nodes nodes; run one per node, which starts all processes of its node: srun --ntasks-per-node 1 ./train.sh ..."
    [ "$nodes" != 1 ] || return 0
    [ -n "${SLURM_STEP_ID:-}" ] ||
        echo "train.sh: this job has $nodes nodes; start train.sh by srun, or set NNODES=1 to use this node alone" >&2
    node_rank=${node_rank:-${SLURM_NODEID:-}}
    port=${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 20000))} # differs between jobs, and is outside of the ephemeral ports
    [ -z "$address$endpoint" ] || return 0
    hosts=$(scontrol show hostnames "${SLURM_STEP_NODELIST:-${SLURM_JOB_NODELIST:-}}") && [ -n "$hosts" ] ||
        fail "scontrol can't list the nodes of this job; set MASTER_ADDR to the name of the first one"
    address=${hosts%%$'\n'*}
}

find_nodes
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
device=cuda per_node=$num_gpus
[ "$num_gpus" -gt 0 ] || device=cpu per_node=1
options+=(--device "$device")

# Sets the array launch: what starts the processes of seed number $1.
choose_launch() {
    if [ "$nodes" -gt 1 ]; then
        # Another port for each seed: a machine may start a seed while another one still ends the seed before.
        local here=$((10#$port + $1))
        launch=(torchrun --nnodes "$nodes" --nproc_per_node "$per_node")
        if [ -n "$endpoint" ]; then
            launch+=(--rdzv_backend c10d --rdzv_endpoint "$address:$here" --rdzv_id "${SLURM_JOB_ID:-$name}")
        else
            launch+=(--node_rank "$node_rank" --master_addr "$address" --master_port "$here")
        fi
    elif [ "$per_node" -gt 1 ]; then
        launch=(torchrun --standalone --nproc_per_node "$per_node")
    else
        launch=(python)
    fi
}

number=0
for seed in $seeds; do
    choose_launch "$number"
    number=$((number + 1))
    command=("${launch[@]}" training/train_classifier.py "${options[@]}" --seed "$seed" --prefix "${name}_${seed}_")
    printf '\nseed %s: %s\n' "$seed" "$config"
    printf '%q ' "${command[@]}"
    printf '\n'
    # Runs in the background, so that the trap can forward a SIGTERM to the training, which then saves its state.
    "${command[@]}" &
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
