"""Interpreting CloudFormation's answers. botocore's Stubber checks the recorded answers against its service model."""

from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from deploy.cloudformation import PropertyChange, ResourceChange, Stack, StackEvent, StackFailedError
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
    return Stack(client, "faceq", poll_seconds=0), stubber


def answer_describe_stacks(stub: Stubber, status: str | None, reason: str = "") -> None:
    if status is None:
        stub.add_client_error("describe_stacks", "ValidationError", "Stack with id faceq does not exist")
        return
    found: dict[str, Any] = {"StackName": "faceq", "CreationTime": datetime.now(UTC), "StackStatus": status}
    stub.add_response("describe_stacks", {"Stacks": [{**found, **({"StackStatusReason": reason} if reason else {})}]})


def answer_stack_events(stub: Stubber, *events: tuple[str, str, str]) -> None:
    """Answer the next request for the stack's events with these (resource, status, reason), oldest first."""
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


def answer_describe_change_set(stub: Stubber, **answer: Any) -> None:
    stub.add_response(
        "describe_change_set", answer, {"ChangeSetName": ARN, "StackName": "faceq", "IncludePropertyValues": True}
    )


CREATE_PARAMETERS = {
    "StackName": "faceq", "ChangeSetName": ANY, "ChangeSetType": ANY, "TemplateBody": TEMPLATE, "Parameters": ANY,
    "Capabilities": ANY,
}  # fmt: skip


def test_a_change_lists_each_property_once_with_both_values(stubbed: tuple[Stack, Stubber]) -> None:
    """CloudFormation lists a property once for each cause: the parameter, and the template's own text."""
    stack, stub = stubbed
    answer_describe_stacks(stub, "UPDATE_COMPLETE")
    stub.add_response("create_change_set", {"Id": ARN, "StackId": STACK_ARN}, CREATE_PARAMETERS)
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
    answer_describe_change_set(stub, Status="CREATE_IN_PROGRESS")
    answer_describe_change_set(stub, Status="CREATE_COMPLETE", Changes=[{"Type": "Resource", "ResourceChange": change}])
    found = stack.create_change_set(TEMPLATE, {"DetectionMemory": "3008"})
    assert found is not None
    assert not found.is_first
    detail = PropertyChange("MemorySize", "1769", "3008", replaces=False)
    assert found.changes == [ResourceChange("Modify", "FaceDetection", "AWS::Lambda::Function", "False", [detail])]


def test_a_new_stack_is_deleted_if_its_creation_fails(stubbed: tuple[Stack, Stubber]) -> None:
    stack, stub = stubbed
    answer_describe_stacks(stub, None)
    stub.add_response(
        "create_change_set",
        {"Id": ARN, "StackId": STACK_ARN},
        {**CREATE_PARAMETERS, "ChangeSetType": "CREATE", "OnStackFailure": "DELETE"},
    )
    add = {"Action": "Add", "LogicalResourceId": "Q", "ResourceType": "AWS::SQS::Queue"}
    answer_describe_change_set(stub, Status="CREATE_COMPLETE", Changes=[{"Type": "Resource", "ResourceChange": add}])
    found = stack.create_change_set(TEMPLATE, {})
    assert found is not None
    assert found.is_first


@pytest.mark.parametrize(
    "reason",
    [
        "The submitted information didn't contain changes. Submit different information to create a change set.",
        "No updates are to be performed.",
    ],
)
def test_a_change_set_without_changes_is_deleted(stubbed: tuple[Stack, Stubber], reason: str) -> None:
    stack, stub = stubbed
    answer_describe_stacks(stub, "CREATE_COMPLETE")
    stub.add_response("create_change_set", {"Id": ARN, "StackId": STACK_ARN}, CREATE_PARAMETERS)
    answer_describe_change_set(stub, Status="FAILED", StatusReason=reason)
    stub.add_response("delete_change_set", {}, {"ChangeSetName": ARN, "StackName": "faceq"})
    assert stack.create_change_set(TEMPLATE, {}) is None
    stub.assert_no_pending_responses()


def test_a_failed_change_set_is_reported_with_awss_reason_and_deleted(stubbed: tuple[Stack, Stubber]) -> None:
    stack, stub = stubbed
    answer_describe_stacks(stub, "CREATE_COMPLETE")
    stub.add_response("create_change_set", {"Id": ARN, "StackId": STACK_ARN}, CREATE_PARAMETERS)
    answer_describe_change_set(stub, Status="FAILED", StatusReason="Parameters: [Gone] do not exist in the template")
    stub.add_response("delete_change_set", {})
    with pytest.raises(StackFailedError, match="Gone"):
        stack.create_change_set(TEMPLATE, {})
    stub.assert_no_pending_responses()


def test_the_error_names_the_first_resource_that_failed_itself(stubbed: tuple[Stack, Stubber]) -> None:
    """CloudFormation cancels the others because of it, and the stack's own event is only a summary."""
    stack, stub = stubbed
    answer_describe_stacks(stub, "CREATE_COMPLETE")
    stub.add_response("create_change_set", {"Id": ARN, "StackId": STACK_ARN}, CREATE_PARAMETERS)
    add = {"Action": "Add", "LogicalResourceId": "Q", "ResourceType": "AWS::SQS::Queue"}
    answer_describe_change_set(stub, Status="CREATE_COMPLETE", Changes=[{"Type": "Resource", "ResourceChange": add}])
    change_set = stack.create_change_set(TEMPLATE, {})
    assert change_set is not None
    old = ("Old", "CREATE_COMPLETE", "")
    new = [
        ("Mapping", "UPDATE_FAILED", "Resource update cancelled"),
        ("Function", "UPDATE_FAILED", "The role is  not\nallowed"),
        ("faceq", "UPDATE_ROLLBACK_IN_PROGRESS", "The following resource(s) failed: [Function]"),
    ]
    answer_stack_events(stub, old)
    stub.add_response("execute_change_set", {})
    answer_describe_stacks(stub, "UPDATE_ROLLBACK_IN_PROGRESS")
    answer_stack_events(stub, old, *new[:2])
    answer_describe_stacks(stub, "UPDATE_ROLLBACK_COMPLETE")
    answer_stack_events(stub, old, *new)
    events: list[StackEvent] = []
    with pytest.raises(
        StackFailedError, match=r"UPDATE_ROLLBACK_COMPLETE. Function .*The role is not allowed"
    ) as failed:
        stack.execute_change_set(change_set, events.append)
    assert failed.value.event is not None
    assert [event.logical_id for event in events] == ["Mapping", "Function", "faceq"]


def test_waiting_for_a_stack_reports_the_events_of_the_change_in_progress(stubbed: tuple[Stack, Stubber]) -> None:
    stack, stub = stubbed
    answer_describe_stacks(stub, "UPDATE_IN_PROGRESS")
    answer_describe_stacks(stub, "UPDATE_IN_PROGRESS")
    answer_stack_events(stub)
    answer_describe_stacks(stub, "UPDATE_COMPLETE")
    answer_stack_events(stub, ("Q", "UPDATE_COMPLETE", ""))
    events: list[StackEvent] = []
    state = stack.wait_until_stable(events.append)
    assert state is not None
    assert state.status == "UPDATE_COMPLETE"
    assert [event.logical_id for event in events] == ["Q"]


@pytest.mark.parametrize(
    ("status", "next_step"),
    [
        ("ROLLBACK_COMPLETE", "faceq deploy destroy"),
        ("ROLLBACK_FAILED", "faceq deploy destroy"),
        ("DELETE_FAILED", "faceq deploy destroy"),
        ("UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name faceq"),
    ],
)
def test_the_error_for_a_stack_that_aws_cannot_change_names_the_next_step(
    stubbed: tuple[Stack, Stubber], status: str, next_step: str
) -> None:
    stack, stub = stubbed
    answer_describe_stacks(stub, status)
    with pytest.raises(BadInput, match=next_step):
        stack.wait_until_stable(lambda _event: None)


@pytest.mark.parametrize("status", [None, "REVIEW_IN_PROGRESS"])
def test_a_stack_without_resources_counts_as_missing(stubbed: tuple[Stack, Stubber], status: str | None) -> None:
    """A plan that was interrupted leaves an empty stack behind."""
    stack, stub = stubbed
    answer_describe_stacks(stub, status)
    assert stack.wait_until_stable(lambda _event: None) is None


def test_a_template_that_is_too_large_is_refused_before_any_call(stubbed: tuple[Stack, Stubber]) -> None:
    stack, _ = stubbed
    with pytest.raises(BadInput, match="51200"):
        stack.create_change_set(" " * 51_201, {})


def test_drift_is_reported_property_by_property(stubbed: tuple[Stack, Stubber]) -> None:
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
    (found,) = stack.detect_drift()
    assert (found.logical_id, found.differences) == ("FaceDetection", ["MemorySize: 1769 -> 128"])


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("AccessDenied", "DescribeStacks is not allowed"),
        ("ExpiredToken", "aws sso login"),
        ("InvalidClientTokenId", "aws configure list"),
        ("Throttling", "Run the same command again"),
    ],
)
def test_an_error_of_aws_becomes_one_line_with_awss_reason_and_advice(
    stubbed: tuple[Stack, Stubber], code: str, advice: str
) -> None:
    stack, stub = stubbed
    stub.add_client_error("describe_stacks", code, "in AWS's words")
    with pytest.raises(FaceqError, match=advice) as failed:
        stack.describe()
    assert "in AWS's words" in str(failed.value)
    assert "\n" not in str(failed.value)
