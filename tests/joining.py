"""A rank that joins a group by each way of finding the others, and says by which interface.

Arguments: its rank, then for each way the variables to set, as `A=B,C=D`.
"""

import os
import sys

import torch.distributed  # noqa: F401
from pytorch_lightning.plugins import environments  # noqa: F401  once for all ways

from pattlite_dist.runtime import failure, network
from pattlite_dist.runtime import world as worlds


def join(rank: int, variables: str, port: int) -> None:
    os.environ.update(item.split("=", 1) for item in variables.split(",") if item)
    os.environ.update(
        SLURM_JOB_ID="17", SLURM_JOB_NAME="train", SLURM_STEP_ID="0", SLURM_PROCID=str(rank),
        SLURM_LOCALID="0", SLURM_NTASKS="2", SLURM_NTASKS_PER_NODE="1", SLURM_NNODES="2",
        SLURM_NODELIST="gpu-[a-b]", MASTER_PORT=str(port),
    )  # fmt: skip
    world = worlds.detect()
    try:
        with worlds.group(world, "cpu", 0.2):
            worlds.Agreement(world, 0.2)
            found = worlds.from_main(world, "together")
    except failure.NoGroup as error:
        found = str(error)
    names = [os.environ.get(network.GLOO), os.environ.get(network.NCCL)]
    print(found, *names, flush=True)


if __name__ == "__main__":
    for number, variables in enumerate(sys.argv[2:]):
        child = os.fork()
        if not child:
            join(int(sys.argv[1]), variables, 29500 + number)
            os._exit(0)
        os.waitpid(child, 0)
