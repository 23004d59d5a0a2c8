"""Files that are written whole or not at all."""

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from pattlite_dist.errors import UserError, first_problem, is_passing, unreadable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")
_FOLDERS_NOT_SYNCED = {
    errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EISDIR,
    errno.EACCES, 524,  # ENOTSUPP of Linux's kernel, which has no name for users
}  # fmt: skip


@contextlib.contextmanager
def atomic_write(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a temporary file next to `path`, which is renamed to `path` only after a clean exit.

    The data is flushed to disk before the rename and the folder after it, so that neither a crash
    nor a power cut leaves a file that looks complete and is not.

    Args:
        path: of the file.
        mode: of a new file, from which the user's umask is taken.

    Raises:
        UserError: the folder is not writable or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not by `tempfile`, whose files only their owner may read.
        name = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        temporary = name
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        temporary = None
        fsync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose a folder "
            "that can be written"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Make sure that new file names survive a power cut, where a folder can be synced.

    SMB, 9p and some FUSE file systems cannot; what was written there is complete nevertheless.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _FOLDERS_NOT_SYNCED:
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a matplotlib figure to `path`, whole or not at all: as SVG by its suffix, else PNG."""
    stream = io.BytesIO()
    kind = "svg" if path.suffix == ".svg" else "png"
    figure.savefig(stream, format=kind, dpi=200)
    with atomic_write(path) as out:
        out.write(stream.getvalue())


def read_json_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines; a line cut off by a crash is skipped.

    Raises:
        OSError: the file cannot be read.
    """
    values = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            values.append(json.loads(text))
    return values


def parse_json(data: bytes, kind: type[M], where: str, mend: str) -> M:
    """What a model of pydantic makes of JSON.

    Args:
        data: of the file.
        kind: the model.
        where: the data came from, for messages.
        mend: how to get a file that is right.

    Raises:
        UserError: it is not JSON, or not what the model holds; names the first thing wrong.
    """
    from pydantic import ValidationError

    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}); {mend}") from error
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        place, first = first_problem(error)
        raise UserError(f"{where}: {place or 'as a whole'}: {first['msg']}; {mend}") from error


def load_tensors(path: Path) -> Any:
    """What `torch.save` wrote: tensors and plain data only, so no code is ever run from a file.

    Raises:
        UserError: the file is missing, damaged, or holds anything else.
        Unreachable: its file system does not answer.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except Exception as error:  # damaged files raise anything, from IndexError to struct.error
        if isinstance(error, OSError) and is_passing(error):
            raise unreadable(path, error, "use another one") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} is cut off, or not a safe file of tensors ({reason}); use another one"
        ) from error


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
