"""Read one shard into arrays: checked against the manifest first, nothing ever unpickled."""

import hashlib
import io
import json
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, ShardInfo

BLANK, LEAK = 1, 2  # bits of Block.flags
_MEMBERS = ("png", "cls", "json")
_LARGEST_MEMBER = 1 << 24
_BLOCK = 512
_END = bytes(_BLOCK)
_NAME = re.compile(r"([^./]+)\.(png|cls|json)")
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")


@dataclass(frozen=True)
class Block:
    """A decoded shard.

    Attributes:
        images: uint8 [n, C, H, W].
        labels: int64 [n].
        flags: uint8 [n], a sum of `BLANK` and `LEAK`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    flags: NDArray[np.uint8]


def check_bytes(data: bytes, shard: ShardInfo, where: str) -> None:
    """Compare a shard's bytes with the manifest.

    Raises:
        UserError: the size or the SHA-256 differs.
    """
    mend = "fetch it again or create the shards again"
    if len(data) != shard.bytes:
        raise UserError(f"{where} has {len(data)} bytes, its manifest says {shard.bytes}; {mend}")
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise UserError(f"{where} differs from its manifest (SHA-256); {mend}")


def decode_shard(data: bytes, shard: ShardInfo, image: ImageInfo, where: str) -> Block:
    """Decode a shard's bytes.

    Raises:
        UserError: the bytes do not match the manifest, or a member is not what the format says.
    """
    check_bytes(data, shard, where)
    images = np.empty((shard.samples, *image.shape), np.uint8)
    labels = np.empty(shard.samples, np.int64)
    flags = np.empty(shard.samples, np.uint8)
    try:
        samples = _samples(memoryview(data))
        if len(samples) != shard.samples:
            raise ValueError(f"{len(samples)} samples where the manifest says {shard.samples}")
        for i, (key, parts) in enumerate(samples.items()):
            if sorted(parts) != sorted(_MEMBERS):
                raise ValueError(f"sample {key} has the members {sorted(parts)}")
            images[i] = decode_png(parts["png"], image)
            labels[i] = _label(parts["cls"], len(shard.class_counts))
            facts = json.loads(bytes(parts["json"]))
            flags[i] = BLANK * bool(facts["blank"]) + LEAK * bool(facts["leak"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{where}: {error}; create the shards again") from error
    counts = np.bincount(labels, minlength=len(shard.class_counts)).tolist()
    if counts != shard.class_counts:
        raise UserError(
            f"{where}: class counts {counts}, its manifest says {shard.class_counts}; "
            "create the shards again"
        )
    return Block(images, labels, flags)


def _samples(data: memoryview) -> dict[str, dict[str, memoryview]]:
    """Group a tar's members by key, in their order.

    A tar is read here and not with tarfile, which takes half of a cold epoch's time and knows a
    dozen kinds of member that a shard must not have. What is left of the format is regular files
    with short names (POSIX.1-1988, ustar): a header block of 512 bytes each, then the content.
    """
    samples: dict[str, dict[str, memoryview]] = {}
    place = 0
    while place < len(data):
        header = bytes(data[place : place + _BLOCK])
        if header == _END:
            break
        name, key, kind, size = _header(header)
        place += _BLOCK
        if place + size > len(data):
            raise ValueError(f"member {name!r} is cut off")
        parts = samples.setdefault(key, {})
        if kind in parts:
            raise ValueError(f"member {name!r} is there twice")
        parts[kind] = data[place : place + size]
        place += -(-size // _BLOCK) * _BLOCK
    return samples


def _header(header: bytes) -> tuple[str, str, str, int]:
    """A member's name, key, kind and size."""
    checksum = _OCTAL.fullmatch(header, 148, 156)
    # The sum is taken with its own field as eight spaces.
    if not checksum or sum(header) - sum(header[148:156]) + 8 * 32 != int(checksum[1], 8):
        raise ValueError("it is not a tar file, or is cut off")
    name = header[:100].rstrip(b"\0").decode("utf-8", "backslashreplace")
    match = _NAME.fullmatch(name)
    # The byte after the checksum is the type; from 345 on is a folder to put before the name.
    if not match or header[156:157] not in (b"0", b"\0") or header[345:500].strip(b"\0"):
        folder = header[345:500].split(b"\0")[0].decode("utf-8", "backslashreplace")
        shown = f"{folder}/{name}" if folder else name.rstrip("/") or name
        raise ValueError(f"member {shown!r} is not a <key>.png, .cls or .json file")
    octal = _OCTAL.fullmatch(header, 124, 136)
    if not octal:
        raise ValueError(f"member {name!r} has no readable size")
    size = int(octal[1], 8)
    if size > _LARGEST_MEMBER:
        raise ValueError(f"member {name!r} claims {size} bytes")
    return name, match[1], match[2], size


def _label(text: memoryview, classes: int) -> int:
    label = int(bytes(text))
    if not 0 <= label < classes:
        raise ValueError(f"a label is not one of 0 to {classes - 1}")
    return label


def decode_png(data: bytes | memoryview, image: ImageInfo) -> NDArray[np.uint8]:
    """Decode to uint8 [C, H, W], insisting on the manifest's shape.

    Raises:
        ValueError: it is no PNG, is damaged, or is of another size or mode.
    """
    needed = ("L" if image.channels == 1 else "RGB", image.width, image.height)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            found = (picture.mode, *picture.size)
            if found != needed:  # told before the pixels are unpacked, however many they are
                raise ValueError(
                    "an image is {} of {}x{} where {} of {}x{} is needed".format(*found, *needed)
                )
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # as Pillow has them
        raise ValueError(f"an image is damaged ({error})") from error
    return pixels[None] if image.channels == 1 else pixels.transpose(2, 0, 1)
