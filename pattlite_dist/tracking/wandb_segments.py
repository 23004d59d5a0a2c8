"""Segments of a Weights & Biases run: the files that its offline starts leave, read back.

A start writes `RUN/wandb/offline-run-<time>-<id>/run-<id>.wandb`: seven bytes that say what it is,
then protobuf records in LevelDB's log format (blocks of 32 KiB; a record is cut into parts that do
not cross blocks). One that was killed ends anywhere, even before its first record.
"""

import importlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pattlite_dist.errors import UserError

_MAGIC = b":W&B"
_HEADER = 7  # bytes, of the file as of each part: checksum, length, kind
_BLOCK = 1 << 15
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class Segment:
    """What one offline start has left.

    Attributes:
        path: of its file.
        started: seconds since 1970; None where it was killed before it wrote that down.
        ended: whether it came to its end.
        whole: bytes up to the end of its last whole record; the rest was cut off by a kill.
        size: bytes of the file.
    """

    path: Path
    started: float | None
    ended: bool
    whole: int
    size: int

    @property
    def synced(self) -> bool:
        """Whether wandb has marked it as uploaded."""
        return Path(f"{self.path}.synced").exists()


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole records of a file's bytes, each with the offset at which it ends."""
    at, record = _HEADER, b""
    while True:
        room = _BLOCK - at % _BLOCK
        if room < _HEADER:  # too little for a part; filled with zeros
            at += room
            continue
        if at + _HEADER > len(data):
            return
        _, length, kind = struct.unpack_from("<IHB", data, at)
        end = at + _HEADER + length
        if end > len(data) or not _FULL <= kind <= _LAST:
            return
        part = data[at + _HEADER : end]
        record = part if kind in (_FULL, _FIRST) else record + part
        at = end
        if kind in (_FULL, _LAST):
            yield at, record


def records(path: Path) -> Iterator[tuple[int, Any]]:
    """The whole records of a segment as wandb's protobuf messages, with where each ends.

    Raises:
        UserError: it cannot be read, or is not wandb's.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    # Its names are made when it is imported, where a type checker cannot see them.
    make: Any = importlib.import_module("wandb.proto.wandb_internal_pb2").Record.FromString
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its rights") from error
    if data and not data.startswith(_MAGIC[: len(data)]):
        raise UserError(f"{path} is not a file of wandb; move it out of the run folder")
    for end, record in split(data):
        try:
            yield end, make(record)
        except DecodeError:
            raise UserError(f"{path} is damaged before byte {end}; restore it") from None


def read_segment(path: Path) -> Segment:
    """Read a segment through.

    Raises:
        UserError: it cannot be read, or is not wandb's.
    """
    size, started, ended, whole = path.stat().st_size, None, False, _HEADER
    for end, record in records(path):
        whole = end
        kind = record.WhichOneof("record_type")
        if kind == "run" and started is None:
            started = record.run.start_time.ToMicroseconds() / 1e6
        ended = ended or kind == "exit"
    return Segment(path, started, ended, min(whole, size), size)
