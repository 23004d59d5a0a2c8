"""A network that is ready to use: pictures in, faces and their expressions out."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, overload

import numpy as np

from pattlite_dist.errors import UserError
from pattlite_dist.predict.faces import Detector, cut
from pattlite_dist.predict.network import Network
from pattlite_dist.predict.pictures import Picture, open_picture
from pattlite_dist.predict.results import UNSURE, Box, Face, Prediction
from pattlite_dist.shards.sources.base import Pixels
from pattlite_dist.shards.sources.images import fit

Faces = Literal["auto", "largest", "whole"]
_BATCH = 64  # crops that the network sees at once


@dataclass(frozen=True)
class Prepared:
    """A picture of which only the crops are left.

    Attributes:
        blank: its prediction, as yet without faces.
        places: box and score of each face.
        crops: uint8 [n, C, H, W].
    """

    blank: Prediction
    places: Sequence[tuple[Box, float | None]]
    crops: Pixels


class Model:
    """A trained network; made by `pattlite_dist.load`.

    Args:
        network: that predicts.
        detector: a YuNet model to find faces with; default: the one of the extra `faces`.
    """

    def __init__(self, network: Network, detector: str | os.PathLike[str] | None = None) -> None:
        self._network = network
        self._file = detector
        self._found: Detector | None = None

    def __repr__(self) -> str:
        return f"<pattlite_dist.Model {self.checkpoint}: {', '.join(self.labels)}>"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the network's outputs."""
        return tuple(self._network.description.labels)

    @property
    def temperature(self) -> float | None:
        """What its probabilities were calibrated with; None if they were not."""
        return self._network.description.temperature

    @property
    def checkpoint(self) -> str:
        """The name of the checkpoint that the weights are from."""
        return self._network.description.checkpoint

    @overload
    def predict(
        self, source: Picture, *, faces: Faces = ..., min_confidence: float = ...
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        source: list[Any] | tuple[Any, ...],
        *,
        faces: Faces = ...,
        min_confidence: float = ...,
    ) -> list[Prediction]: ...
    def predict(
        self,
        source: Picture | list[Any] | tuple[Any, ...],
        *,
        faces: Faces = "auto",
        min_confidence: float = 0.0,
    ) -> Prediction | list[Prediction]:
        """Find the faces of a picture, or of each picture of a list, and their expressions.

        Args:
            source: paths, PIL images, or NumPy arrays of uint8: [height, width, 3] in the order
                red, green, blue, or [height, width] for grey. Pictures may differ in size.
            faces: `auto` finds all of them, `largest` keeps only the largest one, `whole` takes
                each picture for a face that has been cut out already.
            min_confidence: a face whose highest probability is lower is `unsure`.

        Returns:
            A prediction, or a list of them for a list or a tuple.

        Raises:
            UserError: a picture cannot be read, or what is required to find faces is missing.
        """
        self.check(faces, min_confidence)
        if isinstance(source, list | tuple):
            prepared = [self.prepare(one, faces) for one in source]
            return self.classify(prepared, min_confidence)
        return self.classify([self.prepare(source, faces)], min_confidence)[0]

    def stream(
        self,
        video: str | os.PathLike[str] | int,
        every: int = 1,
        *,
        faces: Faces = "auto",
        min_confidence: float = 0.0,
    ) -> Iterator[Prediction]:
        """Predict the frames of a video one after the other, in the memory of one.

        Args:
            video: a file, or the number of a camera.
            every: predict each frame whose number is a multiple of it.
            faces: as for `predict`.
            min_confidence: as for `predict`.

        Raises:
            UserError: the video cannot be read, or what is required to do so is missing.
        """
        from pattlite_dist.predict.video import frames

        self.check(faces, min_confidence)
        return (
            self.classify([self.prepare(frame.picture, faces, frame.about)], min_confidence)[0]
            for frame in frames(video, every)
        )

    def prepare(
        self, given: Picture, faces: Faces, about: dict[str, Any] | None = None
    ) -> Prepared:
        """Read a picture and cut its faces out.

        Args:
            given: the picture.
            faces: as for `predict`.
            about: fields of its prediction, if it is a video's frame.

        Raises:
            UserError: as for `predict`.
        """
        image = self._network.description.image
        name, picture = open_picture(given)
        if faces == "whole":
            box = Box(0, 0, picture.width, picture.height)
            places: list[tuple[Box, float | None]] = [(box, None)]
            crops = fit(picture, image)[None]
        else:
            found = self._detector().find(picture)[: 1 if faces == "largest" else None]
            places = [(face.box, face.score) for face in found]
            crops = np.array([cut(picture, face.square, image) for face in found], np.uint8)
        fields = {"source": name, **(about or {})}
        blank = Prediction(
            **fields, width=picture.width, height=picture.height, faces=(), _given=given
        )
        return Prepared(blank, places, crops.reshape(-1, *image.shape))

    def classify(
        self, prepared: Sequence[Prepared], min_confidence: float = 0.0
    ) -> list[Prediction]:
        """The predictions for pictures that have been prepared; their faces share batches.

        Raises:
            UserError: the network's outputs are NaN or infinite.
        """
        crops = np.concatenate([one.crops for one in prepared]) if prepared else None
        if crops is None or not len(crops):
            return [one.blank for one in prepared]
        starts = range(0, len(crops), _BATCH)
        table = np.concatenate(
            [self._network.probabilities(crops[start : start + _BATCH]) for start in starts]
        )
        if not np.isfinite(table).all():
            raise UserError(
                f"the outputs of {self.checkpoint} are NaN or infinite: its training has diverged; "
                "use another one"
            )
        rows = iter(table.tolist())
        faces = [
            tuple(self._face(*place, next(rows), min_confidence) for place in one.places)
            for one in prepared
        ]
        return [replace(one.blank, faces=mine) for one, mine in zip(prepared, faces, strict=True)]

    def check(self, faces: str, min_confidence: float = 0.0) -> None:
        """Check arguments, and that faces can be found if they are to be.

        Raises:
            UserError: as for `predict`.
        """
        if faces not in get_args(Faces):
            raise UserError(f"faces={faces!r}: choose from {', '.join(get_args(Faces))}")
        if not 0 <= min_confidence <= 1:
            raise UserError(f"min_confidence={min_confidence} is not between 0 and 1")
        if faces != "whole":
            self._detector()

    def _detector(self) -> Detector:
        if self._found is None:
            self._found = Detector(self._file)
        return self._found

    def _face(self, box: Box, score: float | None, row: list[float], least: float) -> Face:
        highest = max(row)
        label = self.labels[row.index(highest)] if highest >= least else UNSURE
        return Face(box, score, label, highest, dict(zip(self.labels, row, strict=True)))
