import copy
from typing import Any

import pytest

from pattlite_dist import migrate as migrations
from pattlite_dist.errors import UserError
from pattlite_dist.migrate import STEPS, VERSION, migrate


def test_a_tree_without_a_version_is_of_version_0() -> None:
    tree = {"name": "a", "model": {"name": "seed", "cut": 7}}
    new = {"name": "a", "model": {"name": "mobilenetv2-vit", "cut": 7}}
    assert migrate(tree, "test") == new
    assert migrate({"version": 0, **tree}, "test") == new


def test_a_tree_of_the_newest_version_stays_but_for_its_version() -> None:
    tree = {"model": {"name": "seed"}}  # an error, but not for a migration to find
    assert migrate({"version": VERSION, **tree}, "test") == tree


def test_the_tree_that_is_given_stays_as_it_is() -> None:
    tree = {"version": 0, "model": {"name": "seed"}}
    before = copy.deepcopy(tree)
    migrate(tree, "test")
    assert tree == before


def test_before_version_2_positions_were_decayed() -> None:
    tree = {"version": 1, "model": {"name": "mobilenetv2-vit"}, "optim": {"lr": 0.1}}
    assert migrate(tree, "test")["optim"] == {"lr": 0.1, "decay_positions": True}
    assert migrate({**tree, "version": 2}, "test")["optim"] == {"lr": 0.1}
    assert migrate({**tree, "model": {"name": "pattlite"}}, "test")["optim"] == {"lr": 0.1}


@pytest.mark.parametrize(
    "tree",
    [{}, {"optim": None}, {"model": None}, {"model": "seed"}, {"model": {}},
     {"model": {"name": ["seed"]}}, {"model": {"name": "pattlite"}}, {"seed": 1, "name": "seed"}],
)  # fmt: skip
def test_other_values_are_left_to_those_who_check_them(tree: dict[str, Any]) -> None:
    assert migrate(tree, "test") == tree


@pytest.mark.parametrize("version", range(3))
def test_steps_are_taken_in_order_from_the_trees_own_version_on(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(number: int) -> migrations.Tree:
        return lambda tree: {"taken": [*tree["taken"], number]}  # type: ignore[return-value]

    monkeypatch.setattr(migrations, "STEPS", [step(number) for number in range(2)])
    monkeypatch.setattr(migrations, "VERSION", 2)
    taken = migrate({"version": version, "taken": []}, "test")["taken"]
    assert taken == list(range(version, 2))


def test_there_is_a_step_to_each_version() -> None:
    assert len(STEPS) == VERSION


@pytest.mark.parametrize("version", [VERSION + 1, 99])
def test_a_newer_version_is_told(version: int) -> None:
    with pytest.raises(UserError) as caught:
        migrate({"version": version}, "a.yaml")
    message = str(caught.value)
    assert message.startswith(f"a.yaml: version: this configuration has version {version}, ")
    assert message.endswith(f"reads versions up to {VERSION}; install a newer pattlite_dist")


@pytest.mark.parametrize("version", [-1, True, None, "1", 1.0, [1]])
def test_what_is_no_version_is_told(version: Any) -> None:
    with pytest.raises(UserError, match=r"^a\.yaml: version: .* is not a version; restore it$"):
        migrate({"version": version}, "a.yaml")
