"""Read one shard into arrays: checked against the manifest first; nothing is unpickled."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, Manifest, ShardInfo
from pattlite_dist.shards.png import decode_png

BLANK, LEAK, NEAR_BLANK, CONFLICT, COPY = 1, 2, 4, 8, 16  # bits of Block.flags
_MEMBERS = ("png", "cls", "json")
_LARGEST_MEMBER = 1 << 24
_ROUNDED = 1e-3  # how far a target's sum may be from 1
_BLOCK = 512
_END = bytes(_BLOCK)
_NAME = re.compile(r"([^./]+)\.(png|cls|json)")
_PAX = (b"x", b"g")  # types of members that say more about the next one, or about all
# What they may say without a change of what is read; tarfile and webdataset write exact times.
_IGNORED = (b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment")
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")


@dataclass(frozen=True)
class Block:
    """A decoded shard.

    Attributes:
        images: uint8 [n, C, H, W].
        labels: int64 [n].
        flags: uint8 [n], a sum of `BLANK`, `LEAK`, `NEAR_BLANK`, `CONFLICT` (an identical image
            has another label) and `COPY` (there is an identical image); version 1 sets have only
            the first two.
        targets: float32 [n, classes], shares that sum to 1; None if the set has none.
        facts: each sample's JSON by key, in shard order; empty if it was not read.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    flags: NDArray[np.uint8]
    targets: NDArray[np.float32] | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)


def has_targets(manifest: Manifest) -> bool:
    """Whether each sample has a share of every class besides its label."""
    return manifest.options.reading.get("target") == "soft"


def check_bytes(data: bytes, shard: ShardInfo, where: str) -> None:
    """Compare a shard's bytes with the manifest.

    Raises:
        UserError: the size or the SHA-256 differs.
    """
    fix = "fetch it again or create the shards again"
    if len(data) != shard.bytes:
        raise UserError(f"{where} has {len(data)} bytes, its manifest says {shard.bytes}; {fix}")
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise UserError(f"{where} differs from its manifest (SHA-256); {fix}")


def decode_shard(
    data: bytes, shard: ShardInfo, image: ImageInfo, where: str, soft: bool = False
) -> Block:
    """Decode a shard's bytes.

    Args:
        data: the whole shard.
        shard: its entry in the manifest.
        image: the shape of every image.
        where: the shard's name in messages.
        soft: whether each sample must have a target; see `has_targets`.

    Raises:
        UserError: the bytes do not match the manifest, or a member violates the format.
    """
    check_bytes(data, shard, where)
    classes = len(shard.class_counts)
    images = np.empty((shard.samples, *image.shape), np.uint8)
    labels = np.empty(shard.samples, np.int64)
    flags = np.empty(shard.samples, np.uint8)
    targets = np.empty((shard.samples, classes), np.float32) if soft else None
    told: dict[str, dict[str, Any]] = {}
    try:
        samples = read_members(data)
        if len(samples) != shard.samples:
            raise ValueError(f"{len(samples)} samples, the manifest says {shard.samples}")
        for i, (key, parts) in enumerate(samples.items()):
            if sorted(parts) != sorted(_MEMBERS):
                raise ValueError(f"sample {key} has the members {sorted(parts)}")
            images[i] = decode_png(parts["png"], image)
            labels[i] = _label(parts["cls"], classes)
            told[key] = facts = json.loads(bytes(parts["json"]))
            flags[i] = _flags(facts)
            if targets is not None:
                targets[i] = _target(facts, classes, key)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{where}: {error}; create the shards again") from error
    counts = np.bincount(labels, minlength=classes).tolist()
    if counts != shard.class_counts:
        raise UserError(
            f"{where}: class counts {counts}, its manifest says {shard.class_counts}; "
            "create the shards again"
        )
    return Block(images, labels, flags, targets, told)


def read_members(data: bytes) -> dict[str, dict[str, memoryview]]:
    """Group a tar's members by key, in order; see `_MEMBERS` for their names.

    tarfile is not used: it would take half the time of a cold epoch, and it accepts a dozen kinds
    of member that a shard must not have. What remains of the format is regular files with short
    names (POSIX.1-1988, ustar): for each, a header block of 512 bytes, then the content. Members
    that say only times and owners (PAX, POSIX.1-2001) are passed over.

    Raises:
        ValueError: it is not such a tar.
    """
    samples: dict[str, dict[str, memoryview]] = {}
    place, view = 0, memoryview(data)
    blocks = np.frombuffer(data, np.uint8, len(data) // _BLOCK * _BLOCK).reshape(-1, _BLOCK)
    sums = blocks.sum(axis=1, dtype=np.uint32).tolist()  # all at once: a tenth of the time
    while place < len(data):
        header = data[place : place + _BLOCK]
        if header == _END:
            break
        if len(header) < _BLOCK:
            raise ValueError("it is not a tar file, or is truncated")
        _check_sum(header, sums[place // _BLOCK])
        pax = header[156:157] in _PAX
        name, key, kind = ("of PAX", "", "") if pax else _name(header)
        size = _size(header, name)
        place += _BLOCK
        if place + size > len(data):
            raise ValueError(f"member {name!r} is truncated")
        if pax:
            _check_pax(data[place : place + size])
            place += -(-size // _BLOCK) * _BLOCK
            continue
        parts = samples.setdefault(key, {})
        if kind in parts:
            raise ValueError(f"member {name!r} appears twice")
        parts[kind] = view[place : place + size]
        place += -(-size // _BLOCK) * _BLOCK
    return samples


def _check_sum(header: bytes, total: int) -> None:
    """Compare the sum of a header's bytes with the one in it."""
    checksum = _OCTAL.fullmatch(header, 148, 156)
    # The checksum is computed with its own field as eight spaces.
    if not checksum or total - sum(header[148:156]) + 8 * 32 != int(checksum[1], 8):
        raise ValueError("it is not a tar file, or is truncated")


def _name(header: bytes) -> tuple[str, str, str]:
    """A member's name, key and kind."""
    name = header[:100].rstrip(b"\0").decode("utf-8", "backslashreplace")
    match = _NAME.fullmatch(name)
    # The byte after the checksum is the type; a folder to prepend to the name starts at 345.
    if not match or header[156:157] not in (b"0", b"\0") or header[345:500].strip(b"\0"):
        folder = header[345:500].split(b"\0")[0].decode("utf-8", "backslashreplace")
        shown = f"{folder}/{name}" if folder else name.rstrip("/") or name
        raise ValueError(f"member {shown!r} is not a <key>.png, .cls or .json file")
    return name, match[1], match[2]


def _size(header: bytes, name: str) -> int:
    octal = _OCTAL.fullmatch(header, 124, 136)
    if not octal:
        raise ValueError(f"member {name!r} has no readable size")
    size = int(octal[1], 8)
    if size > _LARGEST_MEMBER:
        raise ValueError(f"member {name!r} claims {size} bytes")
    return size


def _check_pax(data: bytes) -> None:
    """Check that a PAX member, lines such as `30 mtime=1700000000.25`, changes nothing here."""
    while data:
        length = data.partition(b" ")[0]
        if not length.isdigit() or len(length) > 8 or not 0 < int(length) <= len(data):
            raise ValueError("a PAX header is damaged")
        key = data[len(length) + 1 : int(length)].partition(b"=")[0]
        if key not in _IGNORED:
            shown = key[:40].decode("utf-8", "backslashreplace")
            raise ValueError(
                f"a PAX header sets {shown!r}; write plain headers, such as with "
                "tar --format=ustar or tarfile.USTAR_FORMAT"
            )
        data = data[int(length) :]


def _label(text: memoryview, classes: int) -> int:
    label = int(bytes(text))
    if not 0 <= label < classes:
        raise ValueError(f"a label is not from 0 to {classes - 1}")
    return label


def _flags(facts: dict[str, Any]) -> int:
    return (
        BLANK * bool(facts["blank"])
        | LEAK * bool(facts["leak"])
        | NEAR_BLANK * bool(facts.get("near_blank"))
        | CONFLICT * bool(facts.get("conflict"))
        | COPY * bool(facts.get("copies", 1) > 1)
    )


def _target(facts: dict[str, Any], classes: int, key: str) -> list[float]:
    target = facts.get("target")
    if not isinstance(target, list) or len(target) != classes:
        raise ValueError(f"sample {key} has no target of {classes} shares")
    # By type: NumPy would accept text as numbers, and true as 1.
    if not all(type(share) in (int, float) and 0 <= share <= 2 for share in target):
        raise ValueError(f"sample {key} has a target with an invalid share")
    if abs(sum(target) - 1) > _ROUNDED:
        raise ValueError(f"sample {key} has a target that sums to {sum(target):.6g}, not to 1")
    return target
