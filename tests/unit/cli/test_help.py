"""Every command explains itself."""

import pytest
import typer

from cli import main
from cli.main import command_line


def commands(command: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    """Return every command below `command`, with its name as typed on the command line."""
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [found for name, below in command.commands.items() for found in commands(below, (*path, name))]


COMMANDS = dict(commands(typer.main.get_command(command_line())))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_option_has_help_and_every_command_an_example(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help
    assert command.epilog
    assert command.epilog.startswith("Example: ")
    assert f"faceq {' '.join(path)}" in command.epilog
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name


def test_main_knows_the_module_of_every_command() -> None:
    assert set(main.COMMANDS) == {path[0] for path in COMMANDS}


def test_no_command_is_missing() -> None:
    names = {" ".join(path) for path in COMMANDS}
    assert {
        "up", "down", "status", "doctor", "env", "send", "logs", "demo", "bench", "deploy logs",
        "queues list", "queues peek", "queues purge", "queues redrive",
        "people renew", "people push", "people pull", "people diff",
        "people add", "people import", "people list", "people show", "people rename", "people remove", "people export",
        "models get", "models list", "models where",
    } <= names  # fmt: skip
