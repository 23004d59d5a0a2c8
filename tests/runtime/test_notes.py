import pytest

from pattlite_dist.runtime.notes import note


def test_a_note_is_a_line_and_one_about_a_thing_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    note("it rains")
    note("it rains")
    for text in ("the disk is slow", "the disk is still slow"):
        note(text, once=(test_a_note_is_a_line_and_one_about_a_thing_is_said_once, "disk"))
    assert capsys.readouterr().err.splitlines() == [
        f"pattlite: note: {text}" for text in ("it rains", "it rains", "the disk is slow")
    ]
