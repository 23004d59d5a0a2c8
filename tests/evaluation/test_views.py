import pytest
import torch

from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.views import crop_size, parse_views, probabilities


class Net(torch.nn.Module):
    """Logits from the grey levels of the left and right halves; records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        half = x.shape[-1] // 2
        halves = [x[..., :half].mean((1, 2, 3)), x[..., half:].mean((1, 2, 3))]
        return torch.stack([*halves, torch.zeros(len(x))], 1)


IMAGES = torch.randint(0, 256, (5, 1, 48, 48), dtype=torch.uint8,
                       generator=torch.Generator().manual_seed(0))  # fmt: skip


def prepare(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 40


def alone(images: torch.Tensor) -> torch.Tensor:
    return Net()(prepare(images)).double().softmax(1)


def test_words_become_views_and_one_is_always_first() -> None:
    assert parse_views("one") == ["one"]
    assert parse_views("ten-crop, flip") == ["one", "flip", "ten-crop"]
    assert parse_views("") == ["one"]
    with pytest.raises(UserError, match="'two' is not a view; choose from one, flip, ten-crop"):
        parse_views("one,two")


def test_one_view_is_the_image_and_flip_the_mean_with_its_mirror() -> None:
    found = probabilities(Net(), prepare, IMAGES, ["one", "flip"])
    assert torch.equal(found["one"], alone(IMAGES))
    mean = (alone(IMAGES) + alone(IMAGES.flip(-1))) / 2
    assert torch.equal(found["flip"], mean)
    assert not torch.allclose(found["one"], found["flip"], atol=1e-4)
    assert found["one"].dtype == torch.float64


def test_ten_crops_are_corners_and_centre_and_their_mirrors() -> None:
    net = Net()
    found = probabilities(net, lambda images: images.float(), IMAGES, ["one", "ten-crop"])
    places = [(0, 0), (0, 6), (6, 0), (6, 6), (3, 3)]
    crops = [IMAGES[..., y : y + 42, x : x + 42] for y, x in places]
    expected = [*crops, *(crop.flip(-1) for crop in crops)]
    assert len(net.seen) == 1 + 10
    rest = [seen.byte() for seen in net.seen[1:]]
    for crop in expected:
        assert sum(torch.equal(crop, seen) for seen in rest) == 1
    tables = torch.stack([Net()(crop.float()).double().softmax(1) for crop in expected])
    assert torch.allclose(found["ten-crop"], tables.mean(0), atol=1e-12)
    assert list(found) == ["one", "ten-crop"]


def test_a_crop_is_seven_eighths_of_the_image_and_never_nothing() -> None:
    assert crop_size((48, 48)) == [42, 42]
    assert crop_size((100, 224)) == [88, 196]
    assert crop_size((1, 1)) == [1, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_row_with_an_unusable_logit_is_nan_as_a_whole(value: float) -> None:
    def net(x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), 3)
        logits[2, 1] = value
        return logits

    table = probabilities(net, prepare, IMAGES, ["one"])["one"]  # type: ignore[arg-type]
    assert table[2].isnan().all()
    assert table[[0, 1, 3, 4]].isfinite().all()
