"""FER2013's CSV files: rows, labels, splits and pixels, and every kind of bad row."""

import hashlib
import io
import random
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources import csvfile
from pattlite_dist.shards.sources.base import Item, Reading
from pattlite_dist.shards.sources.csvfile import CsvFile
from pattlite_dist.shards.sources.fer2013 import (
    FER2013_SPLITS,
    Fer2013Csv,
    _decode_plain,
    csv_files,
    decode_pixels,
)
from pattlite_dist.shards.sources.registry import open_source
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
from tests.shards.sources.conftest import refused
from tests.sources import Row, read_rows


def source_of(*paths: Path, **reading: object) -> Fer2013Csv:
    return Fer2013Csv([CsvFile(path) for path in paths], Reading(**reading))  # type: ignore[arg-type]


def read(*paths: Path) -> list[Row]:
    return list(read_rows(source_of(*paths)))


def refusal(path: Path, *parts: str) -> str:
    return refused(lambda: read(path), str(path), *parts)


def plain(rows: list[Row]) -> list[tuple[int, int, str | None, bytes]]:
    return [(row.index, row.label, row.split, row.image.tobytes()) for row in rows]


def test_rows_are_those_of_the_file_in_its_order(tiny_csv: Path) -> None:
    rows = read(tiny_csv)
    assert [row.index for row in rows] == list(range(40))
    assert [row.split for row in rows] == ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    assert [str(row.label) for row in rows] == [row.emotion for row in tiny_rows()]
    for row, image in zip(rows, tiny_images(), strict=True):
        assert row.image.dtype == np.uint8
        np.testing.assert_array_equal(row.image, image, strict=True)


def test_a_source_can_be_read_twice(tiny_csv: Path) -> None:
    source = source_of(tiny_csv)
    first = plain(list(read_rows(source)))
    assert source.sha256 == hashlib.sha256(tiny_csv.read_bytes()).hexdigest()
    assert plain(list(read_rows(source))) == first
    assert (source.kind, source.left_out) == ("fer2013-csv", {})


def test_the_hash_is_not_told_before_all_is_read(tiny_csv: Path) -> None:
    source = source_of(tiny_csv)
    next(source.items())
    with pytest.raises(RuntimeError, match="read to its end"):
        _ = source.sha256


@pytest.mark.parametrize(
    "header",
    [
        ("Usage", "pixels", "emotion"),
        ("emotion", " Usage", " pixels"),  # as in icml_face_data.csv
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


def test_quotes_and_a_byte_order_mark_do_no_harm(tmp_path: Path, tiny_csv: Path) -> None:
    path = tmp_path / "fer2013.csv"
    lines = [",".join(f'"{field}"' for field in row) for row in [HEADER, *tiny_rows()]]
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    assert plain(read(path)) == plain(read(tiny_csv))


def test_pixels_are_not_reordered(tmp_path: Path) -> None:
    image = np.arange(2304).reshape(1, 48, 48) % 253
    row = CsvRow("0", pixel_text(image.astype(np.uint8)), "Training")
    (found,) = read(write_csv(tmp_path / "fer2013.csv", [row]))
    assert found.image[0, 0, :3].tolist() == [0, 1, 2]
    assert found.image[0, 1, 0] == 48


def test_an_empty_file_and_a_header_alone_are_refused(tmp_path: Path) -> None:
    refusal(pack(tmp_path / "fer2013.csv", ""), "has no column emotion, pixels, Usage")
    refusal(write_csv(tmp_path / "fer2013.csv", []), "a header but no rows")


@pytest.mark.parametrize("missing", HEADER)
def test_a_missing_column_is_named(tmp_path: Path, missing: str) -> None:
    header = [name if name != missing else "other" for name in HEADER]
    told = f"has no column {missing} (found: {', '.join(header)})"
    refusal(write_csv(tmp_path / "fer2013.csv", [face()], header), told)


@pytest.mark.parametrize("twice", HEADER)
def test_a_column_of_which_there_are_two_is_named(tmp_path: Path, twice: str) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face()], [*HEADER, f" {twice}"])
    refusal(path, f"two columns named {twice}")


def test_a_file_without_a_header_is_refused_in_a_short_message(tmp_path: Path) -> None:
    path = pack(tmp_path / "fer2013.csv", csv_text([face()]).split("\n", 1)[1])
    message = refusal(path, "has no column emotion, pixels, Usage")
    assert len(message) < 250 + len(str(path))


@pytest.mark.parametrize("header", [b"emotion,pix\xe9ls\n", "emotion,pixels\n".encode("utf-16")])
def test_a_header_that_is_not_utf8_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "fer2013.csv").write_bytes(header)
    refusal(tmp_path / "fer2013.csv", "is not text", "save it as CSV in UTF-8")


def test_a_header_that_cannot_be_printed_is_told_in_one_line(tmp_path: Path) -> None:
    refusal(pack(tmp_path / "fer2013.csv", '"emo\ntion\x1b",pixels,Usage\n'), "emo\\ntion\\x1b")


@pytest.mark.parametrize("seed", range(4))
def test_a_binary_file_named_csv_is_refused(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_bytes(random.Random(seed).randbytes(20_000))
    refusal(path, "not text")


GOOD = face(3, "PublicTest", seed=9)
PIXELS = GOOD.pixels.split()


def _with_pixel(text: str) -> str:
    return " ".join([*PIXELS[:1000], text, *PIXELS[1001:]])


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (GOOD._replace(pixels=" ".join(PIXELS[:-1])), "2303 pixels, but 2304 are needed"),
        (GOOD._replace(pixels=" ".join([*PIXELS, "7"])), "2305 pixels, but 2304 are needed"),
        (GOOD._replace(pixels=""), "0 pixels, but 2304 are needed"),
        (GOOD._replace(pixels=_with_pixel("256")), "a pixel is outside 0 to 255"),
        (GOOD._replace(pixels=_with_pixel("-1")), "a pixel is outside 0 to 255"),
        (GOOD._replace(pixels=_with_pixel("9" * 40)), "a pixel is outside 0 to 255"),
        (GOOD._replace(pixels=" ".join([*PIXELS[2:], "5-0"])), "not whole numbers"),
        (GOOD._replace(pixels="12 x"), "not whole numbers"),
        (GOOD._replace(pixels=_with_pixel("x")), "not whole numbers"),
        (GOOD._replace(pixels=_with_pixel("1.5")), "not whole numbers"),
        (GOOD._replace(pixels=_with_pixel("³")), "not whole numbers"),
        (GOOD._replace(pixels=_with_pixel("1,2")), "not whole numbers"),
        (GOOD._replace(pixels=_with_pixel("1\0002")), "not whole numbers"),
        (GOOD._replace(emotion="9"), "label '9' is not from 0 to 6"),
        (GOOD._replace(emotion="7"), "label '7' is not from 0 to 6"),
        (GOOD._replace(emotion="-1"), "label '-1' is not from 0 to 6"),
        (GOOD._replace(emotion="x"), "label 'x' is not from 0 to 6"),
        (GOOD._replace(emotion="³"), "label '³' is not from 0 to 6"),
        (GOOD._replace(emotion="٣"), "label '٣' is not from 0 to 6"),
        (GOOD._replace(emotion="1.0"), "label '1.0' is not from 0 to 6"),
        (GOOD._replace(emotion=""), "label '' is not from 0 to 6"),
        (GOOD._replace(emotion="3" * 5000), "is not from 0 to 6"),  # beyond the limit of int()
        (GOOD._replace(emotion=GOOD.pixels), "is not from 0 to 6"),
        (GOOD._replace(Usage="Test"), "Usage 'Test' is not one of Training, PublicTest, Private"),
        (GOOD._replace(Usage="training"), "Usage 'training' is not one of"),
        (GOOD._replace(Usage="x\ny"), "Usage 'x\\ny' is not one of"),
        (GOOD._replace(Usage=""), "Usage '' is not one of"),
        (GOOD._replace(Usage=GOOD.pixels), "is not one of Training, PublicTest, PrivateTest"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, bad: CsvRow, told: str) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face(), face(), bad, face()])
    message = refusal(path, told, f"{path}, row 2 (line 4): ")
    if ", FER2013's classes (angry, " not in message:
        assert message.endswith("fix the row, or download the file again if it is truncated")
    assert len(message) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"{GOOD.emotion},{GOOD.pixels},{GOOD.Usage},more", "4 fields, but 3 are needed"),
        (f"{GOOD.emotion},{GOOD.pixels}", "2 fields, but 3 are needed"),
        ("0," + "1 " * 100_000, "2 fields, but 3 are needed"),
        (",,,", "4 fields, but 3 are needed"),
    ],
)
def test_a_row_with_too_many_or_too_few_fields_is_named(
    tmp_path: Path, line: str, told: str
) -> None:
    lines = csv_text([face(), face()]).splitlines()
    path = pack(tmp_path / "fer2013.csv", "\n".join([*lines, line, lines[-1]]) + "\n")
    refusal(path, told, "row 2 (line 4)")


def test_bytes_that_are_not_text_among_the_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_bytes(csv_text([face()]).encode() + b"\xff\xfe\x00\x80,1,Training\n")
    refusal(path, "row 1 (line 3): label '\\\\xff\\\\xfe")


def test_the_rows_before_a_bad_one_are_given_and_then_the_file_is_closed(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face(1), face(2), face(9), face(3)])
    source = source_of(path)
    seen: list[int] = []
    with pytest.raises(UserError, match="row 2"):
        seen.extend(row.label for row in read_rows(source))
    # list.extend keeps the items before the exception.
    assert seen == [1, 2]
    raw = source.files[0]._raw
    assert raw is not None and raw.closed


def test_a_reader_that_stops_early_closes_the_file(tiny_csv: Path) -> None:
    source = source_of(tiny_csv)
    items = source.items()
    next(items)
    items.close()  # type: ignore[attr-defined]
    raw = source.files[0]._raw
    assert raw is not None and raw.closed


@pytest.mark.parametrize("word", ["x", "-"])
def test_bad_pixels_are_refused_where_numpy_only_warns_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    # As NumPy did before 2.3, for a user who hides warnings.
    def old_fromstring(text: str, **_: object) -> np.ndarray:
        warnings.warn("string or file could not be read to its end", DeprecationWarning, 2)
        return np.zeros(2304, np.int64)

    path = write_csv(tmp_path / "fer2013.csv", [GOOD._replace(pixels=_with_pixel(word))])
    monkeypatch.setattr(np, "fromstring", old_fromstring)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refusal(path, "not whole numbers")


@given(st.lists(st.sampled_from(["0", "007", "255", "256", "-", "-3", " ", "9" * 30, "."])))
def test_pixels_are_what_python_reads_or_refused(words: list[str]) -> None:
    text = " ".join(words)
    full = text + " 8" * (2304 - len(text.split()))
    item = Item(0, 0, None, full.encode(), "row 0")
    numbers = full.split()
    if all(word.isdigit() and int(word) <= 255 for word in numbers):
        image, converted = decode_pixels(item)
        assert image.reshape(-1).tolist() == [int(word) for word in numbers] and not converted
    else:
        refused(lambda: decode_pixels(item), "row 0: ")


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["", "256", "999", "1000", "01", "", " ", "-1", "1.", "\t1", "a", "\x00"]),
    st.integers(0, 2303),
)
def test_plain_pixels_are_read_fast_and_as_slowly(seed: int, other: str, place: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 256, 2304).tolist()
    words = [str(number) for number in numbers]
    plain = _decode_plain(" ".join(words).encode())
    assert plain is not None and plain.tolist() == numbers
    words[place] = other
    text = " ".join(words)
    found = _decode_plain(text.encode())
    if other == "01":
        assert found is not None and found[place] == 1
    else:
        assert found is None, "left to what tells the reason"


def _cuts(data: bytes) -> list[int]:
    ends = [place for place, byte in enumerate(data) if byte == ord("\n")]
    near = {end + step for end in ends for step in range(-14, 15)}
    somewhere = set(random.Random(0).sample(range(len(data)), 50))
    return sorted(cut for cut in near | somewhere | set(range(25)) if 0 <= cut < len(data))


def test_a_csv_cut_anywhere_is_refused_or_ends_with_a_whole_row(tmp_path: Path) -> None:
    usages = list(FER2013_SPLITS)
    whole = csv_text([face(index, usage, index) for index, usage in enumerate(usages)]).encode()
    path = tmp_path / "fer2013.csv"
    path.write_bytes(whole)
    rows = plain(read(path))
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    # Up to the end of a row, with or without its newline, nothing shows that more should follow.
    complete = {cut: count for count, end in enumerate(ends) for cut in (end, end + 1) if count}
    fewer = 0
    for cut in _cuts(whole):
        path.write_bytes(whole[:cut])
        if cut in complete:
            assert plain(read(path)) == rows[: complete[cut]]
            fewer += 1
        else:
            refusal(path)
    assert fewer == 2 * len(usages) - 1  # the last cut would leave the file whole and is skipped


def challenge(folder: Path, rows: int = 3) -> tuple[Path, Path]:
    """The challenge's files: labels without splits, and images without either."""
    faces = [face(label, seed=label) for label in range(rows)]
    train = write_csv(folder / "train.csv", faces, ("emotion", "pixels"))
    return train, write_csv(folder / "test.csv", faces, ("pixels",))


def test_the_challenges_train_is_to_be_cut(tmp_path: Path) -> None:
    train, _ = challenge(tmp_path)
    source = source_of(train)
    assert [(row.index, row.label, row.split) for row in read_rows(source)] == [
        (0, 0, None), (1, 1, None), (2, 2, None),
    ]  # fmt: skip
    assert source.kind == "fer2013-challenge"
    assert source.cut == ("val", "test")


def test_the_challenges_test_has_no_labels_and_is_refused(tmp_path: Path) -> None:
    train, test = challenge(tmp_path)
    refused(
        lambda: read(train, test), f"{test}, row 3 (line 2): it has no label", "--unlabelled skip"
    )


def test_the_challenges_test_can_be_left_out(tmp_path: Path) -> None:
    source = source_of(*challenge(tmp_path), unlabelled="skip")
    for _ in range(2):
        assert [row.index for row in read_rows(source)] == [0, 1, 2]
        assert source.left_out == {"unlabelled": 3}
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in challenge(tmp_path)]
    assert source.sha256 == "+".join(hashes)


def test_a_test_csv_with_labels_is_not_the_challenges(tmp_path: Path) -> None:
    train, _ = challenge(tmp_path)
    test = write_csv(tmp_path / "test.csv", [face()], ("emotion", "pixels"))
    refused(lambda: read(train, test), str(test), "has labels", "a column Usage")


def test_the_stamp_changes_with_each_file(tmp_path: Path) -> None:
    train, test = challenge(tmp_path)
    stamps = {source_of(train).stamp(), source_of(train, test).stamp()}
    pack(test, "other")
    stamps.add(source_of(train, test).stamp())
    assert len(stamps) == 3
    test.unlink()
    refused(source_of(train, test).stamp, str(test), "No such file")


def test_how_many_rows_there_will_be_is_told_by_what_has_been_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csvfile._Source.block, "__defaults__", (1 << 14,))
    source = source_of(*challenge(tmp_path, 7), unlabelled="skip")
    assert source.expected(0) is None
    told = [source.expected(row + 1) for row, _ in enumerate(source.items())]
    assert told[3:] == pytest.approx([7, 7, 7, 7], abs=2)
    assert source.expected(7) == 7


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["fer2013.csv", "other.csv", "train.csv"], ["fer2013.csv"]),
        (["a/icml_face_data.csv", "a/train.csv"], ["a/icml_face_data.csv"]),
        (["fer2013.csv", "fer2013new.csv"], ["fer2013.csv"]),
        (["fer2013new.csv", "votes.txt"], []),
        (["fer2013.csv.gz", "fer2013.csv.xz"], ["fer2013.csv.gz"]),
        (["a/fer2013.csv", "b/fer2013.csv"], ["a/fer2013.csv", "b/fer2013.csv"]),
        (["sample.csv", "test.csv", "train.csv.zip"], ["train.csv.zip", "test.csv"]),
        (["train.csv"], ["train.csv"]),
        (["test.csv"], ["test.csv"]),
        (["a.b.csv", "c.CSV", "d.csvx", ".csv"], ["a.b.csv", "c.CSV"]),
    ],
)
def test_the_csv_files_of_a_folder_are_told_by_their_names(
    names: list[str], found: list[str]
) -> None:
    assert csv_files(names) == found


@pytest.mark.parametrize("blank", ["", "  ", "\t", '""', "\r"])
def test_blank_lines_are_no_rows(tmp_path: Path, blank: str) -> None:
    lines = csv_text([face(1), face(2), face(3)]).splitlines()
    text = "\n".join(
        [blank, lines[0], blank, *lines[1:3], blank, blank, lines[3], blank, "", blank]
    )
    found = read(pack(tmp_path / "fer2013.csv", text))
    assert [(row.index, row.label) for row in found] == [(0, 1), (1, 2), (2, 3)]
    path = pack(tmp_path / "fer2013.csv", f"{text}\n8,1 2,Training\n")
    refusal(path, "row 3 (line 12): label '8'")


def tar_of(path: Path, content: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_the_challenges_tar_is_read_as_it_is(tmp_path: Path, tiny_csv: Path) -> None:
    data = tiny_csv.read_bytes()
    content = {"fer2013/README": b"read me", "fer2013/fer2013.csv": data, "fer2013/x.bib": b""}
    (tmp_path / "set").mkdir()
    path = tar_of(tmp_path / "set" / "fer2013.tar.gz", content)
    packed = tmp_path / "set.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(path, "fer2013.tar.gz")
    other = tmp_path / "FER.tgz"
    other.write_bytes(path.read_bytes())
    for where in (path, path.parent, packed, other):
        source = open_source(where)
        assert plain(list(read_rows(source))) == plain(read(tiny_csv))
        assert source.kind == "fer2013-csv"
        assert source.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("content", "end", "told"),
    [
        ({"a.csv": b"x", "fer2013.csv.txt": b""}, None, "contains no fer2013.csv; unpack it"),
        ({}, None, "contains no fer2013.csv"),
        ({"fer2013.csv": csv_text([face()] * 9).encode()}, -400, "is truncated or damaged"),
    ],
)
def test_a_tar_of_something_else_is_refused(
    tmp_path: Path, content: dict[str, bytes], end: int | None, told: str
) -> None:
    path = tar_of(tmp_path / "fer2013.tar.gz", content)
    path.write_bytes(path.read_bytes()[:end])
    refused(lambda: list(open_source(path).items()), str(path), told)
    path.write_bytes(b"no tar")
    refused(lambda: list(open_source(path).items()), str(path), "is truncated or damaged")
