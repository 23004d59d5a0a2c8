"""The views of an image that are scored: itself, with its mirror, or ten crops; never mixed."""

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torchvision.transforms.functional import ten_crop

from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.schema import View
from pattlite_dist.runtime.arithmetic import plain_arithmetic

VIEWS: tuple[View, ...] = get_args(View)
_CROP = 7 / 8  # a crop's side relative to the image's, as 224 to 256 in AlexNet's ten

Prepare = Callable[[torch.Tensor], torch.Tensor]


def parse_views(text: str) -> list[View]:
    """Parse `one,flip,ten-crop`; the result always starts with `one`.

    Raises:
        UserError: a word is not a view.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in VIEWS:
            raise UserError(f"--views: {word!r} is not a view; choose from {', '.join(VIEWS)}")
    return [view for view in VIEWS if view == "one" or view in words]


def probabilities(
    model: torch.nn.Module, prepare: Prepare, images: torch.Tensor, views: Sequence[View]
) -> dict[View, torch.Tensor]:
    """Mean probabilities over the images of each view, float64 [n, classes].

    Args:
        model: in evaluation mode.
        prepare: converts uint8 images of any size to the model's input.
        images: uint8 [n, C, H, W], on the model's device.
        views: to predict from; the first is `one`.

    Returns:
        A row is NaN if one of its logits is NaN or infinite.
    """

    def predict(part: torch.Tensor) -> torch.Tensor:
        with plain_arithmetic(part.device.type):
            logits = model(prepare(part).contiguous(memory_format=torch.channels_last)).double()
        usable = logits.isfinite().all(1, keepdim=True)
        return torch.where(usable, logits.softmax(1), torch.nan)

    one = predict(images)
    found: dict[View, torch.Tensor] = {"one": one}
    if "flip" in views:
        found["flip"] = (one + predict(images.flip(-1))) / 2
    if "ten-crop" in views:
        crops = ten_crop(images, crop_size(images.shape[-2:]))
        found["ten-crop"] = torch.stack([predict(crop) for crop in crops]).mean(0)
    return found


def predictor(model: torch.nn.Module, prepare: Prepare) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from images to their probabilities from the view `one`; see `probabilities`."""
    return lambda images: probabilities(model, prepare, images, ("one",))["one"]


def crop_size(shape: Sequence[int]) -> list[int]:
    """Height and width of a crop of an image of this height and width, pixels."""
    return [max(round(side * _CROP), 1) for side in shape]
