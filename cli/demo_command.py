"""`faceq demo`: the whole service from start to end, on two photographs that Python packages contain.

We make the frames from them, so we know every answer beforehand. Grace Hopper is a stranger until we enrol her, while
the stack runs.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from adapters.models.fetch import package_file
from adapters.models.installed import installed_model
from adapters.models.published import ASTRONAUT, GRACE_HOPPER
from adapters.settings import FACEQ_GALLERY_DIR, FACEQ_STATE_DIR, ModelSettings
from cli.demo_frames import COLLINS, HOPPER, Expected, contact_sheet, empty_frames, group_frames, portraits
from cli.model_notes import model_note
from cli.outcome_rows import cells
from client.service_client import Outcome
from client.stack_connections import client_of_running_stack, stack_on_this_machine
from pipeline.errors import SetupError
from pipeline.messages import UNKNOWN


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog="Example: faceq demo --sheet out/demo.jpg")(demo)


def demo(
    sheet: Annotated[
        Path, typer.Option(help="Write a picture of all frames, with boxes and names, to this file.")
    ] = Path("out/demo.jpg"),
) -> None:
    """Try the whole service on two built-in photographs.

    Enrol two people, post frames made from their photographs, and check each answer. Exit code 1 if one is wrong.
    """
    console = Console(highlight=False)
    settings = ModelSettings.from_environment(os.environ)
    model = installed_model(settings.model, settings.models)
    console.print(f"model: {model.id}{model_note(model.id)}", soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="faceq-demo-") as folder:
        photos = {
            name: package_file(source, settings.models)
            for name, source in ((COLLINS, ASTRONAUT), (HOPPER, GRACE_HOPPER))
        }
        # The demo has its own state and gallery, so it does not touch those of this machine.
        os.environ |= {FACEQ_STATE_DIR: f"{folder}/state", FACEQ_GALLERY_DIR: f"{folder}/gallery"}
        collins, hopper = (Image.open(photos[name]).convert("RGB") for name in (COLLINS, HOPPER))
        before = [
            *portraits("collins", collins, COLLINS),
            *empty_frames(),
            *portraits("unknown", hopper, UNKNOWN, most=3),
        ]
        after = [*portraits("hopper", hopper, HOPPER), *group_frames(collins, hopper)]
        answered: list[tuple[Expected, Outcome]] = []
        try:
            _run(console, "people", "add", COLLINS, str(photos[COLLINS]))
            _run(console, "up", "--detach", "--port", "0")
            _send(before, console, answered)
            _run(console, "people", "add", HOPPER, str(photos[HOPPER]))
            _send(after, console, answered)
        finally:
            _run(console, "down")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(answered).save(sheet, quality=88)
    console.print(f"contact sheet: {sheet}")
    line, passed = verdict(answered, len(before) + len(after))
    print(line)
    if not passed:
        raise typer.Exit(1)


def verdict(answered: Sequence[tuple[Expected, Outcome]], total: int) -> tuple[str, bool]:
    """Return the summary line, and whether each of `total` frames got the answer that was expected."""
    right = sum(outcome.result == expected.result for expected, outcome in answered)
    with_answer = sum(outcome.answer is not None for _, outcome in answered)
    p50 = statistics.median(outcome.milliseconds for _, outcome in answered)
    return f"demo: {total} frames, {with_answer} answered, {right} as expected, p50 {p50:.0f} ms", right == total


def _send(frames: Sequence[Expected], console: Console, answered: list[tuple[Expected, Outcome]]) -> None:
    """Send frames one after the other, as a camera does, and show each answer when it arrives."""
    expected = {frame.frame.filename: frame for frame in frames}
    table = Table(
        Column("frame", no_wrap=True),
        Column("result", min_width=15),
        "faces",
        Column("distance", max_width=8),
        "ms",
        "expected",
    )
    client = client_of_running_stack(stack_on_this_machine(os.environ))
    with Live(table, console=console, refresh_per_second=8):
        for outcome in client.send((frame.frame for frame in frames), concurrency=1):
            wanted = expected[outcome.frame.filename]
            answered.append((wanted, outcome))
            right = outcome.result == wanted.result
            table.add_row(*cells(outcome), "[green]yes[/green]" if right else f"[red]no: {escape(wanted.result)}[/red]")
    if not console.is_terminal:
        console.print()  # Live does not end the last line there


def _run(console: Console, *arguments: str) -> None:
    """Show and run a command of faceq."""
    shown = " ".join(f"'{word}'" if " " in word else Path(word).name if "/" in word else word for word in arguments)
    console.print(f"$ faceq {shown}", style="bold")
    done = subprocess.run([sys.executable, "-P", "-m", "cli.main", *arguments], check=False)
    if done.returncode != 0:
        raise SetupError("demo", f"`faceq {shown}` failed, so the demo cannot continue.")
