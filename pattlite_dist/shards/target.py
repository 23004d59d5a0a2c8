"""Where a shard set is written: a local folder, or any address that fsspec can write to.

Files appear under their names whole or not at all, so that a reader always finds either a
finished shard or none.
"""

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write, fsync_folder, sha256_file
from pattlite_dist.logins import without_secrets
from pattlite_dist.shards.manifest import MANIFEST_NAME, Manifest, ShardInfo, load_manifest
from pattlite_dist.shards.remote import Remote, shards_among, strangers_among


class Target(Protocol):
    """A place for one shard set; picklable, and usable from several processes and threads."""

    @property
    def shown(self) -> str:
        """Its name in messages, without secrets."""
        ...

    def check(self) -> None:
        """Write something and remove it again.

        Raises:
            UserError: it is not writable.
        """
        ...

    def work(self) -> Path:
        """The folder for unfinished files, unless the user names another."""
        ...

    def manifest(self) -> Manifest | None:
        """The manifest there, if any.

        Raises:
            UserError: it cannot be read, or is not a manifest.
        """
        ...

    def shard_names(self) -> list[str]:
        """Names of the files there that are named like shards, sorted."""
        ...

    def strange_tars(self) -> list[str]:
        """Names of the other tar files there, sorted."""
        ...

    def place(self, temporary: Path, shard: ShardInfo) -> None:
        """Move a finished local file to its name, whole or not at all.

        Raises:
            UserError: it cannot be written; the temporary file is still there.
        """
        ...

    def holds(self, shard: ShardInfo) -> bool:
        """Whether it is there: checked by hash in a folder, by size in a store."""
        ...

    def save_manifest(self, manifest: Manifest) -> None:
        """Write the manifest, whole or not at all, replacing any other."""
        ...

    def content(self, name: str) -> bytes | None:
        """The content of a small file; None if there is none."""
        ...

    def save(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all, replacing any other."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove files in this order; missing files are ignored."""
        ...


def open_target(out: str | Path) -> Target:
    """The target for an address (with `://`) or a folder's path; accesses nothing.

    Raises:
        UserError: this kind of address cannot be written to.
    """
    if isinstance(out, Path) or "://" not in out:
        if str(out).startswith("pipe:"):
            raise UserError(
                f"shards can be read from a command but not written to one ({out}); give a folder "
                "or an address such as s3://bucket/folder"
            )
        return Folder(Path(out))
    if out.startswith(("http://", "https://")) or "?" in out:
        raise UserError(
            f"shards cannot be written to {without_secrets(out)}, a web address or one with a "
            "query; give a folder or an address such as s3://bucket/folder"
        )
    return Remote(out)


@dataclass(frozen=True)
class Folder:
    """A local folder."""

    path: Path

    @property
    def shown(self) -> str:
        """Its path."""
        return str(self.path)

    def check(self) -> None:
        """See `Target.check`; folders that did not exist do not exist afterwards."""
        missing: list[Path] = []
        try:
            if self.path.exists() and not self.path.is_dir():
                raise UserError(f"{self.path} is a file; give a folder for the shards")
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise self._refused("write in", self.path, error) from error
        finally:
            for folder in missing:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def work(self) -> Path:
        """`.creating` inside it, so that finished shards only have to be renamed."""
        return self.path / ".creating"

    def manifest(self) -> Manifest | None:
        """See `Target.manifest`."""
        return load_manifest(self.path) if (self.path / MANIFEST_NAME).exists() else None

    def shard_names(self) -> list[str]:
        """See `Target.shard_names`."""
        return shards_among(self._names())

    def strange_tars(self) -> list[str]:
        """See `Target.strange_tars`."""
        return strangers_among(self._names())

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self.path.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._refused("read", self.path, error) from error

    def place(self, temporary: Path, shard: ShardInfo) -> None:
        """See `Target.place`; the file must have been flushed to disk already."""
        path = self.path / shard.name
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
            fsync_folder(self.path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise self._refused("write", path, error) from error
            self._copy(temporary, path)

    def _copy(self, temporary: Path, path: Path) -> None:
        """From another file system."""
        with atomic_write(path) as stream, temporary.open("rb") as finished:
            shutil.copyfileobj(finished, stream, 1 << 20)
        temporary.unlink(missing_ok=True)

    def holds(self, shard: ShardInfo) -> bool:
        """Whether the file has the right size and SHA-256."""
        path = self.path / shard.name
        try:
            return path.stat().st_size == shard.bytes and sha256_file(path) == shard.sha256
        except OSError:
            return False

    def save_manifest(self, manifest: Manifest) -> None:
        """See `Target.save_manifest`."""
        manifest.save(self.path)

    def content(self, name: str) -> bytes | None:
        """See `Target.content`."""
        path = self.path / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused("read", path, error) from error

    def save(self, name: str, content: bytes) -> None:
        """See `Target.save`."""
        with atomic_write(self.path / name) as stream:
            stream.write(content)

    def remove(self, names: Iterable[str]) -> None:
        """See `Target.remove`; durable when it returns."""
        for name in names:
            try:
                (self.path / name).unlink()
                fsync_folder(self.path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._refused("remove", self.path / name, error) from error

    @staticmethod
    def _refused(what: str, path: Path, error: OSError) -> UserError:
        fix = "free some space or choose a writable folder"
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError) and error.filename:
            reason = f"{error.filename} is missing"
        return UserError(f"cannot {what} {path}: {reason}; {fix}")
