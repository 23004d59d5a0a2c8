import gzip
import hashlib
import lzma
import random
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources import FER2013_SPLITS, Row, open_source
from tests.shards.conftest import (
    HEADER,
    CsvRow,
    csv_text,
    face,
    pack,
    pixel_text,
    random_image,
    tiny_images,
    tiny_rows,
    write_csv,
)

PACKED = (".csv", ".csv.xz", ".csv.gz", ".csv.zip", ".zip")


def read(path: Path) -> list[Row]:
    return list(open_source(path).rows())


def refusal(path: Path, named: Path | None = None) -> str:
    """The message with which `path` is refused: one line that names it and tells what to do."""
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(named or path) in message
    what, mend = message.rsplit("; ", 1)
    assert what and mend
    return message


def plain(rows: list[Row]) -> list[tuple[int, int, str, bytes]]:
    return [(row.index, row.label, row.split, row.image.tobytes()) for row in rows]


def test_rows_are_those_of_the_file_in_its_order(tiny_csv: Path) -> None:
    rows = read(tiny_csv)
    assert [row.index for row in rows] == list(range(40))
    assert [row.split for row in rows] == ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    assert [str(row.label) for row in rows] == [row.emotion for row in tiny_rows()]
    for row, image in zip(rows, tiny_images(), strict=True):
        assert row.image.dtype == np.uint8
        np.testing.assert_array_equal(row.image, image, strict=True)


@pytest.mark.parametrize("suffix", PACKED)
def test_every_packing_gives_the_same_rows_and_hash(
    tmp_path: Path, tiny_csv: Path, suffix: str
) -> None:
    source = open_source(write_csv(tmp_path / f"faces{suffix}", tiny_rows()))
    assert plain(list(source.rows())) == plain(read(tiny_csv))
    assert source.sha256 == hashlib.sha256(tiny_csv.read_bytes()).hexdigest()


def test_a_source_can_be_read_twice(tiny_csv: Path) -> None:
    source = open_source(tiny_csv)
    first = plain(list(source.rows()))
    digest = source.sha256
    assert plain(list(source.rows())) == first
    assert source.sha256 == digest


def test_the_hash_is_not_told_before_all_is_read(tiny_csv: Path) -> None:
    source = open_source(tiny_csv)
    next(source.rows())
    with pytest.raises(RuntimeError, match="read to its end"):
        _ = source.sha256


@pytest.mark.parametrize(
    "header",
    [
        ("Usage", "pixels", "emotion"),
        ("emotion", " Usage", " pixels"),
        ("id", "pixels ", "note", "emotion", "\tUsage"),
    ],
)
def test_columns_are_found_by_name(tmp_path: Path, tiny_csv: Path, header: tuple[str, ...]) -> None:
    path = write_csv(tmp_path / "other.csv", tiny_rows(), header)
    assert plain(read(path)) == plain(read(tiny_csv))


def test_blanks_around_fields_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    rows = [face(3, "PublicTest", seed=4), face(6, "Training", seed=5)]
    padded = [(f" {row.emotion}", f" {row.pixels} ", f"{row.Usage} ") for row in rows]
    path = tmp_path / "fer2013.csv"
    path.write_bytes(csv_text(padded).replace("\n", "\r\n").encode())
    assert [(row.label, row.split) for row in read(path)] == [(3, "val"), (6, "train")]
    np.testing.assert_array_equal(read(path)[1].image, random_image(5))


@pytest.mark.parametrize("name", ["fer2013.csv", "fer2013.csv.xz", "fer2013.csv.zip"])
def test_a_folder_with_a_fer2013_csv_will_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "README.txt").write_text("read me")
    write_csv(tmp_path / name, [face(2, "PrivateTest")])
    assert [(row.label, row.split) for row in read(tmp_path)] == [(2, "test")]


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("read me")
    assert "folder without a fer2013.csv" in refusal(tmp_path)


def test_a_folder_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fer2013.csv").mkdir()
    (tmp_path / "fer2013.csv" / "fer2013.csv").mkdir()
    message = refusal(tmp_path / "fer2013.csv")
    assert "Is a directory" in message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.csv")


@pytest.mark.parametrize("name", ["faces.npz", "fer2013", "fer2013.csv.bz2", "fer2013.tsv"])
def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("something")
    message = refusal(tmp_path / name)
    assert "not of a known kind" in message
    assert all(suffix in message for suffix in PACKED)


def test_a_file_that_goes_away_before_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face()])
    source = open_source(path)
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*fer2013\.csv: No such file"):
        list(source.rows())


@pytest.mark.parametrize("suffix", PACKED)
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"fer2013{suffix}"
    path.write_bytes(b"")
    refusal(path)


@pytest.mark.parametrize("suffix", PACKED)
def test_a_packed_file_of_no_bytes_is_refused(tmp_path: Path, suffix: str) -> None:
    message = refusal(pack(tmp_path / f"fer2013{suffix}", ""))
    assert "has no column emotion, pixels, Usage" in message


def test_a_header_alone_is_refused(tmp_path: Path) -> None:
    assert "a header and no rows" in refusal(write_csv(tmp_path / "fer2013.csv", []))


@pytest.mark.parametrize("missing", HEADER)
def test_a_missing_column_is_named(tmp_path: Path, missing: str) -> None:
    header = [name if name != missing else "other" for name in HEADER]
    message = refusal(write_csv(tmp_path / "fer2013.csv", [face()], header))
    assert f"has no column {missing} (found: {', '.join(header)})" in message


def test_a_file_without_a_header_is_refused_in_a_short_message(tmp_path: Path) -> None:
    path = pack(tmp_path / "fer2013.csv", csv_text([face()]).split("\n", 1)[1])
    message = refusal(path)
    assert "has no column emotion, pixels, Usage" in message
    assert len(message) < 250 + len(str(path))


GOOD = face(3, "PublicTest", seed=9)
PIXELS = GOOD.pixels.split()


def _with_pixel(text: str) -> str:
    return " ".join([*PIXELS[:1000], text, *PIXELS[1001:]])


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (GOOD._replace(pixels=" ".join(PIXELS[:-1])), "2303 pixels where 2304 are needed"),
        (GOOD._replace(pixels=" ".join([*PIXELS, "7"])), "2305 pixels where 2304 are needed"),
        (GOOD._replace(pixels=""), "0 pixels where 2304 are needed"),
        (GOOD._replace(pixels=_with_pixel("256")), "a pixel lies outside 0 to 255"),
        (GOOD._replace(pixels=_with_pixel("-1")), "a pixel lies outside 0 to 255"),
        (GOOD._replace(pixels=_with_pixel("9" * 40)), "a pixel lies outside 0 to 255"),
        (GOOD._replace(pixels="12 x"), "not whole numbers"),
        (GOOD._replace(pixels=_with_pixel("x")), "not whole numbers"),
        (GOOD._replace(pixels=_with_pixel("1.5")), "not whole numbers"),
        (GOOD._replace(pixels=_with_pixel("³")), "not whole numbers"),
        (GOOD._replace(pixels=_with_pixel("1,2")), "not whole numbers"),
        (GOOD._replace(emotion="9"), "label '9' is not one of 0 to 6"),
        (GOOD._replace(emotion="7"), "label '7' is not one of 0 to 6"),
        (GOOD._replace(emotion="-1"), "label '-1' is not one of 0 to 6"),
        (GOOD._replace(emotion="x"), "label 'x' is not one of 0 to 6"),
        (GOOD._replace(emotion="³"), "label '³' is not one of 0 to 6"),
        (GOOD._replace(emotion="٣"), "label '٣' is not one of 0 to 6"),
        (GOOD._replace(emotion="1.0"), "label '1.0' is not one of 0 to 6"),
        (GOOD._replace(emotion=""), "label '' is not one of 0 to 6"),
        (GOOD._replace(emotion="3" * 5000), "is not one of 0 to 6"),  # past int()'s own limit
        (GOOD._replace(emotion=GOOD.pixels), "is not one of 0 to 6"),
        (GOOD._replace(Usage="Test"), "Usage 'Test' is not one of Training, PublicTest, Private"),
        (GOOD._replace(Usage="training"), "Usage 'training' is not one of"),
        (GOOD._replace(Usage=""), "Usage '' is not one of"),
        (GOOD._replace(Usage=GOOD.pixels), "is not one of Training, PublicTest, PrivateTest"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, bad: CsvRow, told: str) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face(), face(), bad, face()])
    message = refusal(path)
    assert told in message
    assert f"{path}, row 2 (line 4): " in message
    assert message.endswith("mend the row, or download the file again if it is truncated")
    assert len(message) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"{GOOD.emotion},{GOOD.pixels},{GOOD.Usage},more", "4 fields where 3 are needed"),
        (f"{GOOD.emotion},{GOOD.pixels}", "2 fields where 3 are needed"),
        ("", "0 fields where 3 are needed"),
    ],
)
def test_a_row_with_too_many_or_too_few_fields_is_named(
    tmp_path: Path, line: str, told: str
) -> None:
    lines = csv_text([face(), face()]).splitlines()
    path = pack(tmp_path / "fer2013.csv", "\n".join([*lines, line, lines[-1]]) + "\n")
    message = refusal(path)
    assert told in message
    assert "row 2 (line 4)" in message


def test_the_rows_before_a_bad_one_are_given(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face(1), face(2), face(9), face(3)])
    seen: list[int] = []
    with pytest.raises(UserError, match="row 2"):
        seen.extend(row.label for row in open_source(path).rows())
    # list.extend keeps what came before the exception.
    assert seen == [1, 2]


def test_bad_pixels_are_refused_where_numpy_only_warns_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As NumPy did before 2.3, with a user who hides warnings.
    def old_fromstring(text: str, **_: object) -> np.ndarray:
        warnings.warn("string or file could not be read to its end", DeprecationWarning, 2)
        return np.zeros(2304, np.int64)

    path = write_csv(tmp_path / "fer2013.csv", [GOOD._replace(pixels=_with_pixel("x"))])
    monkeypatch.setattr(np, "fromstring", old_fromstring)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "not whole numbers" in refusal(path)


@pytest.mark.parametrize("seed", range(4))
def test_a_binary_file_named_csv_is_refused(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_bytes(random.Random(seed).randbytes(20_000))
    assert "not text" in refusal(path)


def test_bytes_that_are_not_text_among_the_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_bytes(csv_text([face()]).encode() + b"\xff\xfe\x00\x80,1,Training\n")
    assert "not text" in refusal(path)


def test_a_field_without_end_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "fer2013.csv", csv_text([]) + "0," + "1 " * 100_000)
    assert "not a CSV file" in refusal(path)


def test_nul_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_bytes(csv_text([GOOD._replace(pixels=_with_pixel("1\0002"))]).encode())
    refusal(path)


def _cuts(data: bytes) -> list[int]:
    ends = [place for place, byte in enumerate(data) if byte == ord("\n")]
    near = {end + step for end in ends for step in range(-14, 15)}
    somewhere = set(random.Random(0).sample(range(len(data)), 150))
    return sorted(cut for cut in near | somewhere | set(range(25)) if 0 <= cut < len(data))


def test_a_csv_cut_anywhere_is_refused_or_ends_with_a_whole_row(tmp_path: Path) -> None:
    usages = list(FER2013_SPLITS)
    whole = csv_text([face(index, usage, index) for index, usage in enumerate(usages)]).encode()
    path = tmp_path / "fer2013.csv"
    path.write_bytes(whole)
    rows = plain(read(path))
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    # Up to the end of a row, with or without its newline, nothing tells that more should follow.
    complete = {cut: count for count, end in enumerate(ends) for cut in (end, end + 1) if count}
    fewer = 0
    for cut in _cuts(whole):
        path.write_bytes(whole[:cut])
        if cut in complete:
            assert plain(read(path)) == rows[: complete[cut]]
            fewer += 1
        else:
            refusal(path)
    assert fewer == 2 * len(usages) - 1  # the last cut leaves the file whole and is not made


@pytest.mark.parametrize("suffix", [".csv.xz", ".csv.gz", ".zip"])
def test_a_packed_file_cut_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_csv(tmp_path / f"fer2013{suffix}", [face(seed=seed) for seed in range(2)])
    data = path.read_bytes()
    cuts = {*range(40), *random.Random(1).sample(range(len(data)), 40)}
    for cut in sorted(cuts | {len(data) - back for back in range(1, 30)}):
        path.write_bytes(data[:cut])
        refusal(path)


@pytest.mark.parametrize("suffix", [".csv.xz", ".csv.gz", ".zip"])
def test_a_damaged_packed_file_gives_its_rows_or_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_csv(tmp_path / f"fer2013{suffix}", [face(seed=seed) for seed in range(2)])
    rows, data, chance = plain(read(path)), path.read_bytes(), random.Random(2)
    refused = 0
    for turn in range(150):
        damaged = bytearray(data)
        # Headers lie at both ends of these formats; a bit there may mean another method,
        # a password or another size.
        place = (chance.randrange(60), len(data) - 1 - chance.randrange(100))[turn % 2]
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert plain(read(path)) == rows
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("suffix", [".csv.xz", ".csv.gz", ".zip"])
def test_a_flipped_bit_in_packed_data_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_csv(tmp_path / f"fer2013{suffix}", [face(seed=seed) for seed in range(2)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    refusal(path)


def test_a_csv_that_only_claims_to_be_packed_is_refused(tmp_path: Path) -> None:
    for suffix in (".csv.xz", ".csv.gz", ".zip"):
        path = tmp_path / f"fer2013{suffix}"
        path.write_text(csv_text([face()]))
        assert "truncated or damaged" in refusal(path)


def test_a_file_packed_by_another_method_than_its_name_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fer2013.csv.xz"
    path.write_bytes(gzip.compress(csv_text([face()]).encode()))
    assert "truncated or damaged" in refusal(path)
    path = tmp_path / "fer2013.csv.gz"
    path.write_bytes(lzma.compress(csv_text([face()]).encode()))
    assert "truncated or damaged" in refusal(path)


def zipped(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/") + ".csv", text)
    return path


def test_a_zip_with_two_csv_files_is_refused(tmp_path: Path) -> None:
    text = csv_text([face()])
    message = refusal(zipped(tmp_path / "data.zip", train=text, test=text))
    assert "holds 2 CSV files where one is needed" in message


def test_a_zip_without_a_csv_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("README.txt", "read me")
    assert "holds 0 CSV files where one is needed" in refusal(tmp_path / "data.zip")


def test_in_a_zip_the_file_named_fer2013_is_preferred(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.zip", more="other", fer__fer2013=csv_text([face(5)]))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/fer/fer2013.csv", "\0\1\2")
    assert [row.label for row in read(path)] == [5]


def test_a_zip_with_a_password_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.zip", fer2013=csv_text([face()]))
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of the member
        data[data.index(signature) + place] |= 1
    path.write_bytes(data)
    assert "password" in refusal(path)


def test_pixels_are_not_reordered(tmp_path: Path) -> None:
    image = np.arange(2304).reshape(1, 48, 48) % 253
    row = CsvRow("0", pixel_text(image.astype(np.uint8)), "Training")
    (found,) = read(write_csv(tmp_path / "fer2013.csv", [row]))
    assert found.image[0, 0, :3].tolist() == [0, 1, 2]
    assert found.image[0, 1, 0] == 48


def test_the_byte_order_mark_that_excel_writes_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_bytes(b"\xef\xbb\xbf" + csv_text([face(3)]).encode())
    assert [row.label for row in open_source(path).rows()] == [3]
