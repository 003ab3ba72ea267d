"""A third function needs a template, its code and nothing else: faceq plays what the template says."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.queue_sqs import sqs_client
from tests.builders import RED, faces_message
from tests.functional.targets import ROOT, Home, Service, processes
from tests.polling import eventually

pytestmark = pytest.mark.only("processes", "containers take the template of their image")

LIVENESS = """
  LivenessQueue:
    Type: AWS::SQS::Queue
    Properties:
      QueueName: !Sub "${Prefix}-liveness-queue"
      VisibilityTimeout: 60
      RedrivePolicy: {deadLetterTargetArn: !GetAtt DeadLetterQueue.Arn, maxReceiveCount: 5}

  Liveness:
    Type: AWS::Lambda::Function
    Properties:
      FunctionName: face-liveness
      PackageType: Image
      Code: {ImageUri: !Ref ImageUri}
      ImageConfig: {Command: [tests.conformance.sample_functions.queue_handler]}
      Timeout: 10
      Role: !GetAtt FaceRecognitionRole.Arn
      Environment: {Variables: {MESSAGES_FILE: "MESSAGES"}}

  LivenessMapping:
    Type: AWS::Lambda::EventSourceMapping
    Properties: {EventSourceArn: !GetAtt LivenessQueue.Arn, FunctionName: !GetAtt Liveness.Arn, BatchSize: 2}

Outputs:
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("third")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    template = folder / "three-functions.yaml"
    shipped = (ROOT / "deploy" / "template.yaml").read_text()
    template.write_text(shipped.replace("\nOutputs:\n", LIVENESS.replace('MESSAGES"', f'{folder / "messages"}"')))
    with processes(folder, "--template", str(template), "--environments", "1") as service:
        yield service


def test_the_second_mapping_calls_the_third_function_with_what_is_on_the_second_queue(
    service: Service, folder: Path
) -> None:
    sqs = sqs_client(service.stack.region, service.stack.sqs_endpoint)
    queue = service.stack.request_queue_url.replace("-req-queue", "-liveness-queue")
    bodies = {f"message {number}" for number in range(5)}
    for body in bodies:
        sqs.send_message(QueueUrl=queue, MessageBody=body)
    messages = folder / "messages"
    eventually(lambda: messages.exists() and len(messages.read_text().splitlines()) == len(bodies))
    received = [json.loads(line) for line in messages.read_text().splitlines()]
    assert {body for _, body in received} == bodies
    assert {queue for queue, _ in received} == {"faceq-liveness-queue"}


def test_the_first_mapping_calls_its_own_function_as_before(service: Service, folder: Path) -> None:
    """The message's face was cut for another model, so the recogniser answers `Error`; the third one gets nothing."""
    sqs = sqs_client(service.stack.region, service.stack.sqs_endpoint)
    sqs.send_message(
        QueueUrl=service.stack.request_queue_url,
        MessageBody=faces_message(RED, request_id="first", preprocessing="another"),
    )
    answers: list[dict[str, str]] = []

    def answered() -> bool:
        received = sqs.receive_message(QueueUrl=service.stack.response_queue_url, WaitTimeSeconds=1)
        answers.extend(json.loads(message["Body"]) for message in received.get("Messages", []))
        return bool(answers)

    eventually(answered)
    assert (answers[0]["request_id"], answers[0]["result"]) == ("first", "Error")
    messages = folder / "messages"
    assert not messages.exists() or "first" not in messages.read_text()


def test_the_third_function_and_its_queue_are_listed(service: Service) -> None:
    queues = {row["name"] for row in json.loads(service.home.faceq("queues", "list", "--json").stdout)}
    assert {
        "faceq-req-queue", "faceq-resp-queue", "faceq-req-exhausted", "faceq-req-dlq", "faceq-liveness-queue",
    } == queues  # fmt: skip
    assert (Path(service.stack.logs) / "face-liveness.log").exists()


def test_a_template_that_does_not_exist_is_reported_in_one_line(tmp_path: Path) -> None:
    up = Home(tmp_path).faceq("up", "--port", "0", "--template", str(tmp_path / "nothing.yaml"))
    assert up.returncode == 1
    assert up.stderr.startswith("faceq: ")
    assert f"{tmp_path / 'nothing.yaml'} cannot be read" in up.stderr
    assert "Traceback" not in up.stderr
