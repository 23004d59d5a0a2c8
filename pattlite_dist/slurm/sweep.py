"""Grids of runs: `optim.lr=1e-4,3e-4 seed=0,1,2` is six runs, submitted as arrays of full jobs."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pattlite_dist.config import Config, parse_config
from pattlite_dist.errors import UserError
from pattlite_dist.files import write_text
from pattlite_dist.renamed import rename, tell
from pattlite_dist.slurm.profile import read_yaml

SWEEP_NAME = "sweep.json"
_ARRAY_WITHOUT_AN_ANSWER = 1000  # SLURM's own default is 1001
_LONGEST = 200  # a file name may have 255 bytes, and other names are made of this one
T = TypeVar("T")


class Point(BaseModel):
    """One run of a sweep."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    values: dict[str, str]
    job: str | None = None


class Sweep(BaseModel):
    """`sweep.json`: the runs of a sweep, and the newest job of each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    name: str
    points: list[Point] = Field(min_length=1)

    def save(self, folder: Path) -> None:
        """Write `sweep.json` into `folder`, whole or not at all."""
        write_text(folder / SWEEP_NAME, self.model_dump_json(indent=1) + "\n")

    def with_jobs(self, jobs: Mapping[str, str]) -> "Sweep":
        """The same with newer jobs, by the names of their points."""
        points = [
            point.model_copy(update={"job": jobs.get(point.name, point.job)})
            for point in self.points
        ]
        return self.model_copy(update={"points": points})


def load_sweep(folder: Path) -> Sweep | None:
    """Read `folder/sweep.json`; None if there is none.

    Raises:
        UserError: it is not a valid sweep.
    """
    path = folder / SWEEP_NAME
    try:
        return Sweep.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read {path}: {reason}; restore it") from error


def split_values(text: str) -> list[str]:
    """The values of an axis: separated by commas outside of brackets and quotes."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        before = values[-1].rstrip()[-1:]
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and (not before or before in "[{(,:\"'"):
            quote = letter  # inside of a word it is an apostrophe
        else:
            depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth <= 0 and not quote:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def read_axes(words: Sequence[str]) -> dict[str, list[str]]:
    """Keys and their values from words such as `optim.lr=1e-4,3e-4`.

    Raises:
        UserError: a word is not of this form, has an empty value, or a key occurs twice.
    """
    axes: dict[str, list[str]] = {}
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        values = split_values(text)
        if not equals or not key or "" in values:
            raise UserError(f"{word!r} is not key=value or key=value,value; fix it")
        if key in axes:
            raise UserError(f"{key} is given twice; put its values into one word")
        if len(set(values)) < len(values):
            raise UserError(f"{word!r} has a value twice; leave one out")
        axes[key] = values
    return axes


def grid(axes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of values; the last axis varies fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def point_names(points: Sequence[Mapping[str, str]]) -> list[str]:
    """A folder name for each point, made of what distinguishes it; all names differ.

    `optim.lr=1e-4 seed=0` becomes `lr-1e-4_seed-0`.
    """
    varied = [key for key in points[0] if len({point[key] for point in points}) > 1]
    last = [key.rpartition(".")[2] for key in varied]
    labels = {
        key: key if last.count(short) > 1 else short
        for key, short in zip(varied, last, strict=True)
    }
    names = [
        "_".join(f"{labels[key]}-{_plain(point[key])}" for key in varied) or "run"
        for point in points
    ]
    # Values may differ only in what a name cannot contain, and file names are limited in length.
    if len(set(names)) < len(names) or max(map(len, names)) > _LONGEST:
        width = len(str(len(names) - 1))
        names = [f"{i:0{width}}_{name}"[:_LONGEST] for i, name in enumerate(names)]
    return names


def _plain(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", value).strip("-")[-40:] or "x"


def point_config(base: Config, values: Mapping[str, str], changes: Mapping[str, Any]) -> Config:
    """The configuration of a point.

    Args:
        base: of the sweep.
        values: of the point, by key, as YAML.
        changes: further keys and their values, used as they are.

    Raises:
        UserError: a key is unknown or a value out of range.
    """
    tree = base.model_dump(mode="json")
    for key, text in values.items():
        try:
            _set(tree, key, read_yaml(text))
        except yaml.YAMLError:
            raise UserError(f"{key}={text}: not a value; put it in quotes") from None
    for key, text in changes.items():
        _set(tree, key, text)
    words = " ".join(f"{key}={value}" for key, value in values.items())
    tree, sentences = rename(tree)
    tell(sentences)
    return parse_config(tree, words or "sweep")


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        if not isinstance(tree.get(part), dict):
            raise UserError(f"{key} is not a key; see `pattlite train --help`")
        tree = tree[part]
    tree[last] = value


def chunks(items: Sequence[T], limit: int | None) -> Iterator[Sequence[T]]:
    """Items in order, in arrays of nearly equal size of at most `limit`."""
    limit = limit or _ARRAY_WITHOUT_AN_ANSWER
    count = -(-len(items) // limit)
    for i in range(count):
        yield items[len(items) * i // count : len(items) * (i + 1) // count]
