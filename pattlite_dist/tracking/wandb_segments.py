"""Segments of a Weights & Biases run: the files that its offline starts leave, read back.

A start writes `RUN/wandb/offline-run-<time>-<id>/run-<id>.wandb`, in a format that
`compat.wandb` describes. One that was killed ends anywhere, even before its first record.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pattlite_dist.compat.wandb import HEADER, MAGIC, record_reader, split
from pattlite_dist.errors import UserError


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


def records(path: Path) -> Iterator[tuple[int, Any]]:
    """The whole records of a segment as wandb's protobuf messages, with where each ends.

    Raises:
        UserError: it cannot be read, or is not wandb's.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    make = record_reader()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its rights") from error
    if data and not data.startswith(MAGIC[: len(data)]):
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
    size, started, ended, whole = path.stat().st_size, None, False, HEADER
    for end, record in records(path):
        whole = end
        kind = record.WhichOneof("record_type")
        if kind == "run" and started is None:
            started = record.run.start_time.ToMicroseconds() / 1e6
        ended = ended or kind == "exit"
    return Segment(path, started, ended, min(whole, size), size)


def summary(folder: Path) -> dict[str, Any]:
    """What the segments of a run, the newest last, say of its summary; without wandb's own keys.

    Args:
        folder: `wandb` of the run.

    Raises:
        UserError: one of them cannot be read, or is not wandb's.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        for _, record in records(path):
            if record.WhichOneof("record_type") != "summary":
                continue
            for item in record.summary.update:
                *outer, key = item.nested_key or (item.key,)
                part = found
                for name in outer:
                    if not isinstance(part.get(name), dict):
                        part[name] = {}
                    part = part[name]
                part[key] = json.loads(item.value_json)
    return {key: value for key, value in found.items() if not key.startswith("_")}
