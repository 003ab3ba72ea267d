"""`faceq send`: send frames to a stack and show who is in them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.progress import progress_bar
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
        bool, typer.Option("--json", help="Print one JSON object per frame as soon as its answer arrives.")
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
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Send frames to the running stack and show who is in them.

    Exit code 1 if a frame got no answer, or frames of a damaged video were lost.
    """
    sampling = sampling_option(every, fps)
    report = ReadingReport()
    client = service_client(target, stack, region, profile)
    unanswered = 0
    table = Table("frame", "result", "faces", "distance", "ms")
    with progress_bar() as progress:
        task = progress.add_task("sending", total=None)

        def counted() -> Iterator[Frame]:
            number = 0
            for frame in frames(paths, sampling, report):
                number += 1
                yield frame
            progress.update(task, total=number)

        for outcome in client.send(counted(), concurrency, timeout):
            progress.advance(task)
            unanswered += outcome.answer is None
            if as_json:
                print(json.dumps(row(outcome)), flush=True)
            else:
                table.add_row(*cells(outcome))
    if as_json:
        for skipped in report.skipped:
            print(json.dumps({"filename": skipped.filename, "skipped": skipped.reason}), flush=True)
    else:
        Console().print(table)
    lost = show_reading(report)
    if unanswered:
        missing = "1 frame" if unanswered == 1 else f"{unanswered} frames"
        command = "faceq deploy logs" if target is Where.AWS else "faceq logs"
        print(f"faceq: {missing} got no answer. See why with: {command}", file=sys.stderr)
    if unanswered or lost:
        raise typer.Exit(1)


def row(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as `--json` prints it: the whole answer, what was sent, and how long the answer took."""
    return {
        **(outcome.answer or {}),
        "filename": outcome.frame.filename,
        "request_id": outcome.request_id,
        "result": outcome.result,
        "problem": outcome.problem,
        "milliseconds": round(outcome.milliseconds, 1),
    }


def cells(outcome: Outcome) -> list[Text]:
    """Return an outcome as the cells of a table row. They are text, not markup, because names may contain brackets."""
    answer = outcome.answer
    filename, milliseconds = Text(outcome.frame.filename), Text(f"{outcome.milliseconds:.0f}")
    if answer is None:
        return [filename, Text(str(outcome.problem), style="red"), Text(), Text(), milliseconds]
    faces = answer.get("faces")
    rows = [face for face in faces if isinstance(face, dict)] if isinstance(faces, list) else []
    named = next((face for face in rows if face.get("name") == outcome.result), None)
    distance = named.get("distance") if named is not None else None
    shown = f"{distance:.2f}" if isinstance(distance, int | float) else ""
    return [filename, Text(str(outcome.result)), Text(str(len(rows))), Text(shown), milliseconds]
