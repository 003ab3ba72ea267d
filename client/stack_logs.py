"""The log lines of a stack on this machine: from its log files, or from Docker if it runs in containers."""

import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    """Yield the last lines of each part of a stack that runs, or ran, as processes.

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
    for part, reader in readers.items():
        lines = [line for line in _written_lines(reader) if containing in line]
        for line in lines[len(lines) - min(last, len(lines)) :]:
            yield LogLine(part, line)
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
