"""Every command explains itself."""

import pytest
import typer

from cli import main
from cli.main import command_line


def commands(command: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    """Return every command below `command`, with the words that call it."""
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [found for name, below in command.commands.items() for found in commands(below, (*path, name))]


COMMANDS = dict(commands(typer.main.get_command(command_line())))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_has_help_and_an_example_of_itself(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help
    assert command.epilog
    assert command.epilog.startswith("Example: ")
    assert f"faceq {' '.join(path)}" in command.epilog
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name


def test_each_command_is_found_without_importing_the_others() -> None:
    assert set(main.COMMANDS) == {path[0] for path in COMMANDS}


def test_all_commands_are_here() -> None:
    names = {" ".join(path) for path in COMMANDS}
    assert {
        "up", "down", "status", "doctor", "env", "send", "logs", "demo", "bench", "deploy logs",
        "queues list", "queues peek", "queues purge", "queues redrive",
        "people add", "people import", "people list", "people show", "people rename", "people remove", "people export",
        "models get", "models list", "models where",
    } <= names  # fmt: skip
