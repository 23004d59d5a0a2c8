import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import SplitName, load_manifest
from pattlite_dist.shards.samples import Sheet, choose, flags_of, pick_samples
from pattlite_dist.shards.verify import Folder
from tests.shards import flawed
from tests.shards.conftest import random_image
from tests.shards.flawed import flawed_set, forge


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flawed_set(tmp_path_factory.mktemp("flawed"))


def pick(folder: Path, split: SplitName = "train", columns: int = 14, **more: Any) -> Sheet:
    return pick_samples(Folder(folder), load_manifest(folder), split, columns, 0, **more)


@pytest.mark.parametrize(
    ("facts", "flags"),
    [
        ({}, ()),
        ({"blank": False, "leak": False}, ()),  # the first version of the format
        ({"blank": True, "leak": True}, ("blank", "leak")),
        ({"near_blank": True, "copies": 1}, ("near blank",)),
        ({"copies": 2}, ("copy",)),
        ({"copies": 3, "leak": True}, ("leak",)),
        ({"copies": 2, "conflict": True}, ("conflict",)),
        ({"copies": 2, "conflict": True, "leak": True}, ("leak", "conflict")),
    ],
)
def test_flags_are_told_by_what_matters_most(facts: dict[str, Any], flags: tuple[str, ...]) -> None:
    assert flags_of(facts) == flags


@given(
    flags=st.lists(st.sampled_from([(), (), (), ("leak",), ("blank",), ("leak", "conflict")])),
    columns=st.integers(1, 14),
    seed=st.integers(0, 3),
    flagged=st.booleans(),
)
def test_a_choice_fills_its_row_and_shows_flags(
    flags: list[tuple[str, ...]], columns: int, seed: int, flagged: bool
) -> None:
    chosen = choose(flags, columns, np.random.default_rng(seed), flagged)
    assert len(set(chosen)) == len(chosen)
    marked = [bool(flags[index]) for index in chosen]
    assert marked == sorted(marked)  # unflagged samples first
    there = sum(map(bool, flags))
    if flagged:
        assert all(marked)
        assert len(chosen) == min(columns, there)
    else:
        assert len(chosen) == min(columns, len(flags))
        assert sum(marked) >= min(there, 1)
        room = max(columns // 3, 1, columns - (len(flags) - there))
        assert sum(marked) == min(there, room)
    kinds = set(filter(None, flags))
    assert len({flags[index] for index in chosen if flags[index]}) == min(len(kinds), sum(marked))


def test_another_seed_gives_another_choice_and_the_same_one_the_same() -> None:
    def drawn(seed: int) -> list[int]:
        return choose([()] * 100, 10, np.random.default_rng(seed), False)

    assert drawn(1) == drawn(1) != drawn(2)


def test_samples_are_shown_with_their_own_pixels_and_flags(shards: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    sheet = pick(shards, progress=lambda *what: told.append(what))
    assert told == [("look", done, 12) for done in (5, 10, 12)]
    assert [(row.label, row.count, row.flagged) for row in sheet.rows] == [
        (label, flawed.LABELS[:12].count(label), None) for label in range(7)
    ]
    shown = {
        flag: image for row in sheet.rows for image, flags in row.samples for flag in flags[:1]
    }
    assert (shown["blank"] == 7).all()
    assert shown["near blank"].std() < 5
    assert (shown["copy"] == random_image(flawed.COPIED)).all()
    assert (sheet.rows[4].samples[0][0] == random_image(flawed.CONFLICTED)).all()
    assert sheet.rows[4].samples[0][1] == ("conflict",)


def test_only_flagged_samples_are_shown_on_demand(shards: Path) -> None:
    sheet = pick(shards, "val", flagged=True)
    (row,) = sheet.rows
    assert (row.label, row.count, row.flagged) == (flawed.LABELS[flawed.LEAK], 1, 1)
    ((image, flags),) = row.samples
    assert flags == ("leak",)
    assert (image == random_image(flawed.LEAKED)).all()


def test_a_split_without_samples_is_a_user_error(shards: Path) -> None:
    manifest = load_manifest(shards)
    empty = manifest.model_copy(update={"shards": {**manifest.shards, "val": []}})
    with pytest.raises(UserError, match="this set has no val samples"):
        pick_samples(Folder(shards), empty, "val", 3, 0)


def test_a_damaged_shard_is_a_user_error(shards: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(shards, tmp_path / "set")
    (folder / "val-000000.tar").write_bytes(b"short")
    with pytest.raises(UserError, match=r"val-000000\.tar has 5 bytes"):
        pick(folder, "val")


@pytest.mark.parametrize(
    ("member", "data"),
    [("cls", b"7"), ("cls", b"-8"), ("cls", b"x"), ("json", b"{"), ("json", b"[]"), ("png", b"x")],
)
def test_a_forged_member_is_a_user_error(
    shards: Path, tmp_path: Path, member: str, data: bytes
) -> None:
    folder = shutil.copytree(shards, tmp_path / "set")
    forge(folder, "val-000000.tar", lambda n, old: (n, data if n.endswith(member) else old))
    with pytest.raises(UserError, match=r"val-000000\.tar: .*; create the shards again"):
        pick(folder, "val")
