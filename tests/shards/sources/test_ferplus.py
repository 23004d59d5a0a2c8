import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, SplitName
from pattlite_dist.shards.sources.base import EMOTIONS, Item, Reading
from pattlite_dist.shards.sources.csvfile import CsvFile, Record
from pattlite_dist.shards.sources.fer2013 import Fer2013Csv, decode_pixels
from pattlite_dist.shards.sources.ferplus import (
    FERPLUS_LABELS,
    FERPLUS_VOTES,
    FerPlus,
    parse_votes,
    target_of,
)

HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)
ROWS = [  # of Usage, votes, and FER2013's label
    ("Training", [4, 0, 0, 1, 3, 2, 0, 0, 0, 0], 0),
    ("Training", [0, 10, 0, 0, 0, 0, 0, 0, 0, 0], 3),
    ("Training", [0, 0, 0, 0, 0, 0, 0, 0, 0, 10], 4),
    ("PublicTest", [0, 0, 2, 0, 0, 0, 7, 0, 0, 0], 2),
    ("PrivateTest", [1, 0, 0, 2, 0, 0, 0, 0, 7, 0], 4),
]
SPLITS: dict[str, SplitName] = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
VOTES = st.lists(st.integers(0, 10), min_size=10, max_size=10)
Mode = Literal["majority", "soft"]
MODES: tuple[Mode, ...] = ("majority", "soft")


class Rows:
    """FER2013 with as many rows as `items` says, some of which may be skipped."""

    name, labels, cut = "fer2013.csv", EMOTIONS, ("val", "test")
    image = ImageInfo(channels=1, height=48, width=48)
    votes: tuple[str, ...] = ()
    sha256 = "ab" * 32

    def __init__(self, kind: str = "fer2013-csv", passed_over: Sequence[int] = ()) -> None:
        self.kind, self.passed_over = kind, passed_over
        self.decode = decode_pixels
        self.left_out: dict[str, int] = {}
        self.splits: list[SplitName | None] = [SPLITS[usage] for usage, _, _ in ROWS]

    def items(self) -> Iterator[Item]:
        for row, (split, (_, _, label)) in enumerate(zip(self.splits, ROWS, strict=True)):
            if row not in self.passed_over:
                yield Item(row, label, split, b"", f"fer2013.csv, row {row}", facts={"file": "x"})
        if self.passed_over:
            self.left_out = {"unlabelled": len(self.passed_over)}

    def stamp(self) -> str:
        return "as it was"

    def expected(self, items: int) -> int | None:
        return 2 * items


def line(usage: str, votes: Sequence[object]) -> str:
    return ",".join([usage, "fer0000000.png", *map(str, votes)])


LINES = [HEADER, *(line(usage, votes) for usage, votes, _ in ROWS)]


def write(folder: Path, lines: Sequence[str] = LINES) -> Path:
    path = folder / "fer2013new.csv"
    path.write_text("".join(f"{text}\n" for text in lines))
    return path


def refusal(folder: Path, lines: Sequence[str], source: Rows | None = None) -> str:
    """The one line of the refusal of these votes."""
    with pytest.raises(UserError) as caught:
        list(FerPlus(source or Rows(), write(folder, lines), "labels").items())
    message = str(caught.value)
    assert "\n" not in message
    assert "fer2013new.csv" in message
    what, fix = message.rsplit("; ", 1)
    assert what and fix.startswith("give ")
    return what


def test_labels_keeps_the_classes_and_adds_the_votes(tmp_path: Path) -> None:
    source = FerPlus(Rows(), write(tmp_path), "labels")
    items = list(source.items())
    assert source.labels == EMOTIONS
    assert source.left_out == {}
    assert [item.row for item in items] == [0, 1, 2, 3, 4]
    assert [item.label for item in items] == [label for _, _, label in ROWS]
    assert [item.facts for item in items] == [{"file": "x", "votes": votes} for _, votes, _ in ROWS]


def test_majority_gives_the_eight_classes_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    source = FerPlus(Rows(), write(tmp_path), "majority")
    items = list(source.items())
    assert source.labels == FERPLUS_LABELS
    assert [(item.row, source.labels[item.label]) for item in items] == [(1, "happy"), (3, "fear")]
    assert source.left_out == {"no majority": 2, "not a face": 1}
    assert items[0].facts == {"file": "x", "votes": ROWS[1][1]}  # no target


def test_soft_gives_the_shares_and_the_largest_as_the_label(tmp_path: Path) -> None:
    source = FerPlus(Rows(), write(tmp_path), "soft")
    items = list(source.items())
    assert [(item.row, source.labels[item.label]) for item in items] == [
        (0, "neutral"), (1, "happy"), (3, "fear"),
    ]  # fmt: skip
    assert items[0].facts is not None
    assert items[0].facts["target"] == [0.571429, 0, 0, 0, 0.428571, 0, 0, 0]
    assert items[0].facts["votes"] == ROWS[0][1]
    assert source.left_out == {"no majority": 1, "not a face": 1}


def test_an_item_keeps_what_the_target_is_not_about(tmp_path: Path) -> None:
    items = list(FerPlus(Rows(), write(tmp_path), "soft").items())
    (same,) = (item for item in Rows().items() if item.row == 3)
    assert items[-1]._replace(label=same.label, facts=same.facts) == same


def test_rows_that_the_source_passes_over_have_votes_and_are_counted(tmp_path: Path) -> None:
    source = FerPlus(Rows("fer2013-challenge", passed_over=(0, 4)), write(tmp_path), "majority")
    assert [item.row for item in source.items()] == [1, 3]
    assert source.left_out == {"unlabelled": 2, "not a face": 1}


def test_a_source_that_names_no_split_is_joined_all_the_same(tmp_path: Path) -> None:
    source = Rows()
    source.splits = [None] * len(ROWS)
    items = list(FerPlus(source, write(tmp_path), "labels").items())
    assert [item.split for item in items] == source.splits


def test_it_is_known_by_both_hashes_and_both_stamps(tmp_path: Path) -> None:
    path = write(tmp_path)
    source, other = FerPlus(Rows(), path, "labels"), Rows()
    list(source.items())
    first, stamp = source.sha256, source.stamp()
    assert first == hashlib.sha256(
        f"{'ab' * 32}+{hashlib.sha256(path.read_bytes()).hexdigest()}".encode()
    ).hexdigest()  # fmt: skip
    list(source.items())
    assert source.sha256 == first
    other.sha256 = "cd" * 32
    changed = FerPlus(other, path, "labels")
    list(changed.items())
    assert changed.sha256 != first
    write(tmp_path, [*LINES[:-1], line("PrivateTest", [0] * 10)])
    list(source.items())
    assert source.sha256 != first
    assert source.stamp() != stamp
    assert source.stamp().startswith("as it was+")
    path.unlink()
    with pytest.raises(UserError, match=r"fer2013new\.csv.*; check"):
        source.stamp()


def test_it_tells_its_kind_its_columns_and_what_to_expect(tmp_path: Path) -> None:
    source = FerPlus(Rows("fer2013-challenge"), write(tmp_path), "majority")
    assert source.expected(0) is None
    assert (source.kind, source.name) == (
        "fer2013-challenge+ferplus", "fer2013.csv + fer2013new.csv",
    )  # fmt: skip
    assert source.votes == tuple(HEADER.split(",")[2:])
    items = source.items()
    next(items)  # the second of the rows
    assert source.expected(1) == 2  # half of what the source expects after two


def test_line_ends_marks_and_blanks_around_the_fields_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "fer2013new.csv"
    spaced = "\r\n".join(text.replace(",", " , ") for text in LINES)
    path.write_bytes(b"\xef\xbb\xbf" + spaced.encode())
    (tmp_path / "plain").mkdir()
    plain = FerPlus(Rows(), write(tmp_path / "plain"), "labels").items()
    assert list(FerPlus(Rows(), path, "labels").items()) == list(plain)


@pytest.mark.parametrize(
    "header",
    [
        "emotion,pixels,Usage",
        HEADER.removesuffix(",NF"),
        HEADER + ",more",
        HEADER.replace("neutral,happiness", "happiness,neutral"),
        HEADER.lower(),
        "x" * 10_000,
    ],
)
def test_another_header_is_refused(tmp_path: Path, header: str) -> None:
    message = refusal(tmp_path, [header, *LINES[1:]])
    assert f"begins with '{header[:19]}" in message
    assert message.endswith(f"not with {HEADER!r}")
    assert len(message) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("lines", [[], [""]])
def test_an_empty_file_is_refused(tmp_path: Path, lines: list[str]) -> None:
    assert refusal(tmp_path, lines).endswith("is empty")


@pytest.mark.parametrize("rows", range(len(ROWS)))
def test_too_few_rows_are_refused(tmp_path: Path, rows: int) -> None:
    told = f"it has {rows} rows but none for fer2013.csv, row {rows}"
    assert told in refusal(tmp_path, LINES[: 1 + rows])


def test_too_many_rows_are_refused(tmp_path: Path) -> None:
    assert "it has 6 rows, but fer2013.csv has 5" in refusal(tmp_path, [*LINES, LINES[-1]])


def test_too_few_rows_for_what_the_source_passes_over_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, LINES[:-1], Rows(passed_over=(4,)))
    assert "it has 4 rows, but fer2013.csv has 5" in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (line("Training", [1] * 9), "11 fields, but 12 are needed"),
        (line("Training", [1] * 11), "13 fields, but 12 are needed"),
        (line("Training", ["x"] + [1] * 9), "'x' is not a number of votes"),
        (line("Training", [""] + [1] * 9), "'' is not a number of votes"),
        (line("Training", ["-1"] + [1] * 9), "'-1' is not a number of votes"),
        (line("Training", ["1.5"] + [1] * 9), "'1.5' is not a number of votes"),
        (line("Training", ["nan"] + [1] * 9), "'nan' is not a number of votes"),
        (line("Training", ["²"] + [1] * 9), "'²' is not a number of votes"),
        (line("Training", ["9" * 5000] + [1] * 9), "...' is not a number of votes"),
        (line("Train", [1] * 10), "Usage 'Train' is not one of Training, PublicTest, PrivateTest"),
        (line("PublicTest", [1] * 10), "it is in val, but fer2013.csv, row 1 is in train"),
    ],
)
def test_a_bad_row_is_refused_by_its_number_and_line(tmp_path: Path, text: str, told: str) -> None:
    message = refusal(tmp_path, [*LINES[:2], text, *LINES[3:]])
    assert "fer2013new.csv, row 1 (line 3): " in message
    assert message.endswith(told)


@pytest.mark.parametrize("kind", ["image-folder", "ckplus", "fer2013-csv+ferplus"])
def test_a_source_without_the_rows_of_a_csv_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=rf"of the kind {kind.replace('+', '.')}, .*; give the CSV"):
        FerPlus(Rows(kind), write(tmp_path), "labels")


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_is_refused_before_the_source_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "fer2013new.csv"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(UserError, match=r"^[^\n]*fer2013new\.csv[^\n]*; \w+[^\n]*$"):
        FerPlus(Rows(), path, "labels")


def records(text: str) -> list[Record]:
    fields = enumerate(text.split("\n"), 1)
    return [Record(number, line.encode().split(b",")) for number, line in fields]


@given(st.lists(st.tuples(st.sampled_from(sorted(SPLITS)), VOTES), max_size=5))
def test_every_well_formed_table_is_read(rows: list[tuple[str, list[int]]]) -> None:
    parsed = parse_votes(records("\n".join([HEADER, *(line(*row) for row in rows)])), "votes")
    assert [(votes.row, votes.split, votes.counts) for votes in parsed] == [
        (row, SPLITS[usage], counts) for row, (usage, counts) in enumerate(rows)
    ]


FIELD = st.text(max_size=6) | st.integers(-3, 2000).map(str) | st.sampled_from(sorted(SPLITS))


@given(st.lists(st.lists(FIELD, min_size=11, max_size=13), max_size=3))
def test_any_other_table_is_refused_in_one_line(rows: list[list[str]]) -> None:
    table = [Record(1, HEADER.encode().split(b",")), *(
        Record(number, [field.encode("utf-8", "surrogatepass") for field in fields])
        for number, fields in enumerate(rows, 2)
    )]  # fmt: skip
    try:
        for votes in parse_votes(table, "votes"):
            assert rows[votes.row][0].strip() in SPLITS
            assert [int(field) for field in rows[votes.row][2:]] == votes.counts
            assert len(votes.counts) == len(FERPLUS_VOTES)
    except UserError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("votes, row ")


def face(**votes: int) -> list[int]:
    return [votes.get(name, 0) for name in FERPLUS_VOTES]


@pytest.mark.parametrize(
    ("votes", "majority", "soft"),
    [
        (face(happiness=10), {"happy": 1}, {"happy": 1}),
        (face(neutral=6, happiness=4), {"neutral": 1}, {"neutral": 0.6, "happy": 0.4}),
        (face(neutral=5, happiness=5), "no majority", {"neutral": 0.5, "happy": 0.5}),
        # Single votes are treated as mistakes.
        (face(anger=3, sadness=1, fear=1, disgust=1, neutral=2), {"angry": 1},
         {"angry": 0.6, "neutral": 0.4}),
        (face(neutral=1, happiness=1, surprise=1), "no majority", "no majority"),
        (face(), "no majority", "no majority"),
        # Three quarters are enough: the last two votes are not used.
        (face(neutral=6, fear=2), {"neutral": 1}, {"neutral": 1}),
        (face(neutral=5, fear=2), {"neutral": 1}, {"neutral": 0.714286, "fear": 0.285714}),
        # Three classes are enough; ties are taken together.
        (face(neutral=3, fear=3, anger=2, sadness=2), "no majority", "no majority"),
        (face(neutral=4, fear=3, anger=3, sadness=2), "no majority",
         {"neutral": 0.4, "fear": 0.3, "angry": 0.3}),
        (face(neutral=2, fear=2, anger=2, sadness=2), "no majority", "no majority"),
        # Classes with fewer votes than "unknown" do not count; ties with it do.
        (face(unknown=6, neutral=4), "no majority", "no majority"),
        (face(unknown=2, neutral=6, fear=2), {"neutral": 1}, {"neutral": 0.75, "fear": 0.25}),
        (face(unknown=3, neutral=5, fear=2), "no majority", "no majority"),
        (face(unknown=3, neutral=4, fear=3), "no majority",
         {"neutral": 0.571429, "fear": 0.428571}),
        (face(NF=4, neutral=4, fear=2), "no majority", "no majority"),
        (face(NF=6, neutral=4), "not a face", "not a face"),
        (face(NF=3, neutral=1, fear=1, anger=1, sadness=1), "not a face", "not a face"),
    ],
)  # fmt: skip
def test_the_target_of_known_votes(votes: list[int], majority: Any, soft: Any) -> None:
    for mode, expected in zip(MODES, (majority, soft), strict=True):
        found = target_of(votes, mode)
        if not isinstance(found, str):
            named = zip(FERPLUS_LABELS, found, strict=True)
            assert {name: share for name, share in named if share} == expected
        else:
            assert found == expected


@given(VOTES, st.sampled_from(MODES))
def test_a_target_is_shares_of_classes_that_have_more_than_one_vote(
    votes: list[int], mode: Mode
) -> None:
    target = target_of(votes, mode)
    kept = [count for count in votes if count > 1]
    if target == "not a face":
        assert votes[9] > sum(kept) / 2
        return
    assert isinstance(target, list) == (target != "no majority")
    if isinstance(target, list):
        taken = [i for i, share in enumerate(target) if share]
        assert len(target) == 8
        assert abs(sum(target) - 1) < 1e-5
        assert 1 <= len(taken) <= 3
        assert sum(votes[i] for i in taken) > sum(kept) / 2
        assert all(votes[i] > 1 for i in taken)
        # No class is taken before one with more votes, and shares are proportional to votes.
        least = min(votes[i] for i in taken)
        assert all(i in taken for i in range(8) if votes[i] > least)
        assert votes[target.index(max(target))] == max(votes[:8])
        assert max(votes[8:]) <= max(votes[:8])


@given(VOTES)
def test_a_majority_is_a_soft_targets_largest_share(votes: list[int]) -> None:
    majority, soft = (target_of(votes, mode) for mode in MODES)
    if isinstance(majority, list):
        assert isinstance(soft, list)
        assert majority.index(1) == soft.index(max(soft))
        assert sorted(majority) == [0] * 7 + [1]
    assert (majority == "not a face") == (soft == "not a face")


@given(VOTES, st.sampled_from(MODES), st.data())
def test_an_outlier_changes_nothing(votes: list[int], mode: Mode, data: st.DataObject) -> None:
    empty = [i for i in range(10) if votes[i] == 0]
    if empty:
        place = data.draw(st.sampled_from(empty))
        assert target_of([*votes[:place], 1, *votes[place + 1 :]], mode) == target_of(votes, mode)


def test_it_reads_a_csv_of_faces(tmp_path: Path) -> None:
    pixels = " ".join(["7"] * 48 * 48)
    path = tmp_path / "fer2013.csv"
    lines = ["emotion,pixels,Usage", *(f"{label},{pixels},{usage}" for usage, _, label in ROWS)]
    path.write_text("\n".join(lines))
    source = FerPlus(Fer2013Csv([CsvFile(path)], Reading()), write(tmp_path), "majority")
    items = list(source.items())
    assert [(item.row, item.split) for item in items] == [(1, "train"), (3, "val")]
    assert source.decode(items[0])[0].shape == (1, 48, 48)
    assert len(source.sha256) == 64
