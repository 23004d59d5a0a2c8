"""What is said of a wrong command line: short, in the words of its user, and with a way out."""

import difflib
import re
from collections.abc import Iterable, Mapping

LONGEST = 500  # characters of a message
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors:.*"
    r"Given value type: \w+ Given value: (.*)"
)
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "NoneType": "null",
    "str": "text",
}
# What other programs call a key, by the end of its name there.
_SYNONYMS = {"batch_size": "global_batch", "learning_rate": "lr"}
_UNKNOWN = re.compile(r"(?:arguments: |option '|key ')(?:--)?([A-Za-z][\w.-]*)")


def plain_types(text: str) -> str:
    """Put the types that jsonargparse names into words."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", text)
    text = _UNION.sub(lambda found: f"Expected {_or(found[1])}. Got value: {found[2]}", text)
    text = re.sub(r"Annotated\[(\w+), [^]]*\]", r"\1", text)
    text = re.sub(r"Literal\[([^]]*)\]", lambda found: _or(found[1].replace("'", "")), text)
    text = re.sub(r"tuple\[([^]]*)\]", r"[\1]", text)
    for python, word in _WORDS.items():
        text = re.sub(rf"\b{python}\b(?! or instance)", word, text)
    return re.sub(r"Expected an? (?=a |null|true|number|\[|[\w-]+ or)", "Expected ", text)


def _or(alternatives: str) -> str:
    return re.sub(r", (?![^[]*\])", " or ", alternatives)


def essence(text: str, flags: Mapping[str, str]) -> str:
    """A parser's error in one short line.

    Args:
        text: of jsonargparse and pydantic, which spread it over lines.
        flags: how users write each key.
    """
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if not line.startswith(("For further", "1 validation"))]
    text = " ".join(kept).split(" For further")[0]
    text = re.sub(r" \[type=\w+, input_value=.*, input_type=\w+\]", "", text)
    text = re.sub(r'Parser key "([^"]+)":', lambda m: f"{flags.get(m[1], m[1])}:", text)
    head, required, names = text.partition("are required: ")
    text = head + required + ", ".join(flags.get(name, name) for name in names.split(", "))
    return shortened(plain_types(text) + suggestion(text, flags))


def shortened(text: str) -> str:
    """The beginning and the end of a long message."""
    if len(text) <= LONGEST:
        return text
    half = (LONGEST - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def suggestion(text: str, known: Iterable[str]) -> str:
    """`; did you mean optim.lr?`, if the error is of an unknown key that resembles known ones."""
    found = _UNKNOWN.search(text)
    near = nearest(found[1], known) if found else []
    return f"; did you mean {' or '.join(near)}?" if near else ""


def nearest(key: str, known: Iterable[str]) -> list[str]:
    """Known keys that somebody who wrote `key` may have meant, at most three.

    Those that end in it, such as `optim.lr` for `lr`; else those spelled much like it, with or
    without their part; else those with its first word, such as `global_batch` for `batch-size`.
    """
    key, names = key.replace("-", "_").lower(), list(known)
    last = {name: name.rpartition(".")[2] for name in names}
    end = _SYNONYMS.get(key.rpartition(".")[2], key.rpartition(".")[2])
    found = [name for name in names if last[name] == end]
    if not found:
        found = difflib.get_close_matches(key, names, 3, 0.8)
    if not found:
        close = difflib.get_close_matches(end, sorted(set(last.values())), 1, 0.8)
        found = [name for name in names if last[name] in close]
    if not found:
        found = [name for name in names if end.split("_")[0] in last[name].split("_")]
    return found[:3]
