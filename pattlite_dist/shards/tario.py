"""Read one shard into arrays: checked against the manifest first, nothing ever unpickled."""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, ShardInfo

BLANK, LEAK = 1, 2  # bits of Block.flags
_MEMBERS = ("png", "cls", "json")
_LARGEST_MEMBER = 1 << 24


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
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            samples = _samples(tar)
        if len(samples) != shard.samples:
            raise ValueError(f"{len(samples)} samples where the manifest says {shard.samples}")
        for i, (key, parts) in enumerate(samples.items()):
            if sorted(parts) != sorted(_MEMBERS):
                raise ValueError(f"sample {key} has the members {sorted(parts)}")
            images[i] = decode_png(parts["png"], image)
            labels[i] = _label(parts["cls"], len(shard.class_counts))
            facts = json.loads(parts["json"])
            flags[i] = BLANK * bool(facts["blank"]) + LEAK * bool(facts["leak"])
    except (tarfile.TarError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{where}: {error}; create the shards again") from error
    counts = np.bincount(labels, minlength=len(shard.class_counts)).tolist()
    if counts != shard.class_counts:
        raise UserError(
            f"{where}: class counts {counts}, its manifest says {shard.class_counts}; "
            "create the shards again"
        )
    return Block(images, labels, flags)


def _samples(tar: tarfile.TarFile) -> dict[str, dict[str, bytes]]:
    """Group the members by key, in the order of the tar."""
    samples: dict[str, dict[str, bytes]] = {}
    for member in tar:
        key, _, kind = member.name.partition(".")
        if not member.isreg() or "/" in member.name or kind not in _MEMBERS:
            raise ValueError(f"member {member.name!r} is not a <key>.png, .cls or .json file")
        if member.size > _LARGEST_MEMBER:
            raise ValueError(f"member {member.name!r} claims {member.size} bytes")
        stream = tar.extractfile(member)
        assert stream is not None  # a regular file always has one
        parts = samples.setdefault(key, {})
        if kind in parts:
            raise ValueError(f"member {member.name!r} is there twice")
        parts[kind] = stream.read()
    return samples


def _label(text: bytes, classes: int) -> int:
    label = int(text)
    if not 0 <= label < classes:
        raise ValueError(f"a label is not one of 0 to {classes - 1}")
    return label


def decode_png(data: bytes, image: ImageInfo) -> NDArray[np.uint8]:
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
