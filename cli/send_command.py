"""`faceq send`: send frames to a stack and show who is in them."""

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from cli.outcome_rows import Failures, InputOrder, frame_count, json_row, table_header, table_row
from cli.progress import print_beside, progress_bar
from cli.reading_view import sampling_option, show_reading
from cli.target_options import Profile, Region, StackName, Target, Where, service_client
from client.deployed_stack import STACK
from client.frames import Frame, ReadingReport, frames
from client.service_client import Outcome


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("send", epilog="Example: faceq send --json door.jpg photos/ clip.mp4")(send)


def send(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|FOLDER|VIDEO...", help="Pictures, folders and videos to send.", show_default=False
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per frame, while the command runs.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Send at most this many frames at a time.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Wait this many seconds for the answer to a frame.")] = 60,
    every: Annotated[
        str,
        typer.Option(
            metavar="N|SECONDSs", help="Send every N-th frame of a video, or one every so many seconds: 0.5s."
        ),
    ] = "1",
    fps: Annotated[
        float | None, typer.Option(help="Send this many frames for each second of a video.", show_default=False)
    ] = None,
    unordered: Annotated[
        bool, typer.Option("--unordered", help="Show each answer when it arrives, not in the order of the input.")
    ] = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Send frames to the running stack and show who is in them.

    Exit code 1 if a frame could not be read, was refused, got no answer or was answered Error, or if a damaged video
    lost frames; 130 after Ctrl-C.
    """
    sampling = sampling_option(every, fps)
    report = ReadingReport()
    client = service_client(target, stack, region, profile)
    is_interrupted = False
    with progress_bar() as progress:
        task = progress.add_task("sending", total=None)
        rows = _Rows(progress, as_json=as_json, unordered=unordered)
        read = 0

        def counted() -> Iterator[Frame]:
            nonlocal read
            for frame in frames(paths, sampling, report):
                read += 1
                yield frame
            progress.update(task, total=read)

        with closing(client.send(counted(), concurrency, timeout)) as outcomes:
            try:
                for outcome in outcomes:
                    progress.advance(task)
                    rows.add(outcome)
            except KeyboardInterrupt:
                is_interrupted = True
        rows.print_waiting()
    if as_json:
        for skipped in report.skipped:
            print(json.dumps({"filename": skipped.filename, "skipped": skipped.reason}), flush=True)
    lost = show_reading(report)
    rows.failures.report("faceq deploy logs" if target is Where.AWS else "faceq logs")
    if is_interrupted:
        print(f"faceq: {interruption(read - rows.printed, client.unanswered)}", file=sys.stderr)
        raise typer.Exit(130)
    if rows.failures or lost:
        raise typer.Exit(1)


class _Rows:
    """Prints a row for each outcome while the command runs."""

    def __init__(self, progress: Progress, *, as_json: bool, unordered: bool) -> None:
        self.failures = Failures()
        self.printed = 0
        self._progress = progress
        self._as_json = as_json
        self._order = None if unordered else InputOrder()

    def add(self, outcome: Outcome) -> None:
        """Print this outcome, and those that waited for it, or let it wait for its turn."""
        self.failures.add(outcome)
        for ready in [outcome] if self._order is None else self._order.add(outcome):
            self._print(ready)

    def print_waiting(self) -> None:
        """Print the outcomes whose turn did not come, because the command was interrupted."""
        for outcome in [] if self._order is None else self._order.rest():
            self._print(outcome)

    def _print(self, outcome: Outcome) -> None:
        if self._as_json:
            print_beside(self._progress, json.dumps(json_row(outcome)))
        else:
            if self.printed == 0:
                print_beside(self._progress, table_header())
            print_beside(self._progress, table_row(outcome))
        self.printed += 1


def interruption(without_answer: int, late: int) -> str:
    """Return the sentences after Ctrl-C: how many frames got no answer, and how many answers may still come."""
    message = f"Interrupted. {frame_count(without_answer)} got no answer."
    if late:
        message += f" {frame_count(late)} may still be answered; such an answer stays on the response queue."
    return message
