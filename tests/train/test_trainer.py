import os
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from pattlite_dist.config import Config
from pattlite_dist.runtime import world as worlds
from pattlite_dist.runtime.signals import Signals
from pattlite_dist.runtime.world import Agreement, World
from pattlite_dist.train.saving import Saver
from pattlite_dist.train.trainer import build_trainer, precision
from tests.gpus import see

SRUN = {
    "JOB_ID": "1", "STEP_ID": "0", "JOB_NAME": "train", "NTASKS": "8", "NNODES": "2",
    "NTASKS_PER_NODE": "4", "PROCID": "7", "LOCALID": "3", "NODEID": "1", "NODELIST": "n[1-2]",
}  # fmt: skip
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "3",
    "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "29400",
}  # fmt: skip


def config(tmp_path: Path, **trainer: str) -> Config:
    tree = {"data": {"shards": "shards"}, "runs": str(tmp_path), "wandb": {"mode": "disabled"}}
    return Config.model_validate({**tree, "trainer": trainer})


def built(config: Config, world: World, folder: Path) -> pl.Trainer:
    saver = Saver(folder, world, Signals(), Agreement(World(), 1), 0, 0, 1)
    return build_trainer(config, world, folder, saver, 10)


@pytest.mark.parametrize(
    ("wanted", "gpu", "bf16", "name"),
    [
        ("auto", False, True, "32-true"),
        ("auto", True, True, "bf16-mixed"),
        ("auto", True, False, "32-true"),
        ("32", True, True, "32-true"),
        ("bf16", True, False, "bf16-mixed"),
        ("bf16", False, False, "bf16-mixed"),
    ],
)
def test_bf16_is_chosen_where_it_is_not_emulated(
    wanted: str, gpu: bool, bf16: bool, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, 1, bf16)
    assert precision(config(tmp_path, precision=wanted), gpu) == name


@pytest.mark.parametrize(
    ("launcher", "visible", "index"), [("slurm", 4, 3), ("slurm", 1, 0), ("torchrun", 4, 3)]
)
def test_lightning_uses_the_device_of_each_rank(
    launcher: str, visible: int, index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, visible)
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)  # undone for tests to come
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    env = TORCHRUN if launcher == "torchrun" else {f"SLURM_{k}": v for k, v in SRUN.items()}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    world = worlds.detect()
    assert world == World(launcher, 7, 8, 3, 4)
    trainer = built(config(tmp_path), world, tmp_path)
    trainer.strategy.set_world_ranks()  # type: ignore[attr-defined]
    assert trainer.strategy.root_device == torch.device("cuda", index)
    assert worlds.device(world, "auto") == torch.device("cuda", index)
    assert (trainer.world_size, trainer.global_rank, trainer.num_devices) == (8, 7, 4)


@pytest.mark.parametrize(("gpus", "device"), [(4, "cuda:0"), (1, "cuda:0"), (0, "cpu")])
def test_a_process_alone_has_one_device(
    gpus: int, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, gpus)
    accelerator = "gpu" if gpus else "cpu"
    trainer = built(config(tmp_path, accelerator=accelerator), World(), tmp_path)
    assert trainer.strategy.root_device == torch.device(device)
    assert (trainer.world_size, trainer.num_devices) == (1, 1)
