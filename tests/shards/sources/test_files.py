import os
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources import files as module
from pattlite_dist.shards.sources import walk
from pattlite_dist.shards.sources.files import open_files
from tests.shards.sources.conftest import refused, write_tree, write_zip

TREE = {"train/a/1.png": b"one", "train/b/2.png": b"two", "test/a/3.png": b"", "notes.txt": b"x"}
CSV = b"emotion,pixels\n"


@pytest.mark.parametrize("top", ["", "fer2013/", "archive/fer2013/"])
def test_a_folder_and_a_zip_hold_the_same_whatever_lies_around_them(
    tmp_path: Path, top: str
) -> None:
    content = {top + name: data for name, data in TREE.items()}
    for path in (write_tree(tmp_path / "f", content), write_zip(tmp_path / "f.zip", content)):
        files = open_files(path)
        assert files.names == tuple(sorted(TREE))
        assert {name: files.read(name) for name in files.names} == TREE
        assert str(path) in files.where("notes.txt") and top in files.where("notes.txt")


def test_a_folder_that_says_something_is_not_looked_through(tmp_path: Path) -> None:
    assert open_files(write_tree(tmp_path / "1", {"Training/3/1.png": b""})).names == (
        "Training/3/1.png",
    )
    assert open_files(write_tree(tmp_path / "2", {"angry/1.png": b""})).names == ("angry/1.png",)


def test_litter_is_left_out(tmp_path: Path) -> None:
    litter = ["__MACOSX/train/a/._1.png", "train/.DS_Store", "train/a/Thumbs.db", ".git/x.png"]
    content = {**TREE, **dict.fromkeys(litter, b"?")}
    for path in (write_tree(tmp_path / "f", content), write_zip(tmp_path / "f.zip", content)):
        assert open_files(path).names == tuple(sorted(TREE))


def test_names_in_a_zip_are_made_plain(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "f.zip", {"./a/1": b"1", "/a/2": b"2", "a\\3": b"3", "b//4": b"4"})
    files = open_files(path)
    assert [(name, files.read(name)) for name in files.names] == [
        ("a/1", b"1"), ("a/2", b"2"), ("a/3", b"3"), ("b/4", b"4"),
    ]  # fmt: skip


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "f", {"a/x/1": b"1", "b/2": b"2"})
    (tree / "a" / "x" / "up").symlink_to(tree)
    (tree / "a" / "self").symlink_to("self")
    (tree / "b" / "a").symlink_to(tree / "a")
    (tree / "c").symlink_to(tree / "b" / "2")
    files = open_files(tree)
    assert files.names == ("a/self", "a/x/1", "b/2", "b/a/self", "b/a/x/1", "c")
    assert files.read("b/a/x/1") == b"1" and files.read("c") == b"2"
    refused(lambda: files.read("a/self"), str(tree / "a" / "self"))


def test_a_maze_of_folders_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_MOST_FOLDERS", 50)
    for here in "abcdef":
        (tmp_path / here).mkdir()
        for there in "abcdef":
            (tmp_path / here / there).symlink_to(tmp_path / there)
    refused(lambda: open_files(tmp_path), "50 folders")


def test_pipes_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("1.png")
    assert open_files(tmp_path).names == ()
    refused(lambda: open_files(tmp_path / "1.png"), "neither a folder nor a file")


def test_the_stamp_tells_changes(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "f", TREE)
    path = write_zip(tmp_path / "f.zip", TREE)
    for files, file in ((open_files(folder), folder / "notes.txt"), (open_files(path), path)):
        stamps = [files.stamp(), open_files(files.path).stamp()]
        assert stamps[0] == stamps[1]
        os.utime(file, ns=(0, 0))
        stamps.append(files.stamp())
        file.write_bytes(file.read_bytes() + b"!")
        os.utime(file, ns=(0, 0))
        stamps.append(files.stamp())
        assert len(set(stamps)) == 3
    first = open_files(folder).stamp()
    (folder / "notes.txt").rename(folder / "other.txt")
    assert open_files(folder).stamp() != first


def test_a_table_can_be_read_from_either(tmp_path: Path) -> None:
    content = {"top/sub/t.csv": CSV, "top/x/1.png": b""}
    for path in (write_tree(tmp_path / "f", content), write_zip(tmp_path / "f.zip", content)):
        records = list(open_files(path).table("sub/t.csv").records())
        assert [record.fields for record in records] == [[b"emotion", b"pixels"]]


def test_what_has_vanished_is_told(tmp_path: Path) -> None:
    folder, path = write_tree(tmp_path / "f", TREE), write_zip(tmp_path / "f.zip", TREE)
    in_folder, in_zip = open_files(folder), open_files(path)
    (folder / "notes.txt").unlink()
    refused(lambda: in_folder.read("notes.txt"), str(folder / "notes.txt"), "No such file")
    (folder / "train").rename(tmp_path / "elsewhere")
    refused(lambda: in_folder.read("train/a/1.png"), "No such file")
    folder.rename(tmp_path / "gone")
    refused(in_folder.stamp, str(folder), "No such file")
    path.unlink()
    refused(in_zip.stamp, str(path), "No such file")
    refused(lambda: open_files(path), str(path), "No such file")


def test_a_link_that_leads_nowhere_is_refused_when_read(tmp_path: Path) -> None:
    (tmp_path / "1.png").symlink_to("nowhere")
    files = open_files(tmp_path)
    assert files.names == ("1.png",)
    assert files.stamp()
    refused(lambda: files.read("1.png"), "1.png")


def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root can read everything, and tests may run as root.
    def deny(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    files = open_files(write_tree(tmp_path, TREE))
    monkeypatch.setattr(Path, "open", deny)
    refused(lambda: files.read("notes.txt"), "notes.txt", "Permission denied")


def test_a_large_file_is_refused_and_not_read(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "f", {"a/1.png": b"", "b/2.png": b""})
    os.truncate(folder / "a/1.png", module.LARGEST_FILE + 1)
    refused(lambda: open_files(folder).read("a/1.png"), "larger than 64 MiB")


@pytest.mark.parametrize("told", [None, 10])
def test_a_member_that_unpacks_to_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: int | None
) -> None:
    monkeypatch.setattr(module, "LARGEST_FILE", 1 << 20)
    path = write_zip(tmp_path / "bomb.zip", {"a/1.png": bytes(1 << 23)})
    if told is not None:  # the zip claims a wrong size
        data = path.read_bytes().replace(struct.pack("<L", 1 << 23), struct.pack("<L", told))
        path.write_bytes(data)
    refused(lambda: open_files(path).read("a/1.png"), "bomb.zip, member a/1.png")


@pytest.mark.parametrize("name", ["../1.png", "a/../../1.png", "/../1.png", "..\\1.png"])
def test_a_member_that_leads_out_of_the_zip_is_refused(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "f.zip", {name: b""})
    refused(lambda: open_files(path), str(path), "points outside the zip")


def test_a_member_that_is_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/1.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(lambda: open_files(tmp_path / "f.zip"), "a/1.png", "symbolic link")


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "f.zip", {"a/1.png": b"1", "./a/1.png": b"2"})
    refused(lambda: open_files(path), "a/1.png", "two of this name")


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "f.zip", {"a/1.png": b"1"})
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    path.write_bytes(data)
    refused(lambda: open_files(path), "a/1.png", "encrypted", "unpack it")


def test_a_member_packed_otherwise_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a/1.png", "1")
    refused(lambda: open_files(tmp_path / "f.zip"), "a/1.png", "method 14")


def test_a_damaged_member_is_told(tmp_path: Path) -> None:
    path = tmp_path / "f.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", "content")
    path.write_bytes(path.read_bytes().replace(b"content", b"c0ntent"))
    refused(lambda: open_files(path).read("a/1.png"), "member a/1.png", "damaged")


@pytest.mark.parametrize("data", [b"", b"no zip at all", b"PK\x03\x04"])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f.zip").write_bytes(data)
    refused(lambda: open_files(tmp_path / "f.zip"), "f.zip", "is not a zip")


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "f.zip", TREE)
    path.write_bytes(path.read_bytes()[:-30])
    refused(lambda: open_files(path), "f.zip", "truncated")


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(b"")
    refused(lambda: open_files(tmp_path), "not UTF-8", r"caf\udce9.png")


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path: Path) -> None:
    files = open_files(write_tree(tmp_path, {"a\nb.png": b""}))
    (tmp_path / "a\nb.png").unlink()
    refused(lambda: files.read("a\nb.png"), r"a\nb.png")


@given(data=st.data())
def test_a_damaged_zip_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_zip(Path(folder) / "f.zip", {"a/1": b"one" * 50, "b/2": b"two"})
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            files = open_files(path)
            got = {name: files.read(name) for name in files.names}
        except UserError as error:
            assert str(error).isprintable()
        else:
            known = {zlib.crc32(b"one" * 50), zlib.crc32(b"two")}
            assert {zlib.crc32(value) for value in got.values()} <= known
