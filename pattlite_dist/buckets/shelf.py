"""What publishing needs of an object store: objects that appear whole, and compare-and-set."""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

from pattlite_dist.stores import Final, Transient, store_errors

T = TypeVar("T")
_PIECE = 1 << 20  # bytes


class Held(NamedTuple):
    """A small object.

    Attributes:
        data: its bytes.
        version: for `Shelf.swap`.
        modified: when the store wrote it, by the store's clock, seconds since 1970.
    """

    data: bytes
    version: Any
    modified: float


class Gone(Exception):
    """An object that is not there (any more)."""


class Shelf(Protocol):
    """Objects under one address. All methods raise `stores.Transient` or `stores.Final`."""

    def get(self, key: str) -> Held | None:
        """A small object; None if there is none."""

    def chunks(self, key: str) -> Iterator[bytes]:
        """The bytes of an object.

        Raises:
            Gone: there is none.
        """

    def put(self, key: str, stream: BinaryIO) -> None:
        """Write an object, whole or not at all."""

    def swap(self, key: str, data: bytes, version: Any) -> Any:
        """Write an object if it still has a version, or if there is none (None).

        Returns:
            Its new version; None if it has another, and was not written.
        """

    def delete(self, keys: list[str]) -> None:
        """Delete objects, if they are there."""

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with the parts of a prefix."""

    def folders(self) -> list[str]:
        """The names of the folders directly under the address."""


class Bucket:
    """A shelf in S3, Google Cloud Storage or Azure Blob Storage, by obstore.

    Logins come from the environment or from the machine's own role.

    Args:
        address: `s3://bucket/folder`, `gs://` or `az://`.

    Raises:
        Final: obstore is not installed, or the address or the environment makes no sense.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        with store_errors(address):
            try:
                import obstore
                from obstore.store import from_url
            except ImportError as error:
                raise Final(f"{error}; pip install 'pattlite_dist[cloud]'") from error
            self._obstore: Any = obstore
            self._store: Any = from_url(
                address,
                client_options={"allow_http": True, "timeout": "120s", "connect_timeout": "10s"},
                retry_config={"max_retries": 2},
            )

    def _do(self, work: Callable[[], T]) -> T:
        with store_errors(self.address):
            try:
                return work()
            except (FileNotFoundError, Gone, TypeError):
                raise
            except Exception as error:
                lasting = type(error).__name__ in _LASTING
                line = (str(error).splitlines() or [type(error).__name__])[0][:300]
                if lasting:
                    raise Final(f"{line}; check the address, the login and its rights") from error
                raise Transient(line) from error

    def get(self, key: str) -> Held | None:
        """See `Shelf`."""

        def work() -> Held | None:
            try:
                found = self._obstore.get(self._store, key)
                data = bytes(found.bytes())
            except FileNotFoundError:
                return None
            meta = found.meta
            return Held(data, _version(meta), meta["last_modified"].timestamp())

        return self._do(work)

    def chunks(self, key: str) -> Iterator[bytes]:
        """See `Shelf`."""
        try:
            stream = self._do(lambda: iter(self._obstore.get(self._store, key).stream(_PIECE)))
        except (Final, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) or isinstance(
                error.__cause__, FileNotFoundError
            ):
                raise Gone(key) from error
            raise
        while True:
            chunk = self._do(lambda: next(stream, None))
            if chunk is None:
                return
            yield bytes(chunk)

    def put(self, key: str, stream: BinaryIO) -> None:
        """See `Shelf`."""
        self._do(lambda: self._obstore.put(self._store, key, stream))

    def swap(self, key: str, data: bytes, version: Any) -> Any:
        """See `Shelf`."""

        def work() -> Any:
            try:
                mode = "create" if version is None else version
                return _version(self._obstore.put(self._store, key, data, mode=mode))
            except Exception as error:
                if type(error).__name__ in ("AlreadyExistsError", "PreconditionError"):
                    return None
                raise

        return self._do(work)

    def delete(self, keys: list[str]) -> None:
        """See `Shelf`."""
        for key in keys:  # not all at once: Google's interface has no such call
            try:
                self._do(lambda key=key: self._obstore.delete(self._store, key))  # type: ignore[misc]
            except Final as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise

    def keys(self, prefix: str) -> list[str]:
        """See `Shelf`."""

        def work() -> list[str]:
            pages = self._obstore.list(self._store, prefix)
            return [item["path"] for page in pages for item in page]

        return self._do(work)

    def folders(self) -> list[str]:
        """See `Shelf`."""

        def work() -> list[str]:
            found = self._obstore.list_with_delimiter(self._store)
            return [name.strip("/").rpartition("/")[2] for name in found["common_prefixes"]]

        return self._do(work)


def _version(facts: Any) -> dict[str, str]:
    """Of an object, by its tag and, in stores that have them, by its version."""
    return {name: facts[name] for name in ("e_tag", "version") if facts[name] is not None}


_LASTING = {
    "PermissionDeniedError", "UnauthenticatedError", "InvalidPathError", "NotSupportedError",
    "UnknownConfigurationKeyError",
}  # fmt: skip
