"""A running stack that needs no model: a real queue server and a function URL that names frames by their file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import typer
from click.testing import Result
from typer.testing import CliRunner

from pipeline.errors import FaceqError


@dataclass
class Stack:
    """A stack that answers each frame with the name of its file, up to its first dot.

    Parameters
    ----------
    folder : Path
        The state directory.
    refused : set of str
        Names of the files that it refuses as not being pictures.
    errors : set of str
        Names of the files that it answers with `Error`.
    silent : set of str
        Names of the files that it accepts and does not answer.
    accepted : set of str
        Names of the files that it has accepted, and answered unless they are silent.

    """

    folder: Path
    refused: set[str] = field(default_factory=set)
    errors: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)

    def run(self, register: Callable[[typer.Typer], None], *arguments: object) -> Result:
        """Run the command that `register` adds. The result keeps an error that `cli.main` would print."""
        app = typer.Typer()
        register(app)
        environment = {"FACEQ_STATE_DIR": str(self.folder), "COLUMNS": "120", "TERM": "dumb"}
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
        assert isinstance(result.exception, SystemExit | FaceqError | None), repr(result.exception)
        return result
