"""The command `faceq` and its groups."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from pipeline.errors import PipelineError

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


def whole() -> typer.Typer:
    """Return the command with all its groups, which are imported here."""
    from cli import demo, doctor, logs, models, people, queues, send, stack

    for group, name in ((models, "models"), (people, "people"), (queues, "queues")):
        app.add_typer(group.app, name=name)
    for module in (stack, send, logs, doctor, demo):
        module.register(app)
    return app


def main() -> None:
    """Run the command; a failure that faceq understands is one line on standard error and exit code 1."""
    try:
        whole()()
    except PipelineError as error:
        print(f"faceq: {error.message}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
