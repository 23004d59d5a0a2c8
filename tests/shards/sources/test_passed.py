from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.shards.sources.passed import counted


def test_files_are_counted_by_suffix_and_folder() -> None:
    names = ["train/cat/1.TXT", "train/cat/2.txt", "test/cat/3.txt", "LICENSE", "train/a", "x.avi"]
    assert counted(names) == (
        "3 .txt (2 in train/cat, 1 in test/cat), 2 without suffix (1 in the top folder, "
        "1 in train), 1 .avi"
    )


def test_only_the_most_are_named() -> None:
    assert counted([f"{i}/x.a{i}" for i in range(8)]).endswith(".a5 (1 in 5), and 2 more")
    assert counted([f"f{i}/x.a" for i in range(9)]).endswith("1 in f5, and 3 more)")


@given(st.lists(st.text("a./\n\u00e9", min_size=1)))
def test_what_is_said_takes_one_line(names: list[str]) -> None:
    assert counted(names).isprintable()
