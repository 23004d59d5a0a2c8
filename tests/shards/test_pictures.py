from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, Manifest, ShardInfo, SourceInfo
from pattlite_dist.shards.pictures import FLAG_COLOURS, _tile_size, draw_classes, draw_samples
from pattlite_dist.shards.samples import FLAGS, Row, Sheet

Pixels = NDArray[np.uint8]


def manifest(counts: dict[str, list[int]], image: ImageInfo, labels: list[str]) -> Manifest:
    shards = {
        split: [
            ShardInfo(
                name=f"{split}-000000.tar",
                samples=sum(numbers),
                bytes=1,
                sha256="0" * 64,
                class_counts=numbers,
            )
        ]
        for split, numbers in counts.items()
    }
    return Manifest.model_validate(
        {
            "created_by": "nobody",
            "source": SourceInfo(kind="none", name="none", sha256="0" * 64, rows=1),
            "labels": labels,
            "image": image,
            "samples_per_shard": 1,
            "shards": shards,
            "findings": {},
        }
    )


def read(path: Path) -> Pixels:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def places(picture: Pixels, tile: Pixels) -> list[tuple[int, int]]:
    """Where a tile, uint8 [H, W, 3], occurs exactly in a picture."""
    height, width, _ = tile.shape
    corner = (picture[:, :, None] == tile[0, 0]).all(axis=-1)[..., 0]
    return [
        (y, x)
        for y, x in zip(*map(np.ndarray.tolist, np.nonzero(corner)), strict=True)
        if picture[y : y + height, x : x + width].shape == tile.shape
        and (picture[y : y + height, x : x + width] == tile).all()
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_drawn_pixel_for_pixel_at_even_distances(tmp_path: Path, channels: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, channels, 48, 48), dtype=np.uint8)
    info = ImageInfo.model_validate({"channels": channels, "height": 48, "width": 48})
    flags: list[tuple[str, ...]] = [(), ("leak",), ("blank", "leak", "conflict")]
    rows = [Row(label, 9, None, list(zip(images[label], flags, strict=True))) for label in (0, 1)]
    path = tmp_path / "samples.png"
    draw_samples(manifest({"train": [9, 9]}, info, ["no", "yes"]), Sheet("train", rows), path)
    picture = read(path)
    found = []
    for image in images.reshape(6, channels, 48, 48):
        tile = np.broadcast_to(image, (3, 48, 48)).transpose(1, 2, 0)
        (place,) = places(picture, tile.repeat(2, axis=0).repeat(2, axis=1))
        found.append(place)
    y, x = found[0]
    assert found == [(y + row * 110, x + column * 110) for row in (0, 1) for column in (0, 1, 2)]
    for place, flag in zip(found, flags * 2, strict=True):
        frame = picture[place[0] - 1, place[1] - 4 : place[1] + 100]
        colours = [FLAG_COLOURS[name] for name in flag] or ["#ffffff"]
        for part, colour in zip(np.array_split(frame, len(colours)), colours, strict=True):
            assert (part == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all()


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_a_tile_is_a_whole_multiple_or_a_whole_part_of_a_sample(height: int, width: int) -> None:
    drawn = _tile_size(height, width)
    longer = max(height, width)
    if max(drawn) >= longer:
        assert drawn[0] * width == drawn[1] * height
        assert drawn[0] % height == 0
    else:
        factor = round(longer / max(drawn))
        assert drawn == (-(-height // factor), -(-width // factor))
    assert 48 <= max(drawn) <= 192


def test_large_samples_are_averaged_down(tmp_path: Path) -> None:
    image = np.zeros((1, 400, 200), np.uint8)
    image[0, ::2] = 200
    info = ImageInfo(channels=1, height=400, width=200)
    sheet = Sheet("val", [Row(1, 1, None, [(image, ())])])
    draw_samples(manifest({"val": [0, 1]}, info, ["a", "b"]), sheet, tmp_path / "x.png")
    assert places(read(tmp_path / "x.png"), np.full((100, 50, 3), 100, np.uint8))


def test_a_sheet_with_every_flag_and_any_class_name_is_drawn(tmp_path: Path) -> None:
    labels = ["$x_$", "a\nb", "x" * 300, "", "[red]", "日本"]
    image = np.zeros((3, 5, 9), np.uint8)
    rows = [Row(label, 10**6, 5, [(image, (flag,)) for flag in FLAGS]) for label in range(5)]
    info = ImageInfo(channels=3, height=5, width=9)
    named = manifest({"train": [10**6] * 6}, info, labels)
    # A letter that the font lacks would be a warning, and so an error here.
    draw_samples(named, Sheet("train", [*rows, Row(5, 0, None, [])]), tmp_path / "x.png")
    draw_classes(named, tmp_path / "classes.png")
    seen = {tuple(pixel) for pixel in read(tmp_path / "x.png").reshape(-1, 3).tolist()}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in FLAG_COLOURS.values()} <= seen


def test_a_sheet_of_empty_rows_is_drawn(tmp_path: Path) -> None:
    info = ImageInfo(channels=1, height=48, width=48)
    sheet = Sheet("train", [Row(0, 0, None, []), Row(1, 0, None, [])])
    draw_samples(manifest({"train": [1, 0]}, info, ["a", "b"]), sheet, tmp_path / "x.png")
    assert read(tmp_path / "x.png").shape[0] > 100


def widths(picture: Pixels, colour: str) -> list[int]:
    """The widths of the bars of a colour, from the top."""
    is_bar = (picture == list(bytes.fromhex(colour[1:]))).all(axis=-1).sum(axis=1)
    starts = np.flatnonzero((is_bar[1:] > 0) & (is_bar[:-1] == 0)) + 2
    return [int(is_bar[start]) for start in starts]


def test_bars_are_as_long_as_a_class_has_a_share_and_sorted(tmp_path: Path) -> None:
    info = ImageInfo(channels=1, height=48, width=48)
    counts = {"train": [100, 300, 200], "test": [1, 3, 2]}
    draw_classes(manifest(counts, info, ["a", "b", "c"]), tmp_path / "x.png")
    picture = read(tmp_path / "x.png")
    train, test = widths(picture, "#0072B2"), widths(picture, "#009E73")
    assert train == pytest.approx(test, abs=2)
    assert train == pytest.approx([train[0], train[0] * 2 / 3, train[0] / 3], abs=3)
    assert widths(picture, "#E69F00") == []


@pytest.mark.parametrize("classes", [2, 30])
def test_few_classes_and_many_are_drawn(tmp_path: Path, classes: int) -> None:
    info = ImageInfo(channels=1, height=48, width=48)
    counts = [10**6 // 2**label for label in range(classes)]
    labels = [f"class {label}" for label in range(classes)]
    draw_classes(manifest({"val": counts}, info, labels), tmp_path / "x.png")
    # The smallest bars are less than a pixel wide; only their counts show them.
    assert len(widths(read(tmp_path / "x.png"), "#E69F00")) >= min(classes, 5)


def test_a_picture_that_cannot_be_written_names_the_option(tmp_path: Path) -> None:
    info = ImageInfo(channels=1, height=48, width=48)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write .*x\.png: .*; choose a file with --picture"):
        draw_classes(manifest({"val": [1, 2]}, info, ["a", "b"]), tmp_path / "file" / "x.png")
