import re

import pytest

from pattlite_dist.compat.need import changed, find, find_function, supported
from pattlite_dist.errors import UserError


class Library:
    class part:
        @staticmethod
        def _work(a: int, b: int = 0) -> int:
            return a + b


def test_what_is_there_is_found() -> None:
    assert find("torch", Library, "part._work")(1, 2) == 3
    assert find_function("torch", Library, "part._work", ("a", "b"))(1) == 1


def test_what_is_gone_is_one_line_with_the_version_and_those_that_are_supported() -> None:
    with pytest.raises(UserError) as caught:
        find("submitit", Library, "part._rest")
    text = str(caught.value)
    assert re.match(
        r"submitit \d+\.\d+\S* has no `part\._rest`, which pattlite_dist requires; ", text
    )
    assert re.search(r"pip install 'submitit\S*>=\S+'$", text)
    assert "\n" not in text


def test_another_shape_is_an_error_too() -> None:
    with pytest.raises(UserError, match=r"argument 'c' of `part\._work`"):
        find_function("torch", Library, "part._work", ("a", "c"))
    with pytest.raises(UserError, match="function `part`"):
        find_function("torch", type("Root", (), {"part": 3}), "part")


def test_a_library_that_is_not_installed_has_no_version() -> None:
    assert "nowhere (unknown version) has no thing" in str(changed("nowhere", "thing"))


@pytest.mark.parametrize(
    "library", ["pytorch-lightning", "submitit", "wandb", "torch", "jsonargparse"]
)
def test_every_library_of_compat_is_bounded_on_both_sides(library: str) -> None:
    bound = supported(library)
    assert ">=" in bound and "<" in bound
