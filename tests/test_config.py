import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pattlite_dist.config import (
    Config,
    conflicts,
    free_keys,
    parse_config,
    parse_written,
    to_tree,
    to_yaml,
)
from pattlite_dist.errors import UserError
from pattlite_dist.migrate import VERSION
from pattlite_dist.settings import Strict, is_free, setting
from tests.conftest import ROOT, environment


def nested(key: str, value: Any) -> dict[str, Any]:
    """`a.b` and 1 to {"a": {"b": 1}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def config(key: str, value: Any) -> Config:
    return parse_config(nested(key, value), "test")


@pytest.mark.parametrize(
    "key", ["sed", "data.windows", "augment.flips", "model.heads_", "trainer.batch", "wandb.key"]
)
def test_an_unknown_key_is_named(key: str) -> None:
    with pytest.raises(UserError, match=rf"^a\.yaml: {re.escape(key)}: Extra inputs"):
        parse_config(nested(key, 1), "a.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", ""),
        ("name", "a/b"),
        ("name", "../up"),
        ("name", ".hidden"),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", 1.5),
        ("data.image_size", 47),
        ("data.image_size", 225),
        ("data.window", 0),
        ("data.tail", "keep"),
        ("data.workers", -1),
        ("augment.flip", 1.01),
        ("augment.rotation", 181),
        ("augment.rotation", -1),
        ("augment.shift", 0.6),
        ("augment.scale", 1),
        ("augment.brightness", -0.1),
        ("augment.contrast", 1),
        ("augment.erasing", 2),
        ("augment.mean", [0.5]),
        ("augment.mixup", -0.1),
        ("augment.cutmix", -1),
        ("augment.mix_prob", 1.1),
        ("augment.mix_switch", -0.1),
        ("augment.crop", [0.5]),
        ("augment.calm_epochs", -1),
        ("augment.calm_share", 1.1),
        ("data.image_sizes", [48, 64]),
        ("augment.flip", float("nan")),
        ("model.name", "resnet"),
        ("model.cut", 6),
        ("model.cut", 20),
        ("model.width_mult", 0),
        ("model.width_mult", 4.1),
        ("model.dropout", 1),
        ("model.heads", 0),
        ("optim.lr", 0),
        ("optim.name", "lion"),
        ("optim.ema", 1),
        ("trainer.epochs", 0),
        ("trainer.global_batch", 0),
        ("trainer.global_batch", "many"),
        ("trainer.precision", "16"),
        ("trainer.keep_best", 0),
        ("trainer.timeout_minutes", 0),
        ("wandb.mode", "on"),
        ("data", None),
        ("data", [1]),
    ],
)
def test_a_value_out_of_range_is_named_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^a\.yaml: {re.escape(key)}[:.]") as caught:
        parse_config(nested(key, value), "a.yaml")
    assert "\n" not in str(caught.value)
    assert "pattlite train --help" in str(caught.value)


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_content_that_is_no_mapping_is_an_error(content: Any) -> None:
    with pytest.raises(UserError, match=r"^a\.yaml: configuration: "):
        parse_config(content, "a.yaml")


@pytest.mark.parametrize(("width", "heads"), [(128, 3), (100, 8), (8, 16)])
def test_heads_that_do_not_divide_the_width_are_an_error(width: int, heads: int) -> None:
    with pytest.raises(UserError, match=f"model: .*width {width} is not a multiple of .* {heads}"):
        parse_config({"model": {"width": width, "heads": heads}}, "test")
    parse_config({"model": {"width": width * heads, "heads": heads}}, "test")


@pytest.mark.parametrize("area", [[0, 0.2], [-0.1, 0.2], [0.3, 0.2], [0.5, 1.1], [0.1]])
def test_an_erased_area_that_is_no_range_is_an_error(area: list[float]) -> None:
    with pytest.raises(UserError, match=r"augment.*erasing_area"):
        config("augment.erasing_area", area)


@pytest.mark.parametrize("std", [[0, 0.2, 0.2], [0.2, 0.2, -1], [0.2, 0.2]])
def test_a_deviation_that_cannot_be_divided_by_is_an_error(std: list[float]) -> None:
    with pytest.raises(UserError, match=r"augment.*std"):
        config("augment.std", std)


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 1


def test_the_defaults_are_valid_and_come_back_from_yaml() -> None:
    text = to_yaml(Config())
    assert parse_written(yaml.safe_load(text), "test") == Config()
    assert list(yaml.safe_load(text)) == ["version", *Config.model_fields]  # in the models' order


FRACTIONS = st.floats(0, 0.99)
CONFIGS = st.builds(
    lambda **values: parse_config(
        {
            "name": values["name"], "seed": values["seed"],
            "data": {"shards": values["text"], "cache": values["cache"], "tail": values["tail"]},
            "augment": {"flip": values["flip"], "scale": values["scale"], "mean": values["mean"]},
            "optim": {"lr": values["lr"]},
            "wandb": {"entity": values["cache"]},
        },
        "test",
    ),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True),
    seed=st.integers(0, 2**32 - 1),
    text=st.text(st.characters(codec="utf-8"), max_size=20),
    cache=st.none() | st.text(st.characters(codec="utf-8"), max_size=20),
    tail=st.sampled_from(["pad", "drop", "wrap"]),
    flip=FRACTIONS,
    scale=FRACTIONS,
    mean=st.none() | st.tuples(FRACTIONS, FRACTIONS, FRACTIONS),
    lr=st.floats(1e-300, 1e300),
)  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(CONFIGS)
def test_any_configuration_comes_back_from_yaml(one: Config) -> None:
    again = parse_written(yaml.safe_load(to_yaml(one)), "test")
    assert again == one
    assert conflicts(one, again) == []


IDENTITY = {
    "name": "other", "seed": 1, "data.image_size": 96, "data.window": 7, "data.tail": "wrap",
    "data.balance": 0.5, "optim.class_weights": "sqrt", "data.folds": 3, "data.fold": 2,
    "data.targets": "votes", "distill.temperature": 2.0, "distill.share": 0.5,
    "distill.teachers": ["/runs/a"], "model.attention": "none",
    "optim.decay_positions": True, "optim.betas": [0.8, 0.9], "optim.eps": 1e-3,
    "optim.momentum": 0.5, "optim.nesterov": False, "optim.layer_decay": 0.75,
    "optim.decay_epochs": 40.0, "finetune.start_epoch": 3, "finetune.unfreeze": 2,
    "finetune.lr": 0.5, "finetune.schedule": "cosine", "finetune.decay_epochs": 40.0,
    "finetune.dropout": 0.3,
    "augment.flip": 0.1, "augment.rotation": 1.0, "augment.shift": 0.1, "augment.scale": 0.1,
    "augment.brightness": 0.1, "augment.contrast": 0.1, "augment.erasing": 0.1,
    "augment.erasing_area": [0.1, 0.3], "augment.mean": [0.1, 0.2, 0.3],
    "augment.std": [0.1, 0.2, 0.3], "augment.mixup": 0.2, "augment.cutmix": 1.0,
    "augment.mix_prob": 0.7, "augment.mix_switch": 0.3, "augment.crop": [0.5, 1.0],
    "augment.crop_aspect": [0.8, 1.2], "augment.calm_epochs": 5, "augment.calm_share": 0.3,
    "data.image_sizes": [[0, 48], [3, 64]],
    "model.name": "pattlite", "model.cut": 19, "model.width": 64, "model.width_mult": 0.5,
    "model.heads": 4, "model.dropout": 0.3, "model.freeze": 2, "model.sync_batchnorm": True,
    "optim.name": "adam", "optim.lr": 0.5,
    "optim.backbone_lr_scale": 0.5, "optim.weight_decay": 0.5, "optim.schedule": "constant",
    "optim.warmup_epochs": 2.0, "optim.label_smoothing": 0.5, "optim.clip_norm": 1.0,
    "optim.ema": 0.5, "optim.lr_rule": "sqrt", "optim.reference_batch": 32,
    "trainer.global_batch": 64,
}  # fmt: skip
FREE = {
    "runs": "elsewhere", "data.shards": "elsewhere", "data.workers": 3, "data.cache": "/scratch",
    "data.start_method": "spawn", "data.resident": True, "data.cache_gb": 2.5, "data.retries": 0,
    "data.timeout_seconds": 5.0, "data.bad_shards": "skip",
    "data.allow_pipe": True, "model.weights": "file.pth", "trainer.epochs": 99,
    "trainer.patience": 3, "trainer.min_delta": 0.01, "trainer.max_minutes": 5.0,
    "trainer.eval_batch": 7, "trainer.accelerator": "cpu", "trainer.precision": "32",
    "trainer.channels_last": False, "trainer.compile": True, "trainer.checkpoint_every_steps": 9,
    "trainer.checkpoint_every_minutes": 2.5, "trainer.keep_best": 4,
    "trainer.log_every_steps": 3, "trainer.timeout_minutes": 1, "trainer.deterministic": False,
    "trainer.accumulate": 2, "trainer.max_batch_per_rank": 16, "trainer.hang_minutes": 3.0,
    "trainer.takeover_minutes": 1.0, "trainer.probe": False, "trainer.async_save": False,
    "trainer.spot_notice": "auto", "scratch": "elsewhere",
    "tracking.report": False, "tracking.loggers": ["csv"], "tracking.raw_val": True,
    "wandb.job_type": "trial", "wandb.tags": ["a", "b"], "wandb.upload_model": True,
    "wandb.mistakes": 9,
    "wandb.mode": "disabled", "wandb.project": "p", "wandb.entity": "e", "wandb.group": "g",
}  # fmt: skip


@pytest.mark.parametrize("key", IDENTITY)
def test_a_change_that_makes_another_run_is_listed(key: str) -> None:
    # Only one of the networks has variants, and only of several folds can one be left out.
    parts = {"model.attention": {"name": "pattlite"}, "data.fold": {"folds": 3}}.get(key, {})
    part, name = key.split(".")[0], key.partition(".")[2]
    before = parse_config({part: parts} if parts else {}, "test")
    changed = parse_config(
        {part: {**parts, name: IDENTITY[key]}} if parts else nested(key, IDENTITY[key]), "test"
    )
    (line,) = conflicts(before, changed)
    assert line.startswith(f"{key}: ")
    assert line.endswith(f" -> {IDENTITY[key]}")
    (back,) = conflicts(changed, before)
    assert back.startswith(f"{key}: {IDENTITY[key]} -> ")


@pytest.mark.parametrize("key", FREE)
def test_a_change_that_leaves_the_run_what_it_is_is_free(key: str) -> None:
    changed = config(key, FREE[key])
    assert changed != Config()
    assert conflicts(Config(), changed) == []


def test_every_key_is_known_to_be_free_or_not() -> None:
    """A new key must be put into one of the two lists above, and so be thought about."""

    def leaves(tree: dict[str, Any], prefix: str = "") -> set[str]:
        return {
            leaf
            for key, value in tree.items()
            for leaf in (
                leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
            )
        }

    assert leaves(Config().model_dump()) == IDENTITY.keys() | FREE.keys()
    assert not IDENTITY.keys() & FREE.keys()


def test_the_keys_that_may_change_between_two_starts_are_these() -> None:
    assert free_keys() == {
        "runs", "data.shards", "data.workers", "data.start_method", "data.resident", "data.cache",
        "data.cache_gb",
        "data.allow_pipe", "data.retries", "data.timeout_seconds", "data.bad_shards",
        "model.weights", "trainer.epochs", "trainer.eval_batch", "trainer.accelerator",
        "trainer.precision", "trainer.channels_last", "trainer.compile",
        "trainer.checkpoint_every_steps", "trainer.checkpoint_every_minutes", "trainer.keep_best",
        "trainer.log_every_steps", "trainer.timeout_minutes", "trainer.deterministic",
        "trainer.accumulate", "trainer.patience", "trainer.min_delta", "trainer.max_minutes",
        "trainer.hang_minutes", "trainer.max_batch_per_rank", "trainer.takeover_minutes", "scratch",
        "trainer.probe", "trainer.async_save", "trainer.spot_notice",
        "tracking.report", "tracking.loggers", "tracking.raw_val",
        "wandb.mode", "wandb.project", "wandb.entity", "wandb.group", "wandb.job_type",
        "wandb.tags", "wandb.upload_model", "wandb.mistakes",
    }  # fmt: skip


def test_a_key_has_to_say_whether_it_may_change() -> None:
    class Part(Strict):
        said: int = setting(1, free=True)
        unsaid: int = 1

    assert is_free(Part.model_fields["said"])
    with pytest.raises(TypeError, match="whether it may change"):
        is_free(Part.model_fields["unsaid"])


def test_what_is_written_says_its_version_and_is_not_told_apart_by_it() -> None:
    one = config("optim.lr", 0.5)
    assert to_tree(one)["version"] == VERSION
    assert "version" not in Config.model_fields
    assert parse_written(to_tree(one), "test") == one
    with pytest.raises(UserError, match=r"^a\.yaml: version: .* has version 99, .* newer"):
        parse_written({**to_tree(one), "version": 99}, "a.yaml")


def test_what_is_written_without_a_version_is_of_version_0() -> None:
    assert parse_written({"model": {"name": "seed"}}, "test").model.name == "mobilenetv2-vit"
    with pytest.raises(UserError, match=r"^a\.yaml: model\.name: "):
        parse_written({"version": 1, "model": {"name": "seed"}}, "a.yaml")


def test_a_configuration_is_read_without_what_takes_long_to_import() -> None:
    code = "import sys, pattlite_dist.config; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "jsonargparse", "wandb"} & set(done.stdout.split())


def test_several_changes_are_all_listed() -> None:
    changed = parse_config(
        {"seed": 3, "optim": {"lr": 0.5}, "trainer": {"epochs": 2, "global_batch": 32}}, "test"
    )
    assert conflicts(Config(), changed) == [
        "seed: 0 -> 3", "optim.lr: 0.001 -> 0.5", "trainer.global_batch: 128 -> 32",
    ]  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_that_comes_with_the_package_parses(path: Path) -> None:
    parsed = parse_config(yaml.safe_load(path.read_text()), str(path))
    assert parsed.name == path.stem


def test_configurations_do_come_with_the_package() -> None:
    assert {"demo", "fer2013", "notebook"} <= {
        path.stem for path in (ROOT / "configs").glob("*.yaml")
    }
