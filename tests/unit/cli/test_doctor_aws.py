"""What `faceq doctor --target aws` asks IAM, and what it makes of the answers. moto has no simulator of policies."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.stub import Stubber

from cli import doctor_aws
from cli.doctor_aws import DETECTION, RECOGNITION, Calls, needed, permissions
from cli.doctor_command import Check
from client.deployed_stack import Deployed
from deploy.service_stacks import TEMPLATE

ROLE = "arn:aws:iam::123456789012:role/faceq-Role"
URL = "https://abcdefghijklmnopqrstuvwxyz012345.lambda-url.eu-central-1.on.aws/"
REQUEST, RESPONSE = ("arn:aws:sqs:eu-central-1:123456789012:faceq-req-queue", "arn:aws:sqs:eu-central-1:123456789012:r")


def deployed(gallery: str = "") -> Deployed:
    return Deployed(
        stack="faceq",
        function_url=URL,
        request_queue_url="request-url",
        response_queue_url="response-url",
        dead_letter_queue_url="dead-url",
        region="eu-central-1",
        gallery=gallery,
        auth_type="AWS_IAM",
    )


QUEUES = {"request-url": REQUEST, "response-url": RESPONSE}


@pytest.fixture
def iam() -> BaseClient:
    return boto3.client("iam", region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing")


def configuration(**fields: object) -> dict[str, Any]:
    return {"Role": ROLE, **fields}


def answer(calls: Calls, decisions: Mapping[str, str]) -> dict[str, Any]:
    """What IAM's simulator answers; an action that `decisions` leaves out is allowed."""
    return {
        "EvaluationResults": [
            {
                "EvalActionName": action,
                "EvalResourceName": calls.resource,
                "EvalDecision": decisions.get(action, "allowed"),
            }
            for action in calls.actions
        ]
    }


def asked(calls: Calls) -> dict[str, Any]:
    return {
        "PolicySourceArn": ROLE,
        "ActionNames": list(calls.actions),
        "ResourceArns": [calls.resource],
        "ContextEntries": [
            {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
            for key, value in calls.context.items()
        ],
    }


def simulated(
    iam: BaseClient, function: str, decisions: Mapping[str, str], gallery: str = ""
) -> list[tuple[bool | None, str]]:
    with Stubber(iam) as stub:
        for calls in needed(function, configuration(), QUEUES, deployed(gallery)):
            stub.add_response("simulate_principal_policy", answer(calls, decisions), asked(calls))
        checks = list(permissions(iam, function, configuration(), QUEUES, deployed(gallery)))
        stub.assert_no_pending_responses()
    return [(check.well, check.found) for check in checks]


def test_a_role_that_allows_each_call_is_well(iam: BaseClient) -> None:
    assert simulated(iam, DETECTION, {}) == [(True, "face-detection's role allows each of the 4 calls that it makes")]
    assert simulated(iam, RECOGNITION, {}, "bucket") == [
        (True, "face-recognition's role allows each of the 8 calls that it makes")
    ]


def test_each_denied_call_is_bad_with_the_command_that_mends_it(iam: BaseClient) -> None:
    denied = {"sqs:DeleteMessage": "implicitDeny", "logs:PutLogEvents": "explicitDeny"}
    assert simulated(iam, RECOGNITION, denied) == [
        (False, f"face-recognition lacks sqs:DeleteMessage on {REQUEST} (implicitDeny): faceq deploy"),
        (
            False,
            "face-recognition lacks logs:PutLogEvents on arn:aws:logs:eu-central-1:123456789012:log-group:"
            "/aws/lambda/face-recognition:log-stream:any (explicitDeny): faceq deploy",
        ),
    ]


def test_who_may_not_ask_iam_is_told_so_and_nothing_is_called_bad(iam: BaseClient) -> None:
    with Stubber(iam) as stub:
        stub.add_client_error("simulate_principal_policy", "AccessDenied", "not authorized", 403)
        (check,) = permissions(iam, DETECTION, configuration(), QUEUES, deployed())
    assert check.well is None
    assert "iam:SimulatePrincipalPolicy" in check.found


def test_iam_sees_the_prefix_that_the_gallerys_policy_asks_for(iam: BaseClient) -> None:
    """Without it the simulator would deny s3:ListBucket, which the policy allows under gallery/ only."""
    calls = list(needed(RECOGNITION, configuration(), QUEUES, deployed("bucket")))
    assert Calls(("s3:ListBucket",), "arn:aws:s3:::bucket", {"s3:prefix": "gallery/gallery.json"}) in calls
    assert Calls(("s3:GetObject",), "arn:aws:s3:::bucket/gallery/gallery.json", {}) in calls


def test_a_function_in_a_vpc_or_with_a_key_of_its_own_needs_more() -> None:
    def calls(**fields: object) -> list[Calls]:
        return list(needed(DETECTION, configuration(**fields), QUEUES, deployed()))

    plain = calls(VpcConfig={"SubnetIds": []})
    assert calls(VpcConfig={"SubnetIds": ["subnet-1"]}) == [*plain, Calls(doctor_aws._VPC_ACTIONS, "*", {})]
    key = "arn:aws:kms:eu-central-1:123456789012:key/1"
    assert calls(KMSKeyArn=key) == [*plain, Calls(("kms:Decrypt", "kms:GenerateDataKey"), key, {})]


@pytest.mark.parametrize(("function", "role"), [(DETECTION, "FaceDetectionRole"), (RECOGNITION, "FaceRecognitionRole")])
def test_iam_is_asked_for_all_that_the_template_grants(function: str, role: str) -> None:
    """An action that the role gains, and the doctor does not look at, shows here."""
    (block,) = re.findall(rf"\n  {role}:\n(.+?)\n  \w", TEMPLATE.read_text(), re.DOTALL)
    granted = set(re.findall(r"\b[a-z0-9]+:[A-Z]\w+", block)) - {"sts:AssumeRole"}
    everything = configuration(VpcConfig={"SubnetIds": ["subnet-1"]}, KMSKeyArn="arn:aws:kms:eu-central-1:1:key/1")
    calls = needed(function, everything, QUEUES, deployed("bucket"))
    assert {action for call in calls for action in call.actions} == granted


@pytest.mark.parametrize(
    ("actions", "well", "words"),
    [
        (("lambda:InvokeFunctionUrl", "lambda:InvokeFunction"), None, "at your cost"),
        (("lambda:InvokeFunctionUrl",), False, "lacks lambda:InvokeFunction: faceq deploy"),
        ((), False, "lacks lambda:InvokeFunction and lambda:InvokeFunctionUrl"),
    ],
)
def test_a_public_url_needs_both_permissions(actions: tuple[str, ...], well: bool | None, words: str) -> None:
    """A URL made since October 2025 answers 403 to everybody if one of them is missing."""
    public = replace(deployed(), auth_type="NONE")
    policy = {"Statement": [{"Principal": "*", "Action": action, "Effect": "Allow"} for action in actions]}
    (check,) = url_checks(public, {"FunctionUrl": URL, "AuthType": "NONE"}, policy)
    assert check.well is well
    assert words in check.found


def test_a_url_that_was_changed_by_hand_is_bad() -> None:
    (check,) = url_checks(deployed(), {"FunctionUrl": URL, "AuthType": "NONE"})
    assert (check.well, "the stack says otherwise" in check.found) == (False, True)


def url_checks(there: Deployed, config: dict[str, str], policy: dict[str, Any] | None = None) -> list[Check]:
    """What is said of a function URL; the calls must be those of the alias."""
    session = boto3.Session("testing", "testing", region_name="eu-central-1")
    client = session.client("lambda")
    alias = {"FunctionName": DETECTION, "Qualifier": "live"}
    arn = "arn:aws:lambda:eu-central-1:123456789012:function:face-detection:live"
    whole = {**config, "FunctionArn": arn, "CreationTime": "2026-11-25", "LastModifiedTime": "2026-11-25"}
    with Stubber(client) as stub:
        stub.add_response("get_function_url_config", whole, alias)
        if policy is not None:
            stub.add_response("get_policy", {"Policy": json.dumps(policy)}, alias)
        session.client = lambda service: client  # type: ignore[method-assign, assignment]
        checks = list(doctor_aws._url(session, there))
        stub.assert_no_pending_responses()
    return checks


def test_functions_that_run_different_images_or_cannot_be_called_are_bad() -> None:
    session = boto3.Session("testing", "testing", region_name="eu-central-1")
    client = session.client("lambda")
    with Stubber(client) as stub:
        for name, digest, state in ((DETECTION, "sha256:a", "Active"), (RECOGNITION, "sha256:b", "Failed")):
            stub.add_response(
                "get_function",
                {
                    "Configuration": {
                        "State": state,
                        "StateReason": "The image cannot be pulled." if state == "Failed" else "",
                        "LastUpdateStatus": "Successful",
                        "Version": "3",
                        "MemorySize": 1769,
                        "Timeout": 30,
                    },
                    "Code": {"ResolvedImageUri": f"repository@{digest}"},
                },
                {"FunctionName": name, "Qualifier": "live"},
            )
        session.client = lambda service: client  # type: ignore[method-assign, assignment]
        detection, recognition, image = doctor_aws._functions(session, deployed())
    assert (detection.well, recognition.well, image.well) == (True, False, False)
    assert "The image cannot be pulled." in recognition.found
    assert image.found == "they run different images, sha256:a and sha256:b: faceq deploy"
