"""`faceq logs`: what the functions and the parts around them wrote."""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from adapters.settings import Paths
from client.stack_state import CONTAINERS, LOGS, local_stack
from pipeline.errors import BadInput

#: How often `-f` looks for new lines, seconds.
FOLLOW_SECONDS = 0.2


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("logs", epilog="Example: faceq logs -f --request-id 7f9c")(logs)


def logs(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PART...]", help="face-detection, face-recognition, event-source-mapping, ...; all if none."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    request_id: Annotated[
        str, typer.Option("--request-id", help="Only lines that hold this id, or a part of it.")
    ] = "",
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines of each part.")] = 50,
) -> None:
    """Show the logs of the running stack, or of the last one that ran."""
    stack = local_stack(os.environ)
    if stack is not None and stack.runtime == CONTAINERS:
        _logs_of_containers(stack.logs, parts or [], follow, request_id, lines)
    else:
        _logs_of_processes(parts or [], follow, request_id, lines)


def _logs_of_processes(parts: list[str], follow: bool, request_id: str, lines: int) -> None:
    folder = Paths.from_environment(os.environ).state / LOGS
    files = {file.stem: file for file in sorted(folder.glob("*.log"))}
    if not files:
        raise BadInput("no_logs", f"There are no logs in {folder}. Start a stack with `faceq up`.")
    for part in parts:
        if part not in files:
            raise BadInput("no_such_part", f"There is no log of '{part}'. There are: {', '.join(files)}.")
    chosen = [file for name, file in files.items() if not parts or name in parts]
    readers = {file: _lines(file) for file in chosen}
    for file, reader in readers.items():
        matching = [line for line in _ready(reader) if request_id in line]
        for line in matching[len(matching) - min(lines, len(matching)) :]:
            _show(file, line)
    try:
        while follow:
            new = [(file, line) for file, reader in readers.items() for line in _ready(reader) if request_id in line]
            for file, line in new:
                _show(file, line)
            if not new:
                time.sleep(FOLLOW_SECONDS)
    except KeyboardInterrupt:
        pass


def _logs_of_containers(command: str, parts: list[str], follow: bool, request_id: str, lines: int) -> None:
    """Show what Docker collected; `command` is its command for that, in words of our own gateway."""
    words = [*shlex.split(command), "--no-color", "--tail", "all" if request_id else str(lines), *parts]
    if follow:
        words.insert(-len(parts) or len(words), "--follow")
    try:
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, errors="replace") as docker:
            for line in docker.stdout or ():
                if request_id in line:
                    print(line, end="", flush=True)
    except FileNotFoundError:
        raise BadInput("no_docker", f"The logs are Docker's, and there is no command docker here: {command}") from None
    except KeyboardInterrupt:
        return
    if docker.returncode:
        raise BadInput("docker", f"`{command}` ended with exit code {docker.returncode}.")


def _lines(file: Path) -> Iterator[str | None]:
    """Yield each whole line of a growing file, None where there is none yet."""
    with file.open(errors="replace") as stream:
        begun = ""
        while True:
            begun += stream.readline()
            if begun.endswith("\n"):
                yield begun.rstrip("\n")
                begun = ""
            else:
                yield None


def _ready(reader: Iterator[str | None]) -> Iterator[str]:
    while (line := next(reader)) is not None:
        yield line


def _show(file: Path, line: str) -> None:
    print(f"{file.stem}: {line}", flush=True)
