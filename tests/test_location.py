from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pattlite_dist.location import (
    Location,
    Weights,
    absolute,
    is_local,
    last_part,
    with_absolute_paths,
    with_names_only,
)


@pytest.mark.parametrize(
    ("value", "kind", "meant"),
    [
        ("a/../b", Location, "{here}/b"),
        ("", Location, "{here}"),
        ("~", Location, "{here}/~"),
        ("imagenet", Location, "{here}/imagenet"),
        ("imagenet", Weights, "imagenet"),
        ("imagenet", Weights | None, "imagenet"),
        ("pretrained", Weights, "pretrained"),
        ("pretrained:a", Weights, "pretrained:a"),
        ("./pretrained", Weights, "{here}/pretrained"),
        ("pretrained", Location, "{here}/pretrained"),
        ("a", Location | None, "{here}/a"),
        ("gs://b/../c", Location, "gs://b/../c"),
        ("pipe:cat x", Location | None, "pipe:cat x"),
        ("/x y", Location, "/x y"),
        ("a", str, "a"),
        ("a", None, "a"),
        (None, Location | None, None),
        (7, int, 7),
        (Path("a"), Path, Path("{here}/a")),
        (Path("s3://b"), None, Path("{here}/s3:/b")),  # a Path is one, whatever it looks like
    ],
)
def test_what_is_a_path_is_told_by_the_type(value: Any, kind: Any, meant: Any) -> None:
    meant = (
        type(meant)(str(meant).format(here=Path.cwd())) if isinstance(value, str | Path) else meant
    )
    assert absolute(value, kind) == meant


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert absolute(f"{tmp_path}/link/a", Location) == f"{tmp_path}/link/a"


class Inner(BaseModel):
    where: Location | None = None
    name: str = "a"


class Outer(BaseModel):
    inner: Inner = Inner()
    folder: Location = "runs"


def test_every_path_of_a_model_is_made_absolute_and_nothing_else() -> None:
    here = Path.cwd()
    given = Outer(inner=Inner(where="a"), folder="s3://b/c")
    assert with_absolute_paths(given) == Outer(inner=Inner(where=f"{here}/a"), folder="s3://b/c")
    assert with_absolute_paths(Outer()) == Outer(folder=f"{here}/runs")


@given(st.text())
def test_what_is_absolute_stays_so(text: str) -> None:
    once = absolute(text, Location)
    assert absolute(once, Location) == once
    assert (once == text) or is_local(text)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/home/me/fer2013/", "fer2013"),
        ("fer2013", "fer2013"),
        ("/", "/"),
        ("s3://bucket/sets/fer2013", "fer2013"),
        ("https://host/sets/fer2013/?token=x", "fer2013"),
        ("gs://bucket", "bucket"),
        ("pipe:cat /home/me/x", "pipe"),
    ],
)
def test_the_name_of_a_place_says_nothing_of_the_machine(place: str, name: str) -> None:
    assert last_part(place) == name


def test_only_names_are_left_of_the_places_of_a_model() -> None:
    given = Outer(inner=Inner(where="s3://b/c", name="/home/me/a"), folder="/home/me/runs")
    expected = Outer(inner=Inner(where="c", name="/home/me/a"), folder="runs")
    assert with_names_only(given) == expected
