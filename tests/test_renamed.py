from pathlib import Path

import pytest

from pattlite_dist import renamed
from pattlite_dist.renamed import rename, rename_file, rename_words, tell
from pattlite_dist.runtime.world import World

SENTENCE = (
    "model.name seed is now mobilenetv2-vit; the next minor version will no longer read the old "
    "name"
)


def test_an_old_value_is_read_as_the_new_one_and_told() -> None:
    tree = {"name": "seed", "seed": 1, "model": {"name": "seed", "cut": 7}}
    new = {"name": "seed", "seed": 1, "model": {"name": "mobilenetv2-vit", "cut": 7}}
    assert rename(tree) == (new, [SENTENCE])
    assert rename(new) == (new, [])


@pytest.mark.parametrize("tree", [{}, {"model": None}, {"model": "seed"}, {"model": {"name": []}}])
def test_a_tree_of_another_form_stays(tree: renamed.Tree) -> None:
    assert rename(tree) == (tree, [])


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (["--model.name", "seed"], ["--model.name", "mobilenetv2-vit"]),
        (["--seed=1", "--model.name=seed"], ["--seed=1", "--model.name=mobilenetv2-vit"]),
    ],
)
def test_an_old_value_among_options_is_read_and_told(words: list[str], new: list[str]) -> None:
    assert rename_words(words) == (new, [SENTENCE])


@pytest.mark.parametrize(
    "words",
    [[], ["--model.name"], ["--model.name", "pattlite"], ["--name", "seed"], ["--name=seed"],
     ["model.name", "seed"], ["--model.name="], ["--model.name=pattlite", "seed"]],
)  # fmt: skip
def test_other_options_stay(words: list[str]) -> None:
    assert rename_words(words) == (words, [])


def test_an_old_file_is_read_under_its_new_name_and_told(tmp_path: Path) -> None:
    old, new = tmp_path / "seed.yaml", tmp_path / "notebook.yaml"
    assert rename_file(str(old)) == (str(old), [])
    new.write_text("")
    path, [sentence] = rename_file(str(old))
    assert path == str(new)
    assert sentence.startswith(f"{old} is now {new}, and its run notebook, which name=seed")
    old.write_text("")  # the user's own
    assert rename_file(str(old)) == (str(old), [])
    assert rename_file(str(tmp_path / "other.yaml")) == (str(tmp_path / "other.yaml"), [])


def test_a_sentence_is_told_once_and_by_rank_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renamed, "_told", set())
    tell(["one", "two", "one"])
    tell(["two"])
    assert capsys.readouterr().err == "pattlite: warning: one\npattlite: warning: two\n"
    monkeypatch.setattr(renamed, "detect", lambda: World("torchrun", 1, 2, 1, 2))
    tell(["three"])
    assert capsys.readouterr().err == ""
