"""The life of a deployed service from the first plan to its deletion, by the commands that a user types.

AWS is the fake one. The registry is real, and the functions are containers of the image with the deployed digest.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.models.fetch import package_file
from adapters.models.published import ASTRONAUT
from adapters.settings import Paths
from tests.deploy.cloud import Cloud
from tests.deploy.rehearsal import CALLS, DEPLOY, REHEARSAL, ROOT, Terminal, commands, write_into

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="the functions' containers reach this machine on Linux only"),
]

COLLINS = "Eileen Collins"
OPERATIONS = ROOT / "docs" / "operations.md"
#: If this variable is set, the test writes the transcript into the documents.
FACEQ_REHEARSAL = "FACEQ_REHEARSAL"


@pytest.fixture
def terminal(registry_cloud: Cloud, tmp_path: Path) -> Terminal:
    """The terminal of a user with an account, one enrolled person, and an image that has passed the tests."""
    models = Paths.from_environment(os.environ).models
    environ = {
        **registry_cloud.environ,
        "FACEQ_MODELS_DIR": str(models),
        "FACEQ_GALLERY_DIR": str(tmp_path / "gallery"),
        "FACEQ_STATE_DIR": str(tmp_path / "state"),
    }
    photo = str(package_file(ASTRONAUT, models))
    for arguments in (
        ["-m", "cli.main", "people", "add", COLLINS, photo],
        ["-m", "deploy.tested_images", "faceq-function"],
    ):
        subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environ, check=True, capture_output=True)
    registry_cloud.run_images()
    return Terminal(environ)


@pytest.fixture
def blind_image() -> Iterator[str]:
    """The function image with a setting that makes it ignore all faces but huge ones; its layers are the same."""
    tag = "faceq-function:blind"
    subprocess.run(
        ["docker", "build", "--quiet", "--provenance=false", "--sbom=false", "--tag", tag, "-"],
        input="FROM faceq-function\nENV FACEQ_MIN_FACE_SIZE=400\n",
        text=True, check=True, capture_output=True,
    )  # fmt: skip
    yield tag
    subprocess.run(["docker", "image", "rm", tag], check=True, capture_output=True)


def running(cloud: Cloud) -> dict[str, object]:
    """Return what the alias of face-detection runs."""
    found = cloud.client("lambda").get_function(FunctionName="face-detection", Qualifier="live")
    configuration = found["Configuration"]
    return {
        "digest": found["Code"]["ImageUri"].partition("@")[2],
        "memory": configuration["MemorySize"],
        "version": configuration["Version"],
    }


def digest_in_registry(cloud: Cloud, image: str) -> str:
    """Return the digest of the manifest in the registry whose configuration is this image."""
    inspection = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", image], check=True, capture_output=True
    )
    image_id = inspection.stdout.decode().strip()
    (found,) = cloud.client("ecr").batch_get_image(
        repositoryName="faceq", imageIds=[{"imageTag": image_id.removeprefix("sha256:")[:12]}]
    )["images"]
    assert json.loads(found["imageManifest"])["config"]["digest"] == image_id
    return str(found["imageId"]["imageDigest"])


def containers_of(image: str) -> int:
    """Return how many containers of exactly this image run a function."""
    inspection = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", image], check=True, capture_output=True
    )
    found = subprocess.run(
        ["docker", "ps", "--no-trunc", "--format", "{{.Image}} {{.Command}}"],
        check=True,
        capture_output=True,
        text=True,
    )
    image_id = inspection.stdout.decode().strip()
    return len([line for line in found.stdout.splitlines() if line.startswith(image_id) and ".handler" in line])


def test_a_service_is_deployed_changed_rolled_back_and_removed(
    registry_cloud: Cloud, terminal: Terminal, blind_image: str
) -> None:
    """Plan, deploy, change, failed change, failed smoke test, roll back, destroy."""
    cloud = registry_cloud
    terminal.comment("Show what a deploy would do, without changing anything.")
    output = terminal.run("faceq deploy plan --detailed-exitcode", code=2)
    assert "FaceDetection" in output
    assert "face-detection may" in output
    assert cloud.client("cloudformation").describe_stacks()["Stacks"] == []

    terminal.comment("Deploy for the first time.")
    output = terminal.run("faceq deploy --yes")
    assert "export FUNCTION_URL=" in output
    first = running(cloud)
    assert first["digest"] == digest_in_registry(cloud, "faceq-function")
    assert [post["digest"] for post in cloud.posts()] == [first["digest"]]
    assert containers_of("faceq-function") == 2

    terminal.comment("Plan again: nothing to do.")
    terminal.run("faceq deploy plan --detailed-exitcode")

    terminal.comment("Change one parameter.")
    terminal.run("faceq deploy --set DetectionMemory=3008 --yes")
    second = running(cloud)
    assert (second["memory"], second["digest"]) == (3008, first["digest"])
    assert second["version"] != first["version"]

    terminal.comment("Make a change that AWS refuses.")
    cloud.break_resource("FaceRecognition", "The provided execution role does not have permissions", when="update")
    output = terminal.run("faceq deploy --set RecognitionMemory=2048 --yes", code=1)
    assert "FaceRecognition" in output
    assert "does not have permissions" in output
    assert "Release 2 runs again." in output
    assert running(cloud) == second

    terminal.comment("Deploy an image that answers wrongly: the smoke test fails.")
    output = terminal.run(f"faceq deploy --image {blind_image} --untested --yes", code=1)
    assert "answered 'No-Face'; this machine answers 'Eileen Collins'" in output
    assert "Release 2 runs again." in output
    assert (running(cloud)["digest"], running(cloud)["memory"]) == (first["digest"], 3008)

    terminal.comment("Go back to the first release.")
    terminal.run("faceq deploy rollback --to 1 --yes")
    assert (running(cloud)["digest"], running(cloud)["memory"]) == (first["digest"], 1769)
    terminal.run("faceq deploy status")
    history = terminal.run("faceq deploy history")
    assert "back to 1" in history

    terminal.comment("Remove everything but the bucket with the gallery.")
    terminal.run("faceq deploy destroy --yes")
    assert cloud.client("cloudformation").describe_stacks()["Stacks"] == []
    assert cloud.client("lambda").list_functions()["Functions"] == []
    assert [bucket["Name"] for bucket in cloud.client("s3").list_buckets()["Buckets"]] == [
        "faceq-123456789012-us-east-1"
    ]

    assert [call for call in cloud.calls() if call.faults] == []
    if os.environ.get(FACEQ_REHEARSAL):
        write_into(OPERATIONS, REHEARSAL, f"```console\n{terminal.transcript()}\n```")
        write_into(OPERATIONS, CALLS, calls_by_service(cloud))
        shown = terminal.tail_of("faceq deploy --yes", "check the digest of the running image")
        write_into(ROOT / "README.md", DEPLOY, f"```console\n{shown}\n```")
    assert commands(OPERATIONS.read_text()) == commands_of(terminal), (
        "docs/operations.md shows other commands: run make rehearsal"
    )


def calls_by_service(cloud: Cloud) -> str:
    """Return the recorded calls as a Markdown list, one service a line."""
    calls: dict[str, set[str]] = {}
    for call in cloud.calls():
        calls.setdefault(call.service, set()).add(call.operation)
    return "\n".join(f"- `{service}`: {', '.join(sorted(names))}" for service, names in sorted(calls.items()))


def commands_of(terminal: Terminal) -> list[str]:
    return [line.removeprefix("$ ") for line in terminal.lines if line.startswith("$ ")]
