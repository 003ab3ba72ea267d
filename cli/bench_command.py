"""`faceq bench`: how many frames a second, and how long one takes, here or on AWS."""

import io
import json
import os
import sys
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
from cli.progress import progress_bar
from cli.target_options import Profile, Region, StackName, Target, Where, service_client
from client.deployed_stack import STACK
from client.frames import Frame, frames
from client.service_client import Outcome

MOST_FRAMES: Final = 10_000
#: More than this many frames cost something worth asking for.
FREE_FRAMES: Final = 100


@dataclass(frozen=True)
class Figures:
    """What came of it.

    Parameters
    ----------
    frames, answered : int
        How many were posted, and how many of them answered.
    seconds : float
        From the first post to the last answer.
    throughput : float
        Answered frames a second.
    p50, p95, max : float or None
        Milliseconds from the start of a frame's post to its answer in hand; None if none was answered.
    results, problems : dict of str to int
        How often each answer came, and each reason why none did.

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


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench", epilog="Example: faceq bench --count 200 --concurrency 8 door.jpg")(bench)


def bench(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE|FOLDER...]", help="What to send, in turn.  [default: two photographs of packages]"
        ),
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=MOST_FRAMES, help="How many frames.")] = 100,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Frames unanswered at a time.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a frame's answer.")] = 60,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, though frames on AWS cost money.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Send many frames and measure. The first ones count: they start functions. Exit code 1 if one got no answer."""
    sent = _frames(paths, count)
    client = service_client(target, stack, region, profile)
    if target is Where.AWS and count > FREE_FRAMES and not yes:
        typer.confirm(
            f"Send {count} frames to stack {stack} on AWS? Each is two Lambda calls and several SQS requests;"
            " `faceq deploy plan` has the price.",
            abort=True,
            err=True,
        )
    outcomes: list[Outcome] = []
    began = time.monotonic()
    with progress_bar() as progress:
        task = progress.add_task("sending", total=count)
        for outcome in client.send(islice(cycle(sent), count), concurrency, timeout):
            outcomes.append(outcome)
            progress.advance(task)
    found = figures(outcomes, concurrency, time.monotonic() - began)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _show(found)
    if found.answered < found.frames:
        command = "faceq deploy logs" if target is Where.AWS else "faceq logs"
        print(f"faceq: {found.frames - found.answered} frames got no answer. See why with: {command}", file=sys.stderr)
        raise typer.Exit(1)


def figures(outcomes: Sequence[Outcome], concurrency: int, seconds: float) -> Figures:
    """Return what these outcomes, at least one, amount to."""
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
    )


def _frames(paths: list[Path] | None, most: int) -> list[Frame]:
    if paths:
        return list(islice(frames(paths), most))
    models = Paths.from_environment(os.environ).models
    return [_as_camera(package_file(photo, models)) for photo in (ASTRONAUT, GRACE_HOPPER)]


def _as_camera(photo: Path) -> Frame:
    """Return a photograph as a camera posts it: a JPEG, whatever the file is."""
    stream = io.BytesIO()
    Image.open(photo).convert("RGB").save(stream, "JPEG", quality=90)
    return Frame(f"{photo.stem}.jpg", stream.getvalue())


def _show(found: Figures) -> None:
    console = Console(highlight=False)
    table = Table("frames", "answered", "at once", "seconds", "frames/s", "p50 ms", "p95 ms", "max ms")
    times = ["" if figure is None else f"{figure:.0f}" for figure in (found.p50, found.p95, found.max)]
    table.add_row(
        *map(str, (found.frames, found.answered, found.concurrency)),
        f"{found.seconds:.1f}",
        f"{found.throughput:.1f}",
        *times,
    )
    console.print(table)
    for name, number in Counter(found.results).most_common():
        console.print(f"{number} × {name}", soft_wrap=True, markup=False)
    for problem, number in Counter(found.problems).most_common():
        console.print(f"{number} without an answer: {problem}", soft_wrap=True, markup=False)
