"""`faceq models` on the command line, with a cache that needs no network."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from adapters import file_lock
from adapters.models.catalogue import CATALOGUE, DLIB
from adapters.models.published import Sources
from cli import models_commands
from pipeline.errors import FaceqError, SetupError
from tests.file_server import serving, status
from tests.small_models import SOURCES, cache, vggface2_from

__all__ = ["cache"]

Faceq = Callable[..., Result]


@pytest.fixture
def faceq_models(cache: Path) -> Faceq:
    """Return how to run `faceq models ...`. A FaceqError, which `cli.main` would print, is the result's exception."""

    def run(*arguments: str, sources: Sources = SOURCES) -> Result:
        environment = {"FACEQ_MODELS_DIR": str(cache), "COLUMNS": "120"}
        result = CliRunner().invoke(models_commands.app, arguments, env=environment, obj=sources)
        assert isinstance(result.exception, SystemExit | FaceqError | None), repr(result.exception)
        return result

    return run


def test_get_reports_the_installed_model(faceq_models: Faceq) -> None:
    """The second `get` keeps what the first one installed."""
    for _ in range(2):
        result = faceq_models("get", DLIB)
        assert result.exit_code == 0
        assert result.stdout == "dlib is installed (128 dimensions, threshold 0.5, CC0-1.0)\n"


def test_get_reports_why_auto_used_another_model(faceq_models: Faceq) -> None:
    with serving(status(404)) as server:
        result = faceq_models("get", sources=vggface2_from(server))
    installed, note = result.stdout.splitlines()
    assert installed.startswith("dlib is installed")
    assert note.startswith("note: dlib is used because vggface2 cannot be fetched: 127.0.0.1 answered 404")


def test_get_reports_once_that_it_waits_for_another_get(faceq_models: Faceq, cache: Path) -> None:
    faceq_models("get", DLIB)
    with file_lock.acquire(cache / ".lock"):
        waiting = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "models", "get", DLIB],
            env={**os.environ, "FACEQ_MODELS_DIR": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr
        assert waiting.stderr.readline() == "waiting for another `faceq models get`\n"
        assert waiting.poll() is None
    output, errors = waiting.communicate(timeout=20)
    assert (waiting.returncode, errors) == (0, "")
    assert output.startswith("dlib is installed")


def test_get_refuses_an_unknown_model(faceq_models: Faceq) -> None:
    result = faceq_models("get", "vggface3")
    assert isinstance(result.exception, SetupError)
    assert "no model 'vggface3'" in result.exception.message


def test_list_shows_which_models_are_installed(faceq_models: Faceq) -> None:
    faceq_models("get", DLIB)
    rows = json.loads(faceq_models("list", "--json").stdout)
    assert {row["id"]: row["installed"] for row in rows} == {model: model == DLIB for model in CATALOGUE}
    for row in rows:
        assert set(row) == {"id", "installed", "preprocessing", "download_bytes", "licence", "description"}


def test_list_shows_every_model_with_its_description(faceq_models: Faceq) -> None:
    table = faceq_models("list").stdout
    for model in CATALOGUE.values():
        assert model.id in table
        assert model.description in table


def test_where_prints_the_folder(faceq_models: Faceq, cache: Path) -> None:
    assert faceq_models("where").stdout == f"{cache}\n"
    assert json.loads(faceq_models("where", "--json").stdout) == {"folder": str(cache)}
