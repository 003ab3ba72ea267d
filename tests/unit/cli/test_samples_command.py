"""`faceq samples`: the photographs of the README's first steps, without replacing the user's files."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import samples_command
from cli.samples_command import SAMPLES
from pipeline.errors import BadInput
from tests.conftest import COLLINS, HOPPER

README = (Path(__file__).parents[3] / "README.md").read_text()


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    samples_command.register(app)
    return app


def test_the_photographs_are_there_after_the_command_and_may_be_there_before(
    app: typer.Typer, photos: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    for _ in range(2):
        result = CliRunner().invoke(app, [str(folder)])
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines() == [str(folder / name) for name in SAMPLES]
    assert (folder / "grace_hopper.jpg").read_bytes() == photos[HOPPER].read_bytes()
    assert (folder / "astronaut.png").read_bytes() == photos[COLLINS].read_bytes()


def test_another_file_of_the_same_name_is_kept(app: typer.Typer, photos: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "astronaut.png").write_bytes(b"mine")
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert isinstance(result.exception, BadInput)
    assert "astronaut.png exists already" in result.exception.message
    assert (tmp_path / "astronaut.png").read_bytes() == b"mine"


def test_the_commands_of_the_readme_name_only_photographs_that_samples_makes() -> None:
    assert "    faceq samples" in README
    commands = re.findall(r"^    faceq (?:send|people add) .*$", README, re.MULTILINE)
    pictures = {word for line in commands for word in re.findall(r"\b[\w-]+\.(?:jpg|png)\b", line.split(" #")[0])}
    assert pictures == set(SAMPLES)
