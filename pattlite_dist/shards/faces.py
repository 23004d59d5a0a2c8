"""Cartoon faces in the format of `fer2013.csv`, flaws included, to use in place of real data."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write
from pattlite_dist.shards.sources.fer2013 import FER2013_SIDE, FER2013_SPLITS

CANVAS = 4 * FER2013_SIDE  # drawn large, then averaged down to smooth the edges
FLAWED_TRAIN, FLAWED_EVAL = 50, 20  # smaller splits get no flaws

Line = NDArray[np.float64]
Curve = NDArray[np.complex128]  # x + iy, with y down, in units of half the head's height
T: Line = np.linspace(-1.0, 1.0, 25)  # along a lip, lid or brow; on lids and brows -1 is inner
DOME: Line = np.sqrt(1.0 - T**2)
CIRCLE: Curve = np.exp(1j * np.pi * T)


class Expression(NamedTuple):
    """What the muscles do, in units of half the head height."""

    brow_height: float
    brow_tilt: float  # > 0 pulls the inner ends down
    brow_arch: float
    eye_open: float
    eye_slant: float  # > 0 closes the inner half of the upper lid
    lower_lid: float  # < 0 where a raised cheek pushes it up
    mouth_width: float
    mouth_curve: float  # > 0 smiles
    mouth_open: float
    sneer: float  # lifts one corner of the mouth and lowers the brow above it
    teeth: float  # fraction of the open mouth they fill
    wrinkle: float  # depth of the lines at the root of the nose
    tongue: float  # how far it hangs out


EXPRESSIONS = (  # by label
    Expression(0.15, 0.13, 0, 0.13, 0.9, 0.1, 0.3, -0.14, 0.16, 0, 0.9, 0.4, 0),  # angry
    Expression(0.19, 0.03, 0.03, 0.06, 0.3, 0.04, 0.29, -0.12, 0.1, 0.06, 0, 1, 0.2),  # disgust
    Expression(0.31, -0.11, 0.02, 0.2, -0.3, 0.15, 0.33, -0.1, 0.2, 0, 0.45, 0, 0),  # fear
    Expression(0.27, 0, 0.06, 0.14, 0, -0.04, 0.38, 0.17, 0.27, 0, 0.4, 0, 0),  # happy
    Expression(0.25, -0.13, 0, 0.1, -0.6, 0.09, 0.23, -0.14, 0, 0, 0, 0, 0),  # sad
    Expression(0.37, 0, 0.08, 0.22, 0, 0.18, 0.17, 0, 0.4, 0, 0, 0, 0),  # surprise
    Expression(0.24, -0.02, 0.05, 0.13, 0, 0.09, 0.25, 0, 0, 0, 0, 0, 0),  # neutral
)


class _Pencil:
    """Draws on a grey canvas in head coordinates; only the pencil knows the pose."""

    def __init__(self, rng: np.random.Generator, background: float) -> None:
        self.image = Image.new("L", (CANVAS, CANVAS), round(background))
        self.draw = ImageDraw.Draw(self.image)
        turn, grow, stretch, right, down = rng.random(5) * 2 - 1
        self.scale = CANVAS * (0.40 + 0.035 * grow)
        self.pose = self.scale * np.exp(0.2j * turn)
        self.stretch = 1 + 0.08 * stretch  # broad and narrow heads
        self.centre = CANVAS * (0.5 + 0.5j + 0.045 * (right + 1j * down))

    def _pixels(self, curve: Curve) -> list[float]:
        posed = (self.stretch * curve.real + 1j * curve.imag) * self.pose + self.centre
        return list(posed.view(np.float64).tolist())

    def fill(self, curve: Curve, tone: float) -> None:
        self.draw.polygon(self._pixels(curve), fill=round(tone))

    def oval(self, centre: complex, rx: float, ry: float, tone: float) -> None:
        self.fill(centre + rx * CIRCLE.real + 1j * ry * CIRCLE.imag, tone)

    def stroke(self, curve: Curve, tone: float, width: float) -> None:
        self.draw.line(self._pixels(curve), round(tone), round(width * self.scale))
        for end in (curve[0], curve[-1]):  # round caps
            self.oval(end, width / 2, width / 2, tone)

    def between(self, x: Line, top: Line, bottom: Line, tone: float) -> None:
        self.fill(np.concatenate([x + 1j * top, (x + 1j * bottom)[::-1]]), tone)


def _head(pencil: _Pencil, rng: np.random.Generator, skin: float, hair: float) -> None:
    style, fringe, parting, volume, curls, coat = rng.random(6)
    if style > 0.6:  # long hair falls behind the neck
        pencil.oval(0.12j, 0.95, 1.15, hair)
    pencil.oval(1.75j, 1.15, 0.62, 40 + 180 * coat)
    pencil.oval(1.05j, 0.32, 0.4, 0.8 * skin)
    for ear in (-0.79, 0.79):
        pencil.oval(ear, 0.12, 0.18, 0.85 * skin)
    pencil.oval(0, 0.8, 1.0, skin)
    if style > 0.15:  # the others are bald
        lock = np.abs(np.sin((3 + 6 * curls) * (T + parting)))
        fall = -0.80 + 0.16 * fringe + 0.5 * T**2 + 0.12 * lock
        crown = -0.30 - (0.76 + 0.2 * volume + 0.06 * curls * lock) * DOME
        pencil.between(0.86 * T, crown, np.maximum(fall, crown), hair)


def _eyes(pencil: _Pencil, face: Expression, gaze: complex, skin: float, ink: float) -> None:
    for side in (-1, 1):
        x, y = side * (0.33 + 0.18 * T), -0.12
        lower = y + face.lower_lid * DOME
        upper = np.minimum(y - face.eye_open * DOME * (1 + face.eye_slant * T), lower)
        pencil.between(x, upper, lower, min(255, 110 + 0.7 * skin))
        # A wide-open eye shows a smaller iris; the lids cover what extends beyond them.
        iris = (0.14 - 0.25 * face.eye_open) * CIRCLE + side * 0.33 + 1j * y + gaze
        lids = [np.interp(iris.real, x[::side], lid[::side]) for lid in (upper, lower)]
        pencil.fill(iris.real + 1j * np.clip(iris.imag, *lids), 0.5 * ink)
        pencil.stroke(x + 1j * upper, ink, 0.05)
        lift = face.brow_height + face.brow_tilt * T + face.brow_arch * (1 - T**2)
        brow = side * (0.34 + 0.2 * T) + 1j * (y - lift + 0.7 * face.sneer * side)
        pencil.stroke(brow, ink, 0.085)


def _nose_and_mouth(pencil: _Pencil, face: Expression, skin: float, ink: float) -> None:
    pencil.stroke(0.1 * T + 1j * (0.24 + 0.05 * DOME), 0.65 * skin, 0.05)
    for y in (-0.02, 0.07):
        pencil.stroke(0.1 * T + 1j * (y - 0.05 * DOME), (1 - 0.4 * face.wrinkle) * skin, 0.03)
    x = face.mouth_width * T
    middle = 0.56 + face.mouth_curve * (0.5 - T**2) - face.sneer * T
    upper = middle - 0.35 * face.mouth_open * DOME
    lower = middle + 0.65 * face.mouth_open * DOME
    pencil.between(x, upper, lower, 0.5 * ink)
    pencil.between(x, upper, upper + face.teeth * (lower - upper), 235)
    for lip in (upper, lower):
        pencil.stroke(x + 1j * lip, ink, 0.055)
    if face.tongue > 0.04:  # less stays behind the teeth
        for edge, tone in ((0.04, ink), (0, 0.8 * skin)):
            tip = 1j * (lower.mean() + 0.4 * face.tongue)
            pencil.oval(tip, 0.12 + edge, face.tongue + edge, tone)


def draw_face(label: int, seed: int, index: int) -> NDArray[np.uint8]:
    """Draw face `index` of set `seed` (both 0 or more), uint8 [48, 48].

    `label` is 0 to 6 as in FER2013. The bytes are reproducible with the same NumPy and Pillow.
    """
    # Only `random` is used: the generator's stream least likely to change between NumPy versions.
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    neutral, full = np.array(EXPRESSIONS)[[-1, label]]
    # People show the same emotion more or less strongly, and no two show it quite alike.
    mixed = neutral + (full - neutral) * (0.5 + 0.7 * rng.random())
    face = Expression(*(mixed + 0.03 * (rng.random(len(full)) - 0.5)))
    background, complexion, contrast, glasses, flip, *gaze = rng.random(7)
    face = face._replace(sneer=face.sneer if flip < 0.5 else -face.sneer)
    skin, ink = np.array([1, 0.3]) * (100 + 130 * complexion)
    pencil = _Pencil(rng, 30 + 200 * background)
    _head(pencil, rng, skin, 15 + 0.6 * skin * contrast)
    _eyes(pencil, face, 0.06 * complex(gaze[0] - 0.5, gaze[1] - 0.5), skin, ink)
    _nose_and_mouth(pencil, face, skin, ink)
    for eye in (-0.33, 0.33) if glasses < 0.2 else ():
        pencil.stroke(eye - 0.1j + 0.26 * CIRCLE, ink, 0.04)
    grey = np.asarray(pencil.image.reduce(CANVAS // FER2013_SIDE), dtype=np.float64)
    exposure, across, down = rng.random(3) - 0.5
    ramp = np.linspace(-1.0, 1.0, FER2013_SIDE)
    light = 1 + 0.4 * exposure + 0.5 * across * ramp + 0.4 * down * ramp[:, None]
    noise = rng.random((3, *grey.shape)).sum(axis=0) - 1.5  # sensor noise, nearly normal
    return np.asarray(np.clip(grey * light + 10 * noise, 0, 255), dtype=np.uint8)


def _plan(sizes: tuple[int, int, int], seed: int) -> list[list[tuple[int | None, int]]]:
    """Rows of each split as (face index, label), shuffled; index None stands for a blank."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 2**63 - 1]))  # no face has this index
    splits: list[list[tuple[int | None, int]]] = []
    for size in sizes:
        labels = np.argsort(rng.random(size), kind="stable") % len(EXPRESSIONS)
        splits.append(list(enumerate(labels.tolist(), start=sum(map(len, splits)))))
    train = splits[0]
    for number, (rows, thirds) in enumerate(zip(splits, ((1, 2), (1,), ()), strict=True)):
        if len(train) < FLAWED_TRAIN or len(rows) < FLAWED_EVAL:
            continue
        for place in (len(rows) * third // 3 for third in thirds):
            rows[place] = (None, rows[place][1])
        for quarter in (1, 2, 3) if number else ():  # `+ number`: no row leaks into both splits
            rows[len(rows) * quarter // 4] = train[len(train) * quarter // 4 + number]
    return splits


def write_faces(path: Path, train: int, val: int, test: int, seed: int = 0) -> None:
    """Write set `seed` as a `fer2013.csv` with `train`, `val` and `test` rows, at least 1 of each.

    With 50 or more training rows, two of them are blank. In that case, splits of 20 or more rows
    are flawed too: `PublicTest` has one blank row, and `PublicTest` and `PrivateTest` each have
    three copies of training rows.

    Raises:
        UserError: a count or the seed is out of range, or the file cannot be written.
    """
    if min(train, val, test) < 1:
        raise UserError(f"cannot draw {train}, {val} and {test} faces; counts must be 1 or more")
    if not 0 <= seed < 2**63:
        raise UserError(f"cannot draw with seed {seed}; it must be from 0 to 2**63 - 1")
    with atomic_write(path) as stream:
        stream.write(b"emotion,pixels,Usage\n")
        for usage, rows in zip(FER2013_SPLITS, _plan((train, val, test), seed), strict=True):
            for index, label in rows:
                blank = [0] * FER2013_SIDE**2
                pixels = blank if index is None else draw_face(label, seed, index).ravel().tolist()
                stream.write(f"{label},{' '.join(map(str, pixels))},{usage}\n".encode())
