"""Plain and packed CSV files: the fast splitter against the csv module, and kinds of damage."""

import csv
import gzip
import hashlib
import io
import lzma
import random
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources import csvfile
from pattlite_dist.shards.sources.csvfile import CsvFile, Record, stamp_of
from tests.shards.conftest import csv_text, face, pack
from tests.shards.sources.conftest import refused

PACKED = (".csv", ".csv.xz", ".csv.gz", ".csv.zip", ".zip")
COMPRESSED = (".csv.xz", ".csv.gz", ".zip")
TEXT = csv_text([face(seed=seed) for seed in range(2)])
ROWS = [Record(1 + n, line.encode().split(b",")) for n, line in enumerate(TEXT.splitlines())]


def refusal(path: Path, *parts: str) -> str:
    return refused(lambda: list(CsvFile(path).records()), str(path), *parts)


def split(data: bytes) -> list[Record]:
    """The records of a plain file with these bytes."""
    return list(csvfile._records(csvfile._Source(io.BytesIO(data))))


def by_the_csv_module(data: bytes) -> list[Record]:
    rows, records, line = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")), [], 1
    for row in rows:
        records.append(Record(line, [field.encode() for field in row]))
        line = rows.line_num + 1
    return records


@pytest.mark.parametrize("suffix", PACKED)
def test_every_packing_gives_the_same_records_and_hash(tmp_path: Path, suffix: str) -> None:
    file = CsvFile(pack(tmp_path / f"faces{suffix}", TEXT))
    assert list(file.records()) == ROWS
    assert file.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert list(file.records()) == ROWS  # again


def test_a_suffix_in_capitals_will_do(tmp_path: Path) -> None:
    pack(tmp_path / "a.csv.gz", TEXT).rename(tmp_path / "A.CSV.GZ")
    assert list(CsvFile(tmp_path / "A.CSV.GZ").records()) == ROWS


def test_the_hash_is_not_told_before_all_is_read(tmp_path: Path) -> None:
    file = CsvFile(pack(tmp_path / "faces.csv", TEXT))
    records = file.records()
    next(records)
    with pytest.raises(RuntimeError, match="read to its end"):
        _ = file.sha256
    list(records)
    assert file.sha256


@pytest.mark.parametrize("suffix", PACKED)
def test_the_share_read_rises_to_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(csvfile._Source.block, "__defaults__", (1 << 13,))
    chance = random.Random(0)
    lines = [f"{n},{chance.randbytes(40).hex()}" for n in range(20_000)]
    file = CsvFile(pack(tmp_path / f"faces{suffix}", "\n".join(lines)))
    assert file.share() == 0
    shares = [file.share() for _ in file.records()]
    assert shares == sorted(shares)
    assert shares[0] < 0.2 and shares[len(lines) // 2] == pytest.approx(0.5, abs=0.2)
    assert file.share() == 1


def test_the_share_is_that_of_the_member_whatever_else_the_zip_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("large.bin", bytes(5 << 20))
        archive.writestr("a.csv", "1,2\n" * (1 << 20))
        archive.writestr("other.bin", bytes(5 << 20))
    file = CsvFile(tmp_path / "a.zip", "a.csv")
    records = file.records()
    next(records)
    assert 0.2 < file.share() < 0.4  # one block of four
    records.close()


LINE_ENDS = st.sampled_from(["\n", "\r\n"])
PLAIN = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters='",\r\n\0\ufeff'), max_size=8
)


def _sound(fields: list[str]) -> bool:
    # The csv module treats a line of spaces as a field; here it is an empty line.
    return bool(",".join(fields).encode().strip()) or fields == [""]


@given(
    st.lists(st.lists(PLAIN, min_size=1, max_size=4).filter(_sound), max_size=4),
    LINE_ENDS,
    st.booleans(),
    st.data(),
)
def test_plain_text_is_split_as_the_csv_module_does(
    rows: list[list[str]], end: str, last: bool, data: st.DataObject
) -> None:
    text = end.join(",".join(fields) for fields in rows) + (end if last else "")
    encoded = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()
    assert split(encoded) == by_the_csv_module(encoded)


@given(
    st.lists(st.text(st.sampled_from('a7 ,"\n\r\u00e9'), max_size=12)).map("\n".join),
    st.integers(1, 9),
)
def test_any_text_is_split_as_the_csv_module_does_wherever_blocks_end(text: str, size: int) -> None:
    data = text.encode()
    source = csvfile._Source(_Short(data, size))
    assert [r for r in csvfile._records(source) if b"".join(r.fields).strip()] == [
        r for r in by_the_csv_module(data) if b"".join(r.fields).strip()
    ]
    assert source.digest.digest() == hashlib.sha256(data).digest()


class _Short(io.BytesIO):
    """Returns a few bytes at a time, so that lines and quotes span blocks."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self.size = size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self.size)


# Before Python 3.11 the csv module neither writes nor reads a NUL.
WRITABLE = st.characters(
    exclude_categories=["Cs"], exclude_characters="\0" if sys.version_info < (3, 11) else ""
)


@given(st.lists(st.lists(st.text(WRITABLE, max_size=8), max_size=4), max_size=4))
def test_what_the_csv_module_writes_is_read(rows: list[list[str]]) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows(rows)
    found = split(stream.getvalue().encode())
    assert [[field.decode() for field in fields] for _, fields in found] == rows


def test_lines_are_counted_past_the_first_quote() -> None:
    assert split(b'a,b\n1,2\n"x\ny",3\n4,5\n')[1:] == [
        Record(2, [b"1", b"2"]), Record(3, [b"x\ny", b"3"]), Record(5, [b"4", b"5"]),
    ]  # fmt: skip


@pytest.mark.parametrize("quote", ["", '"'])
def test_the_byte_order_mark_that_excel_writes_is_no_part_of_a_name(
    tmp_path: Path, quote: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{quote}emotion{quote},pixels\n".encode())
    assert list(CsvFile(path).records()) == [Record(1, [b"emotion", b"pixels"])]


@pytest.mark.parametrize("start", ["", '"', "\r"])
def test_a_line_without_end_is_refused_and_not_read_whole(tmp_path: Path, start: str) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wb", 1) as stream:
        stream.write(start.encode())
        for _ in range(16):
            stream.write(b"1 " * (1 << 19))
    file = CsvFile(tmp_path / "a.csv.gz")
    refused(lambda: list(file.records()), str(file.path), "not a CSV file", "is longer than")
    assert file.share() == 0


def test_a_field_without_end_is_refused(tmp_path: Path) -> None:
    refusal(pack(tmp_path / "a.csv", 'a,b\n"' + "1 \n" * 100_000), "not a CSV file", "field larger")


@pytest.mark.parametrize("data", [b'a,"\xff"\n', b'"a\xe9",b\n', b"\xff\xfe\x00\r\x00"])
def test_bytes_that_are_not_text_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    refusal(path, "is not text", "save it as CSV in UTF-8")


def test_a_missing_file_a_folder_and_a_file_that_goes_are_refused(tmp_path: Path) -> None:
    refusal(tmp_path / "none.csv", "cannot read", "No such file")
    refusal(tmp_path, "cannot read", "Is a directory")
    refused(lambda: stamp_of([tmp_path / "none.csv"]), "cannot read", "none.csv", "No such file")


@pytest.mark.parametrize("suffix", PACKED)
def test_an_empty_file_has_no_records_or_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"")
    if suffix in (".csv", ".csv.gz"):  # gzip treats it as a file with no members
        assert list(CsvFile(path).records()) == []
    else:
        refusal(path, "truncated or damaged")
    assert list(CsvFile(pack(path, "")).records()) == []


def _cuts(size: int) -> Sequence[int]:
    somewhere = random.Random(1).sample(range(size), 30)
    return sorted({*range(30), *somewhere, *(size - back for back in range(1, 30))})


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_packed_file_cut_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    path = pack(tmp_path / f"a{suffix}", TEXT)
    data = path.read_bytes()
    for cut in _cuts(len(data)):
        path.write_bytes(data[:cut])
        if cut or suffix != ".csv.gz":  # an empty gzip is a file with no members
            refusal(path)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_damaged_packed_file_gives_its_rows_or_is_refused(tmp_path: Path, suffix: str) -> None:
    path = pack(tmp_path / f"a{suffix}", TEXT)
    data, chance = path.read_bytes(), random.Random(2)
    refusals = 0
    for turn in range(150):
        damaged = bytearray(data)
        # Headers are at both ends of these formats; a bit there may mean another method,
        # a password or another size.
        place = (chance.randrange(60), len(data) - 1 - chance.randrange(100))[turn % 2]
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert list(CsvFile(path).records()) == ROWS
        except UserError as error:
            assert str(path) in str(error) and str(error).isprintable()
            refusals += 1
    assert refusals > 50


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_flipped_bit_in_packed_data_is_refused(tmp_path: Path, suffix: str) -> None:
    path = pack(tmp_path / f"a{suffix}", TEXT)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    refusal(path)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_file_that_only_claims_to_be_packed_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text(TEXT)
    refusal(path, "truncated or damaged")


def test_a_file_packed_by_another_method_than_its_name_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv.xz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "a.csv.gz").write_bytes(lzma.compress(TEXT.encode()))
    for name in ("a.csv.xz", "a.csv.gz"):
        refusal(tmp_path / name, "truncated or damaged")


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)
    return path


def test_a_zip_with_no_or_several_csv_files_is_refused(tmp_path: Path) -> None:
    refusal(zipped(tmp_path / "a.zip", a_csv=b"1", b__c_csv=b"2"), "contains 2 CSV files")
    refusal(zipped(tmp_path / "b.zip", README_txt=b"read me"), "contains 0 CSV files")


def test_litter_of_a_file_manager_is_not_counted(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", a_csv=b"1,2")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/a.csv", b"\0")
    assert list(CsvFile(path).records()) == [Record(1, [b"1", b"2"])]


def test_a_packed_member_of_a_zip_is_unpacked(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", a_csv_gz=gzip.compress(b"1,2"), b_csv_xz=lzma.compress(b"3"))
    assert list(CsvFile(path, "a.csv.gz").records()) == [Record(1, [b"1", b"2"])]
    assert list(CsvFile(path, "b.csv.xz").records()) == [Record(1, [b"3"])]


def test_a_zip_within_a_zip_and_a_member_that_is_gone_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", a_csv_zip=b"PK")
    for member, told in (("a.csv.zip", "a zip within a zip"), ("b.csv", "no longer there")):
        file = CsvFile(path, member)
        refused(lambda file=file: list(file.records()), f"{path}, member {member}", told)


def test_a_zip_with_a_password_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", a_csv=TEXT.encode())
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of the member
        data[data.index(signature) + place] |= 1
    path.write_bytes(data)
    refusal(path, "password")


def test_a_path_of_two_lines_is_told_in_one(tmp_path: Path) -> None:
    refused(lambda: list(CsvFile(tmp_path / "a\nb.csv").records()), "a\\nb.csv")


def test_the_stamp_changes_with_path_size_and_time(tmp_path: Path) -> None:
    a, b = (pack(tmp_path / name, TEXT) for name in ("a.csv", "b.csv"))
    before = stamp_of([a])
    assert stamp_of([a]) == before != stamp_of([b])
    pack(a, TEXT + "1")
    assert stamp_of([a]) != before
