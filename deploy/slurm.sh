#!/bin/bash
# hilum under Slurm: one Ray over the nodes of this job, one command, and everything ends with it.
#
#   sbatch deploy/slurm.sh train /shared/dataset --out /shared/run
#
# Requeued after a preemption or a time limit, the same command goes on from its files.
#SBATCH --job-name=hilum
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
set -euo pipefail

if [ "$#" -eq 0 ]; then
    echo "Usage: sbatch deploy/slurm.sh HILUM-COMMAND ..., for example: train /shared/dataset --out /shared/run" >&2
    exit 2
fi
cd "${HILUM_HOME:-$SLURM_SUBMIT_DIR}"   # the checkout, on a file system that all nodes mount, after `make install`
export PATH="$PWD/.venv/bin:$PATH"

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${hosts[0]}"
port=$((20000 + SLURM_JOB_ID % 20000))  # two jobs may share a node: each has a port of its own
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray_token.$SLURM_JOB_ID"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
export RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0 RAY_task_oom_retries=2
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=180  # nodes with cold file caches start slowly

# Slurm tells what of the node is ours; Ray would count the whole machine and, on some, the GPUs of others.
cpus="${SLURM_CPUS_ON_NODE:-1}"
gpus="${SLURM_GPUS_ON_NODE:-0}"

# Runs on every node: Ray starts there, the command runs on the first node alone, then Ray is stopped on all.
# In the background, with wait, so that bash itself hears the SIGTERM and hands it on.
srun --kill-on-bad-exit=1 ray symmetric-run \
    --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$cpus" --num-gpus="$gpus" --include-dashboard=false -- \
    python -m orchestrator.cli "$@" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null || true' TERM
status=0
wait "$child" || status=$?
wait "$child" 2>/dev/null || true  # the first wait ends at the signal, this one with srun
exit "$status"
