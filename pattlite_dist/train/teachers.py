"""Learning from other networks: teachers that see the student's batch, or what is stored of them.

As in Hinton et al., arXiv:1503.02531; that teacher and student see the same view of an image, and
that no label is needed then, is Beyer et al., arXiv:2106.05237.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pattlite_dist.config import Config, parse_written
from pattlite_dist.data.augment import resized
from pattlite_dist.data.module import FERData
from pattlite_dist.errors import UserError
from pattlite_dist.files import sha256_file
from pattlite_dist.model.build import (
    MobileNetV2ViT,
    Normalised,
    PattLite,
    build_model,
    normalisation,
    refuse_batch_dependent,
)
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.casting import forward
from pattlite_dist.train.initial import find, read


class Teacher:
    """A trained network, in evaluation mode, that is given another network's input.

    It is no module, so that it becomes no part of the student's weights, nor of their average.

    Args:
        model: the network.
        size: side of its input, pixels.
        given: how the input that it is given is normalised.
        own: how its own is.
        columns: for each class of the student, the place of the same one among its outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        size: int,
        given: Normalised,
        own: Normalised,
        columns: Sequence[int],
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.size, self.columns = size, torch.tensor(columns)
        self._change: tuple[torch.Tensor, torch.Tensor] | None = None
        if given != own:
            (mean, std), (own_mean, own_std) = (
                [torch.tensor(part).view(1, -1, 1, 1) for part in one] for one in (given, own)
            )
            self._change = (mean - own_mean) / own_std, std / own_std
        self._device: torch.device | None = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] for what the student is given, [n, 3, size, size]."""
        self._move(images.device)
        if self._change is not None:
            offset, scale = self._change
            images = torch.addcmul(offset, images, scale)
        if images.shape[-1] != self.size:
            images = resized(images, self.size)
        logits = forward(self.model, images.contiguous(memory_format=torch.channels_last))
        return logits.float()[:, self.columns]

    def _move(self, device: torch.device) -> None:
        if device == self._device:
            return
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.columns = self.columns.to(device)
        if self._change is not None:
            self._change = (self._change[0].to(device), self._change[1].to(device))
        self._device = device


class Lesson:
    """What there is to learn besides the labels: from teachers, or from stored targets.

    Args:
        teachers: none if the batches have targets of a file.
        temperature: of the comparison.
        share: of the loss.
        sources: SHA-256 of each file that it comes from, by `targets` or `teachers`.
        said: a line about it.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        temperature: float,
        share: float,
        sources: Mapping[str, list[str]],
        said: str = "",
    ) -> None:
        self.teachers, self.temperature, self.share = teachers, temperature, share
        self.sources, self.said = sources, said

    def __deepcopy__(self, memo: Any) -> "Lesson":
        return self  # the average of the weights is made of a copy of the module

    def added(
        self, loss: torch.Tensor, logits: torch.Tensor, batch: Mapping[str, Any]
    ) -> torch.Tensor:
        """The loss of a batch, with its share of what is learned from others.

        That is the divergence KL(teacher || student) of the tempered probabilities, times the
        square of the temperature, so that the size of its gradient hardly depends on it.

        Args:
            loss: of the labels; see `loss_of`.
            logits: float [n, classes].
            batch: see `data.batch.Batch`; `image` is what the student was given.
        """
        log = (logits.float() / self.temperature).log_softmax(1)
        losses = F.kl_div(log, self._goal(batch), reduction="none").sum(1) * self.temperature**2
        learned: torch.Tensor = (losses * batch["weight"]).mean()
        return learned if self.share == 1 else (1 - self.share) * loss + self.share * learned

    @torch.no_grad()
    def _goal(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Probabilities, float32 [n, classes]."""
        if not self.teachers:
            stored: torch.Tensor = batch["soft"]
            return stored
        tables = [(one(batch["image"]) / self.temperature).softmax(1) for one in self.teachers]
        return torch.stack(tables).mean(0)


def lesson_of(config: Config, student: PattLite | MobileNetV2ViT, data: FERData) -> Lesson | None:
    """What a run learns besides the labels; None if nothing.

    Raises:
        UserError: a teacher or a file is missing, or does not fit the shards.
    """
    distill, targets = config.distill, data.targets
    if targets is not None:
        facts = targets.facts
        said = (
            f"learns from {config.data.targets} (of {len(facts.runs)} run(s), view {facts.view}, "
            f"temperature {facts.temperature:g}, share {distill.share:g})"
        )
        sources = {"targets": [targets.sha256]}
        return Lesson([], facts.temperature, distill.share, sources, said)
    if not distill.teachers:
        return None
    given, labels = normalisation(config.augment, student), data.manifest.labels
    paths = [find(name, "distill.teachers") for name in distill.teachers]
    teachers = [teacher_of(path, labels, given) for path in paths]
    temperature = distill.temperature or 1.0
    said = (
        f"learns from {', '.join(map(str, paths))} (temperature {temperature:g}, "
        f"share {distill.share:g})"
    )
    hashes = {"teachers": [sha256_file(path) for path in paths]}
    return Lesson(teachers, temperature, distill.share, hashes, said)


def teacher_of(path: Path, labels: Sequence[str], given: Normalised) -> Teacher:
    """The teacher in a checkpoint or an exported file.

    Args:
        path: of the file.
        labels: class names of the student.
        given: how its input is normalised.

    Raises:
        UserError: the file is not one of ours, or of other classes, or of a network whose
            predictions depend on the batch.
    """
    content = read(path)
    if not checkpoints.is_ours(content):
        raise UserError(
            f"distill.teachers: {path} is not a network of this package; give a run folder, a "
            "checkpoint or an exported file"
        )
    content = checkpoints.checked(content, path)
    theirs = list(content["pattlite"]["labels"])
    if sorted(theirs) != sorted(labels):
        raise UserError(
            f"distill.teachers: {path} has the classes {', '.join(theirs)}, but the shards have "
            f"{', '.join(labels)}; give a teacher with the same classes"
        )
    config = parse_written(content["pattlite"]["config"], str(path))
    model = build_model(config.model, config.data.image_size, len(theirs))
    refuse_batch_dependent(model, "learn from a teacher")
    checkpoints.load_weights(model, content, path)
    columns = [theirs.index(label) for label in labels]
    own = normalisation(config.augment, model)
    return Teacher(model, config.data.image_size, given, own, columns)


def check_sources(content: Mapping[str, Any], path: Path, lesson: Lesson | None) -> None:
    """Check that a checkpoint learned from the same files.

    Args:
        content: of the checkpoint.
        path: of the checkpoint.
        lesson: of the run that continues it.

    Raises:
        UserError: a file has changed.
    """
    before = content["pattlite"].get("learned_from", {})
    now = {} if lesson is None else lesson.sources
    for kind, key in (("targets", "data.targets"), ("teachers", "distill.teachers")):
        if before.get(kind) != now.get(kind):
            raise UserError(
                f"{path.name} learned from other files than those that {key} names now; restore "
                "them, or set name to start a new run"
            )
