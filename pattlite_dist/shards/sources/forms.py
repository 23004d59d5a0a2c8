"""The size and mode that most images of a data set have, from their headers."""

import io
import warnings
from collections import Counter
from collections.abc import Sequence
from statistics import median_low
from typing import NamedTuple

from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo
from pattlite_dist.shards.sources.base import Reading
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.images import FORMATS, MOST_PIXELS, UPRIGHT, orientation

MOST_EXAMINED = 2000  # images; of more, that many at equal distances
_HEADER = 1 << 16  # bytes that nearly always hold the header; otherwise the whole file is read
_SIDEWAYS = {
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
}


class Form(NamedTuple):
    """Upright, and as it would be decoded: grey (1) or colour (3)."""

    channels: int
    width: int
    height: int

    def left_open(self, reading: Reading) -> str:
        """What the user leaves to it, such as `48x48 grey`."""
        size = f"{self.width}x{self.height}" if reading.image_size is None else ""
        mode = ("grey" if self.channels == 1 else "colour") if reading.channels is None else ""
        return f"{size} {mode}".strip()


def form_of(data: bytes) -> Form | None:
    """The form of an image from its first bytes; None if they do not tell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                width, height = picture.size
                grey = picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I")
                # Pillow would decode a PNG to look for what may follow its pixels.
                looks = picture.format != "PNG" or "exif" in picture.info
                sideways = looks and UPRIGHT.get(orientation(picture)) in _SIDEWAYS
    except Exception:  # damaged files raise anything; decoding will tell what is wrong
        return None
    if width * height > MOST_PIXELS:
        return None
    return Form(1 if grey else 3, *((height, width) if sideways else (width, height)))


def examine(files: Files, names: Sequence[str], most: int = MOST_EXAMINED) -> list[Form]:
    """The forms of images, of at most `most` at equal distances; damaged ones are passed over."""
    step = max(len(names) / most, 1)
    forms = []
    for number in range(min(len(names), most)):
        name = names[int(number * step)]
        try:
            form = form_of(files.read(name, _HEADER)) or form_of(files.read(name))
        except UserError:  # reading it in its turn will tell
            continue
        if form is not None:
            forms.append(form)
    return forms


def commonest(forms: Sequence[Form]) -> Form:
    """The commonest mode and, among its images, the commonest size.

    Of sizes that are equally common, such as those of photographs that all differ, the one with
    the area nearest to the median is taken, then the first.
    """
    channels = Counter(form.channels for form in forms).most_common(1)[0][0]
    counts = Counter(form for form in forms if form.channels == channels)
    middle = median_low(form.width * form.height for form in forms if form.channels == channels)
    most = max(counts.values())
    return min(
        (form for form, count in counts.items() if count == most),
        key=lambda form: abs(form.width * form.height - middle),
    )


def form_of_most(
    files: Files, names: Sequence[str], reading: Reading
) -> tuple[ImageInfo | None, str]:
    """The form of most images, and a line if they differ in what the user leaves open.

    None if no image can be read.
    """
    return decided(examine(files, names), len(names), reading)


def decided(forms: Sequence[Form], images: int, reading: Reading) -> tuple[ImageInfo | None, str]:
    """The commonest of `forms`, which are those of some of the images, and a line about it."""
    if not forms:
        return None, ""
    form = commonest(forms)
    open_form = form.left_open(reading)
    same = sum(one.left_open(reading) == open_form for one in forms)
    info = ImageInfo.model_validate(form._asdict())
    if same == len(forms):
        return info, ""
    among = f"{len(forms):,}" + (f" examined of {images:,}" if images > len(forms) else "")
    return info, (
        f"images differ in size or mode: the set takes the commonest, {open_form}, of {same:,} "
        f"among {among}; others are converted (see --image-size, --channels, --other-images refuse)"
    )
