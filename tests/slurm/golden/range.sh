#!/bin/bash

# Parameters
#SBATCH --chdir=/home/ada/pattlite
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --job-name=pattlite-base
#SBATCH --mem=32768MB
#SBATCH --nodes=1-4
#SBATCH --open-mode=append
#SBATCH --output='/home/ada/pattlite/runs/my demo/slurm/%j_0_log.out'
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=720

# setup
trap : TERM INT USR1 USR2
trap 'status=$?; trap "" TERM INT USR1 USR2; ((status)) || exit 0; pattlite_end' EXIT
pattlite_end() { /opt/python/bin/python3 -m pattlite_dist.slurm.aftermath '/home/ada/pattlite/runs/my demo/slurm' $status; exit $?; }
echo "pattlite: begins on $SLURM_JOB_NODELIST"
export OMP_NUM_THREADS=8

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/home/ada/pattlite/runs/my demo/slurm/%j_%t_log.out' --kill-on-bad-exit=1 --cpus-per-task=8 --ntasks-per-node=1 /opt/python/bin/python3 -u -m submitit.core._submit '/home/ada/pattlite/runs/my demo/slurm'
