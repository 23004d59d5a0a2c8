"""What `replay` makes again is what training gave the network, on any number of ranks."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pattlite_dist.cli import main
from pattlite_dist.config import Config
from pattlite_dist.data.module import FERData
from pattlite_dist.errors import UserError
from pattlite_dist.model.build import build_model
from pattlite_dist.runtime.world import World
from pattlite_dist.shards.manifest import load_manifest
from pattlite_dist.tracking import history
from pattlite_dist.tracking.folder import prepare_folder
from pattlite_dist.train import replay as replays
from pattlite_dist.train.trainer import build_preprocess

MIXES = {"flip": 0.5, "rotation": 10, "cutmix": 1.0, "mixup": 0.3, "mix_prob": 0.8}


def configured(shards: Path, runs: Path, **augment: Any) -> Config:
    return Config.model_validate({
        "name": "run", "runs": str(runs), "seed": 3, "augment": augment,
        "data": {"shards": str(shards), "image_size": 48},
        "model": {"name": "mobilenetv2-vit", "cut": 7, "width": 16, "heads": 2},
        "trainer": {"epochs": 4, "global_batch": 8, "accelerator": "cpu"},
    })  # fmt: skip


def given_to_the_network(config: Config, ranks: int, epoch: int, step: int) -> dict[str, Any]:
    """A step's batch as Lightning's hooks make it, of all ranks one after the other."""
    manifest = load_manifest(Path(config.data.shards))
    model = build_model(config.model, config.data.image_size, len(manifest.labels))
    found = []
    for rank in range(ranks):
        world = World("torchrun", rank, ranks, rank, ranks)
        data = FERData(config, world, build_preprocess(config, model), manifest)
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        loader.sampler.start = step
        trainer = SimpleNamespace(training=True, max_epochs=config.trainer.epochs)
        data.trainer = trainer  # type: ignore[assignment]
        batch: Any = next(iter(loader))
        moved: Any = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
        found.append(data.on_after_batch_transfer(moved, 0))
    return {key: torch.cat([one[key] for one in found]) for key in ("id", "image", "label")}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("augment", [{}, MIXES], ids=["plain", "mixed"])
def test_a_step_is_made_again_as_the_network_saw_it(
    face_shards: Path, tmp_path: Path, ranks: int, augment: dict[str, Any]
) -> None:
    config = configured(face_shards, tmp_path, **augment)
    run = tmp_path / "run"
    prepare_folder(config, run, None)
    epoch, step = 1, 2
    seen = replays.replay(run, epoch * _steps(config) + step)
    network = given_to_the_network(config, ranks, epoch, step)
    assert (seen.epoch, seen.step) == (epoch, step)
    assert seen.ids.tolist() == network["id"].tolist()
    whole = _normalised(config, seen.images, network["image"])
    assert np.abs(whole).max() <= 0.5 / 255 + 1e-6


def _steps(config: Config) -> int:
    manifest = load_manifest(Path(config.data.shards))
    return -(-manifest.samples("train") // config.trainer.global_batch)


def _normalised(config: Config, images: Any, network: torch.Tensor) -> Any:
    """By how much pictures differ from the network's input, of what is black to white there."""
    model = build_model(config.model, config.data.image_size, 7)
    mean, std = (
        np.array(values, np.float32).reshape(1, -1, 1, 1)
        for values in replays.normalisation(config.augment, model)
    )
    return images / 255 - (network.numpy() * std + mean).clip(0, 1)


def test_the_picture_and_the_list_name_every_sample(
    face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(face_shards, tmp_path, **MIXES)
    run = tmp_path / "run"
    prepare_folder(config, run, None)
    last = _steps(config) - 1
    assert main(["replay", str(run), "--step", str(last), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["epoch"], told["step"], len(told["samples"])) == (0, last, 8)
    assert (
        sum(not one["counts"] for one in told["samples"])
        == -load_manifest(face_shards).samples("train") % 8
    )
    assert any(" + " in one["label"] for one in told["samples"])
    assert main(["replay", str(run), "--step", "0", "--most", "4"]) == 0
    assert "step 0 (epoch 1, step 1 of it), 4 of 8 samples" in capsys.readouterr().out
    with Image.open(run / "replay-0.png") as picture:
        assert picture.width > 500


def test_a_step_that_is_not_there_and_other_shards_are_told(
    face_shards: Path, tmp_path: Path
) -> None:
    config = configured(face_shards, tmp_path)
    run = tmp_path / "run"
    prepare_folder(config, run, None)
    for step in (-1, 4 * _steps(config)):
        with pytest.raises(UserError, match=f"has no step {step}: it has 4 epochs of"):
            replays.replay(run, step)
    history.append(run, "started", shards="0" * 64)
    with pytest.raises(UserError, match=r"is not what .* trained on"):
        replays.replay(run, 0)


def test_a_shortened_run_is_made_again_with_the_epochs_that_it_had_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"trainer": {"epochs": 9}})
    assert replays._as_planned(tmp_path, config, 5, 10) is config
    history.append(tmp_path, "planned", epochs=5)
    with pytest.raises(UserError, match="shortened"):
        replays._as_planned(tmp_path, config, 5, 10)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch=0003-step=00000040.ckpt").touch()
    content = {"callbacks": {"Course": {"changes": [[20, 0.2, 70], [30, 0.4, 50]]}}}
    monkeypatch.setattr(replays.checkpoints, "load", lambda path: content)
    planned = [replays._as_planned(tmp_path, config, step, 10) for step in (19, 20, 29, 30, 44)]
    assert [one.trainer.epochs for one in planned] == [9, 7, 7, 5, 5]
