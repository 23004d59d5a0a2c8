"""Where the shards of a foreign WebDataset are: files, patterns, addresses or commands."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple, Protocol

from pattlite_dist.errors import UserError
from pattlite_dist.location import is_local
from pattlite_dist.logins import without_secrets
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources.classnames import NAME_FILES, parse_names
from pattlite_dist.shards.sources.csvfile import stamp_of
from pattlite_dist.shards.sources.listed import splits_in
from pattlite_dist.shards.sources.spellings import shown, split_folder

_MOST = 10_000  # shards of a pattern
LARGEST = 4 << 30  # bytes of a shard that is downloaded; it is in memory once
_RANGE = re.compile(r"\{(-?[0-9]+)\.\.(-?[0-9]+)")
_TAR = re.compile(r"[^\s/'\"=]+\.tar\b")


class Fetch(Protocol):
    """Reads a file at an address, or the output of a command."""

    def __call__(self, address: str, most: int, patient: bool) -> bytes:
        """Its content.

        Args:
            address: with `://`, or beginning with `pipe:`.
            most: bytes that are read.
            patient: whether failures that may pass are retried.

        Raises:
            UserError: it cannot be read.
        """
        ...


class Shard(NamedTuple):
    """One tar file.

    Attributes:
        path: of the file, or of a copy of it.
        name: relative to what is common to all; names the samples' files.
        shown: its name in messages.
        split: what its folder or name says; None if nothing.
    """

    path: Path
    name: str
    shown: str
    split: SplitName | None


class Copies:
    """A temporary folder that is removed with this object, or as the program ends."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pattlite-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


class Tars(NamedTuple):
    """The shards of a set, and what comes with them.

    Attributes:
        shards: in order.
        names: of the classes, by number; empty if there is no such file.
        where: the set in messages.
        copies: holds what was downloaded as long as it is referred to.
        stamp: changes when the files do.
    """

    shards: list[Shard]
    names: tuple[str, ...]
    where: str
    copies: "Copies | None"
    stamp: str


def is_pattern(text: str) -> bool:
    """Whether a source is an address, a command, or several paths in braces."""
    return not is_local(text) or ("{" in text and not Path(text).exists())


def safe(text: str) -> str:
    """A pattern for messages: of a command, which may contain anything, only the program."""
    if text.startswith("pipe:"):
        return f"pipe:{(text[5:].split() or [''])[0]} ..."
    return without_secrets(text)


def local(paths: Iterable[Path], where: str) -> Tars:
    """Shards in local files, in the order of their numbers.

    Raises:
        UserError: one is missing.
    """
    ordered = sorted(paths, key=lambda path: in_sequence(str(path)))
    stamp = stamp_of(ordered)
    relative = _relative([str(path.absolute()) for path in ordered])
    first = ordered[0].absolute()
    beside = [first.parent / name for name in NAME_FILES]
    names: tuple[str, ...] = ()
    for path in (*beside, first.parent.parent / NAME_FILES[0]):
        if path.is_file():
            names = parse_names(path.read_bytes(), shown(str(path)))
            break
    shards = [
        Shard(path, name, shown(str(path)), split)
        for path, name, split in zip(ordered, relative, splits_in(relative), strict=True)
    ]
    return Tars(shards, names, where, None, stamp)


def named(text: str, allow_pipe: bool, fetch: Fetch | None) -> Tars:
    """Shards by a pattern such as `train-{000..014}.tar`: local paths, addresses or commands.

    What is not local is copied to a temporary folder.

    Args:
        text: the pattern.
        allow_pipe: whether it may be a command.
        fetch: reads what is not local; None if only paths are allowed.

    Raises:
        UserError: it is not a pattern of tars, a file is missing, or a command is not allowed.
    """
    from webdataset.shardlists import expand_urls

    where = shown(safe(text))
    # Before they are expanded: all names are in memory at once.
    if prod(_length(found) for found in _RANGE.findall(text)) > _MOST:
        raise UserError(f"{where} names more than {_MOST:,} shards; give fewer")
    try:
        each = expand_urls(text)
    except ValueError as error:
        raise UserError(f"{where}: its braces do not match; write {{000..014}}") from error
    if text.startswith("pipe:") and not allow_pipe:
        raise UserError(
            f"{where} would run a command; allow it with --allow-pipe, or give a file or address"
        )
    if is_local(text):
        return local(map(Path, each), where)
    if not text.startswith("pipe:") and not all(_path_of(one).endswith(".tar") for one in each):
        raise UserError(
            f"{where} is not the address of tars; give it with their names, such as "
            "https://host/set/train/{000..014}.tar"
        )
    if fetch is None:
        raise UserError(f"{where} is not on this machine; copy it, and give the folder")
    return _fetched(each, where, fetch)


def _length(ends: tuple[str, str]) -> int:
    """At most how many numbers a range has; of very long ones, a number that is too large."""
    if max(map(len, ends)) > len(str(_MOST)) + 8:
        return _MOST + 1
    return abs(int(ends[1]) - int(ends[0])) + 1


def in_sequence(name: str) -> list[tuple[int, int, str]]:
    """Sorts names by the numbers in them: 2.tar before 10.tar."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _fetched(each: Sequence[str], where: str, fetch: Fetch) -> Tars:
    copies = Copies()
    digest, relative = hashlib.sha256(), _relative([_path_of(one) for one in each])
    shards = []
    parts = zip(each, relative, splits_in(relative), strict=True)
    for number, (one, name, split) in enumerate(parts):
        told = shown(safe(one))
        data = fetch(one, LARGEST + 1, True)
        if len(data) > LARGEST:
            raise UserError(f"{told} is larger than {LARGEST >> 30} GiB; download it yourself")
        digest.update(hashlib.sha256(data).digest())
        copy = copies.folder / f"{number:06d}.tar"
        copy.write_bytes(data)
        shards.append(Shard(copy, name, told, split))
    names: tuple[str, ...] = ()
    if not each[0].startswith("pipe:"):
        folder, above = _folder_of(each[0]), _folder_of(_folder_of(each[0]).rstrip("/"))
        for address in (folder + NAME_FILES[0], above + NAME_FILES[0]):
            with contextlib.suppress(UserError):  # it need not be there
                data = fetch(address, LARGEST, False)
                names = parse_names(data, shown(safe(address)))
                break
    return Tars(shards, names, where, copies, digest.hexdigest())


def _folder_of(address: str) -> str:
    """Up to the last slash of the path."""
    return address[: address.partition("?")[0].rfind("/") + 1]


def _path_of(address: str) -> str:
    """The path of an address, or the last name of a tar in a command."""
    if address.startswith("pipe:"):
        found: list[str] = _TAR.findall(address)
        return found[-1] if found else "command"
    return address.partition("?")[0].partition("://")[2].partition("/")[2]


def _relative(paths: Sequence[str]) -> list[str]:
    """Without the folders that are common to all, except one that names a split."""
    folders = [path.rpartition("/")[0] for path in paths]
    top = os.path.commonpath(folders)
    if split_folder(top.rpartition("/")[2]) is not None:
        top = top.rpartition("/")[0]
    names = [path[len(top) :].lstrip("/") for path in paths]
    if len(set(names)) < len(names):  # of commands
        return [f"{number}/{name}" for number, name in enumerate(names)]
    return names
