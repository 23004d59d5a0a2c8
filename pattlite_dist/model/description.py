"""What an exported file says about itself: the only place that knows its schema."""

from typing import Any, Literal

from pydantic import Field

from pattlite_dist.files import parse_json
from pattlite_dist.settings import Strict
from pattlite_dist.shards.manifest import ImageInfo

KEY = "pattlite"  # of the metadata in an exported file


class Description(Strict):
    """All that is needed to use a network, besides its weights.

    Attributes:
        created_by: the version that wrote the file.
        labels: class names, in the order of the outputs.
        image: the form of the images that it was trained on, and so of those that it is given.
        temperature: that the logits are divided by; None if it has not been calibrated.
        checkpoint, epoch, step: where the weights are from.
        shards: fingerprint of those that it was trained on.
        manifest: fingerprint of the shards that the temperature was fitted on.
        config: the configuration of the run, without the places of its machine, only where the
            network is built from it.
    """

    format: Literal["pattlite-model"] = "pattlite-model"
    version: Literal[1] = 1
    created_by: str
    labels: list[str] = Field(min_length=2)
    image: ImageInfo
    temperature: float | None = Field(default=None, gt=0)
    checkpoint: str
    epoch: int = Field(ge=0)
    step: int = Field(ge=0)
    shards: str | None = None
    manifest: str | None = None
    config: dict[str, Any] | None = None


def parse_description(text: str, where: str) -> Description:
    """Check the description in a file.

    Args:
        text: JSON; empty if the file has none.
        where: names the file in messages.

    Raises:
        UserError: it is missing, or of another version.
    """
    again = "export the run with this version (`pattlite export`)"
    return parse_json(text.encode() or b"{}", Description, f"{where}: its description", again)
