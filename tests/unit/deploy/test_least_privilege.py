"""The roles of deploy/template.yaml hold what the functions call, on what they call it, and nothing else."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse

from adapters.artifacts_s3 import S3Store
from adapters.current_gallery import CurrentGallery
from adapters.queue_sqs import SqsDeliveredMessages, SqsSender
from adapters.settings import DEAD_LETTER_QUEUE_URL, REQUEST_QUEUE_URL, RESPONSE_QUEUE_URL
from pipeline.embed import PREPROCESSINGS
from pipeline.gallery_storage import save
from pipeline.handlers import detect_faces, recognise_faces
from pipeline.log_events import LogPrivacy
from pipeline.pace import Pace
from template.permissions import ON_INTERFACES, WITHOUT_RESOURCES, Statement, openness, statements
from template.reader import read_service
from template.resources import Template
from template.values import Symbol
from tests.builders import RED, faces_message, frame, gallery_of, post, sqs_event
from tests.fakes import ColourEmbedder, MemoryMetrics, MemoryStore, PatchDetector, stepping_clock

DEPLOY = Path(__file__).parents[3] / "deploy"
TEMPLATE = (DEPLOY / "template.yaml").read_text()
BASE = (DEPLOY / "base.yaml").read_text()
BUCKET = "faceq-000000000000-eu-west-1"
KEY = "arn:aws:kms:eu-west-1:000000000000:key/00000000-0000-0000-0000-000000000000"
OPTIONS = {
    "Gallery": BUCKET,
    "KmsKeyArn": KEY,
    "VpcId": "vpc-0a",
    "SubnetIds": "subnet-0a,subnet-0b",
    "RouteTableIds": "rtb-0a",
    "AlarmTopicArn": "arn:aws:sns:eu-west-1:000000000000:alarms",
    "Dashboard": "true",
}
#: Where the policy lets the recogniser send.
ANSWERS_TO = """Resource:
                  - !GetAtt ResponseQueue.Arn
                  - !GetAtt DeadLetterQueue.Arn"""
#: An action and the resource that it is called on.
Call = tuple[str, str]

#: What Lambda does with a function's role. (Lambda developer guide, "Sending Lambda function logs to CloudWatch Logs";
#: "Creating and configuring an Amazon SQS event source mapping", "Setting up execution role permissions")
LAMBDA = {
    "face-detection": {
        ("logs:CreateLogStream", "${FaceDetectionLogs.Arn}"),
        ("logs:PutLogEvents", "${FaceDetectionLogs.Arn}"),
    },
    "face-recognition": {
        ("logs:CreateLogStream", "${FaceRecognitionLogs.Arn}"),
        ("logs:PutLogEvents", "${FaceRecognitionLogs.Arn}"),
        ("sqs:ReceiveMessage", "${RequestQueue.Arn}"),
        ("sqs:ReceiveMessage", "${ExhaustedQueue.Arn}"),
        ("sqs:DeleteMessage", "${RequestQueue.Arn}"),
        ("sqs:DeleteMessage", "${ExhaustedQueue.Arn}"),
        ("sqs:GetQueueAttributes", "${RequestQueue.Arn}"),
        ("sqs:GetQueueAttributes", "${ExhaustedQueue.Arn}"),
    },
}
#: SQS needs both of who sends to an encrypted queue. (SQS developer guide, "Key management")
ENCRYPTION = {("kms:Decrypt", KEY), ("kms:GenerateDataKey", KEY)}
NETWORK = WITHOUT_RESOURCES | ON_INTERFACES


class RecordingAws:
    """A session whose clients record what they call, on what, and never reach a network. S3 has one gallery."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        self.calls: set[Call] = set()
        self._objects = MemoryStore()
        save(self._objects, gallery_of({"Ada": RED}))
        self.session = boto3.Session("testing", "testing", region_name="eu-west-1")
        self.session.events.register("provide-client-params", self._record)
        self.session.events.register("before-call", self._answer)

    def _record(self, params: dict[str, Any], model: Any, context: dict[str, Any], **_: object) -> None:
        context["asked"] = params
        # IAM has one action for a message and for a batch. (Service authorization reference, Amazon SQS)
        action = f"{model.service_model.signing_name}:{model.name.removesuffix('Batch')}"
        if "QueueUrl" in params:
            self.calls.add((action, f"${{{params['QueueUrl'].rsplit('/', 1)[-1]}.Arn}}"))
            return
        # HeadObject needs s3:GetObject, and s3:ListBucket to tell a missing object. (S3 API reference, HeadObject)
        self.calls.add((action.replace("HeadObject", "GetObject"), f"arn:aws:s3:::{params['Bucket']}/{params['Key']}"))
        if model.name == "HeadObject":
            self.calls.add(("s3:ListBucket", f"arn:aws:s3:::{params['Bucket']}"))

    def _answer(self, model: Any, context: dict[str, Any], **_: object) -> tuple[AWSResponse, dict[str, Any]]:
        parsed: dict[str, Any] = {"ResponseMetadata": {"HTTPStatusCode": 200}, "ETag": '"0"', "VersionId": "0"}
        if model.name == "GetObject":
            parsed["Body"] = Body(self._objects.read(context["asked"]["Key"].rsplit("/", 1)[-1]))
        return AWSResponse("", 200, {}, None), parsed


class Body:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self) -> bytes:
        return self.content

    def close(self) -> None:
        pass


@pytest.fixture
def calls_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, set[Call]]]:
    """Runs each function with the variables that the template gives it; returns what it called, on what."""

    def run(**options: str) -> dict[str, set[Call]]:
        def url(symbol: Symbol, kind: str, name: str) -> Any:
            is_queue = kind == "AWS::SQS::Queue" and not symbol.attribute
            return f"https://sqs.eu-west-1.amazonaws.com/000000000000/{symbol.logical_id}" if is_queue else symbol

        functions = read_service(Template(TEMPLATE, options, url)).functions
        return {
            "face-detection": detection_calls(RecordingAws(monkeypatch), functions["face-detection"].environment),
            "face-recognition": recognition_calls(RecordingAws(monkeypatch), functions["face-recognition"].environment),
        }

    return run


def detection_calls(aws: RecordingAws, environment: Any) -> set[Call]:
    sqs = aws.session.client("sqs")
    collaborators = detect_faces.Collaborators(
        detector=PatchDetector(),
        preprocessing=PREPROCESSINGS["facenet-160"],
        requests=SqsSender(sqs, environment[REQUEST_QUEUE_URL]),
        responses=SqsSender(sqs, environment[RESPONSE_QUEUE_URL]),
        clock=stepping_clock(),
        max_pixels=1_000_000,
        metrics=MemoryMetrics(),
        privacy=LogPrivacy(log_names=True),
    )
    for body in (frame(RED), frame()):
        assert detect_faces.handle(post(body), collaborators)["statusCode"] == 200
    return aws.calls


def recognition_calls(aws: RecordingAws, environment: Any) -> set[Call]:
    embedder = ColourEmbedder()
    place = environment.get("FACEQ_GALLERY", "").removeprefix("s3://")
    bucket, _, prefix = place.partition("/")
    store = S3Store(aws.session.client("s3"), bucket, prefix) if place else MemoryStore()
    collaborators = recognise_faces.Collaborators(
        embedder,
        CurrentGallery(store, embedder.model, embedder.preprocessing),
        SqsSender(aws.session.client("sqs"), environment[RESPONSE_QUEUE_URL]),
        SqsDeliveredMessages(aws.session.client("sqs"), environment[REQUEST_QUEUE_URL]),
        SqsSender(aws.session.client("sqs"), environment[DEAD_LETTER_QUEUE_URL]),
        "exhausted",
        stepping_clock(),
        5,
        Pace(),
        MemoryMetrics(),
        LogPrivacy(log_names=True),
    )
    two_frames = sqs_event(faces_message(RED), faces_message(RED))
    response = recognise_faces.handle(two_frames, collaborators, lambda: 0.0)
    assert response == {"batchItemFailures": [{"itemIdentifier": "m1"}]}  # there was no time for the second
    exhausted = sqs_event(faces_message(RED), queue="exhausted")
    assert recognise_faces.handle(exhausted, collaborators, lambda: 1e6) == {"batchItemFailures": []}
    return aws.calls


def granted(template: Template) -> dict[str, set[Call]]:
    """What each function may do on what."""
    found: dict[str, set[Call]] = {}
    for statement in statements(template):
        for function in statement.functions:
            pairs = {(action, resource) for action in statement.actions for resource in statement.resources}
            found.setdefault(function, set()).update(pairs)
    return found


def covers(allowed: Call, call: Call) -> bool:
    return allowed[0] == call[0] and fnmatchcase(call[1], allowed[1])


def wide(template: Template) -> list[Statement]:
    return [statement for statement in statements(template) if statement.wide]


@pytest.mark.parametrize("options", [(), ("Gallery",), ("KmsKeyArn",), ("AlarmTopicArn", "Dashboard")])
def test_a_function_may_do_what_it_does_and_nothing_else(
    options: tuple[str, ...], calls_of: Callable[..., dict[str, set[Call]]]
) -> None:
    parameters = {name: OPTIONS[name] for name in options}
    called = calls_of(**parameters)
    for function, allowed in granted(Template(TEMPLATE, parameters)).items():
        needed = called[function] | LAMBDA[function] | (ENCRYPTION if "KmsKeyArn" in options else set())
        assert {call for call in needed if not any(covers(pair, call) for pair in allowed)} == set()
        assert {pair for pair in allowed if not any(covers(pair, call) for call in needed)} == set()


def test_both_functions_send_and_only_the_recogniser_reads_people(
    calls_of: Callable[..., dict[str, set[Call]]],
) -> None:
    """The test above would pass if the functions called nothing and were allowed nothing."""
    called = calls_of(Gallery=BUCKET)
    assert called["face-detection"] == {
        ("sqs:SendMessage", "${RequestQueue.Arn}"), ("sqs:SendMessage", "${ResponseQueue.Arn}"),
    }  # fmt: skip
    recognition = called["face-recognition"]
    assert {call for call in recognition if call[0].startswith("sqs:")} == {
        ("sqs:SendMessage", "${ResponseQueue.Arn}"), ("sqs:SendMessage", "${DeadLetterQueue.Arn}"),
        ("sqs:ChangeMessageVisibility", "${RequestQueue.Arn}"), ("sqs:DeleteMessage", "${RequestQueue.Arn}"),
    }  # fmt: skip
    assert ("s3:ListBucket", f"arn:aws:s3:::{BUCKET}") in recognition
    assert any(covers(("s3:GetObject", f"arn:aws:s3:::{BUCKET}/gallery/*"), call) for call in recognition)
    assert len({action for action, _ in recognition}) == 5


def test_a_vpc_adds_network_interfaces_only() -> None:
    options = {name: OPTIONS[name] for name in ("VpcId", "SubnetIds", "RouteTableIds")}
    without = granted(Template(TEMPLATE, {}))
    for function, pairs in granted(Template(TEMPLATE, options)).items():
        assert {action for action, _ in pairs - without[function]} == NETWORK
        assert without[function] <= pairs


@pytest.mark.parametrize("options", [{}, OPTIONS, {"UrlAuthType": "NONE"}])
def test_nothing_is_wider_than_need_be(options: dict[str, str]) -> None:
    """The only resource `*` is that of actions on network interfaces whose names Lambda chooses."""
    assert wide(Template(TEMPLATE, options)) == []
    assert wide(Template(BASE, {})) == []


def test_each_statement_is_of_a_function() -> None:
    """A role that no function has is a role too many."""
    assert all(statement.functions for statement in statements(Template(TEMPLATE, OPTIONS)))


@pytest.mark.parametrize("options", [{}, OPTIONS])
def test_only_lambda_takes_the_roles_on(options: dict[str, str]) -> None:
    assert not any("may act as" in line for line in openness(Template(TEMPLATE, options)))


# These tests can fail


def changed(before: str, after: str) -> Template:
    assert before in TEMPLATE
    return Template(TEMPLATE.replace(before, after), OPTIONS)


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("Action: sqs:SendMessage", "Action: sqs:*", "an action with a wildcard"),
        ("Action: sqs:SendMessage", "Action: '*'", "an action with a wildcard"),
        (ANSWERS_TO, "Resource: '*'", "any resource for sqs:SendMessage"),
        (
            ANSWERS_TO,
            "Resource: !Sub 'arn:${AWS::Partition}:sqs:${AWS::Region}:${AWS::AccountId}:*'",
            "any resource for sqs:SendMessage",
        ),
        ("${Gallery}/gallery/*", "*/gallery/*", "any resource for s3:GetObject"),
        ("Resource: !Ref KmsKeyArn", "Resource: 'arn:aws:kms:*:*:key/*'", "any resource for kms:Decrypt"),
        ("Action: s3:GetObject", "NotAction: s3:DeleteObject", "NotAction allows whatever it does not name"),
        ("- ec2:DescribeSubnets", "- ec2:RunInstances", "any resource for ec2:RunInstances"),
        (
            "Policies:\n        - PolicyName: face-detection",
            "ManagedPolicyArns: [arn:aws:iam::aws:policy/service-role/AWSLambdaSQSQueueExecutionRole]\n"
            "      Policies:\n        - PolicyName: face-detection",
            "a managed policy",
        ),
    ],
)
def test_what_is_added_to_a_role_is_caught(before: str, after: str, why: str) -> None:
    found = [reason for statement in wide(changed(before, after)) for reason in statement.wide]
    assert any(reason.startswith(why) for reason in found)


def test_a_policy_beside_the_role_is_caught() -> None:
    added = """
  Extra:
    Type: AWS::IAM::Policy
    Properties:
      PolicyName: extra
      Roles: [!Ref FaceDetectionRole]
      PolicyDocument:
        Statement: {Effect: Allow, Action: sqs:PurgeQueue, Resource: !GetAtt RequestQueue.Arn}

Outputs:
"""
    (statement,) = wide(changed("\nOutputs:\n", added))
    assert (statement.functions, statement.wide) == (("face-detection",), ("a policy outside the role",))
    assert "Extra" in statement.words


def test_a_call_that_is_not_allowed_is_caught() -> None:
    template = changed("Action: s3:GetObject", "Action: s3:GetObjectTagging")
    assert ("s3:GetObject", f"arn:aws:s3:::{BUCKET}/gallery/*") not in granted(template)["face-recognition"]
