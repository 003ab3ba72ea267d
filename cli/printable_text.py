"""Text from outside, made harmless before it is printed.

File names, request ids, message bodies and names of people come from others. Printed as they are, they could move the
cursor, change the title of the window or reverse the direction of a line.
"""

import sys
from io import TextIOWrapper


def printable(text: str, most_chars: int | None = None) -> str:
    r"""Return a text that cannot control the terminal: one line, with an escape for each unprintable character.

    That covers control characters, ANSI and OSC sequences, bidirectional overrides and bytes that are not UTF-8
    (PEP 383). `str.isprintable` decides, so an escape can be read but not acted on: "\x1b[2J" becomes "\\x1b[2J".

    Parameters
    ----------
    text : str
    most_chars : int or None
        Shorten a longer text to this many characters, the last of them an ellipsis, before it is escaped.

    """
    if most_chars is not None and len(text) > most_chars:
        text = f"{text[: most_chars - 1]}…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines so that it cannot control the terminal; its line breaks stay."""
    return "\n".join(printable(line) for line in text.split("\n"))


def escape_what_the_terminal_lacks() -> None:
    """Let standard output and standard error escape characters that their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
