"""Pushing an image to a real registry, which is behind the fake AWS's ECR."""

import json
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from deploy import registry
from deploy.registry import PushedImage
from pipeline.errors import SetupError
from tests.aws_server import ACCOUNT
from tests.deploy.cloud import Cloud
from tests.deploy.tiny_images import build_image, remove_image

pytestmark = pytest.mark.docker

REPOSITORY = "faceq"


class RecordedProgress:
    """Records the progress of a push."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, int, int]] = []

    def __call__(self, layer: str, status: str, current: int, total: int) -> None:
        self.messages.append((layer, status, current, total))

    def statuses(self) -> set[str]:
        return {status for _, status, _, _ in self.messages}


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, check=True)
    return done.stdout.decode().strip()


def image_id(image: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", image)


@pytest.fixture
def image() -> Iterator[str]:
    """A tiny image of one file, which no other test uses."""
    tag = f"faceq-test-{uuid.uuid4().hex[:8]}:one"
    build_image(tag)
    yield tag
    remove_image(tag)


@pytest.fixture
def repository(registry_cloud: Cloud) -> str:
    """The URI of an empty repository, with immutable tags as in base.yaml."""
    response = registry_cloud.client("ecr").create_repository(repositoryName=REPOSITORY, imageTagMutability="IMMUTABLE")
    return str(response["repository"]["repositoryUri"])


def pushed(cloud: Cloud, image: str, repository: str) -> PushedImage:
    return registry.push(image, repository, cloud.client("ecr"), RecordedProgress())


def test_the_image_in_the_registry_is_the_local_image(registry_cloud: Cloud, image: str, repository: str) -> None:
    """The manifest with the returned digest names the local image's id as its configuration."""
    progress = RecordedProgress()
    done = registry.push(image, repository, registry_cloud.client("ecr"), progress)
    (found,) = registry_cloud.client("ecr").batch_get_image(
        repositoryName=REPOSITORY, imageIds=[{"imageDigest": done.digest}]
    )["images"]
    assert json.loads(found["imageManifest"])["config"]["digest"] == image_id(image)
    tagged = registry_cloud.client("ecr").describe_images(
        repositoryName=REPOSITORY, imageIds=[{"imageTag": image_id(image).removeprefix("sha256:")[:12]}]
    )["imageDetails"]
    assert [detail["imageDigest"] for detail in tagged] == [done.digest]
    assert done.uri == f"{repository}@{done.digest}"
    assert "Pushed" in progress.statuses()


def test_a_second_push_pushes_nothing(registry_cloud: Cloud, image: str, repository: str) -> None:
    """An image that was pushed before is found by its tag, without a request to the registry or for its password."""
    first = pushed(registry_cloud, image, repository)
    registry_cloud.forget_calls()
    progress = RecordedProgress()
    second = registry.push(image, repository, registry_cloud.client("ecr"), progress)
    assert second == first
    assert progress.messages == []
    assert {call.operation for call in registry_cloud.calls()} == {"DescribeImages", "BatchGetImage"}


def test_the_digest_is_known_once_the_image_was_pushed(registry_cloud: Cloud, image: str, repository: str) -> None:
    """A plan shows the digest of a pushed image, and none before the push."""
    ecr = registry_cloud.client("ecr")
    assert registry.known_digest(image, repository, ecr) is None
    assert registry.known_digest(image, f"{repository}-missing", ecr) is None
    done = pushed(registry_cloud, image, repository)
    assert registry.known_digest(image, repository, ecr) == done.digest


def test_a_push_leaves_the_images_own_names_only(registry_cloud: Cloud, image: str, repository: str) -> None:
    """The tag that the push needs is removed after it, whether the push succeeds or fails."""
    pushed(registry_cloud, image, repository)
    assert docker("image", "inspect", "--format", "{{.RepoTags}}", image) == f"[{image}]"


def test_a_failed_push_names_the_permissions_and_leaves_no_tag(
    registry_cloud: Cloud, image: str, repository: str
) -> None:
    registry_cloud.break_push(403, "DENIED", "User is not authorized to perform: ecr:InitiateLayerUpload")
    with pytest.raises(SetupError) as refused:
        pushed(registry_cloud, image, repository)
    assert refused.value.code == "push_refused"
    assert "ecr:PutImage" in refused.value.message
    assert "\n" not in refused.value.message
    assert docker("image", "inspect", "--format", "{{.RepoTags}}", image) == f"[{image}]"


def test_the_registry_refuses_to_move_a_tag(registry_cloud: Cloud, image: str, repository: str) -> None:
    """An immutable repository refuses a second image with the same tag; faceq never tries to push one."""
    pushed(registry_cloud, image, repository)
    name = f"{repository}:{registry.tag_of(image_id(image))}"
    docker("image", "tag", image, name)
    try:
        docker("login", "--username", "AWS", "--password", "testing", repository.partition("/")[0])
        again = subprocess.run(["docker", "push", name], capture_output=True, check=False)
    finally:
        docker("logout", repository.partition("/")[0])
        docker("image", "rm", name)
    assert again.returncode != 0
    assert b"immutable" in again.stderr + again.stdout


def test_another_image_with_the_same_tag_is_refused(registry_cloud: Cloud, image: str, repository: str) -> None:
    """The tag has only twelve digits of the image's id; the manifest has all of them."""
    foreign = {
        "schemaVersion": 2,
        "mediaType": registry.IMAGE_MANIFESTS[0],
        "config": {"mediaType": "application/json", "size": 2, "digest": f"sha256:{'0' * 64}"},
        "layers": [],
    }
    registry_cloud.client("ecr").put_image(
        repositoryName=REPOSITORY, imageManifest=json.dumps(foreign), imageTag=registry.tag_of(image_id(image))
    )
    with pytest.raises(SetupError) as refused:
        pushed(registry_cloud, image, repository)
    assert refused.value.code == "other_image"


def test_an_index_of_images_is_refused(registry_cloud: Cloud, image: str, repository: str) -> None:
    """Lambda takes only a single image. The push checks this before a function is created."""
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [],
    }
    registry_cloud.client("ecr").put_image(
        repositoryName=REPOSITORY, imageManifest=json.dumps(index), imageTag=registry.tag_of(image_id(image))
    )
    with pytest.raises(SetupError) as refused:
        pushed(registry_cloud, image, repository)
    assert refused.value.code == "not_plain"


def test_the_error_for_a_missing_repository_names_the_command_that_creates_it(
    registry_cloud: Cloud, image: str, repository: str
) -> None:
    with pytest.raises(SetupError) as refused:
        pushed(registry_cloud, image, f"{repository}-missing")
    assert refused.value.code == "no_repository"
    assert "faceq deploy" in refused.value.message


def test_a_repository_of_another_account_is_refused_before_anything_is_pushed(
    registry_cloud: Cloud, image: str
) -> None:
    """ECR refuses callers who may not see it, already at the first call."""
    registry_cloud.fail(
        "ecr", "DescribeImages", "AccessDeniedException",
        f"User: arn:aws:iam::{ACCOUNT}:user/me is not authorized to perform: ecr:DescribeImages",
    )  # fmt: skip
    with pytest.raises(SetupError) as refused:
        pushed(registry_cloud, image, "210987654321.dkr.ecr.us-east-1.amazonaws.com/faceq")
    assert refused.value.code == "forbidden"
    assert [call.parameters["registryId"] for call in registry_cloud.calls()] == ["210987654321"]


def test_the_registrys_refusal_of_a_password_is_reported_in_one_line(
    registry_cloud: Cloud, image: str, repository: str
) -> None:
    registry_cloud.set_registry_token("d3Jvbmc6d3Jvbmc=")
    with pytest.raises(SetupError) as refused:
        pushed(registry_cloud, image, repository)
    assert refused.value.code == "push_refused"
    assert "\n" not in refused.value.message


def test_the_error_for_a_missing_image_names_the_command_that_builds_it(registry_cloud: Cloud, repository: str) -> None:
    with pytest.raises(SetupError) as missing:
        pushed(registry_cloud, "faceq-test-nothing:one", repository)
    assert missing.value.code == "no_image"
    assert "faceq image build" in missing.value.message


def test_every_call_is_one_that_aws_documents(registry_cloud: Cloud, image: str, repository: str) -> None:
    pushed(registry_cloud, image, repository)
    assert [call for call in registry_cloud.calls() if call.faults] == []
