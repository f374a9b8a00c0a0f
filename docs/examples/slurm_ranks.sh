#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=4:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
# usage: sbatch slurm_ranks.sh CONFIG FOLDER
# One run over all GPUs of two machines. Two minutes before its time is over each process is asked to halt: all halt at the
# same step, with a checkpoint, and the job goes back into the queue until the run is finished.
set -u
config=$1 folder=$2
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=110 # time to write the checkpoint, in place of 30 s
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
if [ -e "$folder/config.yaml" ]; then what=(resume "$folder"); else what=(train "$config" --out "$folder"); fi
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" --max-restarts 0 \
    --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" \
    -m batchednodes "${what[@]}" --time-limit 235min
grep -q '"status": "interrupted"' "$folder/summary.json" && scontrol requeue "$SLURM_JOB_ID"
