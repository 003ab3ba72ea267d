"""The API of CloudFormation where moto's does not do: change sets, what they change, removal, drift."""

import copy
from typing import Any

from moto.cloudformation.models import CloudFormationBackend, Stack, cloudformation_backends
from moto.cloudformation.responses import CloudFormationResponse
from moto.cloudformation.utils import generate_changeset_id, generate_stack_id
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, EmptyResult
from moto.core.utils import utcnow

from tests.deploy.played.controls import CONTROLS
from tests.deploy.played.stacks import (
    STATUS,
    Change,
    Execution,
    Meant,
    in_background,
    invalid,
    preview,
    resources_of,
    text_of,
)

#: Bytes of a template in a request. (CloudFormation user guide, "Understand CloudFormation quotas")
TEMPLATE_BYTES = 51_200
_NOT_UPDATABLE = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "UPDATE_ROLLBACK_FAILED", "DELETE_FAILED")


class ChangeSet:
    def __init__(self, stack: Stack, name: str, kind: str) -> None:
        self.stack = stack
        self.change_set_id = generate_changeset_id(name, stack.region_name, stack.account_id)
        self.change_set_name, self.change_set_type = name, kind
        self.stack_id, self.stack_name = stack.stack_id, stack.name
        self.creation_time = utcnow()
        self.description: str | None = None
        self.status, self.execution_status, self.status_reason = "CREATE_COMPLETE", "AVAILABLE", None
        self.changes: list[Change] = []
        self.parameters: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.body, self.on_failure = "", "ROLLBACK"
        self.meant: Meant


def _stack(response: CloudFormationResponse, name: str) -> Stack:
    return response.cloudformation_backend.get_stack(name)


def _sets(stack: Stack) -> dict[str, ChangeSet]:
    if not hasattr(stack, "change_sets"):
        stack.change_sets = {}
    sets: dict[str, ChangeSet] = stack.change_sets
    return sets


def _set(response: CloudFormationResponse) -> ChangeSet:
    name, stack_name = response._get_param("ChangeSetName"), response._get_param("StackName")
    stacks = [_stack(response, stack_name)] if stack_name else response.cloudformation_backend.stacks.values()
    for stack in stacks:
        for one in _sets(stack).values():
            if name in (one.change_set_name, one.change_set_id):
                return one
    raise ServiceException("ChangeSetNotFound", f"ChangeSet [{name}] does not exist")


def create_change_set(self: CloudFormationResponse) -> ActionResult:
    name, kind = self._get_param("StackName"), self._get_param("ChangeSetType", "UPDATE")
    backend = self.cloudformation_backend
    stack = next((one for one in backend.stacks.values() if name in (one.name, one.stack_id)), None)
    _refuse_state(name, kind, stack)
    body = _body(self, stack)
    template = Stack.parse_template(body)
    needs = any(one["Type"].startswith("AWS::IAM::") for one in template["Resources"].values())
    if needs and not {"CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"} & set(self._get_param("Capabilities", [])):
        raise ServiceException("InsufficientCapabilitiesException", "Requires capabilities : [CAPABILITY_IAM]")
    stack = stack or _under_review(name, backend)
    given = {
        one["ParameterKey"]: stack.parameters[one["ParameterKey"]]
        if one.get("UsePreviousValue")
        else one.get("ParameterValue", "")
        for one in self._get_param("Parameters", [])
    }
    made = ChangeSet(stack, self._get_param("ChangeSetName"), kind)
    if made.change_set_name in _sets(stack):
        raise ServiceException("AlreadyExistsException", f"ChangeSet {made.change_set_id} already exists.")
    made.description = self._get_param("Description")
    made.tags = {one["Key"]: one["Value"] for one in self._get_param("Tags", [])}
    made.on_failure = self._get_param("OnStackFailure", "ROLLBACK")
    made.body, made.meant = body, Meant(stack, template, given)
    made.parameters = made.meant.parameters
    # The preview leaves its stand-ins in the map, so it gets one of its own.
    made.changes = preview(stack, Meant(stack, template, given), with_values=True)
    if kind == "UPDATE" and not made.changes:
        made.status, made.execution_status = "FAILED", "UNAVAILABLE"
        made.status_reason = (
            "The submitted information didn't contain changes. Submit different information to create a change set."
        )
    backend.stacks[stack.stack_id] = stack  # not before the template and its values have been taken
    _sets(stack)[made.change_set_name] = made
    return ActionResult({"Id": made.change_set_id, "StackId": stack.stack_id})


def _refuse_state(name: str, kind: str, stack: Stack | None) -> None:
    exists = stack is not None and stack.status != "REVIEW_IN_PROGRESS"
    if kind == "CREATE" and exists:
        raise ServiceException("AlreadyExistsException", f"Stack [{name}] already exists and cannot be created again.")
    if kind == "UPDATE" and not exists:
        raise invalid(f"Stack [{name}] does not exist")
    if kind == "UPDATE" and (stack.status.endswith("_IN_PROGRESS") or stack.status in _NOT_UPDATABLE):
        raise invalid(f"Stack:{stack.stack_id} is in {stack.status} state and can not be updated.")


def _body(request: CloudFormationResponse, stack: Stack | None) -> str:
    body = request._get_param("TemplateBody")
    if body is not None and len(body.encode()) > TEMPLATE_BYTES:
        raise invalid(
            "1 validation error detected: Value at 'templateBody' failed to satisfy constraint: Member must have "
            f"length less than or equal to {TEMPLATE_BYTES}"
        )
    if request._get_param("TemplateURL"):
        body = request._get_stack_from_s3_url(request._get_param("TemplateURL"))
    if request._get_bool_param("UsePreviousTemplate", False):
        body = stack.template
    return str(body)


def _under_review(name: str, backend: CloudFormationBackend) -> Stack:
    """Make the stack that a first change set makes."""
    stack_id = generate_stack_id(name, backend.region_name, backend.account_id)
    stack = Stack(stack_id, name, {}, {}, backend.account_id, backend.region_name)
    stack.status = "REVIEW_IN_PROGRESS"
    stack._add_stack_event("REVIEW_IN_PROGRESS", resource_status_reason="User Initiated")
    return stack


def describe_change_set(self: CloudFormationResponse) -> ActionResult:
    found = copy.copy(_set(self))
    if not self._get_bool_param("IncludePropertyValues", False):
        found.changes = preview(found.stack, Meant(found.stack, found.meant.template, found.parameters), False)
    return ActionResult(found)


def execute_change_set(self: CloudFormationResponse) -> EmptyResult:
    found = _set(self)
    stack = found.stack
    if found.execution_status != "AVAILABLE":
        raise ServiceException(
            "InvalidChangeSetStatus",
            f"ChangeSet [{found.change_set_id}] cannot be executed in its current status of [{found.status}]",
        )
    execution = Execution(stack, Meant(stack, found.meant.template, found.parameters), found.body, found.on_failure)
    found.execution_status = "EXECUTE_COMPLETE"
    # The other change sets of the stack no longer say what they would change. (CloudFormation API, ExecuteChangeSet)
    stack.change_sets = {found.change_set_name: found}
    if found.tags:
        stack.tags = found.tags
    stack._add_stack_event(f"{execution.word}_IN_PROGRESS", resource_status_reason="User Initiated")
    stack.status = f"{execution.word}_IN_PROGRESS"
    in_background(execution.run)
    return EmptyResult()


def delete_change_set(self: CloudFormationResponse) -> EmptyResult:
    found = _set(self)
    del _sets(found.stack)[found.change_set_name]
    return EmptyResult()


def list_change_sets(self: CloudFormationResponse) -> ActionResult:
    return ActionResult({"Summaries": list(_sets(_stack(self, self._get_param("StackName"))).values())})


def delete_stack(self: CloudFormationResponse) -> EmptyResult:
    name = self._get_param("StackName")
    stack = next((one for one in self.cloudformation_backend.stacks.values() if name in (one.name, one.stack_id)), None)
    if stack is None:
        return EmptyResult()  # as AWS does: what is not there is gone
    if stack.enable_termination_protection:
        raise invalid(f"Stack [{name}] cannot be deleted while TerminationProtection is enabled")
    execution = Execution(stack, Meant.__new__(Meant), "")
    execution._status("DELETE_IN_PROGRESS", "User Initiated")
    if resources_of(stack):
        in_background(execution.delete_all)
    else:
        execution.delete_all()
    return EmptyResult()


def _summaries(stack: Stack) -> list[dict[str, Any]]:
    return [
        {
            "LogicalResourceId": name,
            "PhysicalResourceId": held.resource.physical_resource_id,
            "ResourceType": held.kind,
            "ResourceStatus": STATUS.get((stack.stack_id, name), ("CREATE_COMPLETE", None))[0],
            "LastUpdatedTimestamp": stack.creation_time,
            "Timestamp": stack.creation_time,
            "StackName": stack.name,
            "StackId": stack.stack_id,
        }
        for name, held in resources_of(stack).items()
    ]


def list_stack_resources(self: CloudFormationResponse) -> ActionResult:
    return ActionResult({"StackResourceSummaries": _summaries(_stack(self, self._get_param("StackName")))})


def describe_stack_resources(self: CloudFormationResponse) -> ActionResult:
    wanted = self._get_param("LogicalResourceId")
    found = [
        one
        for one in _summaries(_stack(self, self._get_param("StackName")))
        if wanted in (None, one["LogicalResourceId"])
    ]
    return ActionResult({"StackResources": found})


def describe_stack_resource(self: CloudFormationResponse) -> ActionResult:
    stack, wanted = self._get_param("StackName"), self._get_param("LogicalResourceId")
    for one in _summaries(_stack(self, stack)):
        if one["LogicalResourceId"] == wanted:
            return ActionResult({"StackResourceDetail": one})
    raise invalid(f"Resource {wanted} does not exist for stack {stack}")


def update_termination_protection(self: CloudFormationResponse) -> ActionResult:
    stack = _stack(self, self._get_param("StackName"))
    stack.enable_termination_protection = self._get_bool_param("EnableTerminationProtection", False)
    return ActionResult({"StackId": stack.stack_id})


def detect_stack_drift(self: CloudFormationResponse) -> ActionResult:
    return ActionResult({"StackDriftDetectionId": _stack(self, self._get_param("StackName")).name})


def describe_stack_drift_detection_status(self: CloudFormationResponse) -> ActionResult:
    stack = _stack(self, self._get_param("StackDriftDetectionId"))
    drifted = CONTROLS.drifts.get(stack.name, [])
    return ActionResult(
        {
            "StackId": stack.stack_id,
            "StackDriftDetectionId": stack.name,
            "StackDriftStatus": "DRIFTED" if drifted else "IN_SYNC",
            "DetectionStatus": "DETECTION_COMPLETE",
            "DriftedStackResourceCount": len(drifted),
            "Timestamp": utcnow(),
        }
    )


def describe_stack_resource_drifts(self: CloudFormationResponse) -> ActionResult:
    stack = _stack(self, self._get_param("StackName"))
    held = resources_of(stack)
    return ActionResult(
        {
            "StackResourceDrifts": [
                {
                    "StackId": stack.stack_id,
                    "LogicalResourceId": one["resource"],
                    "PhysicalResourceId": held[one["resource"]].resource.physical_resource_id,
                    "ResourceType": held[one["resource"]].kind,
                    "PropertyDifferences": [
                        {
                            "PropertyPath": f"/{one['property']}",
                            "ExpectedValue": text_of(held[one["resource"]].properties.get(one["property"])),
                            "ActualValue": one["actual"],
                            "DifferenceType": "NOT_EQUAL",
                        }
                    ],
                    "StackResourceDriftStatus": "MODIFIED",
                    "Timestamp": utcnow(),
                }
                for one in CONTROLS.drifts.get(stack.name, [])
            ]
        }
    )


def _parameter_list(stack: Stack) -> list[dict[str, str]]:
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in stack.parameters.items()]


def set_status(stack: str, status: str, reason: str | None) -> None:
    """Put a stack into a status."""
    for backends in cloudformation_backends.values():
        for backend in backends.values():
            for one in backend.stacks.values():
                if one.name == stack:
                    one._add_stack_event(status, resource_status_reason=reason)
                    one.status, one.stack_status_reason = status, reason


def install() -> None:
    for function in (
        create_change_set, describe_change_set, execute_change_set, delete_change_set, list_change_sets, delete_stack,
        list_stack_resources, describe_stack_resources, describe_stack_resource, update_termination_protection,
        detect_stack_drift, describe_stack_drift_detection_status, describe_stack_resource_drifts,
    ):  # fmt: skip
        setattr(CloudFormationResponse, function.__name__, function)
    Stack.parameter_list = property(_parameter_list)
