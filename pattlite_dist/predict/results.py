"""What a prediction is: plain, frozen, and made of Python's own numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from PIL.Image import Image

UNSURE = "unsure"  # the label below the least confidence


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture, in its upright pixels from the upper left corner."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Face:
    """A face and its expression.

    Attributes:
        box: where it is; the whole picture if faces were not searched for.
        score: how sure the detector is that it is a face, 0-1; None if there was none.
        label: the most probable class, or `unsure`.
        confidence: the highest probability.
        probabilities: by class, in the order of the network's outputs; calibrated if the network
            is.
    """

    box: Box
    score: float | None
    label: str
    confidence: float
    probabilities: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, ready for JSON."""
        return {**asdict(self), "probabilities": dict(self.probabilities)}


@dataclass(frozen=True)
class Prediction(Sequence[Face]):
    """The faces of one picture, the largest first; it is a sequence of them, and may be empty.

    Attributes:
        source: the path, or what stands for it.
        width, height: of the upright picture, pixels.
        faces: that were found.
        frame: its number in a video, from 0; None for a picture.
        seconds: of the video before the frame; None for a picture or a camera.
    """

    source: str
    width: int
    height: int
    faces: tuple[Face, ...]
    frame: int | None = None
    seconds: float | None = None
    _given: Any = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.faces)

    @overload
    def __getitem__(self, place: int) -> Face: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Face, ...]: ...
    def __getitem__(self, place: int | slice) -> Face | tuple[Face, ...]:
        return self.faces[place]

    def __iter__(self) -> Iterator[Face]:
        return iter(self.faces)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, ready for JSON; `frame` and `seconds` only if it has them."""
        place = {"frame": self.frame, "seconds": self.seconds}
        return {
            "source": self.source,
            **{name: value for name, value in place.items() if value is not None},
            "width": self.width,
            "height": self.height,
            "faces": [face.to_dict() for face in self.faces],
        }

    def draw(self) -> "Image":
        """A copy of the picture with its faces framed and labelled.

        A picture that was given by its path is read again: a prediction does not keep its pixels.
        That of a video's frame does, so drop each one before the next, or memory grows.

        Raises:
            UserError: the file is gone or has changed its size.
        """
        from pattlite_dist.predict.drawing import draw

        return draw(self, self._given)
