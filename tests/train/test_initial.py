from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pattlite_dist.config import Config, to_tree
from pattlite_dist.errors import UserError
from pattlite_dist.export.graph import to_safetensors
from pattlite_dist.model import weights
from pattlite_dist.model.build import MobileNetV2ViT, PattLite, build_model
from pattlite_dist.model.description import Description
from pattlite_dist.shards.manifest import ImageInfo
from pattlite_dist.train.initial import RANDOM, initialise

SEVEN = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
SMALL = {"name": "mobilenetv2-vit", "cut": 7, "width": 16, "heads": 2}
PATTLITE = {"name": "pattlite"}


def build(model: dict[str, Any], classes: int = 7, size: int = 48) -> PattLite | MobileNetV2ViT:
    return build_model(Config.model_validate({"model": model}).model, size, classes)


def save(
    path: Path, model: dict[str, Any], labels: list[str] = SEVEN, size: int = 48
) -> dict[str, torch.Tensor]:
    """Save a checkpoint as a run with averaged weights does; returns the average."""
    network = build(model, len(labels), size)
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    content = {
        "epoch": 3,
        "global_step": 40,
        "state_dict": state,
        "current_model_state": {name: torch.zeros_like(value) for name, value in state.items()},
        "pattlite": {"config": to_tree(Config.model_validate({"model": model})), "labels": labels},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return dict(network.state_dict())


def differing(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> list[str]:
    own = network.state_dict()
    return [name for name in own if not torch.equal(own[name], state[name])]


@pytest.mark.parametrize("weights", [None, "none"])
def test_without_weights_they_are_random_and_that_is_said(weights: str | None) -> None:
    network = build(SMALL)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert initialise(network, weights, SEVEN) == RANDOM
    assert differing(network, before) == []


@pytest.mark.parametrize("model", [SMALL, PATTLITE], ids=["mobilenetv2-vit", "pattlite"])
def test_a_checkpoint_of_the_same_classes_is_taken_as_a_whole(
    model: dict[str, Any], tmp_path: Path
) -> None:
    state = save(tmp_path / "a.ckpt", model)
    network = build(model)
    told = initialise(network, str(tmp_path / "a.ckpt"), SEVEN)
    assert told == f"the weights are those of {tmp_path}/a.ckpt"
    assert differing(network, state) == []  # the average's


@pytest.mark.parametrize("model", [SMALL, PATTLITE], ids=["mobilenetv2-vit", "pattlite"])
@pytest.mark.parametrize("others", [[*SEVEN, "contempt"], SEVEN[:5], list("abcdefg")])
def test_the_head_of_other_classes_is_left_out_and_that_is_said(
    others: list[str], model: dict[str, Any], tmp_path: Path
) -> None:
    state = save(tmp_path / "a.ckpt", model)
    network = build(model, len(others))
    told = initialise(network, str(tmp_path / "a.ckpt"), others)
    head = "classifier.head" if model is PATTLITE else "head"
    assert told.endswith(f"a.ckpt, all but {head}.weight, {head}.bias, which are random")
    own = network.state_dict()
    rest = [name for name in own if not name.startswith(f"{head}.")]
    assert all(torch.equal(own[name], state[name]) for name in rest)


def test_the_head_follows_the_classes_names_and_not_their_order(tmp_path: Path) -> None:
    state = save(tmp_path / "a.ckpt", SMALL)
    network = build(SMALL)
    assert "all but" not in initialise(network, str(tmp_path / "a.ckpt"), SEVEN[::-1])
    assert torch.equal(network.state_dict()["head.weight"], state["head.weight"].flip(0))
    assert torch.equal(network.state_dict()["head.bias"], state["head.bias"].flip(0))


def test_positions_of_another_image_size_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    save(tmp_path / "a.ckpt", SMALL)
    told = initialise(build(SMALL, size=64), str(tmp_path / "a.ckpt"), SEVEN)
    assert told.endswith(", all but patches.position, which are random")


def exported(path: Path, labels: list[str] = SEVEN) -> dict[str, torch.Tensor]:
    """Export a network in half precision; returns its weights as they are then."""
    network = build(SMALL, len(labels))
    description = Description(
        created_by="test", labels=labels, image=ImageInfo(channels=1, height=48, width=48),
        checkpoint="a.ckpt", epoch=3, step=40,
        config=to_tree(Config.model_validate({"model": SMALL, "data": {"image_size": 48}})),
    )  # fmt: skip
    path.write_bytes(to_safetensors(network, description, half=True))
    return {
        name: value.half().float() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }


def test_an_exported_file_is_taken_as_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = exported(tmp_path / "a.safetensors")
    network = build(SMALL)
    told = initialise(network, str(tmp_path / "a.safetensors"), SEVEN)
    assert told == f"the weights are those of {tmp_path}/a.safetensors"
    assert differing(network, state) == []
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    network = build(SMALL, 5)
    told = initialise(network, "pretrained:a", SEVEN[:5])
    assert told == (
        "the weights are those of pretrained:a, all but head.weight, head.bias, which are random"
    )
    network = build(SMALL)
    initialise(network, "pretrained", SEVEN[::-1])
    assert torch.equal(network.state_dict()["head.bias"], state["head.bias"].flip(0))
    with pytest.raises(UserError, match="choose from pretrained:a"):
        initialise(network, "pretrained:b", SEVEN)


def test_a_safetensors_file_of_others_may_hold_a_backbone(tmp_path: Path) -> None:
    state = build(PATTLITE).backbone.state_dict()
    save_file(state, tmp_path / "v1.safetensors")
    network = build(PATTLITE)
    told = initialise(network, str(tmp_path / "v1.safetensors"), SEVEN)
    assert told == f"the backbone's weights are those of {tmp_path}/v1.safetensors"
    assert differing(network.backbone, state) == []


def test_images_that_are_prepared_in_another_way_are_said(tmp_path: Path) -> None:
    exported(tmp_path / "a.safetensors")

    def told(**changes: object) -> str:
        content = {"model": SMALL, "data": {"image_size": 48}, **changes}
        config = Config.model_validate(content)
        network = build(SMALL, size=config.data.image_size)
        return initialise(network, str(tmp_path / "a.safetensors"), SEVEN, config)

    assert told().endswith("a.safetensors")
    assert told(data={"image_size": 64}).endswith(
        "; their images were prepared in another way: size 48 px, now 64 px"
    )
    mean = told(augment={"mean": [0.5, 0.5, 0.5]})
    assert "another way: mean (0.485, 0.456, 0.406), now (0.5, 0.5, 0.5)" in mean


def test_a_run_folder_means_its_best_checkpoint_on_val(tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    save(checkpoints / "epoch=0002-step=00000030-top1=0.5000.ckpt", SMALL)
    state = save(checkpoints / "epoch=0001-step=00000020-top1=0.7500.ckpt", SMALL)
    for folder in (tmp_path / "run", checkpoints):
        network = build(SMALL)
        assert "epoch=0001-" in initialise(network, str(folder), SEVEN)
        assert differing(network, state) == []


def test_a_file_of_a_backbones_weights_fills_the_backbone_only(tmp_path: Path) -> None:
    state = build(PATTLITE).backbone.state_dict()
    torch.save(state, tmp_path / "v1.pt")
    network = build(PATTLITE)
    rest = network.classifier.dense.weight.clone()  # type: ignore[union-attr, operator]
    told = initialise(network, str(tmp_path / "v1.pt"), SEVEN)
    assert told == f"the backbone's weights are those of {tmp_path}/v1.pt"
    assert differing(network.backbone, state) == []
    assert torch.equal(network.classifier.dense.weight, rest)  # type: ignore[union-attr, arg-type]


def test_what_cannot_be_begun_with_is_one_line(tmp_path: Path) -> None:
    save(tmp_path / "other.ckpt", PATTLITE)
    save(tmp_path / "longer.ckpt", {**SMALL, "cut": 6 + 3})
    (tmp_path / "folder").mkdir()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    for name, told in (
        ("nothing", "does not exist; give a local file, a checkpoint or a run folder"),
        ("folder", "is a folder, but not that of a run"),
        ("run", "no checkpoint in"),
        ("list.pt", "no state dict and is not a checkpoint of this package"),
        ("bad.safetensors", "is not a usable .safetensors file"),
        ("other.ckpt", "is of a network with another backbone"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            initialise(build(SMALL), str(tmp_path / name), SEVEN)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="another backbone"):
        initialise(build({**SMALL, "cut": 12}), str(tmp_path / "longer.ckpt"), SEVEN)
    with pytest.raises(UserError, match="no weights for MobileNetV1"):
        initialise(build(PATTLITE), "imagenet", SEVEN)
