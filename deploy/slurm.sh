#!/usr/bin/env bash
# The parts of a data set as an array job of Slurm, one part for each task. The working directory is a folder that all nodes
# share, with `pipeline.yaml` and `artifacts/`. The plan comes before the job, the commit after it:
#
#     multidigit run plan
#     job=$(sbatch --parsable deploy/slurm.sh)
#     sbatch --dependency=afterok:"$job" --wrap 'multidigit run dataset --commit'
#
#SBATCH --job-name=multidigit
#SBATCH --array=0-63
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=2G
#SBATCH --time=01:00:00
set -euo pipefail

multidigit run dataset --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --threads "${SLURM_CPUS_PER_TASK:-1}"
