"""Write one shard: samples as PNG, class and JSON in a reproducible tar.

The tar is written here because that takes an eighth of tarfile's time.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.files import atomic_write, sha256_file
from pattlite_dist.shards.manifest import ShardInfo
from pattlite_dist.shards.png import encode_pngs

_BLOCK = 512
_RECORD = 20 * _BLOCK  # by convention, a tar's length is a multiple of it
# The constant parts of all headers: before the size, after the size, and after the checksum, which
# is computed with its own field as spaces.
_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"\0" + b"0" * 11 + b"\0"
_KIND = (b"0" + bytes(100) + b"ustar\x0000").ljust(_BLOCK - 156, b"\0")
_FIXED = sum(_OWNER + _TIME + b" " * 8 + _KIND)


class Sample(NamedTuple):
    """What a shard stores for one sample besides its image; `row` in its facts names it."""

    label: int
    facts: dict[str, Any]


def tar_member(name: str, data: bytes) -> bytes:
    """A regular file in a tar (POSIX.1-1988, ustar), header and content.

    Time, owner and mode are fixed: the same samples give the same bytes, whoever writes them.

    Args:
        name: ASCII, at most 100 bytes.
        data: less than 8 GiB.
    """
    called, size = name.encode(), b"%011o" % len(data)
    check = b"%06o\0 " % (_FIXED + sum(called) + sum(size))
    return b"".join(
        (called.ljust(100, b"\0"), _OWNER, size, _TIME, check, _KIND, data,
         bytes(-len(data) % _BLOCK))
    )  # fmt: skip


def shard_members(images: NDArray[np.uint8], samples: list[Sample]) -> Iterable[bytes]:
    """The members of a shard, each sample as `<key>.png`, `<key>.cls` and `<key>.json`."""
    for png, (label, facts) in zip(encode_pngs(images), samples, strict=True):
        key = f"{facts['row']:08d}"
        yield tar_member(f"{key}.png", png)
        yield tar_member(f"{key}.cls", str(label).encode())
        yield tar_member(f"{key}.json", json.dumps(facts, sort_keys=True).encode())


def write_shard(
    path: Path, name: str, images: NDArray[np.uint8], samples: list[Sample], classes: int
) -> ShardInfo:
    """Write the tar of shard `name` to `path`, whole or not at all, and describe it.

    Raises:
        UserError: the folder is not writable or the disk is full.
    """
    with atomic_write(path) as stream:
        for member in shard_members(images, samples):
            stream.write(member)
        stream.write(bytes(-(stream.tell() + 2 * _BLOCK) % _RECORD + 2 * _BLOCK))
    return ShardInfo(
        name=name,
        samples=len(samples),
        bytes=path.stat().st_size,
        sha256=sha256_file(path),  # as stored on disk
        class_counts=np.bincount([s.label for s in samples], minlength=classes).tolist(),
    )
