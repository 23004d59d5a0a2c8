#!/usr/bin/env bash
# One process per GPU that torch sees, or NPROC of them, under torchrun. On a workstation:
#
#   launch/torchrun.sh train -c configs/fer2013.yaml --model.weights imagenet
#   NPROC=2 launch/torchrun.sh evaluate runs/fer2013
#
# On several machines that share the run folder, run the same line on each; RDZV is one of them:
#
#   NNODES=2 RDZV=first.example.org:29400 launch/torchrun.sh train -c configs/fer2013.yaml
#
# NNODES=1:4 starts with the machines present half a minute after the first, lets others join, and
# continues without those that are lost. If a worker dies, all restart from the last checkpoint,
# until three starts in a row lead to no newer one, and at most MAX_RESTARTS (100) times. RDZV_ID
# names the run if one port serves several. Other torchrun options can be set by its own variables,
# such as PET_RDZV_CONF=last_call_timeout=5.
set -euo pipefail
fail() {
  echo "torchrun.sh: error: $1" >&2
  exit 2
}
if [ $# -eq 0 ]; then
  echo "usage: [NPROC=n] [NNODES=n|min:max RDZV=host[:port]] launch/torchrun.sh train|evaluate ..." \
    "(see pattlite --help)" >&2
  exit 2
fi
NNODES=${NNODES:-1}
MAX_RESTARTS=${MAX_RESTARTS:-100}
[[ ${NPROC:-1} =~ ^[1-9][0-9]{0,3}$ ]] ||
  fail "NPROC=$NPROC is not a number of processes; set it to 1 or more, or leave it out"
[[ $NNODES =~ ^([1-9][0-9]{0,4})(:([1-9][0-9]{0,4}))?$ ]] ||
  fail "NNODES=$NNODES is neither a number of machines nor a range of them; set it to 2 or 1:4, say"
((BASH_REMATCH[1] <= ${BASH_REMATCH[3]:-BASH_REMATCH[1]})) ||
  fail "NNODES=$NNODES ends before it begins; put the smaller number first"
[[ $MAX_RESTARTS =~ ^[0-9]{1,6}$ ]] ||
  fail "MAX_RESTARTS=$MAX_RESTARTS is not a number; set it to 0 or more, or leave it out"
if [ "$NNODES" = 1 ]; then
  [ -z "${RDZV:-}" ] || fail "RDZV=$RDZV is set, but NNODES is 1; set NNODES too, or leave RDZV out"
  where=(--standalone)
else
  [ -n "${RDZV:-}" ] ||
    fail "NNODES=$NNODES needs RDZV=host:port, the same on each machine; host is one of them"
  [[ $RDZV =~ ^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:([1-9][0-9]{0,4}))?$ ]] &&
    ((${BASH_REMATCH[3]:-1} < 65536)) ||
    fail "RDZV=$RDZV is not host:port; set it to first.example.org:29400, say"
  where=(--nnodes="$NNODES" --rdzv-backend=c10d --rdzv-endpoint="$RDZV" --rdzv-id="${RDZV_ID:-pattlite}")
fi
PYTHON=${PYTHON:-python}
NPROC=${NPROC:-$("$PYTHON" -m pattlite_dist.runtime.devices 1)}
# Share the cores: torchrun defaults to one thread per process on any machine.
if [ -z "${OMP_NUM_THREADS:-}" ]; then
  cores=$("$PYTHON" -m pattlite_dist.runtime.limits) # nproc does not know a container's CPU quota
  export OMP_NUM_THREADS=$((cores > NPROC ? cores / NPROC : 1))
fi
exec "$PYTHON" -m pattlite_dist.runtime.elastic "${where[@]}" --nproc-per-node="$NPROC" \
  --max-restarts="$MAX_RESTARTS" -m pattlite_dist "$@"
