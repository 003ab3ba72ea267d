"""Text from outside, as it is printed."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.printable_text import escape_what_the_terminal_lacks, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jdoor\n.jpg", "\\x1b[2Jdoor\\n.jpg"),
        ("a\u202eb", "a\\u202eb"),
        ("\ud800", "\\ud800"),
        ("tür 門.jpg", "tür 門.jpg"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\udcff.jpg", "\\udcff.jpg"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_text_from_outside_cannot_control_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_what_is_printed_is_printable(text: str) -> None:
    assert printable(text).isprintable()


def test_a_long_text_is_shortened_only_where_asked() -> None:
    assert printable("x" * 4096, 60) == "x" * 59 + "…"
    assert printable("x" * 4096) == "x" * 4096


def test_a_message_of_several_lines_keeps_them() -> None:
    assert printable_lines("a\nb\x1b[2J\r") == "a\nb\\x1b[2J\\r"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_the_terminal_lacks_is_escaped_instead_of_failing(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", output)
    escape_what_the_terminal_lacks()
    output.write("tür 門 \udcff")
    output.flush()
    printed = output.buffer.getvalue()  # type: ignore[attr-defined]
    assert printed.decode(encoding).encode(encoding, "backslashreplace") == printed
    assert b"\\udcff" in printed
