"""Deploys that fail: faceq prints one line with the command that puts it right, and nothing has changed.

Each test runs the command itself in a process of its own, against the fake AWS and a real registry.
"""

import json
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.builders import RED, picture
from tests.deploy.cloud import Cloud
from tests.deploy.deploy_operator import BUCKET, Operator, Result, account, enrol, outcomes, runs, status
from tests.deploy.tiny_images import build_image, remove_image
from tests.polling import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

LABELS = {
    "faceq.model": "dlib",
    "faceq.engine": "onnx",
    "faceq.model.sha256": "x",
    "faceq.preprocessing": "dlib-150",
    "org.opencontainers.image.version": "0",
    "org.opencontainers.image.revision": "one",
}
TINY = f"faceq-failures-{uuid.uuid4().hex[:8]}"
#: The images by tag: platform, labels.
IMAGES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    f"{TINY}:one": ("linux/amd64", LABELS),
    f"{TINY}:two": ("linux/amd64", LABELS | {"org.opencontainers.image.revision": "two"}),
    f"{TINY}:arm": ("linux/arm64", LABELS),
    f"{TINY}:nameless": ("linux/amd64", {}),
}
ONE, TWO, ARM, NAMELESS = IMAGES
CLOSED_DOOR = "http://127.0.0.1:9"


@pytest.fixture(scope="module", autouse=True)
def images() -> Iterator[Sequence[str]]:
    """The ids of the tiny images."""
    with ExitStack() as built:
        ids = []
        for tag, (platform, labels) in IMAGES.items():
            ids.append(build_image(tag, platform, labels))
            built.callback(remove_image, ids[-1])
        yield ids


@pytest.fixture
def operator(registry_cloud: Cloud, images: Sequence[str], tmp_path: Path) -> Operator:
    """The owner of an empty account. No model is installed, so the smoke test accepts every answer but `Error`."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "tested-images.json").write_text(json.dumps(dict.fromkeys(images, "2026-01-01T00:00:00+00:00")))
    (tmp_path / "frame.png").write_bytes(picture(RED))
    folders = {f"FACEQ_{name.upper()}_DIR": str(tmp_path / name) for name in ("models", "gallery", "state")}
    # boto3 makes one attempt for each call: it would otherwise retry for seconds.
    return Operator(registry_cloud, {**registry_cloud.environ, **folders, "AWS_MAX_ATTEMPTS": "1"})


@pytest.fixture
def deploy(operator: Operator, tmp_path: Path) -> str:
    """The command that deploys the first image."""
    return f"faceq deploy --image {ONE} --frame {tmp_path / 'frame.png'} --yes"


@pytest.fixture
def deployed(operator: Operator, deploy: str) -> Operator:
    """An operator whose first release runs."""
    operator.run(deploy)
    return operator


PLAN = f"faceq deploy plan --image {ONE}"


# Who calls, and where


@pytest.mark.parametrize(
    ("variables", "options", "expected"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "", "Sign in: aws sso login, or: aws configure"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "", "Sign in: aws sso login, or: aws configure"),
        ({"AWS_ACCESS_KEY_ID": "unknown"}, "", "See which ones are used: aws configure list"),
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
def test_wrong_credentials_regions_and_names_are_refused_with_the_command_that_puts_them_right(
    operator: Operator, variables: dict[str, str | None], options: str, expected: str
) -> None:
    assert expected in operator.refused(f"{PLAN} {options}", None, **variables)


@pytest.mark.parametrize(
    ("service", "operation", "code", "expected"),
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
def test_a_request_that_aws_refuses_is_reported_with_awss_message_and_advice(
    operator: Operator, deploy: str, service: str, operation: str, code: str, expected: str
) -> None:
    error_line = operator.refused(
        deploy,
        partial(
            operator.cloud.fail,
            service,
            operation,
            code,
            "AWS's own message",
            times=-1,
            status=503 if service == "s3" else 403,
        ),
    )
    assert expected in error_line
    if service != "s3":  # the answer to a HEAD request has no message
        assert "AWS's own message" in error_line


@pytest.mark.parametrize(
    ("service", "operation", "after"),
    [
        ("cloudformation", "DescribeStackEvents", 4),
        ("ecr", "GetAuthorizationToken", 0),
        ("s3", "PutObject", 1),  # the second write of the release's record
        ("lambda", "GetFunction", 1),
    ],
)
def test_a_deploy_whose_credentials_expire_continues_when_it_is_run_again(
    operator: Operator, deploy: str, service: str, operation: str, after: int
) -> None:
    operator.cloud.set_pace(0.1)
    operator.cloud.fail(service, operation, "ExpiredToken", "too old", times=-1, after=after)
    assert "aws sso login" in operator.run(deploy, 1).error_line
    operator.cloud.repair()
    result = operator.run(deploy)
    assert "smoke test: " in result.err
    assert "export FUNCTION_URL=" in result.out
    assert outcomes(operator.cloud)[-1] == ("deployed", "")


# Stacks


def test_a_stack_that_aws_cannot_change_is_reported_with_the_next_step(deployed: Operator, deploy: str) -> None:
    for state, command, expected in (
        ("ROLLBACK_COMPLETE", PLAN, "faceq deploy destroy"),
        ("DELETE_FAILED", deploy, "faceq deploy destroy"),
        ("UPDATE_ROLLBACK_FAILED", deploy, "aws cloudformation continue-update-rollback --stack-name faceq"),
        ("UPDATE_ROLLBACK_FAILED", "faceq deploy rollback --to 1 --yes", "continue-update-rollback"),
    ):
        deployed.cloud.set_stack("faceq", state)
        error_line = deployed.refused(command)
        assert state in error_line
        assert expected in error_line
    assert "UPDATE_ROLLBACK_FAILED" in deployed.run("faceq deploy status", 1).out


def test_a_stack_changed_by_hand_is_deployed_only_with_drifted(deployed: Operator, deploy: str) -> None:
    change_by_hand = partial(deployed.cloud.drift, "faceq", "FaceDetection", "MemorySize", "512")
    change = f"{deploy} --set DetectionMemory=3008"
    error_line = deployed.refused(change, change_by_hand)
    assert "FaceDetection modified (MemorySize: 1769 -> 512)" in error_line
    assert "--drifted" in error_line
    change_by_hand()
    deployed.run(f"{change} --drifted")
    assert runs(deployed.cloud)[1] == 3008


def test_a_repository_that_faceq_did_not_create_is_not_used(operator: Operator, deploy: str) -> None:
    operator.cloud.client("ecr").create_repository(repositoryName="faceq")
    error_line = operator.refused(deploy)
    assert "/faceq exists already and faceq did not create it" in error_line
    assert "--stack" in error_line


def test_a_bucket_of_another_account_is_not_used(operator: Operator, deploy: str) -> None:
    error_line = operator.refused(deploy, partial(operator.cloud.fail, "s3", "HeadBucket", "403", "Forbidden", -1, 403))
    assert f"The bucket {BUCKET} belongs to another account" in error_line
    assert "--stack" in error_line


def test_a_bucket_that_an_earlier_stack_left_is_used_again(operator: Operator, deploy: str, tmp_path: Path) -> None:
    """It keeps its gallery, which no other one replaces, and its record of releases, whose numbers continue."""
    enrol(tmp_path / "gallery", "Ada", "Bo")
    operator.run(deploy)
    operator.run("faceq deploy destroy --yes")
    assert account(operator.cloud)["buckets"] == [BUCKET]
    enrol(tmp_path / "gallery", "Cy")
    assert f"2 people in {BUCKET}: stays as it is" in operator.run(deploy).out
    assert outcomes(operator.cloud) == [("deployed", ""), ("deployed", "")]


# Images and options


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        (f"--image {NAMELESS}", {}, "faceq image build"),
        (f"--image {TINY}:none", {}, f"faceq image build --tag {TINY}:none"),
        (f"--image {ONE}", {"DOCKER_HOST": "unix:///nowhere/docker.sock"}, "Start Docker"),
        (f"--image {ONE}", {"FACEQ_STATE_DIR": "/nowhere"}, "make test-docker"),
        (f"--image {ONE} --set Colour=red", {}, "Take one of: "),
        (f"--image {ONE} --set ImageUri=other", {}, "Take one of: "),
        (f"--image {ONE} --set DetectionMemory=much", {}, "DetectionMemory is 'much', which is no number"),
        (f"--image {ONE} --set DetectionMemory=1", {}, "DetectionMemory is 1, outside 128 to 10240"),
        (f"--image {ONE} --set LogLevel=loud", {}, "LogLevel"),
    ],
)
def test_an_unusable_image_or_parameter_is_refused_before_anything_changes(
    operator: Operator, options: str, variables: dict[str, str | None], expected: str
) -> None:
    assert expected in operator.refused(f"faceq deploy --yes {options}", None, **variables)


def test_a_gallery_of_another_model_is_refused(operator: Operator, tmp_path: Path) -> None:
    enrol(tmp_path / "gallery", "Ada", model="vggface2")
    error_line = operator.refused(f"faceq deploy --image {ONE} --yes")
    assert "made with model 'vggface2', but the model in use is 'dlib'" in error_line
    assert "faceq image build --model vggface2" in error_line


def test_an_image_for_another_processor_than_the_functions_is_refused(deployed: Operator, tmp_path: Path) -> None:
    error_line = deployed.refused(f"faceq deploy --image {ARM} --frame {tmp_path / 'frame.png'} --yes")
    assert "is for linux/arm64 and the functions are x86_64" in error_line
    assert "--platform linux/amd64" in error_line


@pytest.mark.parametrize(
    ("command", "form"), [("faceq deploy plan", "DetectionMemory"), ("faceq deploy --yes", "=3008")]
)
def test_a_set_option_without_name_or_value_is_a_usage_error(operator: Operator, command: str, form: str) -> None:
    result = operator.run(f"{command} --image {ONE} --set {form}", 2)
    assert f"'{form}' is not NAME=VALUE" in result.err
    assert account(operator.cloud)["stacks"] == []


def test_a_missing_smoke_test_frame_is_refused_before_anything_changes(operator: Operator) -> None:
    error_line = operator.refused(f"faceq deploy --image {ONE} --frame /nowhere/frame.png --yes")
    assert "There is no file /nowhere/frame.png" in error_line


def test_a_plan_as_json_is_the_only_output(operator: Operator) -> None:
    result = operator.run(f"{PLAN} --json")
    found = json.loads(result.out)
    assert (found["stack"], found["is_change"], found["refusals"]) == ("faceq", True, [])
    assert result.err == ""


def test_a_refused_plan_as_json_is_complete_and_has_the_reason(operator: Operator) -> None:
    result = operator.run(f"faceq deploy plan --json --image {NAMELESS}", 1)
    (refusal,) = json.loads(result.out)["refusals"]
    assert result.error_line == f"faceq: refused: {refusal}"


# Deploys that fail


@pytest.mark.parametrize(
    ("resource", "stacks"), [("Repository", []), ("FaceDetection", ["faceq-base"])], ids=["base", "main"]
)
def test_a_first_deploy_that_fails_on_aws_can_be_run_again(
    operator: Operator, deploy: str, resource: str, stacks: list[str]
) -> None:
    operator.cloud.break_resource(resource, "no room", when="create")
    error_line = operator.run(deploy, 1).error_line
    assert resource in error_line
    assert "no room" in error_line
    assert "run the same command again" in error_line
    assert [name for name, _, _ in account(operator.cloud)["stacks"]] == stacks
    operator.run(deploy)
    assert outcomes(operator.cloud)[-1] == ("deployed", "")


def test_a_first_release_that_fails_its_smoke_test_stays_deployed_and_is_tested_again(
    operator: Operator, deploy: str
) -> None:
    operator.cloud.set_answer("Error")
    error_line = operator.run(deploy, 1).error_line
    assert "The smoke test" in error_line
    assert "No release ran before this one" in error_line
    assert "faceq deploy logs" in error_line
    operator.cloud.set_answer("Unknown")
    assert "smoke test: " in operator.run(deploy).err
    assert outcomes(operator.cloud)[-1] == ("deployed", "")


def test_a_rollback_without_an_earlier_release_is_refused(operator: Operator, deploy: str) -> None:
    back = "faceq deploy rollback --yes"
    assert "no earlier release" in operator.refused(back)
    assert "There is no release 1." in operator.refused(f"{back} --to 1")
    operator.run(deploy)
    assert "no earlier release" in operator.refused(back)
    error_line = operator.refused(f"{back} --to 7")
    assert "There is no release 7." in error_line
    assert "faceq deploy history" in error_line


def test_a_rollback_to_a_release_whose_image_was_deleted_is_refused(deployed: Operator, tmp_path: Path) -> None:
    deployed.run(f"faceq deploy --image {TWO} --frame {tmp_path / 'frame.png'} --yes")
    gone = partial(deployed.cloud.fail, "ecr", "DescribeImages", "ImageNotFoundException", "gone")
    error_line = deployed.refused("faceq deploy rollback --yes", gone)
    assert "The image of release 1 is no longer in the repository" in error_line
    assert "faceq deploy history" in error_line


# Interruptions


@contextmanager
def interrupted(operator: Operator, command: str, condition: Callable[[], object]) -> Iterator[Result]:
    """Press Ctrl-C once a condition is true; the command must then say how to continue."""
    process = operator.start(command)
    try:
        eventually(condition, 60)
        process.send_signal(signal.SIGINT)
        result = operator.finish(process)
    finally:
        process.kill()
        process.wait()
    assert result.code == 1, result.out + result.err
    assert "Run the same command again to continue." in result.error_line
    yield result


def test_an_interrupted_first_deploy_continues_when_it_is_run_again(operator: Operator, deploy: str) -> None:
    operator.cloud.set_pace(0.3)
    with interrupted(operator, deploy, lambda: status(operator.cloud) == "CREATE_IN_PROGRESS"):
        assert status(operator.cloud) == "CREATE_IN_PROGRESS"
        operator.cloud.set_pace(0)
    result = operator.run(deploy)
    assert "smoke test: " in result.err
    assert outcomes(operator.cloud) == [("failed", "interrupted"), ("deployed", "")]


def test_an_interrupted_change_keeps_its_parameters_and_is_rolled_back_if_it_fails_its_smoke_test(
    operator: Operator, deploy: str
) -> None:
    """The rollback restores the release before the interrupted one, which never passed a smoke test."""
    change = deploy.replace(ONE, TWO)
    operator.run(f"{deploy} --set DetectionMemory=3008")
    first = runs(operator.cloud)
    operator.cloud.set_pace(0.3)
    with interrupted(operator, change, lambda: status(operator.cloud) == "UPDATE_IN_PROGRESS"):
        operator.cloud.set_pace(0)
    operator.cloud.set_answer("Error")
    assert "Release 1 runs again." in operator.run(change, 1).error_line
    assert runs(operator.cloud) == first
    operator.cloud.set_answer("Unknown")
    operator.run(change)
    image, memory = runs(operator.cloud)
    assert image != first[0]
    assert memory == 3008


def test_a_deploy_interrupted_during_the_base_stack_continues_when_it_is_run_again(
    operator: Operator, deploy: str
) -> None:
    operator.cloud.set_pace(0.5)
    with interrupted(operator, deploy, lambda: status(operator.cloud, "faceq-base") == "CREATE_IN_PROGRESS"):
        operator.cloud.set_pace(0)
    operator.run(deploy)
    assert outcomes(operator.cloud) == [("deployed", "")]


# Without a deployed service, and deleting it


def test_without_a_stack_there_is_no_status_no_history_and_nothing_to_remove(operator: Operator) -> None:
    assert "Deploy it with: faceq deploy" in operator.refused("faceq deploy status")
    assert "There is nothing of faceq" in operator.run("faceq deploy destroy --yes").out
    assert "no releases" in operator.run("faceq deploy history").out


def test_the_bucket_is_deleted_with_all_versions_of_its_objects_on_request(deployed: Operator) -> None:
    s3 = deployed.cloud.client("s3")
    for body in (b"one", b"two"):
        s3.put_object(Bucket=BUCKET, Key="gallery/x", Body=body)
    s3.delete_object(Bucket=BUCKET, Key="gallery/x")
    deployed.run("faceq deploy destroy --with-gallery --yes")
    assert account(deployed.cloud) == {"stacks": [], "functions": [], "buckets": [], "repositories": {}}
