"""CloudFormation's API for change sets, deletion and drift, in location of moto's."""

import copy
from typing import Any

from moto.cloudformation.models import CloudFormationBackend, Stack, cloudformation_backends
from moto.cloudformation.responses import CloudFormationResponse
from moto.cloudformation.utils import generate_changeset_id, generate_stack_id
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, EmptyResult
from moto.core.utils import utcnow

from tests.deploy.fake_aws.controls import CONTROLS
from tests.deploy.fake_aws.stack_changes import (
    RESOURCE_STATUS,
    Change,
    Execution,
    ResolvedTemplate,
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
        self.resolved: ResolvedTemplate


def _stack(response: CloudFormationResponse, name: str) -> Stack:
    return response.cloudformation_backend.get_stack(name)


def _change_sets(stack: Stack) -> dict[str, ChangeSet]:
    if not hasattr(stack, "change_sets"):
        stack.change_sets = {}
    change_sets: dict[str, ChangeSet] = stack.change_sets
    return change_sets


def _find_change_set(response: CloudFormationResponse) -> ChangeSet:
    name, stack_name = response._get_param("ChangeSetName"), response._get_param("StackName")
    stacks = [_stack(response, stack_name)] if stack_name else response.cloudformation_backend.stacks.values()
    for stack in stacks:
        for item in _change_sets(stack).values():
            if name in (item.change_set_name, item.change_set_id):
                return item
    raise ServiceException("ChangeSetNotFound", f"ChangeSet [{name}] does not exist")


def create_change_set(self: CloudFormationResponse) -> ActionResult:
    name, kind = self._get_param("StackName"), self._get_param("ChangeSetType", "UPDATE")
    backend = self.cloudformation_backend
    stack = next((item for item in backend.stacks.values() if name in (item.name, item.stack_id)), None)
    _check_stack_status(name, kind, stack)
    body = _template_body(self, stack)
    template = Stack.parse_template(body)
    needs = any(item["Type"].startswith("AWS::IAM::") for item in template["Resources"].values())
    if needs and not {"CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"} & set(self._get_param("Capabilities", [])):
        raise ServiceException("InsufficientCapabilitiesException", "Requires capabilities : [CAPABILITY_IAM]")
    stack = stack or _under_review(name, backend)
    parameters = {
        item["ParameterKey"]: stack.parameters[item["ParameterKey"]]
        if item.get("UsePreviousValue")
        else item.get("ParameterValue", "")
        for item in self._get_param("Parameters", [])
    }
    change_set = ChangeSet(stack, self._get_param("ChangeSetName"), kind)
    if change_set.change_set_name in _change_sets(stack):
        raise ServiceException("AlreadyExistsException", f"ChangeSet {change_set.change_set_id} already exists.")
    change_set.description = self._get_param("Description")
    change_set.tags = {item["Key"]: item["Value"] for item in self._get_param("Tags", [])}
    change_set.on_failure = self._get_param("OnStackFailure", "ROLLBACK")
    change_set.body, change_set.resolved = body, ResolvedTemplate(stack, template, parameters)
    change_set.parameters = change_set.resolved.parameters
    # The preview leaves placeholders in the resource map, so it gets a template of its own.
    change_set.changes = preview(stack, ResolvedTemplate(stack, template, parameters), with_values=True)
    if kind == "UPDATE" and not change_set.changes:
        change_set.status, change_set.execution_status = "FAILED", "UNAVAILABLE"
        change_set.status_reason = (
            "The submitted information didn't contain changes. Submit different information to create a change set."
        )
    backend.stacks[stack.stack_id] = stack  # only after the template and its values were accepted
    _change_sets(stack)[change_set.change_set_name] = change_set
    return ActionResult({"Id": change_set.change_set_id, "StackId": stack.stack_id})


def _check_stack_status(name: str, kind: str, stack: Stack | None) -> None:
    exists = stack is not None and stack.status != "REVIEW_IN_PROGRESS"
    if kind == "CREATE" and exists:
        raise ServiceException("AlreadyExistsException", f"Stack [{name}] already exists and cannot be created again.")
    if kind == "UPDATE" and not exists:
        raise invalid(f"Stack [{name}] does not exist")
    if kind == "UPDATE" and (stack.status.endswith("_IN_PROGRESS") or stack.status in _NOT_UPDATABLE):
        raise invalid(f"Stack:{stack.stack_id} is in {stack.status} state and can not be updated.")


def _template_body(request: CloudFormationResponse, stack: Stack | None) -> str:
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
    """Return the empty stack that the first change set of a stack creates."""
    stack_id = generate_stack_id(name, backend.region_name, backend.account_id)
    stack = Stack(stack_id, name, {}, {}, backend.account_id, backend.region_name)
    stack.status = "REVIEW_IN_PROGRESS"
    stack._add_stack_event("REVIEW_IN_PROGRESS", resource_status_reason="User Initiated")
    return stack


def describe_change_set(self: CloudFormationResponse) -> ActionResult:
    change_set = copy.copy(_find_change_set(self))
    if not self._get_bool_param("IncludePropertyValues", False):
        change_set.changes = preview(
            change_set.stack,
            ResolvedTemplate(change_set.stack, change_set.resolved.template, change_set.parameters),
            False,
        )
    return ActionResult(change_set)


def execute_change_set(self: CloudFormationResponse) -> EmptyResult:
    change_set = _find_change_set(self)
    stack = change_set.stack
    if change_set.execution_status != "AVAILABLE":
        raise ServiceException(
            "InvalidChangeSetStatus",
            f"ChangeSet [{change_set.change_set_id}] cannot be executed in its current status of [{change_set.status}]",
        )
    execution = Execution(
        stack,
        ResolvedTemplate(stack, change_set.resolved.template, change_set.parameters),
        change_set.body,
        change_set.on_failure,
    )
    change_set.execution_status = "EXECUTE_COMPLETE"
    # The stack's other change sets are deleted, because they are outdated. (CloudFormation API, ExecuteChangeSet)
    stack.change_sets = {change_set.change_set_name: change_set}
    if change_set.tags:
        stack.tags = change_set.tags
    stack._add_stack_event(f"{execution.action}_IN_PROGRESS", resource_status_reason="User Initiated")
    stack.status = f"{execution.action}_IN_PROGRESS"
    in_background(execution.run)
    return EmptyResult()


def delete_change_set(self: CloudFormationResponse) -> EmptyResult:
    change_set = _find_change_set(self)
    del _change_sets(change_set.stack)[change_set.change_set_name]
    return EmptyResult()


def list_change_sets(self: CloudFormationResponse) -> ActionResult:
    return ActionResult({"Summaries": list(_change_sets(_stack(self, self._get_param("StackName"))).values())})


def delete_stack(self: CloudFormationResponse) -> EmptyResult:
    name = self._get_param("StackName")
    stack = next(
        (item for item in self.cloudformation_backend.stacks.values() if name in (item.name, item.stack_id)), None
    )
    if stack is None:
        return EmptyResult()  # AWS too reports success for a missing stack
    if stack.enable_termination_protection:
        raise invalid(f"Stack [{name}] cannot be deleted while TerminationProtection is enabled")
    execution = Execution(stack, None, "")
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
            "PhysicalResourceId": entry.resource.physical_resource_id,
            "ResourceType": entry.kind,
            "ResourceStatus": RESOURCE_STATUS.get((stack.stack_id, name), ("CREATE_COMPLETE", None))[0],
            "LastUpdatedTimestamp": stack.creation_time,
            "Timestamp": stack.creation_time,
            "StackName": stack.name,
            "StackId": stack.stack_id,
        }
        for name, entry in resources_of(stack).items()
    ]


def list_stack_resources(self: CloudFormationResponse) -> ActionResult:
    return ActionResult({"StackResourceSummaries": _summaries(_stack(self, self._get_param("StackName")))})


def describe_stack_resources(self: CloudFormationResponse) -> ActionResult:
    wanted = self._get_param("LogicalResourceId")
    summaries = [
        item
        for item in _summaries(_stack(self, self._get_param("StackName")))
        if wanted in (None, item["LogicalResourceId"])
    ]
    return ActionResult({"StackResources": summaries})


def describe_stack_resource(self: CloudFormationResponse) -> ActionResult:
    stack, wanted = self._get_param("StackName"), self._get_param("LogicalResourceId")
    for item in _summaries(_stack(self, stack)):
        if item["LogicalResourceId"] == wanted:
            return ActionResult({"StackResourceDetail": item})
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
    entries = resources_of(stack)
    return ActionResult(
        {
            "StackResourceDrifts": [
                {
                    "StackId": stack.stack_id,
                    "LogicalResourceId": item["resource"],
                    "PhysicalResourceId": entries[item["resource"]].resource.physical_resource_id,
                    "ResourceType": entries[item["resource"]].kind,
                    "PropertyDifferences": [
                        {
                            "PropertyPath": f"/{item['property']}",
                            "ExpectedValue": text_of(entries[item["resource"]].properties.get(item["property"])),
                            "ActualValue": item["actual"],
                            "DifferenceType": "NOT_EQUAL",
                        }
                    ],
                    "StackResourceDriftStatus": "MODIFIED",
                    "Timestamp": utcnow(),
                }
                for item in CONTROLS.drifts.get(stack.name, [])
            ]
        }
    )


def _parameter_list(stack: Stack) -> list[dict[str, str]]:
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in stack.parameters.items()]


def set_status(stack: str, status: str, reason: str | None) -> None:
    """Set the status of a stack, with the event that says so."""
    for backends in cloudformation_backends.values():
        for backend in backends.values():
            for item in backend.stacks.values():
                if item.name == stack:
                    item._add_stack_event(status, resource_status_reason=reason)
                    item.status, item.stack_status_reason = status, reason


def install() -> None:
    """Replace moto's functions with those of this module."""
    for function in (
        create_change_set, describe_change_set, execute_change_set, delete_change_set, list_change_sets, delete_stack,
        list_stack_resources, describe_stack_resources, describe_stack_resource, update_termination_protection,
        detect_stack_drift, describe_stack_drift_detection_status, describe_stack_resource_drifts,
    ):  # fmt: skip
        setattr(CloudFormationResponse, function.__name__, function)
    Stack.parameter_list = property(_parameter_list)
