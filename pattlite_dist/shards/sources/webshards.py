"""WebDataset shards of others, grouped into samples by the webdataset library.

The library never decodes anything here: of each sample only the image and the label are used, so
that nothing in a shard is unpickled.
"""

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources import tars
from pattlite_dist.shards.sources.base import Reading, refusal
from pattlite_dist.shards.sources.classnames import NAME_FILES
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.members import image_of, label_of
from pattlite_dist.shards.sources.spellings import is_image, shown
from pattlite_dist.shards.sources.streamed import Loose, Streamed

ABOUT = (
    "WebDataset shards: jpg, png or webp with cls, json or txt; train/0.tar and test/0.tar, or "
    "train-{000..014}.tar; classes named by classnames.txt; a folder, a .tar, a pattern, or an "
    "address such as https://host/set/train/{0..3}.tar"
)
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_FIX = "copy or download it again"


def matches(names: Sequence[str]) -> bool:
    """Whether there are tars, and no images outside of them."""
    return any(n.lower().endswith(".tar") for n in names) and not any(map(is_image, names))


class WebShards(Streamed):
    """The samples of WebDataset shards, in their order.

    Args:
        shards: where they are.
        reading: the user's options; `image_column` and `label_column` name members or, for the
            label, a key of the JSON.

    Raises:
        UserError: a shard is damaged, or its samples have no labels; names it.
    """

    kind = "webdataset"
    name = "WebDataset"

    def __init__(self, shards: tars.Tars, reading: Reading) -> None:
        self._tars, self._reading = shards, reading
        self.where = shards.where
        self._survey(reading)

    def stamp(self) -> str:
        """Paths, sizes and times of the files, or the contents of what was downloaded."""
        return self._tars.stamp

    def _each(self) -> Iterator[Loose]:
        for shard in self._tars.shards:
            for key, sample in _samples(shard):
                where = f"{shard.shown}, sample {shown(key)}"
                try:
                    suffix, image = image_of(sample, self._reading.image_column)
                    text, called = label_of(sample, self._reading)
                except ValueError as error:
                    fix = "choose with --image-column and --label-column, or fix the sample"
                    raise refusal(where, str(error), fix) from None
                file = f"{shard.name}/{key}.{suffix}"
                yield Loose(image, text, called, shard.split, where, file)

    def _known(self) -> Sequence[str] | Mapping[int, str]:
        return self._tars.names

    def _label_fix(self) -> str:
        return (
            "name its member or JSON key with --label-column, or skip such samples with "
            "--unlabelled skip; the members of a sample must be next to each other, and a tar that "
            "is only a packed folder must be unpacked"
        )

    def _name_fix(self) -> str:
        return (
            f"write the names in the order of the numbers, one a line, in {NAME_FILES[0]} beside "
            "the shards, or choose the label with --label-column"
        )


def _samples(shard: tars.Shard) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each sample of a shard: its key, and the content of its members by suffix."""
    from webdataset import tariterators

    try:
        with shard.path.open("rb") as stream:
            head = stream.read(6)
            stream.seek(0)
            if head.startswith(_PACKED):  # a few bytes could unpack to any size
                raise UserError(f"{shard.shown} is compressed; unpack it to a plain .tar")
            files = tariterators.tar_file_expander([{"url": shard.shown, "stream": stream}])
            for sample in tariterators.group_by_keys(files):
                yield sample["__key__"], _members(sample)
    except (tarfile.TarError, ValueError, EOFError) as error:
        # webdataset adds the stream to what an error says.
        reason = str(error.args[0] if error.args else error).partition(" @ <")[0]
        what = f"it is not a WebDataset shard, or is damaged ({shown(reason)[:160]})"
        raise refusal(shard.shown, what, _FIX) from error
    except OSError as error:
        what = f"it cannot be read ({error.strerror or shown(str(error))})"
        raise refusal(shard.shown, what, "check that it exists and is readable") from error


def _members(sample: Mapping[str, Any]) -> dict[str, bytes]:
    return {
        suffix: data
        for suffix, data in sample.items()
        if isinstance(data, bytes) and not suffix.startswith("__")
    }


def in_folder(files: Files, reading: Reading) -> WebShards:
    """The reader for the tars in a folder.

    Raises:
        UserError: it is a zip, or there are none.
    """
    paths = [files.place(name) for name in files.names if name.lower().endswith(".tar")]
    where = shown(str(files.path))
    if not paths:
        raise refusal(where, "it has no .tar file", "leave out --source")
    return WebShards(tars.local(paths, where), reading)
