"""`faceq people` with the gallery of a deployed stack. moto serves the bucket and the stack over HTTP."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from adapters.artifacts_directory import DirectoryStore
from adapters.artifacts_s3 import PREFIX, S3Store
from cli import people_commands
from client.enrolment import GalleryStore
from pipeline import gallery_storage
from pipeline.errors import BadInput, FaceqError
from pipeline.gallery import Gallery, Photo
from pipeline.gallery_storage import PHOTO_PREFIX
from tests.aws_server import AwsServer
from tests.builders import GREEN, RED, picture
from tests.fakes import ColourEmbedder, PatchDetector

#: Has the outputs and the parameter that faceq reads from a deployed stack, and no resources that work.
TEMPLATE = {
    "Parameters": {"Gallery": {"Type": "String"}},
    "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
    "Outputs": {
        name: {"Value": f"https://{name}.test/"}
        for name in ("FunctionUrl", "RequestQueueUrl", "ResponseQueueUrl", "DeadLetterQueueUrl")
    },
}

ADA, BO = (Photo(name, f"{name}.jpg", digit * 64) for name, digit in (("Ada", "a"), ("Bo", "b")))

People = Callable[..., Result]


@pytest.fixture
def stack(aws_server: AwsServer) -> str:
    """Return the name of a stack with its own bucket."""
    name = f"faceq-{uuid.uuid4().hex[:8]}"
    deploy(aws_server, name, bucket=f"{name}-gallery")
    return name


def deploy(aws_server: AwsServer, name: str, bucket: str) -> None:
    if bucket:
        aws_server.create_bucket(bucket)
    aws_server.client("cloudformation").create_stack(
        StackName=name,
        TemplateBody=json.dumps(TEMPLATE),
        Parameters=[{"ParameterKey": "Gallery", "ParameterValue": bucket}],
    )


@pytest.fixture
def remote(aws_server: AwsServer, stack: str) -> S3Store:
    return S3Store(aws_server.client("s3"), f"{stack}-gallery", PREFIX)


@pytest.fixture
def local(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "gallery")


@pytest.fixture
def run(tmp_path: Path, aws_server: AwsServer, stack: str) -> People:
    """Return how to run `faceq people ...` on the stack. A FaceqError is the result's exception."""

    def run(*arguments: str, answer: str = "", stack: str = stack) -> Result:
        environment = {
            **aws_server.variables,
            "FACEQ_GALLERY_DIR": str(tmp_path / "gallery"),
            "FACEQ_MODELS_DIR": str(tmp_path / "models"),
        }
        result = CliRunner().invoke(people_commands.app, [*arguments, "--stack", stack], input=answer, env=environment)
        assert isinstance(result.exception, SystemExit | FaceqError | None), repr(result.exception)
        return result

    return run


def gallery_with(*photos: Photo, model: str = "dlib") -> Gallery:
    vectors = np.eye(len(photos), 3, dtype=np.float32)
    return Gallery.empty(model, "dlib-150", 0.6, 3).add(photos, vectors)


def enrolled(store: GalleryStore) -> dict[str, int]:
    current = gallery_storage.load(store)
    return {} if current is None else dict(current.people)


def refused(result: Result) -> BadInput:
    assert isinstance(result.exception, BadInput), result.output
    return result.exception


def test_push_copies_the_gallery_with_its_kept_photos_and_nothing_the_second_time(
    local: DirectoryStore, remote: S3Store, stack: str, run: People
) -> None:
    gallery_storage.save(local, gallery_with(ADA, BO))
    local.write(PHOTO_PREFIX + ADA.sha256, b"the photo")
    pushed = run("push")
    assert pushed.exit_code == 0, pushed.output
    assert pushed.stdout.splitlines() == [
        "+ Ada: 1 photo added",
        "+ Bo: 1 photo added",
        f"the stack {stack} on AWS: 2 people with 2 photos are enrolled; kept photos copied: 1 "
        f"(model dlib, {gallery_with(ADA, BO).version})",
    ]
    assert enrolled(remote) == {"Ada": 1, "Bo": 1}
    assert remote.read(PHOTO_PREFIX + ADA.sha256) == b"the photo"
    version = remote.version(gallery_storage.MANIFEST)
    again = run("push")
    assert again.exit_code == 0
    assert "unchanged: 2 people with 2 photos are enrolled (" in again.stdout
    assert remote.version(gallery_storage.MANIFEST) == version


def test_push_asks_before_it_removes_or_changes_anyone(local: DirectoryStore, remote: S3Store, run: People) -> None:
    gallery_storage.save(remote, gallery_with(ADA, BO))
    gallery_storage.save(local, gallery_with(ADA).rename("Ada", "Ada Lovelace"))
    stopped = run("push", answer="n\n")
    assert stopped.exit_code == 1
    assert "- Bo: 1 photo removed" in stopped.stdout
    assert enrolled(remote) == {"Ada": 1, "Bo": 1}
    assert run("push", answer="y\n").exit_code == 0
    assert enrolled(remote) == {"Ada Lovelace": 1}


def test_pull_copies_the_gallery_here_and_asks_before_it_removes_anyone(
    local: DirectoryStore, remote: S3Store, run: People
) -> None:
    assert "faceq people push" in refused(run("pull")).message
    gallery_storage.save(remote, gallery_with(ADA))
    assert run("pull").exit_code == 0
    assert enrolled(local) == {"Ada": 1}
    gallery_storage.save(local, gallery_with(ADA, BO))
    assert run("pull", answer="n\n").exit_code == 1
    assert enrolled(local) == {"Ada": 1, "Bo": 1}
    assert run("pull", "--yes").exit_code == 0
    assert enrolled(local) == {"Ada": 1}


def test_replacing_a_gallery_of_another_model_needs_yes(local: DirectoryStore, remote: S3Store, run: People) -> None:
    gallery_storage.save(remote, gallery_with(ADA))
    gallery_storage.save(local, gallery_with(ADA, model="vggface2"))
    message = refused(run("push")).message
    assert "dlib" in message
    assert "vggface2" in message
    assert "--yes" in message
    assert "--yes" in refused(run("pull")).message
    pushed = run("push", "--yes")
    assert pushed.exit_code == 0
    assert "~ model: dlib -> vggface2" in pushed.stdout
    found = gallery_storage.load(remote)
    assert found is not None
    assert found.model == "vggface2"


def test_an_empty_gallery_is_not_pushed(remote: S3Store, run: People) -> None:
    gallery_storage.save(remote, gallery_with(ADA))
    assert "Nobody is enrolled" in refused(run("push")).message
    assert enrolled(remote) == {"Ada": 1}


def test_diff_prints_the_difference_and_exits_with_0_or_1(local: DirectoryStore, remote: S3Store, run: People) -> None:
    assert run("diff").exit_code == 0, "both galleries are empty"
    gallery_storage.save(local, gallery_with(ADA))
    gallery_storage.save(remote, gallery_with(ADA))
    same = run("diff")
    assert (same.exit_code, same.stdout) == (0, "")
    gallery_storage.save(local, gallery_with(ADA, BO).rename("Ada", "Cy"))
    other = run("diff")
    assert other.exit_code == 1
    assert other.stdout.splitlines() == ["+ Bo: 1 photo added", "+ Cy: 1 photo changed", "- Ada: 1 photo changed"]
    as_json = run("diff", "--json")
    assert as_json.exit_code == 1
    cy = {"person": "Cy", "source": "Ada.jpg", "sha256": "a" * 64}
    assert json.loads(as_json.stdout) == {
        "same": False,
        "settings": {},
        "people": {"added": ["Bo", "Cy"], "removed": ["Ada"], "changed": []},
        "photos": {
            "added": [{"person": "Bo", "source": "Bo.jpg", "sha256": "b" * 64}],
            "removed": [],
            "changed": [{"before": {**cy, "person": "Ada"}, "after": cy}],
        },
    }


def test_diff_exits_with_2_if_it_fails(run: People) -> None:
    failed = run("diff", stack="no-such-stack")
    assert failed.exit_code == 2
    assert "There is no stack no-such-stack in us-east-1. Deploy it with: faceq deploy" in failed.stderr


def test_target_aws_uses_the_gallery_on_aws_and_leaves_the_local_one_alone(
    local: DirectoryStore, remote: S3Store, stack: str, tmp_path: Path, run: People
) -> None:
    gallery_storage.save(local, gallery_with(BO))
    (tmp_path / "people.json").write_bytes(gallery_storage.export_json(gallery_with(ADA)))
    aws = ("--target", "aws")
    assert "Nobody is enrolled" in run("list", *aws).stdout
    assert run("import", str(tmp_path / "people.json"), *aws).exit_code == 0
    assert json.loads(run("list", "--json", *aws).stdout)["people"] == [{"name": "Ada", "photos": 1}]
    assert run("rename", "Ada", "Ada Lovelace", *aws).exit_code == 0
    assert json.loads(run("show", "Ada Lovelace", "--json", *aws).stdout)["name"] == "Ada Lovelace"
    assert run("export", str(tmp_path / "out.json"), *aws).exit_code == 0
    assert dict(gallery_storage.import_json((tmp_path / "out.json").read_bytes()).people) == {"Ada Lovelace": 1}
    asked = run("remove", "Ada Lovelace", *aws, answer="n\n")
    assert f"Remove Ada Lovelace from the stack {stack} on AWS?" in asked.stdout
    assert run("remove", "--all", "--yes", *aws).exit_code == 0
    assert list(remote.names()) == []
    assert enrolled(local) == {"Bo": 1}


def test_photos_can_be_enrolled_and_renewed_on_aws(remote: S3Store, tmp_path: Path) -> None:
    for name, colour in (("a.png", RED), ("b.png", GREEN)):
        (tmp_path / name).write_bytes(picture(colour))
    for person, photo in (("Ada", "a.png"), ("Bo", "b.png")):
        assert not people_commands.add_photos(
            [(person, tmp_path / photo)],
            remote,
            PatchDetector(),
            ColourEmbedder(),
            max_pixels=1_000_000,
            largest=False,
            keep_photos=True,
        )
    assert enrolled(remote) == {"Ada": 1, "Bo": 1}
    assert not people_commands.renew_photos(
        remote, PatchDetector(), ColourEmbedder(model="other"), max_pixels=1_000_000
    )
    found = gallery_storage.load(remote)
    assert found is not None
    assert found.model == "other"


def test_a_stack_without_a_bucket_is_reported(aws_server: AwsServer, run: People) -> None:
    name = f"faceq-{uuid.uuid4().hex[:8]}"
    deploy(aws_server, name, bucket="")
    assert (
        "has no bucket for a gallery. Run: faceq deploy" in refused(run("list", "--target", "aws", stack=name)).message
    )


def test_a_missing_bucket_is_reported_in_one_line(
    remote: S3Store, aws_server: AwsServer, stack: str, run: People
) -> None:
    aws_server.client("s3").delete_bucket(Bucket=f"{stack}-gallery")
    failed = run("list", "--target", "aws")
    assert isinstance(failed.exception, FaceqError)
    assert failed.exception.message.startswith(f"Cannot read s3://{stack}-gallery/gallery/gallery.json: ")
    assert "\n" not in failed.exception.message
