"""The worst mistakes of evaluated runs, as pictures on the page: only where they are asked for."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.report.html import escape, tag
from pattlite_dist.report.record import RunRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST = 32  # pictures of a run


def pictures(records: Sequence[RunRecord]) -> str:
    """HTML of the mistakes of every evaluated run.

    Raises:
        UserError: no run was evaluated, or the images cannot be read.
    """
    scored = [record for record in records if record.evaluation and record.predictions]
    if not scored:
        raise UserError(
            "--images shows mistakes, but no run was evaluated; `pattlite evaluate RUN`"
        )
    return "".join(map(_of_run, scored))


def _of_run(record: RunRecord) -> str:
    from pattlite_dist.evaluation.scores import worst_mistakes

    assert record.evaluation is not None
    split = "test" if "test" in record.predictions else "val"
    found = record.predictions[split]
    worst = worst_mistakes(found, _MOST)
    try:
        images = _images(record, split, worst.ids)
    except (UserError, Unreachable) as error:
        raise UserError(f"{record.run}: --images needs the run's shards: {error}") from error
    names = record.evaluation.labels
    sheet = ""
    for image, label, row in zip(images, worst.labels, worst.probabilities["one"], strict=True):
        said = f"{names[label]} → {names[int(row.argmax())]} {100 * row.max():.0f} %"
        sheet += tag(
            "figure",
            f'<img alt="{escape(said)}" src="data:image/png;base64,{_png(image)}">'
            + tag("figcaption", escape(said)),
        )
    wrong = int((found.guesses() != found.labels).sum())
    text = (
        f"{record.name}, {split}: the {len(worst)} most confident of {wrong:,} mistakes "
        "(true → predicted)"
    )
    return tag("p", escape(text)) + tag("div", sheet, class_="mistakes")


def _images(record: RunRecord, split: Any, ids: "NDArray[Any]") -> "NDArray[Any]":
    """The images of samples of a split, uint8 [n, C, H, W]."""
    from pattlite_dist.data.fetch import fetch_manifest
    from pattlite_dist.data.module import open_split, origin
    from pattlite_dist.tracking.folder import load_config

    assert record.evaluation is not None
    data = load_config(record.run).data
    manifest = fetch_manifest(origin(data))
    if manifest.fingerprint() != record.evaluation.manifest:
        raise UserError(f"{data.shards} are not those that were evaluated")
    images: NDArray[Any] = open_split(data, manifest, split).gather(ids).block.images
    return images


def _png(image: "NDArray[Any]") -> str:
    """A picture, uint8 [C, H, W], as text."""
    from PIL import Image

    pixels, stream = image.transpose(1, 2, 0), io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        stream, "png", optimize=True
    )
    return base64.b64encode(stream.getvalue()).decode()
