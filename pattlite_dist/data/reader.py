"""Random access to shards: fetched and decoded once a node, then gathered from a memory map."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write
from pattlite_dist.shards.manifest import (
    MANIFEST_NAME,
    ImageInfo,
    Manifest,
    ShardInfo,
    SplitName,
    load_manifest,
    parse_manifest,
)
from pattlite_dist.shards.tario import Block, decode_shard
from pattlite_dist.shards.verify import read_shard_file, wrong_sizes

_ADDRESSES = ("http://", "https://", "pipe:")


def _is_local(root: str) -> bool:
    return not root.startswith(_ADDRESSES)


def default_cache() -> Path:
    """The job's temporary folder: the scheduler's where it has one, else the system's.

    Raises:
        UserError: somebody else made it, who could put other pixels there.
    """
    base = os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()
    path = Path(base) / f"pattlite-cache-{os.getuid()}"
    if path.exists() and path.stat().st_uid != os.getuid():
        raise UserError(f"the cache folder {path} belongs to another user; set data.cache")
    return path


def fetch(root: str, name: str, allow_pipe: bool) -> bytes:
    """A shard's bytes, from a folder or through webdataset's openers.

    Raises:
        UserError: it cannot be read, or its kind of address is not allowed.
    """
    if _is_local(root):
        return read_shard_file(Path(root) / name)
    pipe = root.startswith("pipe:")
    if pipe and not allow_pipe:
        raise UserError(
            f"data.shards is {root!r}, which would run a shell command; "
            "set data.allow_pipe=true if that is what you want"
        )
    import webdataset

    # Replaced, not formatted: a shell has braces of its own.
    url = root.replace("{name}", name) if pipe else f"{root.rstrip('/')}/{name}"
    try:
        with webdataset.gopen(url, "rb") as stream:
            return bytes(stream.read())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot fetch {url}: {error}; check the address") from error


def fetch_manifest(root: str, allow_pipe: bool = False) -> Manifest:
    """The manifest of the shards at `root`, a folder or an address.

    Raises:
        UserError: it cannot be read or is not a manifest.
    """
    if _is_local(root):
        return load_manifest(Path(root))
    return parse_manifest(fetch(root, MANIFEST_NAME, allow_pipe), f"{root}/{MANIFEST_NAME}")


def check_sizes(root: str, manifest: Manifest) -> None:
    """Compare the shards of a local folder with the manifest before hours are spent on them.

    The hash of a shard is checked when it is first read; an address is not asked at all.

    Raises:
        UserError: a shard is missing or has another size; names it.
    """
    problems = wrong_sizes(Path(root), manifest) if _is_local(root) else []
    if problems:
        raise UserError(problems[0])


class ShardReader:
    """Gathers samples of one split by their ids, whichever shards they lie in.

    A shard is checked and decoded by the first process of the node that needs it, while others
    wait on a lock; all of them then map the same file. Opened maps do not travel to other
    processes, so a reader can be pickled for any start method.

    Args:
        root: folder of the shards, or its address.
        manifest: describes them.
        split: which of them.
        cache: node-local folder for decoded shards.
        allow_pipe: whether `root` may be a `pipe:` command, `{name}` standing for the shard.
    """

    def __init__(
        self, root: str, manifest: Manifest, split: SplitName, cache: Path, allow_pipe: bool = False
    ) -> None:
        self.root, self.cache, self.allow_pipe = root, cache, allow_pipe
        self.image: ImageInfo = manifest.image
        self.shards: list[ShardInfo] = list(manifest.shards.get(split, []))
        self._ends = np.cumsum([shard.samples for shard in self.shards], dtype=np.int64)
        self._open: dict[int, Block] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def gather(self, ids: NDArray[np.int64]) -> Block:
        """The samples with these ids, in this order."""
        images = np.empty((len(ids), *self.image.shape), np.uint8)
        labels = np.empty(len(ids), np.int64)
        flags = np.empty(len(ids), np.uint8)
        shard_of = np.searchsorted(self._ends, ids, side="right")
        for number in np.unique(shard_of):
            here = np.flatnonzero(shard_of == number)
            shard = self.shards[number]
            local = ids[here] - (self._ends[number] - shard.samples)
            block = self._block(int(number))
            images[here] = block.images[local]
            labels[here] = block.labels[local]
            flags[here] = block.flags[local]
        return Block(images, labels, flags)

    def _block(self, number: int) -> Block:
        if number not in self._open:
            shard = self.shards[number]
            self._open[number] = cached_block(
                self.cache,
                shard,
                self.image,
                lambda: decode_shard(
                    fetch(self.root, shard.name, self.allow_pipe),
                    shard,
                    self.image,
                    f"{self.root.rstrip('/')}/{shard.name}",
                ),
            )
        return self._open[number]


def cached_block(
    cache: Path, shard: ShardInfo, image: ImageInfo, decode: Callable[[], Block]
) -> Block:
    """Map a decoded shard from the cache, after decoding it there if need be.

    The entry is named by the shard's hash, so a changed shard is another entry, and it has one
    possible size, so a cut-off entry is recognised and made again.
    """
    path = cache / f"{shard.sha256}.block"
    n, shape = shard.samples, (shard.samples, *image.shape)
    labels_at = -(-int(np.prod(shape)) // 8) * 8  # int64 labels start at a multiple of 8
    size = labels_at + 9 * n
    if not _has_size(path, size):
        with contextlib.ExitStack() as stack:
            try:
                cache.mkdir(parents=True, exist_ok=True, mode=0o700)
                stack.enter_context(FileLock(path.with_suffix(".lock")))
            except OSError as error:
                raise UserError(
                    f"cannot use the cache folder {cache}: {error.strerror}; set data.cache"
                ) from error
            if not _has_size(path, size):
                block = decode()
                with atomic_write(path) as stream:
                    stream.write(block.images.tobytes())
                    stream.write(bytes(labels_at - block.images.nbytes))
                    stream.write(block.labels.tobytes())
                    stream.write(block.flags.tobytes())
    data = np.memmap(path, np.uint8, "r")
    return Block(
        images=data[: int(np.prod(shape))].reshape(shape),
        labels=data[labels_at : labels_at + 8 * n].view(np.int64),
        flags=data[labels_at + 8 * n :],
    )


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:  # missing, or the folder cannot be used, which making the entry will tell
        return False
