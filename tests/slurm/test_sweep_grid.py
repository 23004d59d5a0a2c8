import itertools
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pattlite_dist import renamed
from pattlite_dist.config import Config
from pattlite_dist.errors import UserError
from pattlite_dist.slurm.sweep import (
    Point,
    Sweep,
    chunks,
    grid,
    load_sweep,
    point_config,
    point_names,
    read_axes,
    split_values,
)

SWEEP = Sweep(
    name="grid",
    points=[
        Point(name="lr-1e-4", values={"optim.lr": "1e-4"}, job="12_0"),
        Point(name="lr-3e-4", values={"optim.lr": "3e-4"}),
    ],
)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", ["1"]),
        ("1e-4,3e-4", ["1e-4", "3e-4"]),
        (" a , b ", ["a", "b"]),
        ("[0.1,0.2],[0.3,0.4]", ["[0.1,0.2]", "[0.3,0.4]"]),
        ("{a: [1,2]},x", ["{a: [1,2]}", "x"]),
        ("(1,2),3", ["(1,2)", "3"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ('"a,b",c', ['"a,b"', "c"]),
        ("['[',']'],b", ["['[',']']", "b"]),
        ("'it''s, so',b", ["'it''s, so'", "b"]),
        ("it's,here", ["it's", "here"]),
        ("'[',b", ["'['", "b"]),
        ("{a: 'x,}'},b", ["{a: 'x,}'}", "b"]),
        ("a,,b", ["a", "", "b"]),
        (",", ["", ""]),
        ("", [""]),
        # What is damaged stays one value, or is parted, and YAML refuses it then.
        ("[1,2", ["[1,2"]),
        ("1],2", ["1]", "2"]),
        ("'a,b", ["'a,b"]),
    ],
)
def test_values_are_parted_by_commas_outside_of_brackets_and_quotes(
    text: str, values: list[str]
) -> None:
    assert split_values(text) == values


scalars = st.integers(-9, 9) | st.booleans() | st.text("ab,'\"[]{}: é", max_size=5)
trees = st.recursive(scalars, lambda s: st.lists(s, max_size=3), max_leaves=6)


@given(st.lists(trees, min_size=1, max_size=4))
def test_any_values_written_as_yaml_come_back(values: list[object]) -> None:
    written = [
        yaml.safe_dump(value, default_flow_style=True, default_style="'", allow_unicode=True)
        .removesuffix("...\n")
        .strip()
        for value in values
    ]
    assert split_values(",".join(written)) == written


def test_axes_are_read_from_words_in_their_order() -> None:
    axes = read_axes(["optim.lr=1e-4,3e-4", "--seed=0,1,2", "wandb.project=a=b", "data.cache=''"])
    assert list(axes.items()) == [
        ("optim.lr", ["1e-4", "3e-4"]),
        ("seed", ["0", "1", "2"]),
        ("wandb.project", ["a=b"]),
        ("data.cache", ["''"]),
    ]
    assert read_axes([]) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed"], "'seed' is not key=value"),
        (["seed="], "'seed=' is not key=value"),
        (["seed=1,,2"], "not key=value"),
        (["seed=1,"], "not key=value"),
        (["=1"], "not key=value"),
        (["--"], "not key=value"),
        ([""], "not key=value"),
        (["seed=1", "seed=2"], "seed is given twice"),
        (["seed=1", "--seed=1"], "seed is given twice"),
        (["seed=1,2,1"], "'seed=1,2,1' has a value twice"),
        (["seed=1, 1"], "has a value twice"),
    ],
)
def test_words_that_are_no_axes_are_the_users_error(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_axes(words)
    assert "\n" not in str(caught.value)


def test_a_grid_is_every_combination_and_the_last_axis_runs_fastest() -> None:
    points = grid({"a": ["1", "2"], "b": ["x", "y", "z"]})
    assert [tuple(point.items()) for point in points] == [
        (("a", one), ("b", other)) for one in "12" for other in "xyz"
    ]
    assert grid({}) == [{}]


def test_names_say_what_tells_the_points_apart() -> None:
    axes = read_axes(["optim.lr=1e-4,3e-4", "trainer.epochs=5", "seed=0,1"])
    assert point_names(grid(axes)) == ["lr-1e-4_seed-0", "lr-1e-4_seed-1", "lr-3e-4_seed-0",
                                       "lr-3e-4_seed-1"]  # fmt: skip
    assert point_names(grid({"seed": ["7"]})) == ["run"]
    assert point_names([{}]) == ["run"]


def test_keys_that_end_alike_are_told_apart() -> None:
    names = point_names(
        grid({"optim.name": ["adam", "adamw"], "model.name": ["mobilenetv2-vit", "pattlite"]})
    )
    assert names[0] == "optim.name-adam_model.name-mobilenetv2-vit"


def test_values_that_a_name_cannot_tell_apart_are_numbered() -> None:
    names = point_names(grid({"data.shards": ["a/b", "a b", *(f"c{i}" for i in range(9))]}))
    assert names[:3] == ["00_shards-a-b", "01_shards-a-b", "02_shards-c0"]
    assert names[-1] == "10_shards-c8"


keys = st.sampled_from(
    ["seed", "optim.lr", "optim.name", "model.name", "data.shards", "augment.mean", "optim.ema"]
)
values = st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=4, unique=True)


@given(st.dictionaries(keys, values, max_size=7).filter(lambda axes: len(grid(axes)) <= 500))
def test_names_are_valid_folders_and_all_different_whatever_the_values(
    axes: dict[str, list[str]],
) -> None:
    points = grid(axes)
    names = point_names(points)
    assert len(set(names)) == len(names) == len(points)
    assert names == point_names(points)
    for name in names:
        assert Config(name=name).name == name
        assert len(name) <= 200


def test_long_values_of_many_axes_still_make_a_name_that_a_file_system_takes(
    tmp_path: Path,
) -> None:
    axes = {
        key: [f"{number}{'x' * 90}", f"{number}{'y' * 90}"]
        for number, key in enumerate(("a.one", "b.two", "c.three", "d.four", "e.five", "f.six"))
    }
    names = point_names(grid(axes))
    assert len(set(names)) == 2**6
    for name in names:
        (tmp_path / name).mkdir()


@given(st.lists(st.integers(), max_size=3000), st.none() | st.integers(1, 1001))
def test_arrays_keep_the_order_and_are_nearly_equal_within_the_limit(
    items: list[int], limit: int | None
) -> None:
    parts = list(chunks(items, limit))
    assert list(itertools.chain.from_iterable(parts)) == items
    sizes = [len(part) for part in parts]
    assert max(sizes, default=0) <= (limit or 1000)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert len(parts) == -(-len(items) // (limit or 1000)), "no more arrays than it takes"


def test_1200_points_are_made_in_seconds_and_parted_into_arrays() -> None:
    axes = read_axes([
        "optim.lr=" + ",".join(f"{i}e-5" for i in range(1, 21)),
        "seed=" + ",".join(map(str, range(20))),
        "augment.rotation=0,10,20",
    ])  # fmt: skip
    begin = time.process_time()  # what else runs here does not count
    points = grid(axes)
    names = point_names(points)
    configs = [
        point_config(Config(), values, {"name": name})
        for name, values in zip(names, points, strict=True)
    ]
    assert time.process_time() - begin < 5
    assert len(set(names)) == len(configs) == 1200
    assert len({config.model_dump_json() for config in configs}) == 1200
    for limit, arrays in ((None, 2), (1001, 2), (256, 5)):
        parts = list(chunks(names, limit))
        assert len(parts) == arrays
        assert max(map(len, parts)) <= (limit or 1000)
        assert list(itertools.chain.from_iterable(parts)) == names


def test_a_point_changes_the_base_and_nothing_else() -> None:
    base = Config.model_validate({"seed": 3, "optim": {"ema": 0.5}})
    config = point_config(
        base,
        {"optim.lr": "1e-4", "augment.mean": "[0.1, 0.2, 3e-1]", "data.cache": "null",
         "trainer.channels_last": "false"},
        {"name": "007", "wandb.group": "2024-01-01"},
    )  # fmt: skip
    assert config == Config.model_validate(
        {
            "name": "007",
            "seed": 3,
            "optim": {"lr": 1e-4, "ema": 0.5},
            "augment": {"mean": (0.1, 0.2, 0.3)},
            "trainer": {"channels_last": False},
            "wandb": {"group": "2024-01-01"},
        }
    )
    assert base.optim.lr == 1e-3


def test_an_old_name_in_a_grid_is_read_and_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renamed, "_told", set())
    for width in ("64", "128"):
        config = point_config(Config(), {"model.name": "seed", "model.width": width}, {})
        assert config.model.name == "mobilenetv2-vit"
    assert capsys.readouterr().err.startswith("pattlite: warning: model.name seed is now mobile")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("trainer.precision", "32", "32"),
        ("wandb.project", "2024", "2024"),
        ("wandb.project", "'1.10'", "1.10"),
        ("data.shards", "2024-13-45", "2024-13-45"),
        ("model.weights", "0x_", "0x_"),
        ("seed", "12", 12),
        ("optim.lr", "3e-4", 3e-4),
        ("optim.lr", ".5", 0.5),
        ("wandb.entity", "''", ""),
        ("data.shards", "'a,b'", "a,b"),
        ("data.allow_pipe", "yes", True),
    ],
)
def test_a_number_is_text_where_text_is_wanted(key: str, text: str, value: object) -> None:
    tree = point_config(Config(), {key: text}, {}).model_dump()
    for part in key.split("."):
        tree = tree[part]
    assert tree == value


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("optim.lr", "-1", "optim.lr: Input should be greater than 0"),
        ("optim.lr", "nan", "optim.lr: Input should be a finite number"),
        ("optim.lr", "fast", "optim.lr: "),
        ("optim.lr", "null", "optim.lr: "),
        ("optim.rate", "1", "optim.rate: Extra inputs"),
        ("optimiser.lr", "1", "optimiser.lr is not a key"),
        ("seed.x", "1", "seed.x is not a key"),
        ("optim", "3", "optim: "),
        ("seed", "[1, 2]", "seed: "),
        ("seed", "1:30", "seed: "),
        ("augment.mean", "[1, 2]", "augment.mean"),
        ("optim.lr", "[1", "optim.lr=[1: not a value; put it in quotes"),
        ("wandb.project", "a: b: c", "not a value; put it in quotes"),
        ("wandb.project", "!!python/name:os.getcwd", "not a value"),
        ("wandb.project", "\x07", "not a value"),
    ],
)
def test_a_point_that_cannot_be_is_one_line_with_its_key(key: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        point_config(Config(), {key: text}, {})
    assert "\n" not in str(caught.value)


def test_a_sweep_that_is_saved_is_loaded_as_it_was(tmp_path: Path) -> None:
    assert load_sweep(tmp_path) is None
    assert load_sweep(tmp_path / "nowhere") is None
    SWEEP.save(tmp_path)
    assert load_sweep(tmp_path) == SWEEP
    assert load_sweep(tmp_path / "sweep.json") is None
    newer = SWEEP.with_jobs({"lr-3e-4": "13", "unknown": "14"})
    assert [point.job for point in newer.points] == ["12_0", "13"]
    assert [point.job for point in SWEEP.points] == ["12_0", None]
    newer.save(tmp_path)
    assert load_sweep(tmp_path) == newer


@given(st.lists(st.builds(Point, name=st.text(st.characters(codec="utf-8")),
                          values=st.dictionaries(st.text(st.characters(codec="utf-8")),
                                                 st.text(st.characters(codec="utf-8")))),
                min_size=1, max_size=3))  # fmt: skip
def test_any_values_survive_the_file(points: list[Point]) -> None:
    sweep = Sweep(name="x", points=points)
    assert Sweep.model_validate_json(sweep.model_dump_json(indent=1)) == sweep


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"name": "x"}', b'{"name": "x", "points": []}',
        b'{"version": 2, "name": "x", "points": [{"name": "a", "values": {}}]}',
        b'{"name": "x", "points": [{"name": "a", "values": {"seed": 1}}]}',
        b'{"name": "x", "points": [{"name": "a", "values": {}}], "more": 1}',
    ],
)  # fmt: skip
def test_a_damaged_sweep_is_one_line_with_its_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sweep.json").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read \S*sweep\.json: .*; restore it") as caught:
        load_sweep(tmp_path)
    assert "\n" not in str(caught.value)


def test_every_cut_of_a_sweep_is_the_users_error(tmp_path: Path) -> None:
    SWEEP.save(tmp_path)
    path = tmp_path / "sweep.json"
    whole = path.read_bytes()
    for size in range(len(whole) - 1):  # the last byte is the end of the line
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cannot read"):
            load_sweep(tmp_path)


def test_a_sweep_has_a_point() -> None:
    with pytest.raises(ValidationError):
        Sweep(name="x", points=[])
