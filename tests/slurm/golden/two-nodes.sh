#!/bin/bash

# Parameters
#SBATCH --account=faces
#SBATCH --chdir=/home/ada/pattlite/runs/big/code-0123
#SBATCH --comment='a '"'"'quoted'"'"' one'
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=8
#SBATCH --dependency=afterok:41_2
#SBATCH --exclude='n[7-9],n12'
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --job-name='pattlite-big run'
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mail-user=ada@example.org
#SBATCH --mail-type=END,FAIL
#SBATCH --mem=130560MB
#SBATCH --nice=100
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output='/home/ada/pattlite/runs/my demo/slurm/%j_0_log.out'
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --signal=USR2@300
#SBATCH --time=2160

# setup
trap : TERM INT USR1 USR2
trap 'status=$?; trap "" TERM INT USR1 USR2; ((status)) || exit 0; pattlite_end' EXIT
pattlite_end() { apptainer exec --nv 'my image.sif' '/opt/my python/bin/python3' -m pattlite_dist.slurm.aftermath '/home/ada/pattlite/runs/my demo/slurm' $status; exit $?; }
echo "pattlite: begins on $SLURM_JOB_NODELIST"
module load cuda/12.4
module load 'gcc/13 (new)'
export OMP_NUM_THREADS=4
export PLAIN=1
export SPACES='two words'
export QUOTES='it'"'"'s "so"'
export DOLLAR='$HOME `id` \n; exit'
export EMPTY=''
export PYTHONPATH=/home/ada/pattlite/runs/big/code-0123"${PYTHONPATH:+:$PYTHONPATH}"
ulimit -n 65536
echo "on $(hostname)"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/home/ada/pattlite/runs/my demo/slurm/%j_%t_log.out' --kill-on-bad-exit=1 --cpus-per-task=8 --mpi=none --label '--comment=two words' apptainer exec --nv 'my image.sif' '/opt/my python/bin/python3' -u -m submitit.core._submit '/home/ada/pattlite/runs/my demo/slurm'
