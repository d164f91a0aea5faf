#!/bin/bash
# A Ray cluster on the nodes of a Slurm allocation, and a search on it:
#
#   sbatch --nodes=2 --gpus-per-node=4 --time=8:00:00 cluster/slurm.sh python searches/lora_rank.py --model gpt2 --storage ~/runs
#
# The nodes need this checkout with its .venv, the storage and the home folder at the same paths. Options of sbatch replace those
# below.
#SBATCH --job-name=gpt2-search
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=B:TERM@120

set -euo pipefail
umask 077

if [[ $# -eq 0 || -z ${SLURM_JOB_ID:-} ]]; then
    echo "usage: sbatch [OPTIONS] cluster/slurm.sh python searches/NAME.py [FLAGS]" >&2
    exit 2
fi
export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.gpt2-search/slurm-$SLURM_JOB_ID/auth_token"
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # which srun does not take over from sbatch
export RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1
python -c 'import os; from pathlib import Path; from cluster.auth_token import private_token
private_token(Path(os.environ["RAY_AUTH_TOKEN_PATH"]))'

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000 * 2)) # of the head, and the next one of its dashboard: jobs may share a node
address=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address)
address=${address%% *}
size='--num-cpus=${SLURM_CPUS_PER_TASK:-1} --num-gpus=${SLURM_GPUS_ON_NODE:-0}' # each node expands them for itself
ports="--dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0"
dashboard="--dashboard-host=127.0.0.1 --dashboard-port=$((port + 1))"
steps=()

end() {
    for step in "${steps[@]}"; do
        kill -TERM "$step" 2>/dev/null || true
    done
    wait || true
    rm -rf "${RAY_AUTH_TOKEN_PATH%/*}"
}
trap end EXIT

echo "Ray's head starts at $address:$port on ${nodes[0]}"
srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" bash -c \
    "exec ray start --head --block --node-ip-address=$address --port=$port $dashboard $ports $size" &
steps+=($!)
for try in {1..60}; do
    ray health-check --address "$address:$port" >/dev/null 2>&1 && break
    kill -0 "${steps[0]}" 2>/dev/null || { echo "Ray's head has ended: see above" >&2; exit 1; }
    [[ $try -lt 60 ]] || { echo "Ray's head does not answer at $address:$port" >&2; exit 1; }
    sleep 2
done
if [[ ${#nodes[@]} -gt 1 ]]; then
    others=$((${#nodes[@]} - 1))
    srun --nodes=$others --ntasks=$others --exclude="${nodes[0]}" bash -c \
        "exec ray start --block --address=$address:$port $ports $size" &
    steps+=($!)
fi

RAY_ADDRESS="$address:$port" "$@" &
search=$!
trap 'kill -TERM $search' TERM INT # the search saves its state; the same command resumes it
status=0
wait $search || status=$?
if kill -0 $search 2>/dev/null; then # a signal has interrupted the wait, and the search is saving
    wait $search || status=$?
fi
exit $status
