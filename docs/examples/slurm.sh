#!/usr/bin/env bash
#SBATCH --job-name=batchednodes
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Trains CONFIG in FOLDER (of an array: FOLDER-SEED), or goes on there; asks for another turn while there is work left.
#
#   sbatch docs/examples/slurm.sh CONFIG FOLDER [KEY=VALUE ...]
#   sbatch --array=0-9 docs/examples/slurm.sh CONFIG FOLDER      # seeds 0 to 9
#
# Add `#SBATCH --gres=gpu:1` for a GPU. The limit of the run is less than that of the job: what is left is for its end.
set -uo pipefail
config=$1 folder=$2${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}
shift 2
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-4}

if [ -d "$folder" ]; then
  batchednodes resume "$folder" --time-limit 110min
else
  batchednodes train "$config" "seed=${SLURM_ARRAY_TASK_ID:-0}" "$@" --out "$folder" --time-limit 110min
fi
code=$?
if [ "$code" = 124 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID" # the time was up, the run is not: halted with a checkpoint, it goes on bit for bit
fi
exit "$code"
