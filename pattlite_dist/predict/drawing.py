"""A picture with its faces framed and labelled, legible with any colour vision."""

from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from pattlite_dist.errors import UserError
from pattlite_dist.predict.pictures import open_picture

if TYPE_CHECKING:
    from pattlite_dist.predict.results import Face, Prediction

# Okabe and Ito's colours, which evaluation's plots use for the same classes, and the colour of the
# text on each.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DARK = {"#56B4E9", "#E69F00", "#CC79A7"}
_UNSURE = "#767676"


def draw(prediction: "Prediction", given: Any) -> Image.Image:
    """Draw on a copy of a picture, RGB.

    Args:
        prediction: of the picture.
        given: the picture, as it was given to `predict`.

    Raises:
        UserError: it cannot be read any more, or has another size.
    """
    name, picture = open_picture(given)
    if picture.size != (prediction.width, prediction.height):
        raise UserError(
            f"{name} is {picture.width}x{picture.height}, but was {prediction.width}x"
            f"{prediction.height} when it was predicted; predict it again"
        )
    drawn = picture.convert("RGB") if picture.mode != "RGB" else picture.copy()
    canvas = ImageDraw.Draw(drawn)
    # Thick enough to be seen when the whole picture is shown on a screen.
    line = max(2, round(max(drawn.size) / 320))
    font = ImageFont.load_default(size=max(11.0, max(drawn.size) / 45))
    for face in reversed(prediction.faces):  # the largest on top
        _draw_face(canvas, face, line, font, drawn.size)
    return drawn


def _draw_face(
    canvas: ImageDraw.ImageDraw, face: "Face", line: int, font: Any, size: tuple[int, int]
) -> None:
    box = face.box
    classes = list(face.probabilities)
    sure = face.label in classes
    colour = _COLOURS[classes.index(face.label) % len(_COLOURS)] if sure else _UNSURE
    right, bottom = box.left + box.width - 1, box.top + box.height - 1
    halo = max(1, line // 3)  # without it, a black frame is lost on a dark coat
    around = (box.left - halo, box.top - halo, right + halo, bottom + halo)
    canvas.rectangle(around, outline="white", width=line + 2 * halo)
    canvas.rectangle((box.left, box.top, right, bottom), outline=colour, width=line)
    text = f"{face.label} {100 * face.confidence:.0f} %"
    left, top, end, under = canvas.textbbox((0, 0), text, font=font)
    wide, high = end - left + 3 * line, under - top + 3 * line
    # Above the face; inside it where there is no room above; never beyond the picture's edge.
    x = min(max(box.left, 0), max(size[0] - wide, 0))
    y = box.top - high if box.top >= high else box.top
    canvas.rectangle((x, y, x + wide, y + high), fill=colour)
    ink = "black" if colour in _DARK else "white"
    canvas.text((x + 1.5 * line - left, y + 1.5 * line - top), text, font=font, fill=ink)
