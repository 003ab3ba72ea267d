"""The command `faceq` and its groups."""

import errno
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Final

import typer

from cli.local_stack_option import with_local_stack_name
from cli.printable_text import escape_what_the_terminal_lacks, printable_lines
from pipeline.errors import FaceqError

#: The module of each group of commands; its `app` holds them.
GROUPS: Final = {name: f"{name}_commands" for name in ("models", "people", "queues", "image", "deploy")}
#: The module of each word that may follow `faceq`.
COMMANDS: Final = {
    **GROUPS,
    **dict.fromkeys(("up", "down", "status", "env"), "stack_commands"),
    **{name: f"{name}_command" for name in ("send", "logs", "doctor", "demo", "bench", "samples")},
}

#: The modules whose commands use the stack on this machine, or its gallery: they have the option --name.
OF_A_LOCAL_STACK: Final = {
    "stack_commands",
    "people_commands",
    "queues_commands",
    "send_command",
    "logs_command",
    "doctor_command",
    "bench_command",
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
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def command_line(command: str | None = None) -> typer.Typer:
    """Return `faceq` with all its commands, or only with those of the module that holds `command`.

    For one command we import its own module only: the others would cost `faceq up` half a second.
    """
    groups = {module: group for group, module in GROUPS.items()}
    for module_name in dict.fromkeys(COMMANDS.values() if command is None else [COMMANDS[command]]):
        module = import_module(f"cli.{module_name}")
        if module_name in groups:
            commands = module.app.registered_commands
            app.add_typer(module.app, name=groups[module_name])
        else:
            before = len(app.registered_commands)
            module.register(app)
            commands = app.registered_commands[before:]
        if module_name in OF_A_LOCAL_STACK:
            for command_info in commands:
                if command_info.callback is not None:
                    command_info.callback = with_local_stack_name(command_info.callback)
    return app


def problem_of_file(error: OSError) -> str:
    """Return a sentence with the cause of a failed access to a file, and what to do."""
    file = error.filename or "a file"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"The disk is full, so {file} cannot be written. Make space and try again."
    if error.errno == errno.EROFS:
        return (
            f"{file} is on a read-only file system. Choose other folders with FACEQ_STATE_DIR and FACEQ_GALLERY_DIR, "
            "or make it writable, and try again."
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"This user has no permission for {file}. Change its permissions or owner, and try again."
    problem = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"{problem}. Put that right and try again."


def main() -> None:
    """Run the command. A failure that faceq understands is printed as one line on standard error, with exit code 1."""
    escape_what_the_terminal_lacks()
    try:
        first = sys.argv[1] if len(sys.argv) > 1 else None
        command_line(first if first in COMMANDS else None)()
    except FaceqError as error:
        print(f"faceq: {printable_lines(error.message)}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            sys.stderr.close()
        else:
            print(f"faceq: {printable_lines(problem_of_file(error))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
