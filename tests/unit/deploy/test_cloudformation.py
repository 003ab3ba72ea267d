"""What CloudFormation's answers mean. The answers are checked against botocore's models by the stubber."""

from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from deploy.cloudformation import Change, Detail, Event, Stack, StackFailedError
from pipeline.errors import BadInput, FaceqError

ARN = "arn:aws:cloudformation:us-east-1:123456789012:changeSet/faceq-1/1"
STACK_ARN = "arn:aws:cloudformation:us-east-1:123456789012:stack/faceq/1"
TEMPLATE = "Resources: {}"


@pytest.fixture
def stubbed() -> tuple[Stack, Stubber]:
    client = boto3.client(
        "cloudformation", region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing"
    )
    stubber = Stubber(client)
    stubber.activate()
    return Stack(client, "faceq", look_seconds=0), stubber


def described(stub: Stubber, status: str | None, reason: str = "") -> None:
    if status is None:
        stub.add_client_error("describe_stacks", "ValidationError", "Stack with id faceq does not exist")
        return
    found: dict[str, Any] = {"StackName": "faceq", "CreationTime": datetime.now(UTC), "StackStatus": status}
    stub.add_response("describe_stacks", {"Stacks": [{**found, **({"StackStatusReason": reason} if reason else {})}]})


def happened(stub: Stubber, *events: tuple[str, str, str]) -> None:
    """Answer the next look at the events with these, (resource, status, reason), oldest first."""
    rows = [
        {
            "StackId": STACK_ARN,
            "EventId": f"{resource}-{status}",
            "StackName": "faceq",
            "LogicalResourceId": resource,
            "ResourceType": "AWS::SQS::Queue",
            "Timestamp": datetime.now(UTC),
            "ResourceStatus": status,
            "ResourceStatusReason": reason,
        }
        for resource, status, reason in reversed(events)
    ]
    stub.add_response("describe_stack_events", {"StackEvents": rows})


def made(stub: Stubber, **answer: Any) -> None:
    stub.add_response(
        "describe_change_set", answer, {"ChangeSetName": ARN, "StackName": "faceq", "IncludePropertyValues": True}
    )


CREATED = {"ChangeSetName": ANY, "ChangeSetType": ANY, "TemplateBody": TEMPLATE, "Parameters": ANY, "Capabilities": ANY,
           "StackName": "faceq"}  # fmt: skip


def test_a_property_is_shown_once_with_both_values(stubbed: tuple[Stack, Stubber]) -> None:
    """CloudFormation names a property once for each cause: the parameter, and the template's own text."""
    stack, stub = stubbed
    described(stub, "UPDATE_COMPLETE")
    stub.add_response("create_change_set", {"Id": ARN, "StackId": STACK_ARN}, CREATED)
    target = {"Attribute": "Properties", "Name": "MemorySize", "RequiresRecreation": "Never"}
    change = {
        "Action": "Modify",
        "LogicalResourceId": "FaceDetection",
        "ResourceType": "AWS::Lambda::Function",
        "Replacement": "False",
        "Details": [
            {"Target": {**target, "BeforeValue": "1769", "AfterValue": "3008"}, "ChangeSource": "DirectModification"},
            {"Target": target, "ChangeSource": "ParameterReference", "CausingEntity": "DetectionMemory"},
        ],
    }
    made(stub, Status="CREATE_IN_PROGRESS")
    made(stub, Status="CREATE_COMPLETE", Changes=[{"Type": "Resource", "ResourceChange": change}])
    found = stack.prepare(TEMPLATE, {"DetectionMemory": "3008"})
    assert found is not None
    assert not found.is_first
    detail = Detail("MemorySize", "1769", "3008", replaces=False)
    assert found.changes == [Change("Modify", "FaceDetection", "AWS::Lambda::Function", "False", [detail])]


def test_a_first_stack_goes_if_it_fails(stubbed: tuple[Stack, Stubber]) -> None:
    stack, stub = stubbed
    described(stub, None)
    stub.add_response(
        "create_change_set",
        {"Id": ARN, "StackId": STACK_ARN},
        {**CREATED, "ChangeSetType": "CREATE", "OnStackFailure": "DELETE"},
    )
    add = {"Action": "Add", "LogicalResourceId": "Q", "ResourceType": "AWS::SQS::Queue"}
    made(stub, Status="CREATE_COMPLETE", Changes=[{"Type": "Resource", "ResourceChange": add}])
    found = stack.prepare(TEMPLATE, {})
    assert found is not None
    assert found.is_first


@pytest.mark.parametrize(
    "reason",
    [
        "The submitted information didn't contain changes. Submit different information to create a change set.",
        "No updates are to be performed.",
    ],
)
def test_no_change_is_none_and_leaves_no_change_set(stubbed: tuple[Stack, Stubber], reason: str) -> None:
    stack, stub = stubbed
    described(stub, "CREATE_COMPLETE")
    stub.add_response("create_change_set", {"Id": ARN, "StackId": STACK_ARN}, CREATED)
    made(stub, Status="FAILED", StatusReason=reason)
    stub.add_response("delete_change_set", {}, {"ChangeSetName": ARN, "StackName": "faceq"})
    assert stack.prepare(TEMPLATE, {}) is None
    stub.assert_no_pending_responses()


def test_a_refused_change_set_is_told_in_awss_words_and_thrown_away(stubbed: tuple[Stack, Stubber]) -> None:
    stack, stub = stubbed
    described(stub, "CREATE_COMPLETE")
    stub.add_response("create_change_set", {"Id": ARN, "StackId": STACK_ARN}, CREATED)
    made(stub, Status="FAILED", StatusReason="Parameters: [Gone] do not exist in the template")
    stub.add_response("delete_change_set", {})
    with pytest.raises(StackFailedError, match="Gone"):
        stack.prepare(TEMPLATE, {})
    stub.assert_no_pending_responses()


def test_the_first_resource_that_failed_itself_is_told(stubbed: tuple[Stack, Stubber]) -> None:
    """The others are cancelled because of it, and the stack's own event only sums up."""
    stack, stub = stubbed
    described(stub, "CREATE_COMPLETE")
    stub.add_response("create_change_set", {"Id": ARN, "StackId": STACK_ARN}, CREATED)
    add = {"Action": "Add", "LogicalResourceId": "Q", "ResourceType": "AWS::SQS::Queue"}
    made(stub, Status="CREATE_COMPLETE", Changes=[{"Type": "Resource", "ResourceChange": add}])
    change_set = stack.prepare(TEMPLATE, {})
    assert change_set is not None
    old = ("Old", "CREATE_COMPLETE", "")
    new = [
        ("Mapping", "UPDATE_FAILED", "Resource update cancelled"),
        ("Function", "UPDATE_FAILED", "The role is  not\nallowed"),
        ("faceq", "UPDATE_ROLLBACK_IN_PROGRESS", "The following resource(s) failed: [Function]"),
    ]
    happened(stub, old)
    stub.add_response("execute_change_set", {})
    described(stub, "UPDATE_ROLLBACK_IN_PROGRESS")
    happened(stub, old, *new[:2])
    described(stub, "UPDATE_ROLLBACK_COMPLETE")
    happened(stub, old, *new)
    told: list[Event] = []
    with pytest.raises(
        StackFailedError, match=r"UPDATE_ROLLBACK_COMPLETE. Function .*The role is not allowed"
    ) as failed:
        stack.execute(change_set, told.append)
    assert failed.value.event is not None
    assert [event.logical_id for event in told] == ["Mapping", "Function", "faceq"]


def test_a_stack_at_work_is_waited_for(stubbed: tuple[Stack, Stubber]) -> None:
    stack, stub = stubbed
    described(stub, "UPDATE_IN_PROGRESS")
    described(stub, "UPDATE_IN_PROGRESS")
    happened(stub)
    described(stub, "UPDATE_COMPLETE")
    happened(stub, ("Q", "UPDATE_COMPLETE", ""))
    told: list[Event] = []
    state = stack.settled(told.append)
    assert state is not None
    assert state.status == "UPDATE_COMPLETE"
    assert [event.logical_id for event in told] == ["Q"]


@pytest.mark.parametrize(
    ("status", "way_out"),
    [
        ("ROLLBACK_COMPLETE", "faceq deploy destroy"),
        ("ROLLBACK_FAILED", "faceq deploy destroy"),
        ("DELETE_FAILED", "faceq deploy destroy"),
        ("UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name faceq"),
    ],
)
def test_a_stack_that_is_stuck_is_told_with_the_way_out(
    stubbed: tuple[Stack, Stubber], status: str, way_out: str
) -> None:
    stack, stub = stubbed
    described(stub, status)
    with pytest.raises(BadInput, match=way_out):
        stack.settled(lambda _event: None)


@pytest.mark.parametrize("status", [None, "REVIEW_IN_PROGRESS"])
def test_a_stack_without_resources_counts_as_none(stubbed: tuple[Stack, Stubber], status: str | None) -> None:
    """A plan that was interrupted leaves an empty stack behind."""
    stack, stub = stubbed
    described(stub, status)
    assert stack.settled(lambda _event: None) is None


def test_a_template_that_is_too_large_is_refused_before_any_call(stubbed: tuple[Stack, Stubber]) -> None:
    stack, _ = stubbed
    with pytest.raises(BadInput, match="51200"):
        stack.prepare(" " * 51_201, {})


def test_what_was_changed_by_hand_is_told(stubbed: tuple[Stack, Stubber]) -> None:
    stack, stub = stubbed
    stub.add_response("detect_stack_drift", {"StackDriftDetectionId": "1"})
    status = {"StackId": STACK_ARN, "StackDriftDetectionId": "1", "Timestamp": datetime.now(UTC)}
    stub.add_response("describe_stack_drift_detection_status", {**status, "DetectionStatus": "DETECTION_IN_PROGRESS"})
    stub.add_response(
        "describe_stack_drift_detection_status",
        {**status, "DetectionStatus": "DETECTION_COMPLETE", "StackDriftStatus": "DRIFTED"},
    )
    difference = {
        "PropertyPath": "/MemorySize",
        "ExpectedValue": "1769",
        "ActualValue": "128",
        "DifferenceType": "NOT_EQUAL",
    }
    drift = {
        "StackId": STACK_ARN,
        "LogicalResourceId": "FaceDetection",
        "ResourceType": "AWS::Lambda::Function",
        "StackResourceDriftStatus": "MODIFIED",
        "PropertyDifferences": [difference],
        "Timestamp": datetime.now(UTC),
    }
    stub.add_response("describe_stack_resource_drifts", {"StackResourceDrifts": [drift]})
    (found,) = stack.drift()
    assert (found.logical_id, found.differences) == ("FaceDetection", ["MemorySize: 1769 -> 128"])


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("AccessDenied", "DescribeStacks is not allowed"),
        ("ExpiredToken", "aws sso login"),
        ("InvalidClientTokenId", "aws configure list"),
        ("Throttling", "Run the same command again"),
    ],
)
def test_an_error_of_aws_is_one_line_that_says_what_to_do(stubbed: tuple[Stack, Stubber], code: str, says: str) -> None:
    stack, stub = stubbed
    stub.add_client_error("describe_stacks", code, "in AWS's words")
    with pytest.raises(FaceqError, match=says) as failed:
        stack.state()
    assert "in AWS's words" in str(failed.value)
    assert "\n" not in str(failed.value)
