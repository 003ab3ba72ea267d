"""The commands with `--target aws`: against the stack of deploy/template.yaml, deployed to the fake AWS."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from cli import bench_command, deploy_logs_command, doctor_command, queues_commands, send_command
from pipeline.errors import BadInput, FaceqError, SetupError
from tests.aws_server import ACCOUNT, REGION, misleading
from tests.builders import RED, picture
from tests.deploy.cloud import ROOT, Cloud, running_cloud
from tests.polling import eventually

REQUESTS, RESPONSES = "faceq-req-queue", "faceq-resp-queue"
EXHAUSTED, FAILED = "faceq-req-exhausted", "faceq-req-dlq"
#: A queue in the same account that belongs to another application.
FOREIGN = "payments"
BUCKET = "faceq-test-gallery"


@pytest.fixture(scope="module")
def deployed() -> Iterator[Cloud]:
    """An account with the stack and another application's queue, which all tests of this module share."""
    with running_cloud(with_registry=False) as cloud:
        cloud.client("s3").create_bucket(Bucket=BUCKET)
        cloud.client("sqs").create_queue(QueueName=FOREIGN)
        ecr = cloud.client("ecr")
        ecr.create_repository(repositoryName="faceq")
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        config = {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": 1,
            "digest": f"sha256:{'b' * 64}",
        }
        manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []})
        image = ecr.put_image(repositoryName="faceq", imageManifest=manifest, imageTag="one")["image"]["imageId"]
        parameters = {
            "ImageUri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/faceq@{image['imageDigest']}",
            "Gallery": BUCKET,
        }
        cloudformation = cloud.client("cloudformation")
        named = {"StackName": "faceq", "ChangeSetName": "one"}
        cloudformation.create_change_set(
            **named,
            ChangeSetType="CREATE",
            TemplateBody=(ROOT / "deploy" / "template.yaml").read_text(),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        )
        eventually(lambda: cloudformation.describe_change_set(**named)["Status"] == "CREATE_COMPLETE")
        cloudformation.execute_change_set(**named)
        eventually(lambda: status(cloud) == "CREATE_COMPLETE")
        yield cloud


@pytest.fixture
def cloud(deployed: Cloud) -> Iterator[Cloud]:
    """The shared account, with empty queues and no failures set."""
    for name in (REQUESTS, RESPONSES, EXHAUSTED, FAILED, FOREIGN):
        drain(deployed, name)
    deployed.forget_calls()
    yield deployed
    deployed.repair()
    assert [call for call in deployed.calls() if call.faults] == []  # AWS documents every call


def status(cloud: Cloud) -> str:
    return str(cloud.client("cloudformation").describe_stacks(StackName="faceq")["Stacks"][0]["StackStatus"])


def url(cloud: Cloud, name: str) -> str:
    return str(cloud.client("sqs").get_queue_url(QueueName=name)["QueueUrl"])


def put(cloud: Cloud, name: str, *bodies: str) -> None:
    for body in bodies:
        cloud.client("sqs").send_message(QueueUrl=url(cloud, name), MessageBody=body)


def drain(cloud: Cloud, name: str) -> None:
    """Delete all messages of a queue, one by one, because SQS allows only one purge a minute."""
    sqs = cloud.client("sqs")
    while messages := sqs.receive_message(QueueUrl=url(cloud, name), MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            sqs.delete_message(QueueUrl=url(cloud, name), ReceiptHandle=message["ReceiptHandle"])


def waiting(cloud: Cloud, name: str) -> int:
    found = cloud.client("sqs").get_queue_attributes(
        QueueUrl=url(cloud, name), AttributeNames=["ApproximateNumberOfMessages"]
    )
    return int(found["Attributes"]["ApproximateNumberOfMessages"])


def run(
    cloud: Cloud,
    app: typer.Typer,
    *arguments: object,
    typed: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Result:
    """Run a command as the account's owner. An error that `cli.main` would print is the result's exception."""
    environment = {
        **dict.fromkeys(misleading()),
        **cloud.variables,
        "COLUMNS": "200",
        "TERM": "dumb",
        **(variables or {}),
    }
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed, env=environment)
    assert isinstance(result.exception, SystemExit | FaceqError | None), repr(result.exception)
    return result


def app_with(register: Callable[[typer.Typer], object]) -> typer.Typer:
    app = typer.Typer()
    register(app)
    return app


QUEUES = queues_commands.app
SEND, BENCH, DOCTOR = (app_with(module.register) for module in (send_command, bench_command, doctor_command))
LOGS = app_with(lambda app: app.command("logs")(deploy_logs_command.logs))


def error_message(result: Result) -> str:
    """Return the error message, which must be one line."""
    assert isinstance(result.exception, FaceqError), result.output
    assert "\n" not in result.exception.message
    return result.exception.message


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "door.png"
    file.write_bytes(picture(RED))
    return file


# Queues


def test_only_the_stacks_own_queues_are_listed(cloud: Cloud) -> None:
    put(cloud, REQUESTS, "a", "b")
    rows = json.loads(run(cloud, QUEUES, "list", "--target", "aws", "--json").stdout)
    assert [(row["name"], row["visible"], row["dead_letter_queue"]) for row in rows] == [
        (FAILED, 0, None),
        (EXHAUSTED, 0, FAILED),
        (REQUESTS, 2, EXHAUSTED),
        (RESPONSES, 0, None),
    ]


def test_a_peek_shows_messages_and_leaves_them_on_the_queue(cloud: Cloud) -> None:
    put(cloud, FAILED, *(str(number) for number in range(12)))
    rows = json.loads(run(cloud, QUEUES, "peek", FAILED, "--target", "aws", "--most", "20", "--json").stdout)
    assert sorted(int(row["body"]) for row in rows) == list(range(12))
    eventually(lambda: waiting(cloud, FAILED) == 12)


@pytest.mark.parametrize("command", [("peek",), ("purge", "--yes"), ("redrive",)])
def test_a_queue_that_does_not_belong_to_the_stack_is_refused(cloud: Cloud, command: tuple[str, ...]) -> None:
    put(cloud, FOREIGN, "money")
    refused = run(cloud, QUEUES, *command, FOREIGN, "--target", "aws")
    assert error_message(refused) == (
        f"The stack faceq has no queue {FOREIGN}. It has: {REQUESTS}, {RESPONSES}, {EXHAUSTED}, {FAILED}."
    )
    assert waiting(cloud, FOREIGN) == 1


def test_a_purge_asks_first_and_names_the_stack(cloud: Cloud) -> None:
    put(cloud, RESPONSES, "a")
    kept = run(cloud, QUEUES, "purge", RESPONSES, "--target", "aws", typed="n\n")
    assert (kept.exit_code, waiting(cloud, RESPONSES)) == (1, 1)
    assert f"Delete every message of {RESPONSES} on AWS, in stack faceq?" in kept.output
    done = run(cloud, QUEUES, "purge", RESPONSES, "--target", "aws", "--yes")
    assert (done.exit_code, waiting(cloud, RESPONSES)) == (0, 0)
    assert "within a minute" in done.stdout


def test_a_redrive_sends_failed_frames_back(cloud: Cloud) -> None:
    put(cloud, FAILED, "a", "b", "c")
    assert "Sent 3 messages back." in run(cloud, QUEUES, "redrive", FAILED, "--target", "aws").stdout
    assert (waiting(cloud, FAILED), waiting(cloud, REQUESTS)) == (0, 3)


def test_the_error_for_a_region_without_the_stack_names_the_region(cloud: Cloud) -> None:
    failed = run(cloud, QUEUES, "list", "--target", "aws", "--region", "eu-west-1")
    assert "no stack faceq in eu-west-1" in error_message(failed)


def test_a_missing_permission_is_reported_in_one_line_with_awss_message(cloud: Cloud) -> None:
    cloud.fail("sqs", "PurgeQueue", "AccessDenied", "User: x is not authorized to perform: sqs:PurgeQueue", status=403)
    failed = run(cloud, QUEUES, "purge", RESPONSES, "--target", "aws", "--yes")
    assert isinstance(failed.exception, SetupError)
    assert "sqs:PurgeQueue" in error_message(failed)


# Sending and measuring


def test_a_frame_is_posted_signed_and_its_answer_is_shown(cloud: Cloud, photo: Path) -> None:
    """The fake function URL checks the signature, as AWS does."""
    cloud.set_answer("Ada")
    done = run(cloud, SEND, photo, "--target", "aws", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["result"] == "Ada"
    assert json.loads(cloud.posts()[-1]["body"])["filename"] == "door.png"


def test_unknown_credentials_are_reported_in_one_line(cloud: Cloud, photo: Path) -> None:
    refused = run(cloud, SEND, photo, "--target", "aws", variables={"AWS_ACCESS_KEY_ID": "unknown"})
    assert "aws configure list" in error_message(refused)


def test_a_refused_post_is_reported_with_the_permissions_it_needs(cloud: Cloud, photo: Path) -> None:
    """The secret is wrong: moto does not check it, but the function URL does."""
    refused = run(cloud, SEND, photo, "--target", "aws", "--json", variables={"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert refused.exit_code == 1
    problem = json.loads(refused.stdout)["problem"]
    assert problem.startswith("HTTP 403: Forbidden")
    assert "lambda:InvokeFunctionUrl and lambda:InvokeFunction" in problem
    assert refused.stderr == "faceq: 1 frame was refused.\n"


def test_a_bench_on_aws_measures_as_a_local_one_does(cloud: Cloud, photo: Path) -> None:
    done = run(cloud, BENCH, photo, "--target", "aws", "--count", "12", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["frames"], found["answered"], found["results"]) == (12, 12, {"Unknown": 12})


def test_a_bench_that_costs_money_asks_first(cloud: Cloud, photo: Path) -> None:
    before = len(cloud.posts())
    left = run(cloud, BENCH, photo, "--target", "aws", "--count", "101", typed="n\n")
    assert left.exit_code == 1
    assert "Send 101 frames to stack faceq on AWS?" in left.output
    assert len(cloud.posts()) == before


# Logs


@pytest.fixture
def log(cloud: Cloud) -> Iterator[Callable[..., None]]:
    """A function that writes lines into a function's log, `ago` seconds before now."""
    client = cloud.client("logs")
    streams: set[tuple[str, str]] = set()

    def write(function: str, *lines: str, stream: str = "2026/11/25/[1]aaaa", ago: float = 60) -> None:
        named = {"logGroupName": f"/aws/lambda/{function}", "logStreamName": stream}
        if (function, stream) not in streams:
            client.create_log_stream(**named)
            streams.add((function, stream))
        at = int((time.time() - ago) * 1e3)
        events = [{"timestamp": at + number, "message": line} for number, line in enumerate(lines)]
        client.put_log_events(**named, logEvents=events)

    yield write
    for function, stream in streams:
        client.delete_log_stream(logGroupName=f"/aws/lambda/{function}", logStreamName=stream)


def report(number: int, duration: float, used: int = 900, tail: str = "") -> str:
    fields = [f"REPORT RequestId: {number}", f"Duration: {duration:.2f} ms", f"Billed Duration: {duration:.0f} ms"]
    return "\t".join([*fields, "Memory Size: 1769 MB", f"Max Memory Used: {used} MB", tail, "\n"])


def test_the_log_lines_of_both_functions_are_shown_in_the_order_of_time(cloud: Cloud, log: Callable[..., None]) -> None:
    log("face-recognition", "recognised\n", ago=30)
    log("face-detection", "detected\n", ago=40)
    log("face-detection", "detected again\n", ago=20)
    lines = run(cloud, LOGS).stdout.splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["detected", "recognised", "detected again"]
    assert re.match(r"face-detection: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 detected$", lines[0])


def test_log_lines_can_be_filtered_by_function_time_and_frame(cloud: Cloud, log: Callable[..., None]) -> None:
    log("face-detection", '{"message": "detected", "request_id": "frame-1"}', '{"request_id": "frame-2"}')
    log("face-recognition", '{"message": "recognised", "request_id": "frame-1"}')
    log("face-detection", "long ago frame-1", ago=7200)

    def messages(*options: str) -> list[str]:
        return [json.loads(line)["message"] for line in run(cloud, LOGS, "--json", *options).stdout.splitlines()]

    assert len(messages()) == 3
    assert len(messages("--function", "face-detection")) == 2
    assert len(messages("--since", "3h")) == 4
    assert len(messages("--request-id", "frame-1")) == 2
    assert messages("--request", "frame-2") == ['{"request_id": "frame-2"}']


def test_following_shows_each_line_once_even_one_that_arrives_late(cloud: Cloud, log: Callable[..., None]) -> None:
    """A line can reach CloudWatch after a later one of another environment."""
    log("face-detection", "first", ago=10)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "deploy", "logs", "--follow", "--json"],
        cwd=ROOT, env=cloud.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout

        def following() -> str:
            assert process.stdout
            return str(json.loads(process.stdout.readline())["message"])

        assert following() == "first"
        log("face-detection", "young", ago=2)
        assert following() == "young"
        log("face-recognition", "late", ago=8, stream="2026/11/25/[1]bbbb")
        assert following() == "late"
        log("face-detection", "last", ago=1)
        assert following() == "last"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_a_report_advises_changes_with_their_commands(cloud: Cloud, log: Callable[..., None]) -> None:
    log("face-detection", *(report(number, 200) for number in range(5)), report(9, 30_000, tail="Status: timeout"))
    log("face-recognition", "START RequestId: 1\n", report(1, 100, used=1750))
    (detection, recognition) = json.loads(run(cloud, LOGS, "--report", "--json").stdout)
    assert (detection["requests"], detection["timeouts"], detection["p50_ms"]) == (6, 1, 200.0)
    assert [advice["command"] for advice in detection["advice"]] == ["faceq deploy --set DetectionTimeout=60"]
    assert [advice["command"] for advice in recognition["advice"]] == ["faceq deploy --set RecognitionMemory=2688"]
    table = run(cloud, LOGS, "--report").stdout
    assert "face-detection: 1 of 6 calls ran out of their 30 s." in table
    assert "    faceq deploy --set DetectionTimeout=60" in table.splitlines()


def test_a_report_without_calls_suggests_a_longer_period(cloud: Cloud) -> None:
    assert "--since 7d" in run(cloud, LOGS, "--report", "--since", "1s").stdout


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (("--since", "yesterday"), "90s, 30m, 1h, 2d"),
        (("--report", "--follow"), "Leave out --follow"),
        (("--region", "eu-west-1"), "faceq deploy"),
        (("--region", "eu-west-1", "--report"), "faceq deploy"),
    ],
)
def test_a_request_for_logs_that_cannot_be_shown_is_refused_in_one_line(
    cloud: Cloud, options: tuple[str, ...], advice: str
) -> None:
    refused = run(cloud, LOGS, *options)
    assert isinstance(refused.exception, BadInput)
    assert advice in error_message(refused)


# Doctor


@pytest.fixture
def run_doctor(cloud: Cloud) -> Callable[..., list[tuple[str, bool | None, str]]]:
    """A function that runs the doctor. moto lacks IAM's simulator, so the user here may not use it."""
    cloud.fail("iam", "SimulatePrincipalPolicy", "AccessDenied", "not authorized", times=-1, status=403)

    def ask(*options: str, code: int) -> list[tuple[str, bool | None, str]]:
        result = run(cloud, DOCTOR, "--target", "aws", "--json", *options)
        assert result.exit_code == code, result.output
        return [(check["name"], check["well"], check["found"]) for check in json.loads(result.stdout)]

    return ask


RunDoctor = Callable[..., list[tuple[str, bool | None, str]]]


def failed_checks(checks: list[tuple[str, bool | None, str]]) -> list[str]:
    return [f"{name}: {found}" for name, well, found in checks if well is False]


def test_a_healthy_stack_passes_every_check_and_the_doctor_changes_nothing(cloud: Cloud, run_doctor: RunDoctor) -> None:
    checks = run_doctor(code=0)
    assert failed_checks(checks) == []
    assert {"identity", "stack", "face-detection", "face-recognition", "image", "url", "trigger", "queue", "gallery",
            "permissions"} == {name for name, _, _ in checks}  # fmt: skip
    reads = re.compile("Get|List|Describe|Head|Simulate|ReceiveMessage")
    assert {call.operation for call in cloud.calls() if not reads.match(call.operation)} == set()


def test_a_missing_stack_is_the_only_failed_check(run_doctor: RunDoctor) -> None:
    (line,) = failed_checks(run_doctor("--stack", "other", code=1))
    assert "There is no stack other" in line
    assert "faceq deploy" in line


def test_failed_frames_fail_a_check_that_names_the_commands_to_handle_them(cloud: Cloud, run_doctor: RunDoctor) -> None:
    put(cloud, FAILED, "a")
    (line,) = failed_checks(run_doctor(code=1))
    assert "messages that failed on every attempt (1): " in line
    assert f"faceq queues redrive {FAILED} --target aws" in line


def mapping(cloud: Cloud, queue: str) -> Any:
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}"
    return cloud.client("lambda").list_event_source_mappings(EventSourceArn=arn)["EventSourceMappings"][0]


def test_a_response_queue_that_calls_a_function_fails_a_check(cloud: Cloud, run_doctor: RunDoctor) -> None:
    made = cloud.client("lambda").create_event_source_mapping(
        EventSourceArn=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{RESPONSES}", FunctionName="face-recognition", BatchSize=1
    )
    try:
        (line,) = failed_checks(run_doctor(code=1))
    finally:
        cloud.client("lambda").delete_event_source_mapping(UUID=made["UUID"])
    assert f"{RESPONSES} also calls face-recognition" in line
    assert "without end" in line
    assert f"delete-event-source-mapping --uuid {made['UUID']}" in line


def test_a_disabled_event_source_mapping_fails_a_check(cloud: Cloud, run_doctor: RunDoctor) -> None:
    update = partial(cloud.client("lambda").update_event_source_mapping, UUID=mapping(cloud, REQUESTS)["UUID"])
    update(Enabled=False)
    try:
        (line,) = failed_checks(run_doctor(code=1))
    finally:
        update(Enabled=True)
    assert f"the event source mapping from {REQUESTS} to face-recognition is disabled" in line
    assert "--enabled" in line


@pytest.mark.parametrize(("queue", "target"), [(REQUESTS, EXHAUSTED), (EXHAUSTED, FAILED)])
def test_a_queue_whose_failures_go_elsewhere_fails_a_check(
    cloud: Cloud, run_doctor: RunDoctor, queue: str, target: str
) -> None:
    """Without the way over the exhausted queue, a frame whose function dies would never be answered."""

    def redrive_to(name: str, receives: int) -> None:
        policy = {"deadLetterTargetArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}", "maxReceiveCount": receives}
        cloud.client("sqs").set_queue_attributes(
            QueueUrl=url(cloud, queue), Attributes={"RedrivePolicy": json.dumps(policy)}
        )

    redrive_to(FOREIGN, 5)
    try:
        (line,) = failed_checks(run_doctor(code=1))
    finally:
        redrive_to(target, 5 if queue == REQUESTS else 1000)
    assert line == f"queue: messages of {queue} that fail do not go to {target}: faceq deploy"


def test_a_refused_request_fails_one_check_and_the_others_continue(cloud: Cloud, run_doctor: RunDoctor) -> None:
    cloud.fail("lambda", "GetFunctionUrlConfig", "AccessDeniedException", "not authorized", status=403)
    checks = run_doctor(code=1)
    (line,) = failed_checks(checks)
    assert line.startswith("url: GetFunctionUrlConfig is not allowed")
    assert "queue" in {name for name, _, _ in checks}
