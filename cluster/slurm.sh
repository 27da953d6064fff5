#!/usr/bin/env bash
# One search in one allocation of Slurm: Ray's head and workers for as long as it lasts, all of them train.
#
# Costs   What your site charges for the nodes, while they are held; prices vary. What bounds a search: budget.hours.
# Needs   A folder that all nodes see (NFS version 4, Lustre or GPFS with flock; a run is locked): GANTUNE_HOME. In it
#         once, on a login node: python3.11 -m venv venv; venv/bin/pip install -c constraints.txt '.[cluster]'
#         Edit what #SBATCH asks for. Whole nodes, for Ray's ports are those of the node.
# Ports   Between the nodes of the allocation, behind a token that is made below; dashboard and jobs listen on loopback.
#
# Preempted, out of time or requeued, the job comes back, and the same command continues the run from the checkpoints.
#
#   up      sbatch cluster/slurm.sh search_spaces/dcgan.yaml     # and search, they are one
#   search  sbatch cluster/slurm.sh search_spaces/dcgan.yaml --set budget.trials=100
#   best    gantune best --runs "$GANTUNE_HOME/runs"
#   down    scancel --name=gantune                               # or: gantune stop --runs "$GANTUNE_HOME/runs"
#
#SBATCH --job-name=gantune
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=gantune-%j.log
set -euo pipefail

home=${GANTUNE_HOME:-$HOME}
export PATH="$home/venv/bin:$PATH" RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1
[ -s ~/.ray/auth_token ] || ray get-auth-token --generate > /dev/null
chmod 600 ~/.ray/auth_token

# Two minutes before its time is up the job asks for another turn, which ends this one.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --all-ip-addresses | cut -d ' ' -f 1)

srun --kill-on-bad-exit=1 ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --dashboard-host=127.0.0.1 --disable-usage-stats -- \
    gantune search "$@" --runs "$home/runs" --address auto &
status=0
wait $! || status=$?
[ "$status" -le 128 ] || wait $! || status=$?  # the signal ended the waiting, not the search
exit "$status"
