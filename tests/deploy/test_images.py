"""The image that was pushed runs as it lies in the registry, with the gallery in S3."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.models.fetch import ASTRONAUT, package_file
from adapters.settings import Paths
from tests.deploy.cloud import Cloud
from tests.deploy.rehearsal import Terminal

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="the functions' containers reach this machine on Linux only"),
]

COLLINS = "Eileen Collins"


def test_the_deployed_image_names_a_person_of_the_gallery_in_s3(registry_cloud: Cloud, tmp_path: Path) -> None:
    """The smoke test's frame goes through containers of the digest that was deployed; nothing but AWS is played."""
    models = Paths.from_environment(os.environ).models
    environ = {
        **registry_cloud.environ,
        "FACEQ_MODELS_DIR": str(models),
        "FACEQ_GALLERY_DIR": str(tmp_path / "gallery"),
        "FACEQ_STATE_DIR": str(tmp_path / "state"),
    }
    terminal = Terminal(environ)
    photo = str(package_file(ASTRONAUT, models))
    subprocess.run([sys.executable, "-m", "cli.main", "people", "add", COLLINS, photo], env=environ, check=True)
    registry_cloud.play_images()
    terminal.run("faceq deploy --untested --yes")
    (post,) = registry_cloud.posts()
    running = subprocess.run(
        ["docker", "ps", "--no-trunc", "--format", "{{json .}}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    image = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", "faceq-function"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert [one["Command"].count("face_") for one in map(json.loads, running) if one["Image"] == image] == [1, 1]
    assert post["digest"].startswith("sha256:")
    registry_cloud.reset()
    left = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.RepoDigests}}", "faceq-function"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert registry_cloud.registry not in left.stdout
