"""Commands as a person types them, and what they print: for the tests, and for docs/operations.md."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Between these lines docs/operations.md holds what the last rehearsal printed, and the calls that it made.
REHEARSAL = ("<!-- rehearsal: written by make rehearsal -->", "<!-- end of the rehearsal -->")
DEPLOY = ("<!-- deploy: written by make rehearsal -->", "<!-- end of the deploy -->")
CALLS = ("<!-- calls: written by make rehearsal -->", "<!-- end of the calls -->")


@dataclass
class Terminal:
    """Runs commands in the clone and keeps what they print.

    Parameters
    ----------
    environ : Mapping of str to str
        The commands' environment.
    lines : list of str
        The transcript so far.

    """

    environ: Mapping[str, str]
    lines: list[str] = field(default_factory=list)

    def remark(self, words: str) -> None:
        """Put a comment into the transcript."""
        self.lines += ["", f"# {words}"]

    def run(self, command: str, code: int = 0) -> str:
        """Run `faceq ...` and return what it prints, both streams as they come. Its exit code must be `code`."""
        words = command.split()
        assert words[0] == "faceq"
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *words[1:]],
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
        """Return, for people, a command and what it printed from the line `first` on."""
        begin = self.lines.index(f"$ {command}")
        rest = self.lines[begin + 1 :]
        end = next(number for number, line in enumerate(rest) if line.startswith(("$ ", "# ")))
        shown = rest[:end]
        return self.transcript([f"$ {command}", "...", *shown[shown.index(first) :]]).rstrip()

    def transcript(self, lines: Sequence[str] | None = None) -> str:
        """Return lines, all of them unless told, for people: this machine's folders left out, digests cut."""
        text = "\n".join(self.lines if lines is None else lines).strip()
        for folder in (str(ROOT), os.environ.get("HOME", "/nowhere")):
            text = text.replace(folder, "~")
        text = re.sub(r"sha256:([0-9a-f]{12})[0-9a-f]{52}", r"sha256:\1…", text)
        return re.sub(r"/tmp/[^/\s]+(/[^/\s]+)*?/gallery", "gallery", text)


def commands(document: str) -> list[str]:
    """Return the commands of the rehearsal in a document."""
    return [line.removeprefix("$ ") for line in _block(document, REHEARSAL)[1].splitlines() if line.startswith("$ ")]


def write_into(document: Path, place: tuple[str, str], content: str) -> None:
    """Replace what stands between the two lines of a place in a document."""
    before, _, after = _block(document.read_text(), place)
    document.write_text(f"{before}{place[0]}\n{content}\n{place[1]}{after}")


def _block(text: str, place: tuple[str, str]) -> tuple[str, str, str]:
    before, begin, rest = text.partition(place[0])
    inside, end, after = rest.partition(place[1])
    assert begin, f"there is no line {place[0]}"
    assert end, f"there is no line {place[1]}"
    return before, inside, after
