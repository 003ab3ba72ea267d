"""The roles of deploy/template.yaml hold what the functions call, on what they call it, and nothing else."""

from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse

from adapters.artifacts_s3 import S3Store
from adapters.queue_sqs import SqsSender
from deploy.resolve import Template, read
from deploy.review import ON_INTERFACES, WITHOUT_RESOURCES, Statement, openness, statements

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

LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
#: What the event source mapping needs of the function's role. (Lambda developer guide, "Creating and configuring an
#: Amazon SQS event source mapping", "Setting up execution role permissions")
MAPPING = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}

ALWAYS = {
    "face-detection": {
        *((action, "${FaceDetectionLogs.Arn}") for action in LOGS),
        ("sqs:SendMessage", "${RequestQueue.Arn}"),
        ("sqs:SendMessage", "${ResponseQueue.Arn}"),
    },
    "face-recognition": {
        *((action, "${FaceRecognitionLogs.Arn}") for action in LOGS),
        *((action, "${RequestQueue.Arn}") for action in MAPPING),
        ("sqs:SendMessage", "${ResponseQueue.Arn}"),
    },
}
#: Only the recogniser knows people. Without ListBucket S3 answers 403 for a gallery that is not there.
GALLERY = {
    ("s3:GetObject", f"arn:aws:s3:::{BUCKET}/gallery/*"),
    ("s3:ListBucket", f"arn:aws:s3:::{BUCKET}"),
}
#: SQS needs both of who sends to an encrypted queue. (SQS developer guide, "Key management")
ENCRYPTION = {("kms:Decrypt", KEY), ("kms:GenerateDataKey", KEY)}
NETWORK = WITHOUT_RESOURCES | ON_INTERFACES


def granted(template: Template) -> dict[str, set[tuple[str, str]]]:
    """What each function may do on what."""
    found: dict[str, set[tuple[str, str]]] = {}
    for statement in statements(template):
        for function in statement.functions:
            pairs = {(action, resource) for action in statement.actions for resource in statement.resources}
            found.setdefault(function, set()).update(pairs)
    return found


def wide(template: Template) -> list[Statement]:
    return [statement for statement in statements(template) if statement.wide]


@pytest.mark.parametrize(
    ("options", "more_of_detection", "more_of_recognition"),
    [
        ((), set(), set()),
        (("Gallery",), set(), GALLERY),
        (("KmsKeyArn",), ENCRYPTION, ENCRYPTION),
        (("AlarmTopicArn", "Dashboard"), set(), set()),
    ],
)
def test_a_function_may_do_what_it_does_and_nothing_else(
    options: tuple[str, ...], more_of_detection: set[tuple[str, str]], more_of_recognition: set[tuple[str, str]]
) -> None:
    assert granted(read(TEMPLATE, {name: OPTIONS[name] for name in options})) == {
        "face-detection": ALWAYS["face-detection"] | more_of_detection,
        "face-recognition": ALWAYS["face-recognition"] | more_of_recognition,
    }


def test_a_vpc_adds_network_interfaces_only() -> None:
    options = {name: OPTIONS[name] for name in ("VpcId", "SubnetIds", "RouteTableIds")}
    for function, pairs in granted(read(TEMPLATE, options)).items():
        assert {action for action, _ in pairs - ALWAYS[function]} == NETWORK


@pytest.mark.parametrize("options", [{}, OPTIONS, {"UrlAuthType": "NONE"}])
def test_nothing_is_wider_than_need_be(options: dict[str, str]) -> None:
    """The only resource `*` is that of actions on network interfaces that nobody can name beforehand."""
    assert wide(read(TEMPLATE, options)) == []
    assert wide(read(BASE, {})) == []


def test_each_statement_is_of_a_function() -> None:
    """A role that no function has is a role too many."""
    assert all(statement.functions for statement in statements(read(TEMPLATE, OPTIONS)))


@pytest.mark.parametrize("options", [{}, OPTIONS])
def test_only_lambda_takes_the_roles_on(options: dict[str, str]) -> None:
    assert not any("may act as" in line for line in openness(read(TEMPLATE, options)))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> tuple[boto3.Session, list[str]]:
    """A session whose clients record what they are asked and never reach a network."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    found: list[str] = []

    class Body:
        def read(self) -> bytes:
            return b"{}"

        def close(self) -> None:
            pass

    def answer(model: Any, **_: object) -> tuple[AWSResponse, dict[str, Any]]:
        found.append(f"{model.service_model.signing_name}:{model.name}")
        parsed = {"ResponseMetadata": {"HTTPStatusCode": 200}, "Body": Body(), "ETag": '"0"', "VersionId": "0"}
        return AWSResponse("", 200, {}, None), parsed

    session = boto3.Session("testing", "testing", region_name="eu-west-1")
    session.events.register("before-call", answer)
    return session, found


def test_each_call_of_the_code_is_allowed(calls: tuple[boto3.Session, list[str]]) -> None:
    """The adapters are called as the functions call them; what botocore would send is what the roles must hold."""
    session, found = calls
    store = S3Store(session.client("s3"), BUCKET, "gallery")
    store.version("gallery.json")
    store.read("gallery.json")
    SqsSender(session.client("sqs"), "https://sqs.eu-west-1.amazonaws.com/000000000000/queue").send("{}")
    assert set(found) == {"s3:HeadObject", "s3:GetObject", "sqs:SendMessage"}
    # HeadObject needs s3:GetObject. (S3 API reference, HeadObject)
    needed = {call.replace("s3:HeadObject", "s3:GetObject") for call in found}
    recognition = granted(read(TEMPLATE, OPTIONS))["face-recognition"]
    assert needed <= {action for action, _ in recognition}


# These tests can fail


def changed(before: str, after: str) -> Template:
    assert before in TEMPLATE
    return read(TEMPLATE.replace(before, after), OPTIONS)


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("Action: sqs:SendMessage", "Action: sqs:*", "an action with a wildcard"),
        ("Action: sqs:SendMessage", "Action: '*'", "an action with a wildcard"),
        ("Resource: !GetAtt ResponseQueue.Arn", "Resource: '*'", "any resource for sqs:SendMessage"),
        (
            "Resource: !GetAtt ResponseQueue.Arn",
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
    pairs = granted(changed("\nOutputs:\n", added))["face-detection"]
    assert ("sqs:PurgeQueue", "${RequestQueue.Arn}") in pairs


def test_a_call_that_is_not_allowed_is_caught() -> None:
    template = changed("Action: s3:GetObject", "Action: s3:GetObjectTagging")
    assert ("s3:GetObject", f"arn:aws:s3:::{BUCKET}/gallery/*") not in granted(template)["face-recognition"]
