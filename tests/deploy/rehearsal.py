"""Running commands as a user types them, and writing what they print into docs/operations.md and README.md."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The lines around the generated parts: all that the last rehearsal printed and the calls that it made
#: (docs/operations.md), and the end of its first deploy (README.md).
REHEARSAL = ("<!-- rehearsal: written by make rehearsal -->", "<!-- end of the rehearsal -->")
DEPLOY = ("<!-- deploy: written by make rehearsal -->", "<!-- end of the deploy -->")
CALLS = ("<!-- calls: written by make rehearsal -->", "<!-- end of the calls -->")


@dataclass
class Terminal:
    """Runs commands in the clone and keeps a transcript.

    Parameters
    ----------
    environ : Mapping of str to str
        The commands' environment.
    lines : list of str
        The transcript so far.

    """

    environ: Mapping[str, str]
    lines: list[str] = field(default_factory=list)

    def comment(self, text: str) -> None:
        """Add a comment to the transcript."""
        self.lines += ["", f"# {text}"]

    def run(self, command: str, code: int = 0) -> str:
        """Run `faceq ...` and return what it prints on both streams. Its exit code must be `code`."""
        program, *arguments = command.split()
        assert program == "faceq"
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=ROOT,
            env={**self.environ, "COLUMNS": "110", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.lines += [f"$ {command}", *done.stdout.rstrip().splitlines(), *([f"(exit code {code})"] if code else [])]
        assert done.returncode == code, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout

    def tail_of(self, command: str, first: str) -> str:
        """Return a command and what it printed from the line `first` on, for a document."""
        begin = self.lines.index(f"$ {command}")
        rest = self.lines[begin + 1 :]
        end = next(number for number, line in enumerate(rest) if line.startswith(("$ ", "# ")))
        shown = rest[:end]
        return self.transcript([f"$ {command}", "...", *shown[shown.index(first) :]]).rstrip()

    def transcript(self, lines: Sequence[str] | None = None) -> str:
        """Return lines (by default all) for a document: with folders and digests shortened."""
        text = "\n".join(self.lines if lines is None else lines).strip()
        for folder in (str(ROOT), os.environ.get("HOME", "/nowhere")):
            text = text.replace(folder, "~")
        text = re.sub(r"sha256:([0-9a-f]{12})[0-9a-f]{52}", r"sha256:\1…", text)
        return re.sub(r"/tmp/[^/\s]+(/[^/\s]+)*?/gallery", "gallery", text)


def commands(document: str) -> list[str]:
    """Return the commands in a document's transcript of the rehearsal."""
    return [line.removeprefix("$ ") for line in _block(document, REHEARSAL)[1].splitlines() if line.startswith("$ ")]


def write_into(document: Path, place: tuple[str, str], content: str) -> None:
    """Replace the part of a document between the two lines of a place."""
    before, _, after = _block(document.read_text(), place)
    document.write_text(f"{before}{place[0]}\n{content}\n{place[1]}{after}")


def _block(text: str, place: tuple[str, str]) -> tuple[str, str, str]:
    before, begin, rest = text.partition(place[0])
    inside, end, after = rest.partition(place[1])
    assert begin, f"there is no line {place[0]}"
    assert end, f"there is no line {place[1]}"
    return before, inside, after
