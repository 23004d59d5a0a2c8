"""The choice of a reader for a path."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources import (
    affectnet,
    ckplus,
    expw,
    fer_folders,
    ferplus_folders,
    labeltables,
    parquet,
    rafdb,
    roboflow,
    tars,
    trees,
    webshards,
)
from pattlite_dist.shards.sources.base import Reading, Source
from pattlite_dist.shards.sources.csvfile import TAR_SUFFIXES, CsvFile
from pattlite_dist.shards.sources.fer2013 import Fer2013Csv, csv_files
from pattlite_dist.shards.sources.ferplus import FerPlus
from pattlite_dist.shards.sources.files import Files, open_files
from pattlite_dist.shards.sources.spellings import is_image, shown
from pattlite_dist.shards.sources.tables import is_table

CSV_SUFFIXES = (".csv", ".csv.xz", ".csv.gz")


class Kind(NamedTuple):
    """A reader: its name for `--source`, what it reads, and whether it matches a folder or zip."""

    name: str
    about: str
    matches: Callable[[Sequence[str]], bool]
    make: Callable[[Files, Reading], Source]


def _csv_in(files: Files, reading: Reading) -> Source:
    names = csv_files(files.names)
    stems = [_stem(name) for name in names]
    if len(names) != 1 and stems != ["train", "test"]:
        raise UserError(
            f"{shown(str(files.path))} contains {len(names)} CSV files, but must contain one; give "
            "the one to read (unpacked, if it is a zip)"
        )
    return Fer2013Csv([files.table(name) for name in names], reading)


def _ck_csv_in(files: Files, reading: Reading) -> Source:
    names = ckplus.csv_names(files.names) or csv_files(files.names)
    if len(names) != 1:
        raise UserError(
            f"{shown(str(files.path))} contains {len(names)} CSV files of CK+, but must contain "
            "one; give the one to read (unpacked, if it is a zip)"
        )
    return ckplus.CkPlusCsv([files.table(names[0])], reading)


def _fer_folder(files: Files, reading: Reading) -> Source:
    # Any numbered tree, if the user says so.
    if not fer_folders.matches(files.names) and trees.numbered(files.images):
        return trees.Tree(files, reading)
    return fer_folders.FerFolder(files, reading)


def _raf_db(files: Files, reading: Reading) -> Source:
    if not rafdb.matches(files.names) and trees.numbered(files.images):
        return trees.Tree(files, reading)
    return rafdb.raf_db(files, reading)


def _stem(name: str) -> str:
    return name.split("/")[-1].split(".")[0]


def _known_csv(names: Sequence[str]) -> bool:
    stems = {_stem(name) for name in csv_files(names)}
    if stems & {"fer2013", "icml_face_data"}:
        return True
    return "train" in stems and not any(map(is_image, names))  # such a CSV lists images


# Most specific first: the first match is used.
KINDS = (
    Kind(
        "fer2013-csv",
        "fer2013.csv or icml_face_data.csv (emotion, pixels, Usage), or the challenge's train.csv "
        "and test.csv; plain, .xz, .gz or in a .zip, or fer2013.tar.gz as it is",
        _known_csv,
        _csv_in,
    ),
    Kind("ck+csv", ckplus.CSV_ABOUT, lambda names: bool(ckplus.csv_names(names)), _ck_csv_in),
    Kind("fer2013-folder", fer_folders.ABOUT, fer_folders.matches, _fer_folder),
    Kind("raf-db", rafdb.ABOUT, rafdb.matches, _raf_db),
    Kind("ck+48", ckplus.ABOUT, ckplus.matches, ckplus.CkPlus),
    Kind("expw", expw.ABOUT, expw.matches, expw.ExpW),
    Kind("affectnet", affectnet.ABOUT, affectnet.matches, affectnet.AffectNet),
    Kind("roboflow", roboflow.ABOUT, roboflow.matches, roboflow.Roboflow),
    Kind(
        ferplus_folders.KIND,
        ferplus_folders.ABOUT,
        ferplus_folders.matches,
        ferplus_folders.FerPlusFolder,
    ),
    Kind("label-table", labeltables.ABOUT, labeltables.matches, labeltables.in_folder),
    Kind("webdataset", webshards.ABOUT, webshards.matches, webshards.in_folder),
    Kind("hub-parquet", parquet.ABOUT, parquet.matches, parquet.in_folder),
    Kind("folder", trees.ABOUT, trees.matches, trees.Tree),
)


def kind_of(kind: str, where: str | Path) -> str:
    """How to read a set's source again: as the kind in its manifest, where that can read `where`.

    For it may be the kind that the user named, without which the source would be read otherwise.
    """
    of_csv = kind in ("fer2013-csv", "ck+csv")
    is_csv = str(where).lower().endswith((*CSV_SUFFIXES, *TAR_SUFFIXES))
    known = any(kind == each.name for each in KINDS)
    return kind if known and of_csv == is_csv else "auto"


def open_source(
    where: str | Path, reading: Reading | None = None, fetch: tars.Fetch | None = None
) -> Source:
    """Choose the reader for a file, a folder, a zip archive, or WebDataset shards by pattern.

    Args:
        where: a path, or a pattern of shards: paths, addresses or commands; see `tars.named`.
        reading: the user's options.
        fetch: reads shards at addresses; None if only paths are allowed.

    Raises:
        UserError: nothing is there, or no reader supports it.
    """
    reading = reading or Reading()
    source = _open(where, reading, fetch)
    if reading.votes is not None:
        return FerPlus(source, reading.votes, reading.target)
    if reading.target != "labels" and not source.votes:
        raise UserError(f"--target {reading.target} requires votes; give them with --votes FILE")
    return source


def _open(where: str | Path, reading: Reading, fetch: tars.Fetch | None) -> Source:
    known = [kind.name for kind in KINDS]
    if reading.kind not in ("auto", *known):
        raise UserError(
            f"--source {shown(reading.kind)} is not a reader; known are auto, {', '.join(known)}"
        )
    if tars.is_pattern(str(where)):
        _check_kind(shown(tars.safe(str(where))), "a pattern of shards", reading, "webdataset")
        return webshards.WebShards(tars.named(str(where), reading.allow_pipe, fetch), reading)
    path = Path(where)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{shown(str(path))} does not exist; give the path of a data set") from None
    except OSError as error:
        raise UserError(
            f"cannot read {shown(str(path))}: {error.strerror}; check the path and its permissions"
        ) from error
    name = path.name.lower()
    if path.is_file() and not name.endswith(".zip"):
        foreign = _open_foreign(path, reading)
        if foreign is not None:
            return foreign
        if not name.endswith((*CSV_SUFFIXES, *TAR_SUFFIXES)):
            raise UserError(
                f"{shown(str(path))} is of an unknown kind; known are {', '.join(CSV_SUFFIXES)}, "
                ".csv.zip, .zip, .tar.gz, .tsv, .parquet, .tar and folders (see `pattlite shards "
                "sources`)"
            )
        if reading.kind not in ("auto", "fer2013-csv", "ck+csv"):
            raise UserError(
                f"{shown(str(path))} is a CSV file, but --source {reading.kind} reads folders and "
                "zips; leave out --source, or give a folder or zip"
            )
        named_ck = reading.kind == "auto" and ckplus.csv_names([path.name])
        reader = ckplus.CkPlusCsv if named_ck or reading.kind == "ck+csv" else Fer2013Csv
        return reader([CsvFile(path)], reading)
    files = open_files(path)
    for kind in KINDS:
        if kind.name == reading.kind or (reading.kind == "auto" and kind.matches(files.names)):
            return kind.make(files, reading)
    if any("/" in name for name in files.images):  # told by their content only
        return trees.Tree(files, reading)
    if csv_files(files.names):  # with other names
        return _csv_in(files, reading)
    raise UserError(
        f"{shown(str(path))} contains nothing that can be read; see `pattlite shards sources` for "
        "the known kinds"
    )


def _open_foreign(path: Path, reading: Reading) -> Source | None:
    """The reader for a file that is a tar, Parquet or a label table; None for any other."""
    name, where = path.name.lower(), shown(str(path))
    if name.endswith(".tar"):
        _check_kind(where, "a tar", reading, "webdataset")
        return webshards.WebShards(tars.local([path], where), reading)
    if name.endswith(".parquet") and parquet.has_images(path, reading):
        _check_kind(where, "a Parquet file of images", reading, "hub-parquet")
        return parquet.HubParquet([path], reading)
    if is_table(name) and labeltables.lists_images(path, reading):
        _check_kind(where, "a label table", reading, "label-table")
        return labeltables.LabelTable(open_files(path.parent), reading, path.name)
    return None


def _check_kind(where: str, what: str, reading: Reading, kind: str) -> None:
    if reading.kind not in ("auto", kind):
        raise UserError(
            f"{where} is {what}, but --source {reading.kind} reads something else; leave out "
            "--source, or give what it reads"
        )
