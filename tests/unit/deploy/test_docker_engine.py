"""The errors for a Docker that is missing, stopped or too old.

Here the command `docker` is a shell script; tests/docker uses the real one.
"""

import os
from pathlib import Path

import pytest

from deploy.docker_engine import architecture, engine
from pipeline.errors import SetupError

SCRIPT = """#!/bin/sh
case "$*" in
    version*) {version} ;;
    "compose version"*) {compose} ;;
    "image inspect"*) {image} ;;
esac
"""
RUNS = """echo '{"Version": "27.1", "Arch": "arm64"}'"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def script(
    folder: Path, name: str = "docker", version: str = RUNS, compose: str = "exit 1", image: str = "exit 1"
) -> None:
    file = folder / name
    file.write_text(SCRIPT.format(version=version, compose=compose, image=image))
    file.chmod(0o755)


def refusal() -> SetupError:
    """Return the error of one line that `engine` raises."""
    with pytest.raises(SetupError) as caught:
        engine()
    assert "\n" not in caught.value.message
    return caught.value


def test_a_running_engine_is_described_by_its_versions(docker: Path) -> None:
    script(docker, compose="echo v2.40.3", image="echo amd64")
    assert (engine().version, engine().architecture, engine().compose) == ("27.1", "arm64", "2.40.3")
    assert architecture("faceq-function") == "amd64"


def test_a_missing_image_has_no_architecture(docker: Path) -> None:
    script(docker)
    assert architecture("nothing") is None


def test_without_the_command_docker_the_error_names_the_way_to_run_without_it(
    docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(docker))
    assert refusal().code == "no_docker"
    assert "faceq up" in refusal().message


def test_the_error_for_a_stopped_engine_has_dockers_reason(docker: Path) -> None:
    script(docker, version="echo null; echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    assert refusal().code == "no_engine"
    assert "Cannot connect to the Docker daemon" in refusal().message
    assert "Start Docker" in refusal().message


@pytest.mark.parametrize(("compose", "installed"), [("exit 1", "no Compose plugin"), ("echo 2.17.2", "version 2.17.2")])
def test_a_missing_or_old_compose_plugin_is_refused_with_its_version(
    docker: Path, compose: str, installed: str
) -> None:
    script(docker, compose=compose)
    assert refusal().code == "no_compose"
    assert installed in refusal().message


def test_compose_version_1_is_refused_by_its_name(docker: Path) -> None:
    script(docker)
    script(docker, "docker-compose")
    assert "only the old docker-compose" in refusal().message
    assert os.access(docker / "docker-compose", os.X_OK)
