#!/usr/bin/env bash
# A workstation's way: one process a GPU under torchrun, or NPROC of them on CPU.
#
#   launch/torchrun.sh train -c configs/fer2013.yaml --model.weights imagenet
#   NPROC=2 launch/torchrun.sh evaluate runs/fer2013
set -euo pipefail
if [ $# -eq 0 ]; then
  echo "usage: [NPROC=n] launch/torchrun.sh train|evaluate ... (see pattlite --help)" >&2
  exit 2
fi
gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true)
NPROC=${NPROC:-$((gpus > 0 ? gpus : 1))}
if [ "$gpus" -eq 0 ]; then
  # Share the cores: torchrun's own choice is one thread a process whatever the machine.
  cores=$(nproc)
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > NPROC ? cores / NPROC : 1))}
fi
exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node="$NPROC" \
  -m pattlite_dist "$@"
