"""What `faceq doctor --target aws` asks AWS, and what it concludes from the answers. moto cannot simulate policies."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.stub import Stubber

from client.checks import Check
from client.deployed_stack import Deployed
from client.deployed_stack_checks import (
    VPC_ACTIONS,
    NeededActions,
    function_checks,
    needed_actions,
    role_checks,
    url_checks,
)
from deploy.service_stacks import TEMPLATE

DETECTION, RECOGNITION = "face-detection", "face-recognition"
ROLE = "arn:aws:iam::123456789012:role/faceq-Role"
URL = "https://abcdefghijklmnopqrstuvwxyz012345.lambda-url.eu-central-1.on.aws/"
REQUEST = "arn:aws:sqs:eu-central-1:123456789012:faceq-req-queue"
EXHAUSTED = "arn:aws:sqs:eu-central-1:123456789012:faceq-req-exhausted"
QUEUES = "https://sqs.eu-central-1.amazonaws.com/123456789012"


def deployed(gallery: str = "") -> Deployed:
    return Deployed(
        stack="faceq",
        function_url=URL,
        request_queue_url=f"{QUEUES}/faceq-req-queue",
        response_queue_url=f"{QUEUES}/faceq-resp-queue",
        dead_letter_queue_url=f"{QUEUES}/faceq-req-dlq",
        region="eu-central-1",
        gallery=gallery,
        auth_type="AWS_IAM",
    )


def client(service: str) -> BaseClient:
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return boto3.client(service, region_name="eu-central-1", **keys)


@pytest.fixture
def iam() -> BaseClient:
    return client("iam")


def configuration(**fields: object) -> dict[str, Any]:
    return {"Role": ROLE, **fields}


def answer(needed: NeededActions, decisions: Mapping[str, str]) -> dict[str, Any]:
    """What IAM's simulator answers; an action that `decisions` leaves out is allowed."""
    return {
        "EvaluationResults": [
            {
                "EvalActionName": action,
                "EvalResourceName": needed.resource,
                "EvalDecision": decisions.get(action, "allowed"),
            }
            for action in needed.actions
        ]
    }


def request(needed: NeededActions) -> dict[str, Any]:
    return {
        "PolicySourceArn": ROLE,
        "ActionNames": list(needed.actions),
        "ResourceArns": [needed.resource],
        "ContextEntries": [
            {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
            for key, value in needed.context.items()
        ],
    }


def simulated(
    iam: BaseClient, function: str, decisions: Mapping[str, str], gallery: str = ""
) -> list[tuple[bool | None, str]]:
    with Stubber(iam) as stub:
        for needed in needed_actions(function, configuration(), deployed(gallery)):
            stub.add_response("simulate_principal_policy", answer(needed, decisions), request(needed))
        checks = list(role_checks(iam, function, configuration(), deployed(gallery)))
        stub.assert_no_pending_responses()
    return [(check.passed, check.finding) for check in checks]


def test_a_role_that_allows_every_call_passes(iam: BaseClient) -> None:
    assert simulated(iam, DETECTION, {}) == [(True, "face-detection's role allows each of the 4 calls that it makes")]
    assert simulated(iam, RECOGNITION, {}, "bucket") == [
        (True, "face-recognition's role allows each of the 13 calls that it makes")
    ]


def test_each_denied_call_is_a_failed_check_with_the_command_that_fixes_it(iam: BaseClient) -> None:
    denied = {"sqs:DeleteMessage": "implicitDeny", "logs:PutLogEvents": "explicitDeny"}
    assert simulated(iam, RECOGNITION, denied) == [
        (False, f"face-recognition lacks sqs:DeleteMessage on {REQUEST} (implicitDeny): faceq deploy"),
        (False, f"face-recognition lacks sqs:DeleteMessage on {EXHAUSTED} (implicitDeny): faceq deploy"),
        (
            False,
            "face-recognition lacks logs:PutLogEvents on arn:aws:logs:eu-central-1:123456789012:log-group:"
            "/aws/lambda/face-recognition:log-stream:any (explicitDeny): faceq deploy",
        ),
    ]


def test_without_permission_to_ask_iam_no_check_fails(iam: BaseClient) -> None:
    with Stubber(iam) as stub:
        stub.add_client_error("simulate_principal_policy", "AccessDenied", "not authorized", 403)
        (check,) = role_checks(iam, DETECTION, configuration(), deployed())
    assert check.passed is None
    assert "iam:SimulatePrincipalPolicy" in check.finding


def test_iam_is_given_the_prefix_on_which_the_gallerys_policy_depends(iam: BaseClient) -> None:
    """Without it the simulator would deny s3:ListBucket, which the policy allows only under gallery/."""
    calls = list(needed_actions(RECOGNITION, configuration(), deployed("bucket")))
    assert NeededActions(("s3:ListBucket",), "arn:aws:s3:::bucket", {"s3:prefix": "gallery/gallery.json"}) in calls
    assert NeededActions(("s3:GetObject",), "arn:aws:s3:::bucket/gallery/gallery.json", {}) in calls


def test_a_function_in_a_vpc_or_with_its_own_key_needs_more() -> None:
    def calls(**fields: object) -> list[NeededActions]:
        return list(needed_actions(DETECTION, configuration(**fields), deployed()))

    plain = calls(VpcConfig={"SubnetIds": []})
    assert calls(VpcConfig={"SubnetIds": ["subnet-1"]}) == [*plain, NeededActions(VPC_ACTIONS, "*", {})]
    key = "arn:aws:kms:eu-central-1:123456789012:key/1"
    assert calls(KMSKeyArn=key) == [*plain, NeededActions(("kms:Decrypt", "kms:GenerateDataKey"), key, {})]


@pytest.mark.parametrize(("function", "role"), [(DETECTION, "FaceDetectionRole"), (RECOGNITION, "FaceRecognitionRole")])
def test_iam_is_asked_about_every_action_that_the_template_grants(function: str, role: str) -> None:
    """This fails if template.yaml grants a role an action that the doctor does not check."""
    (block,) = re.findall(rf"\n  {role}:\n(.+?)\n  \w", TEMPLATE.read_text(), re.DOTALL)
    granted = set(re.findall(r"\b[a-z0-9]+:[A-Z]\w+", block)) - {"sts:AssumeRole"}
    everything = configuration(VpcConfig={"SubnetIds": ["subnet-1"]}, KMSKeyArn="arn:aws:kms:eu-central-1:1:key/1")
    calls = needed_actions(function, everything, deployed("bucket"))
    assert {action for call in calls for action in call.actions} == granted


@pytest.mark.parametrize(
    ("actions", "passed", "text"),
    [
        (("lambda:InvokeFunctionUrl", "lambda:InvokeFunction"), None, "at your cost"),
        (("lambda:InvokeFunctionUrl",), False, "lacks lambda:InvokeFunction: faceq deploy"),
        ((), False, "lacks lambda:InvokeFunction and lambda:InvokeFunctionUrl"),
    ],
)
def test_a_public_url_needs_both_permissions(actions: tuple[str, ...], passed: bool | None, text: str) -> None:
    """A URL created since October 2025 answers 403 to everyone if one of them is missing."""
    public = replace(deployed(), auth_type="NONE")
    policy = {"Statement": [{"Principal": "*", "Action": action, "Effect": "Allow"} for action in actions]}
    (check,) = stubbed_url_checks(public, {"FunctionUrl": URL, "AuthType": "NONE"}, policy)
    assert check.passed is passed
    assert text in check.finding


def test_a_url_that_was_changed_by_hand_fails() -> None:
    (check,) = stubbed_url_checks(deployed(), {"FunctionUrl": URL, "AuthType": "NONE"})
    assert (check.passed, "the stack says otherwise" in check.finding) == (False, True)


def stubbed_url_checks(target: Deployed, config: dict[str, str], policy: dict[str, Any] | None = None) -> list[Check]:
    """Return the checks of a function URL with this configuration; every call must name the alias."""
    lambda_client = client("lambda")
    alias = {"FunctionName": "face-detection", "Qualifier": "live"}
    arn = "arn:aws:lambda:eu-central-1:123456789012:function:face-detection:live"
    response = {**config, "FunctionArn": arn, "CreationTime": "2026-11-25", "LastModifiedTime": "2026-11-25"}
    with Stubber(lambda_client) as stub:
        stub.add_response("get_function_url_config", response, alias)
        if policy is not None:
            stub.add_response("get_policy", {"Policy": json.dumps(policy)}, alias)
        checks = list(url_checks(lambda_client, target))
        stub.assert_no_pending_responses()
    return checks


def test_functions_that_run_different_images_or_cannot_be_called_fail() -> None:
    lambda_client = client("lambda")
    with Stubber(lambda_client) as stub:
        for name, digest, state in (
            ("face-detection", "sha256:a", "Active"),
            ("face-recognition", "sha256:b", "Failed"),
        ):
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
        detection, recognition, image = function_checks(lambda_client, deployed())
    assert (detection.passed, recognition.passed, image.passed) == (True, False, False)
    assert "The image cannot be pulled." in recognition.finding
    assert image.finding == "they run different images, sha256:a and sha256:b: faceq deploy"


def test_what_a_function_needs_follows_from_its_variables_and_its_queue() -> None:
    """The detector sends to both queues. The recogniser answers, gives frames back, and sends those that failed on.

    Lambda takes from two queues for it.
    """
    response = REQUEST.replace("-req-", "-resp-")

    def on_queues(function: str) -> set[tuple[str, str]]:
        calls = needed_actions(function, configuration(), deployed())
        return {(action, call.resource) for call in calls for action in call.actions if action.startswith("sqs:")}

    assert on_queues(DETECTION) == {("sqs:SendMessage", REQUEST), ("sqs:SendMessage", response)}
    assert on_queues(RECOGNITION) == {
        ("sqs:ReceiveMessage", REQUEST),
        ("sqs:DeleteMessage", REQUEST),
        ("sqs:GetQueueAttributes", REQUEST),
        ("sqs:ChangeMessageVisibility", REQUEST),
        ("sqs:ReceiveMessage", EXHAUSTED),
        ("sqs:DeleteMessage", EXHAUSTED),
        ("sqs:GetQueueAttributes", EXHAUSTED),
        ("sqs:SendMessage", response),
        ("sqs:SendMessage", REQUEST.replace("-req-queue", "-req-dlq")),
    }
