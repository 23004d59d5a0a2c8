"""Small trees of pictures, and checks for every source of image files."""

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources.base import Item, Reading, Source
from pattlite_dist.shards.sources.files import Files, open_files

Make = Callable[[Files, Reading], Source]


def picture(seed: int = 0, mode: str = "L", size: tuple[int, int] = (48, 48)) -> Image.Image:
    """A picture of random pixels."""
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def encoded(image: Image.Image | int, form: str = "PNG", **options: Any) -> bytes:
    """The file bytes of an image, or of the picture for a seed."""
    stream = io.BytesIO()
    (picture(image) if isinstance(image, int) else image).save(stream, form, **options)
    return stream.getvalue()


def pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """As a decoder gives them: uint8 [C, H, W]."""
    array = np.asarray(image, np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def images(names: Iterable[str]) -> dict[str, bytes]:
    """Different pixels for each name."""
    return {name: encoded(seed) for seed, name in enumerate(names)}


def write_tree(folder: Path, content: Mapping[str, bytes]) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, content: Mapping[str, bytes], top: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(content, reverse=True):
            archive.writestr(top + name, content[name])
    return path


def refused(action: Callable[[], object], *parts: str) -> str:
    """The message of the error that `action` raises: one line with `parts` and a fix."""
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable()
    for part in parts:
        assert part in message
    what, fix = message.rsplit("; ", 1)
    assert what and fix
    return message


def read(make: Make, path: Path, **reading: Any) -> tuple[Source, list[Item]]:
    """Read a whole source."""
    source = make(open_files(path), Reading(**reading))
    return source, list(source.items())


def check_packings(make: Make, tmp_path: Path, content: Mapping[str, bytes]) -> list[Item]:
    """The items of a tree, after checking that a zip of it, inside a folder, has the same ones."""
    source, items = read(make, write_tree(tmp_path / "tree", content))
    for top in ("", "data/set/"):
        packed, others = read(make, write_zip(tmp_path / "tree.zip", content, top))
        assert [item._replace(where="") for item in others] == [
            item._replace(where="") for item in items
        ]
        assert packed.sha256 == source.sha256
        assert (packed.labels, packed.image, packed.cut, packed.left_out, packed.name) == (
            source.labels, source.image, source.cut, source.left_out, source.name,
        )  # fmt: skip
    assert [item.row for item in items] == list(range(len(items)))
    assert source.expected(0) == len(items)
    assert list(source.items()) == items
    assert source.stamp() == make(open_files(tmp_path / "tree"), Reading()).stamp()
    return items
