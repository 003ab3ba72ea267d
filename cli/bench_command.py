"""`faceq bench`: measure how many frames per second a stack answers, and how long each takes."""

import io
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from adapters.models.fetch import package_file
from adapters.models.published import ASTRONAUT, GRACE_HOPPER
from adapters.settings import Paths
from cli.outcome_rows import Failures
from cli.printable_text import printable
from cli.progress import progress_bar
from cli.target_options import Profile, Region, StackName, Target, Where, service_client
from client.deployed_stack import STACK
from client.frames import Frame, frames
from client.service_client import Outcome

MOST_FRAMES: Final = 10_000
#: Above this number of frames on AWS we ask first, because they cost money.
FREE_FRAMES: Final = 100


@dataclass(frozen=True)
class Figures:
    """The result of a bench.

    Parameters
    ----------
    frames, answered : int
        How many frames were posted, and how many got an answer.
    concurrency : int
        The most frames that were unanswered at a time.
    seconds : float
        From the first post to the last answer.
    throughput : float
        Answered frames per second.
    p50, p95, max : float or None
        Milliseconds from the start of a frame's post until we had its answer; None if none was answered.
    results, problems : dict of str to int
        How many frames got each answer, and how many got none for each reason.
    errors : dict of str to int
        How many frames were answered `Error` for each reason.

    """

    frames: int
    answered: int
    concurrency: int
    seconds: float
    throughput: float
    p50: float | None
    p95: float | None
    max: float | None
    results: dict[str, int]
    problems: dict[str, int]
    errors: dict[str, int]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench", epilog="Example: faceq bench --count 200 --concurrency 8 door.jpg")(bench)


def bench(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE|FOLDER...]", help="Pictures to send in turn.  [default: two built-in photographs]"
        ),
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=MOST_FRAMES, help="Send this many frames.")] = 100,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Send at most this many frames at a time.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Wait this many seconds for the answer to a frame.")] = 60,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask for confirmation, although frames on AWS cost money.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Send many frames and measure how fast the answers come.

    The first frames, which start the functions, count too. Exit code 1 if a frame got no answer or was answered Error.
    """
    pictures = _frames(paths, count)
    client = service_client(target, stack, region, profile)
    if target is Where.AWS and count > FREE_FRAMES and not yes:
        typer.confirm(
            f"Send {count} frames to stack {stack} on AWS? Each takes two Lambda calls and several SQS requests."
            " See the price with `faceq deploy plan`.",
            abort=True,
            err=True,
        )
    outcomes: list[Outcome] = []
    began = time.monotonic()
    with progress_bar() as progress:
        task = progress.add_task("sending", total=count)
        for outcome in client.send(islice(cycle(pictures), count), concurrency, timeout):
            outcomes.append(outcome)
            progress.advance(task)
    result = figures(outcomes, concurrency, time.monotonic() - began)
    if as_json:
        print(json.dumps(asdict(result), indent=2))
    else:
        _show(result)
    failures = Failures()
    for outcome in outcomes:
        failures.add(outcome)
    failures.report("faceq deploy logs" if target is Where.AWS else "faceq logs")
    if failures:
        raise typer.Exit(1)


def figures(outcomes: Sequence[Outcome], concurrency: int, seconds: float) -> Figures:
    """Return the figures of these outcomes, of which there must be at least one."""
    times = [outcome.milliseconds for outcome in outcomes if outcome.answer is not None]
    p50, p95 = (round(float(figure), 1) for figure in np.percentile(times, [50, 95])) if times else (None, None)
    return Figures(
        frames=len(outcomes),
        answered=len(times),
        concurrency=concurrency,
        seconds=round(seconds, 3),
        throughput=round(len(times) / seconds, 2),
        p50=p50,
        p95=p95,
        max=round(max(times), 1) if times else None,
        results=dict(Counter(str(outcome.result) for outcome in outcomes if outcome.answer is not None)),
        problems=dict(Counter(str(outcome.problem) for outcome in outcomes if outcome.answer is None)),
        errors=dict(Counter(outcome.error for outcome in outcomes if outcome.error is not None)),
    )


def _frames(paths: list[Path] | None, count: int) -> list[Frame]:
    if paths:
        return list(islice(frames(paths), count))
    models = Paths.from_environment(os.environ).models
    return [_as_posted_by_a_camera(package_file(photo, models)) for photo in (ASTRONAUT, GRACE_HOPPER)]


def _as_posted_by_a_camera(photo: Path) -> Frame:
    """Return a photograph as a JPEG, the format that cameras post."""
    stream = io.BytesIO()
    Image.open(photo).convert("RGB").save(stream, "JPEG", quality=90)
    return Frame(f"{photo.stem}.jpg", stream.getvalue())


def _show(result: Figures) -> None:
    console = Console(highlight=False)
    table = Table("frames", "answered", "concurrency", "seconds", "frames/s", "p50 ms", "p95 ms", "max ms")
    times = ["" if figure is None else f"{figure:.0f}" for figure in (result.p50, result.p95, result.max)]
    table.add_row(
        *map(str, (result.frames, result.answered, result.concurrency)),
        f"{result.seconds:.1f}",
        f"{result.throughput:.1f}",
        *times,
    )
    console.print(table)
    for name, number in Counter(result.results).most_common():
        console.print(f"{number} × {printable(name)}", soft_wrap=True, markup=False)
    for error, number in Counter(result.errors).most_common():
        console.print(f"{number} answered Error: {printable(error)}", soft_wrap=True, markup=False)
    for problem, number in Counter(result.problems).most_common():
        console.print(f"{number} without an answer: {printable(problem)}", soft_wrap=True, markup=False)
