import copy
from typing import Any

import pytest
import torch
from torch import nn

from pattlite_dist.train.teachers import Lesson, Teacher

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CLASSES = 4


class Means(nn.Module):
    """Logits from the means of the channels; remembers what it was given."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        means = images.mean((2, 3))
        return torch.cat([means, means[:, :1] * 2], 1)


def images(n: int = 5, size: int = 8) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def a_batch() -> dict[str, Any]:
    random = torch.Generator().manual_seed(1)
    soft = torch.rand(5, CLASSES, generator=random)
    weight = torch.tensor([1.25, 1.25, 1.25, 0.0, 1.25])
    return {"image": images(), "soft": soft / soft.sum(1, keepdim=True), "weight": weight}


def by_hand(goal: torch.Tensor, logits: torch.Tensor, temperature: float) -> torch.Tensor:
    log = (logits / temperature).log_softmax(1)
    losses = (goal * (goal.log() - log)).sum(1) * temperature**2
    return losses[torch.tensor([0, 1, 2, 4])].mean()  # the fourth one does not count


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_share_of_the_loss_is_the_divergence_from_what_is_stored(
    temperature: float, share: float
) -> None:
    batch, logits = a_batch(), torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(2))
    found = Lesson([], temperature, share, {}).added(torch.tensor(7.0), logits, batch)
    expected = (1 - share) * 7 + share * by_hand(batch["soft"], logits, temperature)
    torch.testing.assert_close(found, expected)


def test_teachers_are_asked_about_what_the_student_sees_and_their_mean_is_learned() -> None:
    batch, logits = a_batch(), torch.zeros(5, CLASSES, requires_grad=True)
    models = [Means(), Means()]
    teachers = [
        Teacher(model, 8, PLAIN, PLAIN, order)
        for model, order in zip(models, ([0, 1, 2, 3], [3, 2, 1, 0]), strict=True)
    ]
    loss = Lesson(teachers, 2.0, 1.0, {}).added(torch.tensor(0.0), logits, batch)
    for model in models:
        assert torch.equal(model.seen, batch["image"]) and not model.training
    tables = [
        (model(batch["image"])[:, order] / 2).softmax(1)
        for model, order in zip(models, ([0, 1, 2, 3], [3, 2, 1, 0]), strict=True)
    ]
    torch.testing.assert_close(loss, by_hand((tables[0] + tables[1]) / 2, logits, 2.0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and (logits.grad[3] == 0).all()


def test_a_teacher_is_given_its_own_size_and_normalisation() -> None:
    given = ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    own = ((0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
    pixels = images()

    def normalised(by: tuple[tuple[float, ...], tuple[float, ...]]) -> torch.Tensor:
        mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in by)
        return (pixels - mean) / std

    model = Means()
    Teacher(model, 8, given, own, range(CLASSES))(normalised(given))
    torch.testing.assert_close(model.seen, normalised(own))
    Teacher(model, 12, given, own, range(CLASSES))(normalised(given))
    assert model.seen.shape == (5, 3, 12, 12)


def test_teachers_are_no_part_of_the_student_nor_of_a_copy_of_it() -> None:
    student = nn.Linear(2, 2)
    student.lesson = Lesson([Teacher(Means(), 8, PLAIN, PLAIN, [0])], 1.0, 1.0, {})
    assert copy.deepcopy(student).lesson is student.lesson
    assert list(student.state_dict()) == ["weight", "bias"]
