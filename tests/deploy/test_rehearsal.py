"""The whole life of a deployed service, by the commands a person types.

AWS is moto's; the registry is a real one, and the functions are containers of the digest that lies in it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.models.fetch import ASTRONAUT, package_file
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
#: Set, the pages are written anew.
FACEQ_REHEARSAL = "FACEQ_REHEARSAL"


@pytest.fixture
def terminal(registry_cloud: Cloud, tmp_path: Path) -> Terminal:
    """A terminal of somebody with an account, one person enrolled and an image that has passed the tests."""
    models = Paths.from_environment(os.environ).models
    environ = {
        **registry_cloud.environ,
        "FACEQ_MODELS_DIR": str(models),
        "FACEQ_GALLERY_DIR": str(tmp_path / "gallery"),
        "FACEQ_STATE_DIR": str(tmp_path / "state"),
    }
    photo = str(package_file(ASTRONAUT, models))
    for words in (
        ["-m", "cli.main", "people", "add", COLLINS, photo],
        ["-m", "deploy.tested_images", "faceq-function"],
    ):
        subprocess.run([sys.executable, *words], cwd=ROOT, env=environ, check=True, capture_output=True)
    registry_cloud.play_images()
    return Terminal(environ)


@pytest.fixture
def blind_image() -> Iterator[str]:
    """The function image, set so that it sees no face that is not huge: the same layers."""
    tag = "faceq-function:blind"
    subprocess.run(
        ["docker", "build", "--quiet", "--provenance=false", "--sbom=false", "--tag", tag, "-"],
        input="FROM faceq-function\nENV FACEQ_MIN_FACE_SIZE=400\n",
        text=True, check=True, capture_output=True,
    )  # fmt: skip
    yield tag
    subprocess.run(["docker", "image", "rm", tag], check=True, capture_output=True)


def running(cloud: Cloud) -> dict[str, object]:
    """What the alias of the detector runs."""
    found = cloud.client("lambda").get_function(FunctionName="face-detection", Qualifier="live")
    configuration = found["Configuration"]
    return {
        "digest": found["Code"]["ImageUri"].partition("@")[2],
        "memory": configuration["MemorySize"],
        "version": configuration["Version"],
    }


def digest_in_registry(cloud: Cloud, image: str) -> str:
    """The digest of the manifest whose configuration is this image of the engine."""
    asked = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", image], check=True, capture_output=True
    )
    image_id = asked.stdout.decode().strip()
    (found,) = cloud.client("ecr").batch_get_image(
        repositoryName="faceq", imageIds=[{"imageTag": image_id.removeprefix("sha256:")[:12]}]
    )["images"]
    assert json.loads(found["imageManifest"])["config"]["digest"] == image_id
    return str(found["imageId"]["imageDigest"])


def containers_of(image: str) -> int:
    """How many containers of exactly this image run a function."""
    asked = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", image], check=True, capture_output=True
    )
    found = subprocess.run(
        ["docker", "ps", "--no-trunc", "--format", "{{.Image}} {{.Command}}"],
        check=True,
        capture_output=True,
        text=True,
    )
    image_id = asked.stdout.decode().strip()
    return len([line for line in found.stdout.splitlines() if line.startswith(image_id) and ".handler" in line])


def test_a_service_is_deployed_changed_rolled_back_and_removed(
    registry_cloud: Cloud, terminal: Terminal, blind_image: str
) -> None:
    """Plan, deploy, change, failed change, failed smoke test, roll back, destroy."""
    cloud = registry_cloud
    terminal.remark("What would happen? Nothing is changed.")
    said = terminal.run("faceq deploy plan --detailed-exitcode", code=2)
    assert "FaceDetection" in said
    assert "face-detection may" in said
    assert cloud.client("cloudformation").describe_stacks()["Stacks"] == []

    terminal.remark("The first deploy.")
    said = terminal.run("faceq deploy --yes")
    assert "export FUNCTION_URL=" in said
    first = running(cloud)
    assert first["digest"] == digest_in_registry(cloud, "faceq-function")
    assert [post["digest"] for post in cloud.posts()] == [first["digest"]]
    assert containers_of("faceq-function") == 2

    terminal.remark("Again: there is nothing to do.")
    terminal.run("faceq deploy plan --detailed-exitcode")

    terminal.remark("A change of one parameter.")
    terminal.run("faceq deploy --set DetectionMemory=3008 --yes")
    second = running(cloud)
    assert (second["memory"], second["digest"]) == (3008, first["digest"])
    assert second["version"] != first["version"]

    terminal.remark("A change that AWS refuses.")
    cloud.break_resource("FaceRecognition", "The provided execution role does not have permissions", when="update")
    said = terminal.run("faceq deploy --set RecognitionMemory=2048 --yes", code=1)
    assert "FaceRecognition" in said
    assert "does not have permissions" in said
    assert "Release 2 runs again." in said
    assert running(cloud) == second

    terminal.remark("An image that does not answer rightly: the smoke test sees it.")
    said = terminal.run(f"faceq deploy --image {blind_image} --untested --yes", code=1)
    assert "answered 'No-Face'; this machine answers 'Eileen Collins'" in said
    assert "Release 2 runs again." in said
    assert (running(cloud)["digest"], running(cloud)["memory"]) == (first["digest"], 3008)

    terminal.remark("Back to the first release.")
    terminal.run("faceq deploy rollback --to 1 --yes")
    assert (running(cloud)["digest"], running(cloud)["memory"]) == (first["digest"], 1769)
    terminal.run("faceq deploy status")
    history = terminal.run("faceq deploy history")
    assert "back to 1" in history

    terminal.remark("The end. The bucket with the gallery stays.")
    terminal.run("faceq deploy destroy --yes")
    assert cloud.client("cloudformation").describe_stacks()["Stacks"] == []
    assert cloud.client("lambda").list_functions()["Functions"] == []
    assert [bucket["Name"] for bucket in cloud.client("s3").list_buckets()["Buckets"]] == [
        "faceq-123456789012-us-east-1"
    ]

    assert [call for call in cloud.calls() if call.faults] == []
    if os.environ.get(FACEQ_REHEARSAL):
        write_into(OPERATIONS, REHEARSAL, f"```console\n{terminal.transcript()}\n```")
        write_into(OPERATIONS, CALLS, made(cloud))
        shown = terminal.tail_of("faceq deploy --yes", "check the digest of the running image")
        write_into(ROOT / "README.md", DEPLOY, f"```console\n{shown}\n```")
    assert commands(OPERATIONS.read_text()) == commands_of(terminal), "make rehearsal writes docs/operations.md anew"


def made(cloud: Cloud) -> str:
    """The calls, by service, for people."""
    calls: dict[str, set[str]] = {}
    for call in cloud.calls():
        calls.setdefault(call.service, set()).add(call.operation)
    return "\n".join(f"- `{service}`: {', '.join(sorted(names))}" for service, names in sorted(calls.items()))


def commands_of(terminal: Terminal) -> list[str]:
    return [line.removeprefix("$ ") for line in terminal.lines if line.startswith("$ ")]
