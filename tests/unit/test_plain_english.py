"""Code, tests and pages use the usual English words; a list of idioms that readers stumbled over must not come back."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("pipeline", "template", "adapters", "client", "local", "deploy", "cli", "bench", "tests", "docs", "examples")
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".conf", ".txt", ".example", ""}
#: `Nobody is enrolled` is plain English; `nobody reads the queue` leaves open which program could.
_ACTS = (
    "(who|that|can|could|may|has|had|holds|takes?|took|waits|reads|asks|posts|starts|listens|looks|needs|calls|uses)"
)
#: The idiom, as words or as a regular expression, and what to write instead.
PLAIN_WORDS = {
    "(is|are|was|were|be|been) told": "`gets`, `receives` or `learns`, or make the actor the subject: `faceq reports`",
    "told (of|by)": "`according to`, or name the actor: `the log shows`",
    "tells? of": "`reports` or `describes`",
    "is said (of|by|in|before|once)": "`faceq prints` or `the message says`",
    f"nobody {_ACTS}": "name the actor: `no client`, `no process`, `no user`",
    f"somebody {_ACTS}": "name the actor: `another client`, `another process`, `a user`",
    f"whoever {_ACTS}": "name the actor: `the client that`, `the user who`",
    "the one who": "name the actor: `the client that`, `the user who`",
    "open to whom": "`who may call it`",
    "spoken of": "`mentioned` or `described`",
    "as a person (meets|sees|reads|uses)": "`as a user ...`",
    "by way of": "`through` or `with`",
    "by hand of": "`by`",
    "parted by": "`separated by`",
    "(anew|afresh)": "`again` or `from the start`",
    "(cannot|can) be had": "`is (not) available`",
    "lets? go of": "`releases`",
    "for ever": "`without end` or `permanently`",
    "that (is|are) waited": "`the time we wait`",
    "makes? again": "`rebuilds` or `creates again`",
    "mend(s|ed|ing)?": "`fix`, `repair` or `put right`",
    "comes? round": "`repeats` or `happens again`",
    "stands? here": "`is here` or `is defined here`",
    "be it that": "`unless` or `if`",
    "what holds of": "`what is true for`",
    "what is not asked for": "say what it is: `other fields`",
    "in one line for people": "`as a message of one line`",
    "without a word": "`silently` or `without an error`",
}
#: What can stand between two words of a sentence: blanks, comment marks, the ends of strings, underscores of a name.
_BETWEEN = r"""(?:[\s#:_]|["']\s+f?["'])+"""

_IDIOMS = re.compile(
    "(?<![a-z])(?:"
    + "|".join(
        f"(?P<idiom{number}>{idiom.replace('(', '(?:').replace(' ', _BETWEEN)})"
        for number, idiom in enumerate(PLAIN_WORDS)
    )
    + ")(?![a-z])"
)


def found_idioms(text: str) -> list[tuple[int, str, str]]:
    """Return the line of each idiom in a text, the idiom, and what to write instead."""
    instead = dict(zip(_IDIOMS.groupindex, PLAIN_WORDS.values(), strict=True))
    return [
        (text.count("\n", 0, match.start()) + 1, match[0], instead[str(match.lastgroup)])
        for match in _IDIOMS.finditer(text.lower())
    ]


def project_files() -> list[Path]:
    """Return the text files of the project but this one."""
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    files = [*ROOT.iterdir(), *(ROOT / ".ci").iterdir(), *inside]
    return [
        file
        for file in files
        if file.is_file() and file.suffix in SUFFIXES and file != Path(__file__) and "__pycache__" not in file.parts
    ]


def without_bad_examples(text: str) -> str:
    """Return a text without the middle column of a table whose head is `| rule | instead of | write |`."""
    head, table_head, table = text.partition("| rule | instead of | write |\n")
    return head + table_head + re.sub(r"^\|([^|]*)\|[^|]*\|", r"|\1||", table, flags=re.MULTILINE)


def test_no_idiom_comes_back() -> None:
    hits = [
        f"{file.relative_to(ROOT)}:{line}: {idiom!r}. Write {plain}."
        for file in project_files()
        for line, idiom, plain in found_idioms(without_bad_examples(file.read_text()))
    ]
    assert not hits, "\n".join(["Use the usual English words:", *hits])


def test_an_idiom_is_found_in_sentences_names_and_broken_lines() -> None:
    text = '# The client is\n# told. def test_nobody_waits\nf"a message that is "\n    f"waited for"'
    found = [(line, idiom) for line, idiom, _ in found_idioms(text)]
    assert found == [(1, "is\n# told"), (2, "nobody_waits"), (3, 'that is "\n    f"waited')]
    assert found_idioms("amendments recommended; this one is to lder") == []


def test_bad_examples_are_the_middle_column_of_their_table_only() -> None:
    table = "is told\n| rule | instead of | write |\n|---|---|---|\n| is told | is told | is told |\n"
    assert [line for line, _, _ in found_idioms(without_bad_examples(table))] == [1, 4, 4]
