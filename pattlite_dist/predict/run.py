"""`pattlite predict`: sources in, rows out, in the memory of a few pictures."""

import itertools
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write
from pattlite_dist.predict.model import Faces, Model, Prepared
from pattlite_dist.predict.results import Prediction
from pattlite_dist.predict.rows import Format, header, rows
from pattlite_dist.predict.sources import Source, find_sources

_TOGETHER = 64  # pictures that share a batch


class _Failures:
    """Counts what could not be read, and names each on standard error."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ""

    def __call__(self, message: str) -> None:
        self.count += 1
        self.last = message
        print(f"pattlite: not read: {message}", file=sys.stderr, flush=True)


def predict(
    model: Model,
    words: Sequence[str],
    *,
    faces: Faces,
    every: int,
    min_confidence: float,
    form: Format,
    drawn: Path | None,
) -> int:
    """Print the rows of all sources; returns 1 if some could not be read.

    Args:
        model: that predicts.
        words: sources, as on the command line.
        faces: as for `Model.predict`.
        every: of a video's frames.
        min_confidence: as for `Model.predict`.
        form: of the rows.
        drawn: folder for pictures with their faces; None for none.

    Raises:
        UserError: nothing could be read, or what is required to find faces is missing.
    """
    if model.temperature is None:
        print(
            f"pattlite: {model.checkpoint} has not been calibrated, so its probabilities may be "
            "too high; `pattlite calibrate RUN` calibrates a run",
            file=sys.stderr,
        )
    model.check(faces)  # what is missing is an error before anything is read
    failed, count = _Failures(), 0
    print(header(form, model.labels), end="")
    album = None if drawn is None else _Album(drawn)
    for prediction in _predictions(model, words, faces, every, min_confidence, failed):
        count += 1
        print(rows(form, prediction, model.labels), end="", flush=True)
        if album is not None:
            album.add(prediction)
    if not count:
        what = failed.last if failed.count == 1 else f"none of {failed.count:,} sources"
        raise UserError(f"nothing could be read: {what}" if failed.count else "no source was given")
    return 1 if failed.count else 0


def _predictions(
    model: Model,
    words: Sequence[str],
    faces: Faces,
    every: int,
    least: float,
    failed: _Failures,
) -> Iterator[Prediction]:
    # Searching a photograph for faces takes longer than all that follows.
    together = _TOGETHER if faces == "whole" else 1
    waiting: deque[Future[list[Prepared | UserError]]] = deque()
    with ThreadPoolExecutor(1) as reader:
        for group in _groups(find_sources(words, failed), together):
            pictures = group[0].kind == "picture"
            if pictures:
                waiting.append(reader.submit(_read, model, group, faces))
            # The network works on one group while the next one is read; but after a group that is
            # not full, what follows may be long in coming.
            while len(waiting) > (pictures and len(group) == _TOGETHER):
                yield from model.classify(_readable(waiting.popleft().result(), failed), least)
            if not pictures:
                yield from _frames(model, group[0], faces, every, least, failed)
        for last in waiting:
            yield from model.classify(_readable(last.result(), failed), least)


def _frames(
    model: Model, source: Source, faces: Faces, every: int, least: float, failed: _Failures
) -> Iterator[Prediction]:
    try:
        yield from model.stream(source.place, every, faces=faces, min_confidence=least)
    except UserError as error:
        failed(str(error))


def _groups(sources: Iterable[Source], most: int) -> Iterator[list[Source]]:
    """Pictures together, the same ones in each run; a video or a camera alone."""
    group: list[Source] = []
    for source in sources:
        if source.kind == "picture":
            group.append(source)
        if group and (source.kind != "picture" or len(group) == most):
            yield group
            group = []
        if source.kind in ("video", "camera"):
            yield [source]
    if group:
        yield group


def _read(model: Model, group: Sequence[Source], faces: Faces) -> list[Prepared | UserError]:
    """Pictures, each prepared, or the error that says why it cannot be."""
    found: list[Prepared | UserError] = []
    for source in group:
        try:
            found.append(model.prepare(str(source.place), faces))
        except UserError as error:
            found.append(error)
    return found


def _readable(found: Sequence[Prepared | UserError], failed: _Failures) -> list[Prepared]:
    for one in found:
        if isinstance(one, UserError):
            failed(str(one))
    return [one for one in found if isinstance(one, Prepared)]


class _Album:
    """A folder of drawn pictures, whose names do not collide."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()

    def add(self, prediction: Prediction) -> None:
        """Draw a picture and write it as JPEG, whole or not at all."""
        name = Path(prediction.source).stem
        if prediction.frame is not None:
            name += f"-{prediction.frame:06d}"
        again = itertools.count(2)
        plain = name
        while name in self._names:
            name = f"{plain}-{next(again)}"
        self._names.add(name)
        with atomic_write(self._folder / f"{name}.jpg") as stream:
            prediction.draw().save(stream, "JPEG", quality=92)
