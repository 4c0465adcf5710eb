#!/bin/bash
# sbatch launch/slurm.sh [FLAG ...] in the project's folder. To change: the lines of SBATCH, for several GPUs
# --gpus-per-node with --ntasks-per-node, one task for each, and for several runs the array: here its number is the seed.
#SBATCH --job-name={{ cookiecutter.project_slug }}
#SBATCH --array=0
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%A_%a.out
# Two minutes before its time is up each task saves and the job is queued again; it goes on with its run, in the same log.
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu

# SIGTERM reaches the tasks by SLURM itself; an srun or a shell that gets it as well would have them killed unsaved.
trap '' TERM
# The job ends with the exit code of its tasks. A task that has saved and ended does not have the others killed.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 \
    .venv/bin/{{ cookiecutter.project_slug }} fit --name '{{ cookiecutter.project_slug }}-{SLURM_ARRAY_TASK_ID}' --seed_everything "$SLURM_ARRAY_TASK_ID" \
    --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" --resume auto "$@"
