"""wandb's file format, with synthetic files; `test_wandb_run` reads real ones."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.compat.wandb import split
from pattlite_dist.errors import UserError
from pattlite_dist.tracking.wandb_segments import Segment, read_segment

HEADER = b":W&B\xe1\xbe\x00"


def written(records: list[bytes]) -> tuple[bytes, list[int]]:
    """A file of these records as LevelDB's log writer writes it, and where each ends."""
    data, ends = bytearray(HEADER), []
    for record in records:
        left, first = record, True
        while first or left:
            room = 32768 - len(data) % 32768
            if room < 7:
                data += bytes(room)
                room = 32768
            part, left = left[: room - 7], left[room - 7 :]
            kind = (1 if first else 4) if not left else (2 if first else 3)
            data += struct.pack("<IHB", 0, len(part), kind) + part
            first = False
        ends.append(len(data))
    return bytes(data), ends


lengths = st.lists(
    st.one_of(st.integers(0, 40), st.integers(32700, 32790), st.integers(65000, 100000)), max_size=6
)


@given(lengths)
def test_what_was_written_is_read(sizes: list[int]) -> None:
    records = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    data, ends = written(records)
    assert list(split(data)) == list(zip(ends, records, strict=True))


@given(lengths, st.integers(0, 400_000))
def test_of_a_file_cut_off_anywhere_the_whole_records_are_read(sizes: list[int], cut: int) -> None:
    records = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    data, ends = written(records)
    whole = [pair for pair in zip(ends, records, strict=True) if pair[0] <= cut]
    assert list(split(data[:cut])) == whole


@given(lengths, st.integers(1, 70_000))
def test_zeros_that_a_crashed_machine_leaves_at_the_end_are_no_records(
    sizes: list[int], zeros: int
) -> None:
    data, ends = written([b"x" * size for size in sizes])
    assert [end for end, _ in split(data + bytes(zeros))] == ends


def segment_file(path: Path, *kinds: str) -> Path:
    from wandb.proto import wandb_internal_pb2 as messages

    records = []
    for kind in kinds:
        record = messages.Record()
        getattr(record, kind).SetInParent()
        if kind == "run":
            record.run.start_time.FromMicroseconds(1_700_000_000_250_000)
        records.append(record.SerializeToString())
    path.write_bytes(written(records)[0])
    return path


def test_a_segment_tells_when_it_began_and_whether_it_ended(tmp_path: Path) -> None:
    path = segment_file(tmp_path / "run-a.wandb", "run", "history", "exit")
    size = path.stat().st_size
    assert read_segment(path) == Segment(path, 1_700_000_000.25, True, size, size)
    assert not read_segment(path).synced
    (tmp_path / "run-a.wandb.synced").touch()
    assert read_segment(path).synced


def test_a_segment_of_a_killed_start_has_not_ended(tmp_path: Path) -> None:
    path = segment_file(tmp_path / "run-a.wandb", "run", "history")
    size = path.stat().st_size
    assert read_segment(path) == Segment(path, 1_700_000_000.25, False, size, size)
    with path.open("ab") as stream:
        stream.write(b"\0\0\0\0\x10\0\x01torn")
    assert read_segment(path) == Segment(path, 1_700_000_000.25, False, size, size + 11)


@pytest.mark.parametrize("content", [b"", HEADER[:3], HEADER, HEADER + b"\0\0"])
def test_a_segment_killed_at_once_has_not_begun(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    path.write_bytes(content)
    whole = min(len(content), 7)
    assert read_segment(path) == Segment(path, None, False, whole, len(content))


@pytest.mark.parametrize("content", [b"PK\3\4 some zip", b":W&", b"\n" * 50])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    path.write_bytes(content)
    if HEADER.startswith(content):
        assert read_segment(path).started is None
    else:
        with pytest.raises(UserError, match="is not a file of wandb"):
            read_segment(path)


def test_damage_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    path.write_bytes(written([b"\xff" * 9])[0])
    with pytest.raises(UserError, match="is damaged before byte 23"):
        read_segment(path)
