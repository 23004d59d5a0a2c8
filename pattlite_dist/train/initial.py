"""The weights that a run begins with: random ones, a backbone's, or those of another run."""

from pathlib import Path
from typing import Any

from pattlite_dist.config import Config, parse_written
from pattlite_dist.errors import UserError
from pattlite_dist.files import load_tensors
from pattlite_dist.location import is_bucket, is_pretrained, no_weights
from pattlite_dist.model import exported
from pattlite_dist.model import weights as installed
from pattlite_dist.model.backbones import fill, pretrained, state_of
from pattlite_dist.model.build import MobileNetV2ViT, PattLite, normalisation
from pattlite_dist.model.description import parse_description
from pattlite_dist.train import checkpoint as checkpoints

RANDOM = "the weights are random; model.weights names others to begin with"


def initialise(
    model: PattLite | MobileNetV2ViT,
    weights: str | None,
    labels: list[str],
    config: Config | None = None,
) -> str:
    """Give a new network the weights that `model.weights` names; returns what to say of them.

    Args:
        model: with random weights.
        weights: `imagenet`, a file of a backbone's weights, a checkpoint, a run folder or an
            exported file of ours, `pretrained[:NAME]`, or None or `none`.
        labels: class names, in the order of the network's outputs.
        config: of the run, to say where its images are prepared in another way.

    Raises:
        UserError: there are no such weights, or they do not fit the backbone.
    """
    if weights in (None, "none"):
        return RANDOM
    if weights == "imagenet":
        fill(model.backbone, pretrained(model.backbone), weights)
        return "the backbone's weights are torchvision's of ImageNet"
    path = find(str(weights))
    content = read(path)
    if not checkpoints.is_ours(content):
        fill(model.backbone, state_of(content, path), str(path))
        return f"the backbone's weights are those of {path}"
    left_out = transfer(model, checkpoints.checked(content, path), path, labels)
    but = f", all but {', '.join(left_out)}, which are random" if left_out else ""
    other = [] if config is None else other_preparation(model, content, path, config)
    named = str(weights) if is_pretrained(str(weights)) else path
    return "; ".join([f"the weights are those of {named}{but}", *other])


def read(path: Path) -> Any:
    """What a file of weights contains; of an exported one, as a checkpoint of ours would have it.

    Raises:
        UserError: the file is damaged.
    """
    if path.suffix != exported.SUFFIX:
        return load_tensors(path)
    text, state = exported.read_tensors(path)
    if not text:
        return state
    description = parse_description(text, str(path))
    return exported.as_checkpoint(description, state)


def other_preparation(
    model: PattLite | MobileNetV2ViT, content: dict[str, Any], path: Path, config: Config
) -> list[str]:
    """How the images that weights were trained on were prepared, where it is done otherwise now.

    Args:
        model: that now has the weights.
        content: of their checkpoint.
        path: of their file.
        config: of the run that begins with them.
    """
    before = parse_written(content["pattlite"]["config"], str(path))
    both: list[dict[str, Any]] = []
    for one in (before, config):
        mean, deviation = normalisation(one.augment, model)
        size = f"{one.data.image_size} px"
        both.append({"size": size, "mean": mean, "deviation": deviation})
    told = [f"{name} {both[0][name]}, now {both[1][name]}" for name in both[0]
            if both[0][name] != both[1][name]]  # fmt: skip
    return [f"their images were prepared in another way: {', '.join(told)}"] if told else []


def find(weights: str, key: str = "model.weights") -> Path:
    """The file that a key of the configuration means: itself, or a run's best checkpoint on val.

    A run in a bucket is brought to this machine first.

    Raises:
        UserError: there is no such file, or a folder without checkpoints.
    """
    if is_pretrained(weights):
        return installed.find(weights)
    path = Path(weights)
    if is_bucket(weights):
        from pattlite_dist.buckets.copies import here

        try:
            path = here(weights)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(no_weights(key, path))
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    if not folder.is_dir():
        raise UserError(
            f"{key}: {path} is a folder, but not that of a run; give a run folder, one of "
            "its checkpoints, or a file of weights"
        )
    return checkpoints.best(folder)


def transfer(
    model: PattLite | MobileNetV2ViT, content: dict[str, Any], path: Path, labels: list[str]
) -> list[str]:
    """Copy the weights of a run's network into another network, as far as they fit.

    They are the averaged weights if the run averaged them, as in an evaluation. The backbone has to
    fit as a whole. The head is copied by class names, in whatever order they are.

    Returns:
        Names of the parameters and statistics that keep their initial values: those of another
        shape, such as positions for another image size, and the head of other classes.

    Raises:
        UserError: the checkpoint is one of another backbone.
    """
    given = {name.removeprefix("model."): value for name, value in content["state_dict"].items()}
    theirs = content["pattlite"]["labels"]
    for name in [name for name in given if is_head(name)]:
        if sorted(theirs) != sorted(labels) or len(given[name]) != len(theirs):
            del given[name]
        elif theirs != labels:
            given[name] = given[name][[theirs.index(label) for label in labels]]
    own = model.state_dict()
    fitting = {
        name: given[name]
        for name, value in own.items()
        if name in given and given[name].shape == value.shape
    }
    left_out = [name for name in own if name not in fitting]
    wrong = next((name for name in left_out if name.startswith("backbone.")), None)
    if wrong is not None:
        raise UserError(
            f"model.weights: {path} is of a network with another backbone ({wrong} is missing or "
            "has another shape); set model.name, model.cut and model.width_mult as in its run"
        )
    model.load_state_dict({**own, **fitting})
    return left_out


def is_head(name: str) -> bool:
    """Whether a parameter is of the layer whose outputs are the classes."""
    return name.rpartition(".")[0].rpartition(".")[2] == "head"


def said_before(weights: str | None) -> str | None:
    """What a continued run says of the weights that it began with; None if they were trained."""
    return "it began with random weights" if weights in (None, "none") else None
