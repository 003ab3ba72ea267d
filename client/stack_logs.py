"""The log lines of a stack on this machine: from its log files, or from Docker if it runs in containers."""

import json
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pipeline.errors import BadInput

#: Pause between two looks for new lines, seconds.
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class LogLine:
    """A line that a part of the stack, such as `face-detection`, wrote."""

    part: str
    text: str


def process_log_lines(
    folder: Path, parts: Sequence[str] = (), containing: str = "", last: int = 50, *, follow: bool = False
) -> Iterator[LogLine]:
    """Yield the last lines of each part of a stack that runs, or ran, as processes, merged by time.

    A line without a time follows the line before it in its own part.

    Parameters
    ----------
    folder : Path
        Has one log file for each part.
    parts : sequence of str
        Parts to read; all if empty.
    containing : str
        Yield only lines that contain this text.
    last : int
        How many lines of each part to yield at most.
    follow : bool
        Then yield each new line when it is written, without end.

    Raises
    ------
    BadInput
        The folder has no log file, or none of a part.

    """
    files = {file.stem: file for file in sorted(folder.glob("*.log"))}
    if not files:
        raise BadInput("no_logs", f"There are no logs in {folder}. Start a stack with `faceq up`.")
    for part in parts:
        if part not in files:
            raise BadInput("no_such_part", f"There is no log of '{part}'. Existing logs: {', '.join(files)}.")
    readers = {part: _growing_file_lines(file) for part, file in files.items() if not parts or part in parts}
    timed: list[tuple[datetime, LogLine]] = []
    for part, reader in readers.items():
        lines = [(at, line) for at, line in _with_times(_written_lines(reader)) if containing in line]
        timed += [(at, LogLine(part, line)) for at, line in lines[len(lines) - min(last, len(lines)) :]]
    yield from (line for _, line in sorted(timed, key=lambda pair: pair[0]))
    while follow:
        new = [
            LogLine(part, line)
            for part, reader in readers.items()
            for line in _written_lines(reader)
            if containing in line
        ]
        yield from new
        if not new:
            time.sleep(_POLL_SECONDS)


def container_log_lines(
    command: str, parts: Sequence[str] = (), containing: str = "", last: int = 50, *, follow: bool = False
) -> Iterator[str]:
    """Yield the lines that Docker collected from a stack in containers, each with its container's name.

    The parameters are those of `process_log_lines`, except the first. `last` does not apply if `containing` is given.

    Parameters
    ----------
    command : str
        Docker's command that shows the logs, as our gateway reports it.

    Raises
    ------
    BadInput
        There is no Docker on this machine, or the command fails.

    """
    arguments = [*shlex.split(command), "--no-color", "--tail", "all" if containing else str(last)]
    arguments += [*(["--follow"] if follow else []), *parts]
    try:
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, errors="replace") as docker:
            for line in docker.stdout or ():
                if containing in line:
                    yield line.rstrip("\n")
    except FileNotFoundError:
        raise BadInput(
            "no_docker", f"Docker has the logs, but there is no command `docker` on this machine to run: {command}"
        ) from None
    if docker.returncode:
        raise BadInput("docker", f"`{command}` ended with exit code {docker.returncode}.")


def _growing_file_lines(file: Path) -> Iterator[str | None]:
    """Yield each complete line of a file that may still grow, and None while no further line is complete."""
    with file.open(errors="replace") as stream:
        line = ""
        while True:
            line += stream.readline()
            if line.endswith("\n"):
                yield line.rstrip("\n")
                line = ""
            else:
                yield None


def _written_lines(reader: Iterator[str | None]) -> Iterator[str]:
    """Yield the lines that a growing file has now."""
    while (line := next(reader)) is not None:
        yield line


def _with_times(lines: Iterable[str]) -> Iterator[tuple[datetime, str]]:
    """Yield each line of a part with its time, or with that of the line before it; the earliest time for the first."""
    latest = datetime.min.replace(tzinfo=UTC)
    for line in lines:
        latest = log_time(line) or latest
        yield latest, line


def log_time(line: str) -> datetime | None:
    """Return the time at which a line was logged; None if it is not one of our JSON objects."""
    try:
        return datetime.strptime(json.loads(line)["timestamp"], "%Y-%m-%d %H:%M:%S,%f%z")
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
