"""`faceq people` on a deployed stack's gallery: the bucket and the stack are moto's, over HTTP."""

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

#: Has the outputs and the parameter by which a deployed stack is known, and nothing that works.
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
    """Name of a stack with a bucket of its own."""
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
def there(aws_server: AwsServer, stack: str) -> S3Store:
    return S3Store(aws_server.client("s3"), f"{stack}-gallery", PREFIX)


@pytest.fixture
def here(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "gallery")


@pytest.fixture
def run(tmp_path: Path, aws_server: AwsServer, stack: str) -> People:
    """Run `faceq people ...` on the stack; what faceq understands comes back as the exception that it prints."""

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


def test_a_gallery_is_pushed_with_its_kept_photos_and_only_once(
    here: DirectoryStore, there: S3Store, stack: str, run: People
) -> None:
    gallery_storage.save(here, gallery_with(ADA, BO))
    here.write(PHOTO_PREFIX + ADA.sha256, b"the photo")
    pushed = run("push")
    assert pushed.exit_code == 0, pushed.output
    assert pushed.stdout.splitlines() == [
        "+ Ada: 1 photo added",
        "+ Bo: 1 photo added",
        f"the stack {stack} on AWS: 2 people with 2 photos are enrolled; kept photos copied: 1 "
        f"(model dlib, {gallery_with(ADA, BO).version})",
    ]
    assert enrolled(there) == {"Ada": 1, "Bo": 1}
    assert there.read(PHOTO_PREFIX + ADA.sha256) == b"the photo"
    version = there.version(gallery_storage.MANIFEST)
    again = run("push")
    assert again.exit_code == 0
    assert "unchanged: 2 people with 2 photos are enrolled (" in again.stdout
    assert there.version(gallery_storage.MANIFEST) == version


def test_a_push_that_removes_or_changes_somebody_asks_first(here: DirectoryStore, there: S3Store, run: People) -> None:
    gallery_storage.save(there, gallery_with(ADA, BO))
    gallery_storage.save(here, gallery_with(ADA).rename("Ada", "Ada Lovelace"))
    stopped = run("push", answer="n\n")
    assert stopped.exit_code == 1
    assert "- Bo: 1 photo removed" in stopped.stdout
    assert enrolled(there) == {"Ada": 1, "Bo": 1}
    assert run("push", answer="y\n").exit_code == 0
    assert enrolled(there) == {"Ada Lovelace": 1}


def test_a_pull_brings_everybody_here_and_asks_before_it_removes_somebody(
    here: DirectoryStore, there: S3Store, run: People
) -> None:
    assert "faceq people push" in refused(run("pull")).message
    gallery_storage.save(there, gallery_with(ADA))
    assert run("pull").exit_code == 0
    assert enrolled(here) == {"Ada": 1}
    gallery_storage.save(here, gallery_with(ADA, BO))
    assert run("pull", answer="n\n").exit_code == 1
    assert enrolled(here) == {"Ada": 1, "Bo": 1}
    assert run("pull", "--yes").exit_code == 0
    assert enrolled(here) == {"Ada": 1}


def test_a_gallery_of_another_model_needs_a_yes(here: DirectoryStore, there: S3Store, run: People) -> None:
    gallery_storage.save(there, gallery_with(ADA))
    gallery_storage.save(here, gallery_with(ADA, model="vggface2"))
    message = refused(run("push")).message
    assert "dlib" in message
    assert "vggface2" in message
    assert "--yes" in message
    assert "--yes" in refused(run("pull")).message
    pushed = run("push", "--yes")
    assert pushed.exit_code == 0
    assert "~ model: dlib -> vggface2" in pushed.stdout
    found = gallery_storage.load(there)
    assert found is not None
    assert found.model == "vggface2"


def test_nobody_here_is_not_pushed(there: S3Store, run: People) -> None:
    gallery_storage.save(there, gallery_with(ADA))
    assert "Nobody is enrolled" in refused(run("push")).message
    assert enrolled(there) == {"Ada": 1}


def test_the_difference_is_told_and_in_the_exit_code(here: DirectoryStore, there: S3Store, run: People) -> None:
    assert run("diff").exit_code == 0, "nobody here and nobody there"
    gallery_storage.save(here, gallery_with(ADA))
    gallery_storage.save(there, gallery_with(ADA))
    same = run("diff")
    assert (same.exit_code, same.stdout) == (0, "")
    gallery_storage.save(here, gallery_with(ADA, BO).rename("Ada", "Cy"))
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


def test_a_difference_that_cannot_be_told_is_exit_code_2(run: People) -> None:
    untold = run("diff", stack="no-such-stack")
    assert untold.exit_code == 2
    assert "There is no stack no-such-stack in us-east-1. Deploy it with: faceq deploy" in untold.stderr


def test_each_command_works_on_the_gallery_on_aws_and_leaves_the_one_here(
    here: DirectoryStore, there: S3Store, stack: str, tmp_path: Path, run: People
) -> None:
    gallery_storage.save(here, gallery_with(BO))
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
    assert list(there.names()) == []
    assert enrolled(here) == {"Bo": 1}


def test_photos_are_enrolled_and_enrolled_again_on_aws(there: S3Store, tmp_path: Path) -> None:
    for name, colour in (("a.png", RED), ("b.png", GREEN)):
        (tmp_path / name).write_bytes(picture(colour))
    for person, photo in (("Ada", "a.png"), ("Bo", "b.png")):
        assert not people_commands.add_photos(
            person,
            [tmp_path / photo],
            there,
            PatchDetector(),
            ColourEmbedder(),
            max_pixels=1_000_000,
            largest=False,
            keep_photos=True,
        )
    assert enrolled(there) == {"Ada": 1, "Bo": 1}
    assert not people_commands.renew_photos(there, PatchDetector(), ColourEmbedder(model="other"), max_pixels=1_000_000)
    found = gallery_storage.load(there)
    assert found is not None
    assert found.model == "other"


def test_a_stack_without_a_gallery_says_so(aws_server: AwsServer, run: People) -> None:
    name = f"faceq-{uuid.uuid4().hex[:8]}"
    deploy(aws_server, name, bucket="")
    assert (
        "has no bucket for a gallery. Run: faceq deploy" in refused(run("list", "--target", "aws", stack=name)).message
    )


def test_a_bucket_that_is_gone_is_one_line(there: S3Store, aws_server: AwsServer, stack: str, run: People) -> None:
    aws_server.client("s3").delete_bucket(Bucket=f"{stack}-gallery")
    failed = run("list", "--target", "aws")
    assert isinstance(failed.exception, FaceqError)
    assert failed.exception.message.startswith(f"Cannot read s3://{stack}-gallery/gallery/gallery.json: ")
    assert "\n" not in failed.exception.message


@pytest.mark.parametrize("command", ["push", "pull", "diff"])
def test_each_command_has_help_with_an_example(command: str) -> None:
    shown = " ".join(CliRunner().invoke(people_commands.app, [command, "--help"]).stdout.split())
    assert f"faceq people {command}" in shown.partition("Example: ")[2]
