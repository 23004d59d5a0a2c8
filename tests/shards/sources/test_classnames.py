import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources.classnames import in_order, name_classes, number, parse_names
from tests.shards.sources.conftest import refused


@pytest.mark.parametrize(
    ("text", "found"),
    [("3", 3), ("3.0", 3), ("03", 3), ("3.5", None), ("-1", None), ("", None), ("12345", None)],
)
def test_whole_numbers_are_numbers(text: str, found: int | None) -> None:
    assert number(text) == found


def test_names_are_one_a_line_and_emotions_are_spelled_as_in_fer2013() -> None:
    assert parse_names(b"\xef\xbb\xbfAnger\r\ncat \n\n", "x") == ("angry", "cat")


@pytest.mark.parametrize("data", [b"", b"a\n\nb", b"a\nA", b"\xff"])
def test_a_file_without_proper_names_is_refused(data: bytes) -> None:
    refused(lambda: parse_names(data, "names.txt"), "names.txt")


def test_labels_are_named_or_are_names() -> None:
    assert name_classes({"0", "1.0"}, 9, ("cat", "dog")) == {"0": "cat", "1.0": "dog"}
    assert name_classes({"Happiness", "cat"}, 9) == {"Happiness": "happy", "cat": "cat"}
    assert name_classes({"7", "cat"}, 9) == {"7": "7", "cat": "cat"}
    for labels, known in (({"0"}, ()), ({"2"}, ("a", "b"))):
        with pytest.raises(ValueError, match=r"number|not one of"):
            name_classes(labels, 9, known)


def test_what_differs_for_most_samples_is_no_class() -> None:
    many = {f"caption {i}" for i in range(21)}
    assert len(name_classes(many, 42)) == 21
    for labels, samples in ((many, 41), ({str(i) for i in range(1001)}, 10**6)):
        with pytest.raises(ValueError, match="cannot be classes"):
            name_classes(labels, samples)


def test_classes_are_sorted_by_name_and_emotions_alone_as_in_fer2013() -> None:
    assert in_order({"1": "neutral", "2": "angry", "3": "contempt"}) == (
        "angry", "neutral", "contempt",
    )  # fmt: skip
    assert in_order({"1": "neutral", "2": "zebra", "3": "angry"}) == ("angry", "neutral", "zebra")
    with pytest.raises(UserError, match="one class"):
        in_order({"1": "a", "2": "a"})
