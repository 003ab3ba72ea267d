"""The progress bar that counts frames or photos."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


def progress_bar() -> Progress:
    """Return a bar that disappears when it is complete, and that shows nothing if standard error is not a terminal.

    The bar leaves standard output alone: what a command prints there is data. Print it with `print_beside`.
    """
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not console.is_terminal,
    )


def print_beside(progress: Progress, line: str) -> None:
    """Print a whole line on standard output while the bar is shown.

    Where standard output is a terminal, which may be the one that shows the bar, the bar makes room for the line.
    """
    makes_room = progress.live.is_started and sys.stdout.isatty()
    if makes_room:
        progress.stop()
    print(line, flush=True)
    if makes_room:
        progress.start()
