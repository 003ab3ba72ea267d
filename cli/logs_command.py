"""`faceq logs`: show what the functions and the other parts of the stack on this machine logged."""

import os
from contextlib import suppress
from typing import Annotated

import typer

from adapters.settings import Paths
from cli.printable_text import printable
from client.stack_logs import container_log_lines, process_log_lines
from client.stack_state import CONTAINERS, LOGS, local_stack


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("logs", epilog="Example: faceq logs -f --request-id 7f9c")(logs)


def logs(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PART...]",
            help="Parts of the stack: face-detection, face-recognition, event-source-mapping, ...  [default: all]",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Show new lines too, until Ctrl-C.")] = False,
    request_id: Annotated[
        str, typer.Option("--request-id", help="Show only lines that contain this id, or this part of an id.")
    ] = "",
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Show at most this many lines of each part.")] = 50,
) -> None:
    """Show the logs of the running stack, or of the last one that ran, merged by time."""
    stack = local_stack(os.environ)
    with suppress(KeyboardInterrupt):
        if stack is not None and stack.runtime == CONTAINERS:
            for text in container_log_lines(stack.logs, parts or (), request_id, lines, follow=follow):
                print(printable(text), flush=True)
        else:
            folder = Paths.from_environment(os.environ).state / LOGS
            for line in process_log_lines(folder, parts or (), request_id, lines, follow=follow):
                print(f"{line.part}: {printable(line.text)}", flush=True)
