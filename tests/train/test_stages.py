"""What each of the two stages trains, and that stopping between them changes nothing."""

import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from pattlite_dist.cli import main
from pattlite_dist.config import parse_config, parse_written
from pattlite_dist.errors import UserError
from pattlite_dist.model.backbones import blocks, freeze
from pattlite_dist.model.build import PattLite, build_model
from pattlite_dist.model.settings import V1_BLOCKS, ModelConfig
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train import run as runs
from pattlite_dist.train.checkpoint import AtomicCheckpointIO
from pattlite_dist.train.settings import FinetuneConfig
from pattlite_dist.train.stages import Stages, unfrozen
from tests.conftest import ROOT, tiny
from tests.starts import Zygote
from tests.train.faults import Fault, killer
from tests.train.harness import assert_same_training, final, logged

STEPS, START, EPOCHS = 4, 1, 3  # 104 samples in global batches of 32
BOUNDARY, LAST = START * STEPS, EPOCHS * STEPS


def options(shards: Path, runs: Path, name: str = "tiny", **overrides: object) -> list[str]:
    staged = {
        "trainer.epochs": EPOCHS, "trainer.global_batch": 32, "trainer.eval_batch": 19,
        "finetune.start_epoch": START, "finetune.unfreeze": 2, "finetune.lr": 1e-3,
        "optim.warmup_epochs": 0, "optim.clip_norm": 3, "model.weights": "none",
    }  # fmt: skip
    return tiny(shards, runs, name, **{**staged, **overrides})


def pattlite(shards: Path, runs: Path, name: str = "tiny", **overrides: object) -> list[str]:
    return options(
        shards, runs, name, **{"model.name": "pattlite", "finetune.dropout": 0.2, **overrides}
    )


class Spy(Callback):
    """Runs a function at the end of each step."""

    def __init__(self, look: Callable[[pl.Trainer, Any], None]) -> None:
        self.look = look

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self.look(trainer, pl_module)


def watch(monkeypatch: pytest.MonkeyPatch, *callbacks: Callback) -> None:
    build = runs.build_trainer

    def build_trainer(*args: Any) -> pl.Trainer:
        trainer = build(*args)
        trainer.callbacks[0:0] = callbacks
        return trainer

    monkeypatch.setattr(runs, "build_trainer", build_trainer)


def keep_all(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Any]]:
    """The contents of all saved checkpoints, by step."""
    saved: dict[int, dict[str, Any]] = {}
    save = AtomicCheckpointIO.save_checkpoint

    def noted(self: AtomicCheckpointIO, content: Any, path: Path, **rest: Any) -> None:
        save(self, content, path, **rest)
        self.beside.wait()
        saved[content["global_step"]] = checkpoints.load(Path(path))

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", noted)
    return saved


def moved(one: dict[str, Any], other: dict[str, Any], key: str = "state_dict") -> set[str]:
    """Names of tensors that differ in any bit, including BatchNorm's statistics and counts."""
    return {name for name, value in one[key].items() if not torch.equal(value, other[key][name])}


def built(name: str, cut: int = 14) -> Any:
    config = ModelConfig.model_validate({"name": name, "cut": cut, "width": 32, "heads": 4})
    return build_model(config, 48, 7)


@pytest.mark.parametrize(
    ("name", "cut"), [("pattlite", 14), ("mobilenetv2-vit", 7), ("mobilenetv2-vit", 19)]
)
def test_a_backbones_blocks_are_all_of_it_and_as_many_as_the_configuration_thinks(
    name: str, cut: int
) -> None:
    backbone = built(name, cut).backbone
    parts = blocks(backbone)
    assert len(parts) == (cut if name == "mobilenetv2-vit" else V1_BLOCKS)
    inside = [p for part in parts for p in part.parameters()]
    assert [id(p) for p in inside] == [id(p) for p in backbone.parameters()]


@pytest.mark.parametrize("name", ["pattlite", "mobilenetv2-vit"])
def test_unfrozen_are_the_last_blocks_without_batchnorm(name: str) -> None:
    backbone = built(name).backbone
    weights = [p for p in backbone.parameters() if p.ndim > 1]  # neither has a bias
    assert unfrozen(backbone, 0) == []
    assert [id(p) for p in unfrozen(backbone, None)] == [id(p) for p in weights]
    last = unfrozen(backbone, 2)
    assert [id(p) for p in last] == [id(p) for p in weights[-len(last) :]]
    assert len(last) == {"pattlite": 3, "mobilenetv2-vit": 6}[name]


def test_spatial_dropout_takes_a_channel_from_all_patches_of_a_sample() -> None:
    extraction = built("pattlite").patches
    features = torch.rand(64, 512, 3, 3, generator=torch.Generator().manual_seed(0))
    whole = extraction(features)
    extraction.dropout.p = 0.5
    gone = extraction(features) == 0
    assert torch.equal(gone & (whole != 0), gone.all(1, keepdim=True) & (whole != 0))
    alive = (whole != 0).any(1)
    assert 0.45 < float(gone.all(1)[alive].float().mean()) < 0.55


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"finetune": {"start_epoch": 16}}, "start_epoch 16 is above trainer.epochs 15"),
        ({"finetune": {"unfreeze": 15}}, "unfreeze 15 is above the backbone's 14 blocks"),
        (
            {"finetune": {"unfreeze": 11}, "model": {"name": "pattlite"}},
            "unfreeze 11 is above the backbone's 10 blocks",
        ),
        ({"model": {"freeze": 15}}, "freeze 15 is above the backbone's 14 blocks"),
        ({"model": {"freeze": 11, "name": "pattlite"}}, "freeze 11 is above the backbone's 10 blo"),
        ({"finetune": {"lr": 0}}, "finetune.lr"),
        ({"finetune": {"schedule": "linear"}}, "finetune.schedule"),
    ],
)
def test_stages_that_cannot_be_are_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(content, "a.yaml")


@pytest.mark.parametrize("arguments", [options, pattlite])
def test_the_heads_stage_leaves_every_bit_of_the_backbone_and_fine_tuning_moves_its_end(
    arguments: Callable[..., list[str]], face_shards: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    saved = keep_all(monkeypatch)
    overrides = {"optim.weight_decay": 0.5, "trainer.checkpoint_every_steps": 1}
    assert main(arguments(face_shards, tmp_path, **overrides)) == 0
    model = built("pattlite") if arguments is pattlite else built("mobilenetv2-vit", 7)
    names = {id(p): f"model.{name}" for name, p in model.named_parameters()}
    tuned = {names[id(p)] for p in unfrozen(model.backbone, 2)}
    head = {name for name in names.values() if not name.startswith("model.backbone.")}
    for key in ("state_dict", "current_model_state"):  # averaged, and not
        for step in range(2, LAST + 1):
            changed = moved(saved[step - 1], saved[step], key)
            backbone = {name for name in changed if name.startswith("model.backbone.")}
            assert backbone == (tuned if step > BOUNDARY else set()), (key, step)
        assert head <= moved(saved[1], saved[BOUNDARY], key)
        assert moved(saved[1], saved[BOUNDARY], key) - head  # the head's BatchNorm is updated


def test_fine_tuning_begins_with_a_fresh_optimiser_its_own_rate_and_dropout(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    seen: dict[int, Any] = {}

    def look(trainer: pl.Trainer, module: Any) -> None:
        network: PattLite = module.model
        drops = (network.patches.dropout, network.classifier.dropout)
        seen[trainer.global_step] = (
            {int(state["step"]) for state in trainer.optimizers[0].state.values()},
            [*(drop.p for drop in drops), network.classifier.head_dropout.p],
            [m.training for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d)],
        )

    watch(monkeypatch, Spy(look))
    assert main(pattlite(face_shards, tmp_path)) == 0
    for step, (taken, drops, training) in seen.items():
        assert taken == {step if step <= BOUNDARY else step - BOUNDARY}
        assert drops == ([0, 0.1, 0] if step <= BOUNDARY else [0.2, 0.2, 0.2])
        assert not any(training)
    rates = dict(logged(tmp_path / "tiny", "train/lr"))
    assert [rates[step] for step in range(BOUNDARY)] == pytest.approx(
        [1e-3 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)]
    )
    expected = [1e-3 / (1 + i / (80 * STEPS)) for i in range(LAST - BOUNDARY)]
    assert [rates[step] for step in range(BOUNDARY, LAST)] == pytest.approx(expected)
    told = [line for line in capsys.readouterr().out.splitlines() if "parameters" in line]
    assert [line.split(":")[0] for line in told] == [
        "head alone to epoch 1", "fine-tuning to epoch 3"
    ]  # fmt: skip


def test_the_frozen_backbone_takes_no_part_in_the_backward_pass(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, set[str]] = {}

    def look(trainer: pl.Trainer, module: Any) -> None:
        network = module.model
        seen[trainer.global_step] = {
            name for name, p in network.backbone.named_parameters() if p.grad is not None
        }

    watch(monkeypatch, Spy(look))
    assert main(options(face_shards, tmp_path)) == 0
    assert all(not names for step, names in seen.items() if step <= BOUNDARY)
    assert all(len(names) == 6 for step, names in seen.items() if step > BOUNDARY)


def test_gradients_are_clipped_at_a_global_norm_of_3(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: dict[str, list[float]] = {}

    def look(trainer: pl.Trainer, module: Any) -> None:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
        norms.setdefault(trainer.default_root_dir, []).append(float(norm))

    def steep(self: Any, batch: Any, index: int, step: Any = runs.FERModule.training_step) -> Any:
        return 1000 * step(self, batch, index)

    watch(monkeypatch, Spy(look))
    monkeypatch.setattr(runs.FERModule, "training_step", steep)
    for name, limit in (("free", 0), ("clipped", 3)):
        assert main(pattlite(face_shards, tmp_path, name, **{"optim.clip_norm": limit})) == 0
    assert min(norms[str(tmp_path / "free")]) > 10
    assert norms[str(tmp_path / "clipped")] == pytest.approx([3] * LAST, rel=1e-4)


PLACES = [
    ("on_train_batch_end", BOUNDARY - 1, False),
    ("on_train_batch_end", BOUNDARY, True),
    ("on_validation_batch_end", BOUNDARY, True),
    ("on_train_epoch_end", BOUNDARY, True),
    ("on_train_epoch_start", BOUNDARY, False),
    ("on_train_batch_end", BOUNDARY + 1, True),
    ("on_validation_start", BOUNDARY + STEPS, False),
]


def test_a_run_stopped_all_around_the_boundary_ends_equal_bit_for_bit(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stop is in a run already resumed after the previous stops."""
    assert main(options(face_shards, tmp_path, "straight")) == 0
    build = runs.build_trainer
    for place, step, late in PLACES:
        with monkeypatch.context() as patch:
            fault = Fault(place, step, late, signum=int(signal.SIGTERM))
            watch(patch, killer(fault))
            assert main(options(face_shards, tmp_path)) == 128 + signal.SIGTERM, fault
    assert runs.build_trainer is build
    assert main(options(face_shards, tmp_path)) == 0
    assert_same_training(tmp_path / "straight", tmp_path / "tiny")


@pytest.mark.slow
def test_two_ranks_killed_at_the_boundary_and_after_it_end_equal_bit_for_bit(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    every = {"trainer.checkpoint_every_steps": 1}
    start = zygote.start(options(face_shards, tmp_path, "straight", **every), 2)
    assert start.ended, start.log
    assert start.log.count("parameters\n") == 2
    assert "Warning" not in start.log, start.log
    for place, step in (("on_train_epoch_start", BOUNDARY), ("on_after_backward", BOUNDARY + 1)):
        fault = Fault(place, step, rank=1)
        start = zygote.start(options(face_shards, tmp_path, **every), 2, fault)
        assert start.killed_by(fault), (fault, start.log)
    start = zygote.start(options(face_shards, tmp_path, **every), 2)
    assert start.ended, start.log
    assert_same_training(tmp_path / "straight", tmp_path / "tiny")


def normalised_weights(path: Path) -> Path:
    """Random weights with BatchNorm fitted to its inputs; otherwise gradients would vanish."""
    torch.manual_seed(3)
    backbone = built("pattlite").backbone.train()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        backbone(torch.randn(32, 3, 48, 48))
    torch.save(backbone.state_dict(), path)
    return path


@pytest.mark.slow
def test_gradients_of_what_is_unfrozen_after_ddp_was_made_are_averaged_as_well(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    """One rank and two see the same batches, so the last blocks are updated alike.

    BatchNorm and dropout would differ, so the former is frozen and the latter disabled.
    """
    weights = normalised_weights(tmp_path / "weights.pt")
    still = {"model.weights": weights, "model.dropout": 0, "finetune.dropout": 0}
    for ranks in (1, 2):
        arguments = pattlite(face_shards, tmp_path, str(ranks), **still)
        start = zygote.start(arguments, ranks, record=tmp_path / str(ranks), freeze=True)
        assert start.ended, start.log
    before = torch.load(weights, weights_only=True)
    one, two = (final(tmp_path / str(ranks))["current_model_state"] for ranks in (1, 2))
    for name in ("blocks.7.pw.weight", "blocks.8.dw.weight"):
        path = one[f"model.backbone.{name}"] - before[name]
        apart = one[f"model.backbone.{name}"] - two[f"model.backbone.{name}"]
        assert path.norm() > 0.01
        assert apart.norm() < 0.02 * path.norm()


FRACTION = {
    "pattlite": {
        "finetune.start_epoch": 1, "trainer.epochs": 2, "trainer.global_batch": 26,
        "data.image_size": 48, "model.weights": "none",
    },
    "notebook": {"trainer.epochs": 1, "trainer.global_batch": 52, "data.image_size": 48},
}  # fmt: skip


@pytest.mark.parametrize("name", FRACTION)
def test_a_published_recipe_runs_to_its_end(name: str, face_shards: Path, tmp_path: Path) -> None:
    overrides = {
        "runs": tmp_path, "data.shards": face_shards, "trainer.accelerator": "cpu",
        "wandb.mode": "disabled", **FRACTION[name],
    }  # fmt: skip
    given = [f"--{key}={value}" for key, value in overrides.items()]
    assert main(["train", "-c", str(ROOT / "configs" / f"{name}.yaml"), *given]) == 0
    config = parse_written(final(tmp_path / name)["pattlite"]["config"], "checkpoint")
    assert config.name == name
    assert config.model.name == {"notebook": "mobilenetv2-vit"}.get(name, name)
    top1 = logged(tmp_path / name, "val/top1")
    assert len(top1) == config.trainer.epochs


@pytest.mark.parametrize("name", ["pattlite", "mobilenetv2-vit"])
def test_the_union_of_what_the_stages_and_the_settings_freeze_is_frozen(name: str) -> None:
    backbone = built(name).backbone
    parts = blocks(backbone)
    last = [id(p) for p in parts[-1].parameters() if p.ndim > 1]
    for first, expected in ((len(parts) - 1, last), (len(parts), [])):
        for among in (2, None):
            assert [id(p) for p in unfrozen(backbone, among, first)] == expected
    assert [id(p) for p in unfrozen(backbone, 1, 2)] == last


@pytest.mark.parametrize("name", ["pattlite", "mobilenetv2-vit"])
def test_frozen_blocks_store_nothing_for_a_backward_pass_and_it_ends_behind_them(name: str) -> None:
    backbone, stored, seen = built(name).backbone, [], []
    freeze(backbone, 3)
    parts = blocks(backbone)

    def store(tensor: torch.Tensor) -> torch.Tensor:
        stored.append(tensor.shape)
        return tensor

    def look(module: nn.Module, given: Any, output: torch.Tensor) -> None:
        seen.append((output.requires_grad, len(stored)))

    for part in parts[2:4]:
        part.register_forward_hook(look)
    images = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor):
        features = backbone(images)
    features.sum().backward()
    (frozen, trained) = seen
    assert frozen == (False, 0)
    assert trained[0] and trained[1] > 0
    without = [number for number, part in enumerate(parts)
               if any(p.grad is None for p in part.parameters())]  # fmt: skip
    assert without == [0, 1, 2]


FROZEN = {
    "finetune.start_epoch": "null", "finetune.unfreeze": "null", "finetune.lr": 1e-5,
    "trainer.epochs": 2, "trainer.global_batch": 52, "trainer.checkpoint_every_steps": 1,
    "model.freeze": 3, "optim.layer_decay": 0.8,
    "optim.name": "sgd", "optim.lr": 0.02, "optim.weight_decay": 5e-4, "optim.clip_norm": 3,
}  # fmt: skip


def test_frozen_blocks_stay_as_loaded_and_momentum_survives_a_stop(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        saved = keep_all(patch)
        assert main(options(face_shards, tmp_path, "straight", **FROZEN)) == 0
    straight = capsys.readouterr().out
    assert straight.count("first 3 of 7 backbone blocks frozen: trains ") == 1
    model = built("mobilenetv2-vit", 7)
    freeze(model.backbone, 3)
    assert f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,} of" in straight
    parts = {id(value): number for number, part in enumerate(blocks(model.backbone))
             for value in part.state_dict(keep_vars=True).values()}  # fmt: skip
    numbers = {f"model.{name}": parts.get(id(value), len(blocks(model.backbone)))
               for name, value in model.state_dict(keep_vars=True).items()}  # fmt: skip
    for key in ("state_dict", "current_model_state"):  # averaged, and not
        for step in range(2, 5):
            changed = moved(saved[step - 1], saved[step], key)
            assert changed == {name for name, number in numbers.items() if number >= 3}, key
    (state,) = saved[4]["optimizer_states"]
    assert len(state["state"]) == sum(p.requires_grad for p in model.parameters())
    with monkeypatch.context() as patch:
        fault = Fault("on_train_batch_end", 3, signum=int(signal.SIGTERM))
        watch(patch, killer(fault))
        assert main(options(face_shards, tmp_path, **FROZEN)) == 128 + signal.SIGTERM
    assert main(options(face_shards, tmp_path, **FROZEN)) == 0
    assert capsys.readouterr().out.count("backbone blocks frozen") == 2
    assert_same_training(tmp_path / "straight", tmp_path / "tiny")


@pytest.mark.parametrize("first", [0, 1])
def test_a_stage_is_said_once_wherever_it_is_entered(
    first: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the first step on, and in a run that continues where fine-tuning starts."""
    module, trainer = (
        pl.LightningModule(),
        SimpleNamespace(current_epoch=first, max_epochs=3, is_global_zero=True, optimizers=[]),
    )
    module.model = built("mobilenetv2-vit", 7)
    stages = Stages(first, FinetuneConfig(start_epoch=first), frozen=5)
    run: Any = trainer
    stages.setup(run, module, "fit")
    stages.on_train_start(run, module)
    for epoch in range(first, 3):
        trainer.current_epoch = epoch
        stages.on_train_epoch_start(run, module)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("fine-tuning to epoch 3, first 5 backbone blocks frozen: trains ")
    trained = [part for part in blocks(module.model.backbone)
               if any(p.requires_grad for p in part.parameters())]  # fmt: skip
    assert trained == blocks(module.model.backbone)[5:]
