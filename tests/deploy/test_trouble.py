"""What a person is told when a deploy cannot be done: one line with the command that mends it, and nothing changed.

Each trouble is met by the command itself, in a process of its own, against the played AWS and a real registry.
"""

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.artifacts_directory import DirectoryStore
from pipeline import gallery_storage
from pipeline.gallery import Gallery, Photo
from tests.builders import RED, picture
from tests.deploy.cloud import ACCOUNT, REGION, ROOT, Cloud
from tests.polling import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

BUCKET = f"faceq-{ACCOUNT}-{REGION}"
LABELS = {
    "faceq.model": "dlib",
    "faceq.engine": "onnx",
    "faceq.model.sha256": "x",
    "faceq.preprocessing": "dlib-150",
    "org.opencontainers.image.version": "0",
    "org.opencontainers.image.revision": "one",
}
TINY = f"faceq-trouble-{uuid.uuid4().hex[:8]}"
#: The images by tag: platform, labels.
IMAGES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    f"{TINY}:one": ("linux/amd64", LABELS),
    f"{TINY}:two": ("linux/amd64", LABELS | {"org.opencontainers.image.revision": "two"}),
    f"{TINY}:arm": ("linux/arm64", LABELS),
    f"{TINY}:nameless": ("linux/amd64", {}),
}
ONE, TWO, ARM, NAMELESS = IMAGES
CLOSED_DOOR = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """The one line of faceq's own, which must be the last."""
        lines = self.err.splitlines()
        (line,) = [line for line in lines if line.startswith("faceq: ")]
        assert line == lines[-1]
        return line


@dataclass(frozen=True)
class Person:
    """Somebody with an account, and the tiny images in their engine."""

    cloud: Cloud
    environ: Mapping[str, str]

    def begin(self, command: str, **variables: str | None) -> "subprocess.Popen[str]":
        """Start `faceq deploy ...`; a variable that is None is not set."""
        environ = {name: value for name, value in {**self.environ, **variables}.items() if value is not None}
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *command.split()[1:]],
            cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self, process: "subprocess.Popen[str]") -> Said:
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err
        return Said(process.returncode, out, err)

    def run(self, command: str, code: int = 0, **variables: str | None) -> Said:
        said = self.end(self.begin(command, **variables))
        assert said.code == code, said.out + said.err
        return said

    def refused(self, command: str, trouble: Callable[[], object] | None = None, **variables: str | None) -> str:
        """Run what fails and changes nothing, during some trouble; return the line that says so."""
        before = account(self.cloud)
        if trouble is not None:
            trouble()
        said = self.run(command, 1, **variables)
        self.cloud.mend()
        assert account(self.cloud) == before
        return said.told


@cache
def client(cloud: Cloud, service: str) -> Any:
    """Return boto3's client, whose making takes longer than its calls."""
    return cloud.client(service)


def account(cloud: Cloud) -> dict[str, Any]:
    """What there is on AWS."""
    stacks = client(cloud, "cloudformation").describe_stacks()["Stacks"]
    return {
        "stacks": [(one["StackName"], one["StackStatus"], one.get("Parameters")) for one in stacks],
        "functions": [
            (one["FunctionName"], one["LastModified"]) for one in client(cloud, "lambda").list_functions()["Functions"]
        ],
        "buckets": [one["Name"] for one in client(cloud, "s3").list_buckets()["Buckets"]],
        "repositories": {
            one["repositoryName"]: client(cloud, "ecr").list_images(repositoryName=one["repositoryName"])["imageIds"]
            for one in client(cloud, "ecr").describe_repositories()["repositories"]
        },
    }


def enrol(folder: Path, *names: str, model: str = "dlib") -> None:
    """Let a folder hold the gallery of these people only."""
    photos = tuple(Photo(name, f"{name}.png", hashlib.sha256(name.encode()).hexdigest()) for name in names)
    vectors = np.zeros((len(names), 128), np.float32)
    gallery_storage.save(DirectoryStore(folder), Gallery(model, "dlib-150", 0.6, photos, vectors))


def status(cloud: Cloud, stack: str = "faceq") -> str | None:
    stacks = client(cloud, "cloudformation").describe_stacks()["Stacks"]
    return next((str(one["StackStatus"]) for one in stacks if one["StackName"] == stack), None)


def runs(cloud: Cloud) -> tuple[str, int]:
    """The image and the memory behind the detector's alias."""
    found = client(cloud, "lambda").get_function(FunctionName="face-detection", Qualifier="live")
    return str(found["Code"]["ImageUri"]), int(found["Configuration"]["MemorySize"])


def outcomes(cloud: Cloud) -> list[tuple[str, str]]:
    """What became of each release, and why if it failed."""
    s3 = client(cloud, "s3")
    keys = sorted(one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET, Prefix="releases/")["Contents"])
    releases = [json.load(s3.get_object(Bucket=BUCKET, Key=key)["Body"]) for key in keys]
    return [(one["outcome"], one["reason"]) for one in releases]


def build(tag: str, platform: str, labels: Mapping[str, str]) -> str:
    """Build an image of one file; return its id."""
    lines = ["FROM scratch", *(f"LABEL {name}={value}" for name, value in labels.items()), "COPY file /file"]
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, text in {"Dockerfile": "\n".join([*lines, "USER 65532", ""]), "file": tag}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    done = subprocess.run(
        ["docker", "build", "--quiet", "--provenance=false", "--sbom=false", "--platform", platform, "--tag", tag, "-"],
        input=context.getvalue(), check=True, capture_output=True,
    )  # fmt: skip
    return done.stdout.decode().strip()


@pytest.fixture(scope="module", autouse=True)
def images() -> Iterator[Sequence[str]]:
    """The ids of the tiny images."""
    with ExitStack() as made:
        ids = []
        for tag, (platform, labels) in IMAGES.items():
            ids.append(build(tag, platform, labels))
            remove = ["docker", "image", "rm", "--force", ids[-1]]
            made.callback(partial(subprocess.run, remove, check=True, capture_output=True))
        yield ids


@pytest.fixture
def person(registry_cloud: Cloud, images: Sequence[str], tmp_path: Path) -> Person:
    """Of an empty account. All the images but none of the tests' models are here, so any answer is a right one."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "tested-images.json").write_text(json.dumps(dict.fromkeys(images, "2026-01-01T00:00:00+00:00")))
    (tmp_path / "frame.png").write_bytes(picture(RED))
    folders = {f"FACEQ_{name.upper()}_DIR": str(tmp_path / name) for name in ("models", "gallery", "state")}
    # One attempt a call: boto3 would try for seconds what fails for ever here.
    return Person(registry_cloud, {**registry_cloud.environ, **folders, "AWS_MAX_ATTEMPTS": "1"})


@pytest.fixture
def deploy(person: Person, tmp_path: Path) -> str:
    """The command that deploys the first image."""
    return f"faceq deploy --image {ONE} --frame {tmp_path / 'frame.png'} --yes"


@pytest.fixture
def deployed(person: Person, deploy: str) -> Person:
    """A person whose first release runs."""
    person.run(deploy)
    return person


PLAN = f"faceq deploy plan --image {ONE}"


# Who calls, and where


@pytest.mark.parametrize(
    ("variables", "options", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "", "Sign in: aws sso login, or: aws configure"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "", "Sign in: aws sso login, or: aws configure"),
        ({"AWS_ACCESS_KEY_ID": "unknown"}, "", "See which are used: aws configure list"),
        ({"AWS_REGION": None, "AWS_DEFAULT_REGION": None}, "", "export AWS_REGION=us-east-1"),
        ({"AWS_ENDPOINT_URL": CLOSED_DOOR, "AWS_REGION": "us-nowhere-9"}, "", "Check the network and the region"),
        ({}, "--region us_east", "--region us-east-1"),
        ({"AWS_REGION": "nonsense!"}, "", "--region us-east-1"),
        ({"AWS_ENDPOINT_URL_SQS": CLOSED_DOOR}, "", "unset AWS_ENDPOINT_URL_SQS"),
        ({"AWS_PROFILE": "nobody"}, "", "aws configure list-profiles"),
        ({}, "--profile nobody", "aws configure list-profiles"),
        ({}, "--stack Face_Q", "--stack"),
    ],
)
def test_a_caller_whom_or_a_place_that_aws_does_not_know_is_told_the_command_that_mends_it(
    person: Person, variables: dict[str, str | None], options: str, words: str
) -> None:
    assert words in person.refused(f"{PLAN} {options}", None, **variables)


@pytest.mark.parametrize(
    ("service", "operation", "code", "words"),
    [
        ("sts", "GetCallerIdentity", "AccessDenied", "GetCallerIdentity is not allowed"),
        ("cloudformation", "CreateChangeSet", "AccessDenied", "CreateChangeSet is not allowed"),
        ("ecr", "DescribeRepositories", "AccessDeniedException", "DescribeRepositories is not allowed"),
        ("sts", "GetCallerIdentity", "ExpiredToken", "Sign in again: aws sso login"),
        ("cloudformation", "*", "ExpiredToken", "Sign in again: aws sso login"),
        ("ecr", "*", "ExpiredTokenException", "Sign in again: aws sso login"),
        ("cloudformation", "*", "Throttling", "Run the same command again"),
        ("ecr", "*", "ThrottlingException", "Run the same command again"),
        ("s3", "*", "SlowDown", "Run the same command again"),
    ],
)
def test_what_aws_refuses_is_told_in_its_words_with_what_mends_it(
    person: Person, deploy: str, service: str, operation: str, code: str, words: str
) -> None:
    told = person.refused(
        deploy,
        partial(
            person.cloud.fail, service, operation, code, "said by AWS", times=-1, status=503 if service == "s3" else 403
        ),
    )
    assert words in told
    if service != "s3":  # an answer to HEAD has no words
        assert "said by AWS" in told


@pytest.mark.parametrize(
    ("service", "operation", "after"),
    [
        ("cloudformation", "DescribeStackEvents", 4),
        ("ecr", "GetAuthorizationToken", 0),
        ("s3", "PutObject", 1),  # the record of the release, for the second time
        ("lambda", "GetFunction", 1),
    ],
)
def test_a_deploy_whose_credentials_expire_goes_on_when_it_is_run_again(
    person: Person, deploy: str, service: str, operation: str, after: int
) -> None:
    person.cloud.pace(0.1)
    person.cloud.fail(service, operation, "ExpiredToken", "too old", times=-1, after=after)
    assert "aws sso login" in person.run(deploy, 1).told
    person.cloud.mend()
    said = person.run(deploy)
    assert "smoke test: " in said.err
    assert "export FUNCTION_URL=" in said.out
    assert outcomes(person.cloud)[-1] == ("deployed", "")


# Stacks


def test_a_stack_that_cannot_be_changed_is_told_with_its_way_out(deployed: Person, deploy: str) -> None:
    for state, command, words in (
        ("ROLLBACK_COMPLETE", PLAN, "faceq deploy destroy"),
        ("DELETE_FAILED", deploy, "faceq deploy destroy"),
        ("UPDATE_ROLLBACK_FAILED", deploy, "aws cloudformation continue-update-rollback --stack-name faceq"),
        ("UPDATE_ROLLBACK_FAILED", "faceq deploy rollback --to 1 --yes", "continue-update-rollback"),
    ):
        deployed.cloud.set_stack("faceq", state)
        told = deployed.refused(command)
        assert state in told
        assert words in told
    assert "UPDATE_ROLLBACK_FAILED" in deployed.run("faceq deploy status", 1).out


def test_a_stack_changed_by_hand_is_left_alone_unless_told_otherwise(deployed: Person, deploy: str) -> None:
    by_hand = partial(deployed.cloud.drift, "faceq", "FaceDetection", "MemorySize", "512")
    change = f"{deploy} --set DetectionMemory=3008"
    told = deployed.refused(change, by_hand)
    assert "FaceDetection modified (MemorySize: 1769 -> 512)" in told
    assert "--drifted" in told
    by_hand()
    deployed.run(f"{change} --drifted")
    assert runs(deployed.cloud)[1] == 3008


def test_a_repository_of_somebody_else_is_not_pushed_to(person: Person, deploy: str) -> None:
    person.cloud.client("ecr").create_repository(repositoryName="faceq")
    told = person.refused(deploy)
    assert "/faceq exists already and faceq did not create it" in told
    assert "--stack" in told


def test_a_bucket_of_another_account_is_not_written_to(person: Person, deploy: str) -> None:
    told = person.refused(deploy, partial(person.cloud.fail, "s3", "HeadBucket", "403", "Forbidden", -1, 403))
    assert f"The bucket {BUCKET} belongs to another account" in told
    assert "--stack" in told


def test_a_bucket_that_an_earlier_stack_has_left_is_taken_over(person: Person, deploy: str, tmp_path: Path) -> None:
    """With the gallery, which no other one replaces, and the record of releases, whose numbers go on."""
    enrol(tmp_path / "gallery", "Ada", "Bo")
    person.run(deploy)
    person.run("faceq deploy destroy --yes")
    assert account(person.cloud)["buckets"] == [BUCKET]
    enrol(tmp_path / "gallery", "Cy")
    assert f"2 people in {BUCKET}: stays as it is" in person.run(deploy).out
    assert outcomes(person.cloud) == [("deployed", ""), ("deployed", "")]


# Images and options


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (f"--image {NAMELESS}", {}, "faceq image build"),
        (f"--image {TINY}:none", {}, f"faceq image build --tag {TINY}:none"),
        (f"--image {ONE}", {"DOCKER_HOST": "unix:///nowhere/docker.sock"}, "Start Docker"),
        (f"--image {ONE}", {"FACEQ_STATE_DIR": "/nowhere"}, "make test-docker"),
        (f"--image {ONE} --set Colour=red", {}, "Take one of: "),
        (f"--image {ONE} --set ImageUri=other", {}, "Take one of: "),
        (f"--image {ONE} --set DetectionMemory=much", {}, "DetectionMemory"),
        (f"--image {ONE} --set DetectionMemory=1", {}, "DetectionMemory"),
        (f"--image {ONE} --set LogLevel=loud", {}, "LogLevel"),
    ],
)
def test_what_cannot_be_deployed_is_refused_before_anything_is_changed(
    person: Person, options: str, variables: dict[str, str | None], words: str
) -> None:
    assert words in person.refused(f"faceq deploy --yes {options}", None, **variables)


def test_a_gallery_of_another_model_is_refused(person: Person, tmp_path: Path) -> None:
    enrol(tmp_path / "gallery", "Ada", model="vggface2")
    told = person.refused(f"faceq deploy --image {ONE} --yes")
    assert "made with model 'vggface2', but 'dlib'" in told
    assert "faceq image build --model vggface2" in told


def test_an_image_for_another_processor_than_the_functions_is_refused(deployed: Person, tmp_path: Path) -> None:
    told = deployed.refused(f"faceq deploy --image {ARM} --frame {tmp_path / 'frame.png'} --yes")
    assert "is for linux/arm64 and the functions are x86_64" in told
    assert "--platform linux/amd64" in told


@pytest.mark.parametrize(
    ("command", "form"), [("faceq deploy plan", "DetectionMemory"), ("faceq deploy --yes", "=3008")]
)
def test_a_setting_without_name_or_value_is_a_wrong_command_line(person: Person, command: str, form: str) -> None:
    said = person.run(f"{command} --image {ONE} --set {form}", 2)
    assert f"'{form}' is not NAME=VALUE" in said.err
    assert account(person.cloud)["stacks"] == []


def test_a_frame_that_is_not_there_is_told_before_anything_is_changed(person: Person) -> None:
    told = person.refused(f"faceq deploy --image {ONE} --frame /nowhere/frame.png --yes")
    assert "There is no file /nowhere/frame.png" in told


def test_a_plan_as_json_is_all_that_is_on_standard_output(person: Person) -> None:
    said = person.run(f"{PLAN} --json")
    found = json.loads(said.out)
    assert (found["stack"], found["is_change"], found["refusals"]) == ("faceq", True, [])
    assert said.err == ""


def test_a_refused_plan_as_json_is_whole_and_says_why(person: Person) -> None:
    said = person.run(f"faceq deploy plan --json --image {NAMELESS}", 1)
    (refusal,) = json.loads(said.out)["refusals"]
    assert said.told == f"faceq: refused: {refusal}"


# Deploys that fail


@pytest.mark.parametrize(
    ("resource", "stacks"), [("Repository", []), ("FaceDetection", ["faceq-base"])], ids=["base", "main"]
)
def test_a_first_deploy_that_aws_refuses_leaves_nothing_in_the_way(
    person: Person, deploy: str, resource: str, stacks: list[str]
) -> None:
    person.cloud.break_resource(resource, "no room", when="create")
    told = person.run(deploy, 1).told
    assert resource in told
    assert "no room" in told
    assert "run the same command again" in told
    assert [name for name, _, _ in account(person.cloud)["stacks"]] == stacks
    person.run(deploy)
    assert outcomes(person.cloud)[-1] == ("deployed", "")


def test_a_first_release_that_answers_wrongly_has_none_before_it_and_is_tested_again(
    person: Person, deploy: str
) -> None:
    person.cloud.answers("Error")
    told = person.run(deploy, 1).told
    assert "The smoke test" in told
    assert "No release ran before this one" in told
    assert "faceq deploy logs" in told
    person.cloud.answers("Unknown")
    assert "smoke test: " in person.run(deploy).err
    assert outcomes(person.cloud)[-1] == ("deployed", "")


def test_there_is_no_way_back_from_nothing_nor_from_the_first_release(person: Person, deploy: str) -> None:
    back = "faceq deploy rollback --yes"
    assert "no earlier release" in person.refused(back)
    assert "There is no release 1." in person.refused(f"{back} --to 1")
    person.run(deploy)
    assert "no earlier release" in person.refused(back)
    told = person.refused(f"{back} --to 7")
    assert "There is no release 7." in told
    assert "faceq deploy history" in told


def test_a_release_whose_image_is_gone_cannot_come_back(deployed: Person, tmp_path: Path) -> None:
    deployed.run(f"faceq deploy --image {TWO} --frame {tmp_path / 'frame.png'} --yes")
    gone = partial(deployed.cloud.fail, "ecr", "DescribeImages", "ImageNotFoundException", "gone")
    told = deployed.refused("faceq deploy rollback --yes", gone)
    assert "The image of release 1 is no longer in the repository" in told
    assert "faceq deploy history" in told


# Breaking in


@contextmanager
def interrupted(person: Person, command: str, when: Callable[[], object]) -> Iterator[Said]:
    """Press Ctrl-C once something holds; what was said must say what to do."""
    process = person.begin(command)
    try:
        eventually(when, 60)
        process.send_signal(signal.SIGINT)
        said = person.end(process)
    finally:
        process.kill()
        process.wait()
    assert said.code == 1, said.out + said.err
    assert "run the same command again" in said.told
    yield said


def test_a_first_deploy_that_is_broken_into_goes_on_to_the_end_when_it_is_run_again(
    person: Person, deploy: str
) -> None:
    person.cloud.pace(0.3)
    with interrupted(person, deploy, lambda: status(person.cloud) == "CREATE_IN_PROGRESS"):
        assert status(person.cloud) == "CREATE_IN_PROGRESS"
        person.cloud.pace(0)
    said = person.run(deploy)
    assert "smoke test: " in said.err
    assert outcomes(person.cloud) == [("failed", "interrupted"), ("deployed", "")]


def test_a_change_that_is_broken_into_keeps_what_was_set_and_goes_back_if_it_is_no_good(
    person: Person, deploy: str
) -> None:
    """The release before the interrupted one is the one to go back to, for the interrupted one never proved itself."""
    change = deploy.replace(ONE, TWO)
    person.run(f"{deploy} --set DetectionMemory=3008")
    first = runs(person.cloud)
    person.cloud.pace(0.3)
    with interrupted(person, change, lambda: status(person.cloud) == "UPDATE_IN_PROGRESS"):
        person.cloud.pace(0)
    person.cloud.answers("Error")
    assert "Release 1 runs again." in person.run(change, 1).told
    assert runs(person.cloud) == first
    person.cloud.answers("Unknown")
    person.run(change)
    image, memory = runs(person.cloud)
    assert image != first[0]
    assert memory == 3008


def test_a_push_that_is_broken_into_goes_on_when_it_is_run_again(person: Person, deploy: str) -> None:
    person.cloud.pace(0.5)
    with interrupted(person, deploy, lambda: status(person.cloud, "faceq-base") == "CREATE_IN_PROGRESS"):
        person.cloud.pace(0)
    person.run(deploy)
    assert outcomes(person.cloud) == [("deployed", "")]


# Nothing, and the end


def test_of_nothing_there_is_no_status_and_nothing_to_remove(person: Person) -> None:
    assert "Deploy it with: faceq deploy" in person.refused("faceq deploy status")
    assert "There is nothing of faceq" in person.run("faceq deploy destroy --yes").out
    assert "no releases" in person.run("faceq deploy history").out


def test_the_bucket_goes_with_all_versions_of_what_is_in_it_when_told_so(deployed: Person) -> None:
    s3 = deployed.cloud.client("s3")
    for body in (b"one", b"two"):
        s3.put_object(Bucket=BUCKET, Key="gallery/x", Body=body)
    s3.delete_object(Bucket=BUCKET, Key="gallery/x")
    deployed.run("faceq deploy destroy --with-gallery --yes")
    assert account(deployed.cloud) == {"stacks": [], "functions": [], "buckets": [], "repositories": {}}
