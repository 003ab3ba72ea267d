"""The command `faceq` and its groups."""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Final

import typer

from pipeline.errors import FaceqError

#: The groups, each the `app` of the module of its name.
GROUPS: Final = ("models", "people", "queues", "image", "deploy")
#: Which module has a command.
COMMANDS: Final = {
    **{name: name for name in GROUPS},
    **dict.fromkeys(("up", "down", "status", "env"), "up"),
    **{name: name for name in ("send", "logs", "doctor", "demo", "bench")},
}

app = typer.Typer(
    name="faceq",
    help="Face recognition that runs the same on a laptop and on AWS Lambda.",
    epilog="Start with: faceq models get, faceq people add NAME PHOTO..., faceq up, faceq send PHOTO...",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"faceq {version('faceq')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def whole(command: str | None = None) -> typer.Typer:
    """Return `faceq` with all its commands, or with those of the module that has `command`.

    A command's own module is all that is imported for it: the others would cost `faceq up` half a second.
    """
    for name in dict.fromkeys(COMMANDS.values() if command is None else [COMMANDS[command]]):
        module = import_module(f"cli.{name}")
        if name in GROUPS:
            app.add_typer(module.app, name=name)
        else:
            module.register(app)
    return app


def main() -> None:
    """Run the command; a failure that faceq understands is one line on standard error and exit code 1."""
    try:
        word = sys.argv[1] if len(sys.argv) > 1 else None
        whole(word if word in COMMANDS else None)()
    except FaceqError as error:
        print(f"faceq: {error.message}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            sys.stderr.close()
        else:
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            print(f"faceq: {what}. Mend that and try again.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
