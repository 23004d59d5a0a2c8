"""Names of classes as a picture can show them."""

from collections.abc import Sequence


def drawable(names: Sequence[str]) -> list[str]:
    """The names, those that matplotlib's font has no letters for by their number: `class 3`.

    Without this they would all be drawn as rows of boxes, with a warning for each letter.
    """
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    return [
        name if all(ord(letter) in known for letter in name) else f"class {number}"
        for number, name in enumerate(names)
    ]


def unformatted(names: Sequence[str]) -> list[str]:
    """The same for texts in which a `$` would start a formula."""
    return [name.replace("$", r"\$") for name in drawable(names)]
