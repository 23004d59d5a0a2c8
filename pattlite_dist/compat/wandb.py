"""wandb's offline files, and a private setting that `wandb sync` respects.

A file has a header of seven bytes, followed by protobuf records in LevelDB's log format (blocks of
32 KiB; a record is split into parts that do not cross blocks).
"""

import importlib
import struct
from collections.abc import Callable, Iterator
from typing import Any

from pattlite_dist.compat.need import changed, find, find_function

_NAME = "wandb"
MAGIC = b":W&B"
HEADER = 7  # bytes, of the file and of each part: checksum, length, kind
_BLOCK = 1 << 15
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_USED = {"run", "exit"}
# Otherwise a server that does not respond is retried for half an hour.
FEW_RETRIES = {"WANDB__GRAPHQL_RETRY_MAX": "3"}


def check() -> None:
    """Check that offline files can be read and uploaded, before doing so.

    Raises:
        UserError: they cannot; names the installed and the supported versions.
    """
    record_reader()
    settings = find(_NAME, importlib.import_module("wandb"), "Settings")()
    find_function(_NAME, settings, "update_from_env_vars")(FEW_RETRIES)
    if getattr(settings, "x_graphql_retry_max", None) != 3:
        raise changed(_NAME, f"variable {min(FEW_RETRIES)}")


def record_reader() -> Callable[[bytes], Any]:
    """The function that parses a record of wandb's protobuf messages from bytes."""
    try:
        # Its names are created on import, so a type checker cannot see them.
        module = importlib.import_module("wandb.proto.wandb_internal_pb2")
    except ImportError as error:
        raise changed(_NAME, "module `wandb.proto.wandb_internal_pb2`") from error
    record = find(_NAME, module, "Record")
    missing = _USED - set(find(_NAME, record, "DESCRIPTOR.fields_by_name"))
    if missing:
        raise changed(_NAME, f"`Record.{min(missing)}`")
    found: Callable[[bytes], Any] = find(_NAME, record, "FromString")
    return found


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The complete records in a file's bytes, each with its end offset."""
    at, record = HEADER, b""
    while True:
        room = _BLOCK - at % _BLOCK
        if room < HEADER:  # too small for a part; zero-filled
            at += room
            continue
        if at + HEADER > len(data):
            return
        _, length, kind = struct.unpack_from("<IHB", data, at)
        end = at + HEADER + length
        if end > len(data) or not _FULL <= kind <= _LAST:
            return
        part = data[at + HEADER : end]
        record = part if kind in (_FULL, _FIRST) else record + part
        at = end
        if kind in (_FULL, _LAST):
            yield at, record
