"""One CloudFormation stack: what state it is in, what a change set would change, and executing that change set.

CloudFormation does the work. This module requests it and interprets the answers. It creates a change set, reads it, and
either deletes it (a plan) or executes it. During the execution it reads the stack's events until the stack is stable.
If the change fails, the error names the first resource that failed, with AWS's reason. If the stack is being changed
already, because an earlier command was interrupted or someone else deploys, this module waits for that change first.

Statuses: CloudFormation user guide, "Stack status codes".
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from botocore.client import BaseClient
from botocore.exceptions import ClientError

from adapters.aws_errors import translated_aws_errors
from pipeline.errors import BadInput, SetupError
from template.rules import INLINE_BYTES

#: Longest pause between two requests for a stack's state, in seconds. CloudFormation throttles frequent requests.
POLL_SECONDS: Final = 2.0
#: First pause, in seconds; each one is twice as long as the one before, up to `POLL_SECONDS`.
_FIRST_POLL_SECONDS: Final = 0.1
#: How long CloudFormation may take to create a change set, in seconds.
_CHANGE_SET_SECONDS: Final = 300.0

#: Statuses of a stack that can be changed.
_UPDATABLE: Final = frozenset(
    {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"}
)
#: Statuses of a stack without resources: its first change set was not executed yet, or the stack was deleted.
_EMPTY: Final = frozenset({"REVIEW_IN_PROGRESS", "DELETE_COMPLETE"})
#: Reasons that CloudFormation gives for a change set without changes. It has no error code for this case.
_NO_CHANGE: Final = ("didn't contain changes", "No updates are to be performed")
#: Our own status for a stack whose change set AWS could not create.
_NOT_CHANGED: Final = "not changed"
#: Part of the reason of a resource that CloudFormation stopped because another one failed.
_CANCELLED: Final = "cancelled"


@dataclass(frozen=True)
class PropertyChange:
    """The change of one property. A value is None where CloudFormation does not report it.

    Parameters
    ----------
    name : str
    before, after : str or None
    replaces : bool
        Whether this change makes CloudFormation replace the resource.

    """

    name: str
    before: str | None
    after: str | None
    replaces: bool


@dataclass(frozen=True)
class ResourceChange:
    """The change of one resource.

    Parameters
    ----------
    action : str
        `Add`, `Modify` or `Remove`.
    logical_id, kind : str
        The resource's name in the template, and its type.
    replacement : str
        `True`, `False` or `Conditional`; empty unless the action is `Modify`.
    details : sequence of PropertyChange

    """

    action: str
    logical_id: str
    kind: str
    replacement: str = ""
    details: Sequence[PropertyChange] = ()


@dataclass(frozen=True)
class ChangeSet:
    """A change set that can be executed.

    Parameters
    ----------
    arn, stack_id : str
    is_first : bool
        Whether it creates the stack.
    changes : sequence of ResourceChange

    """

    arn: str
    stack_id: str
    is_first: bool
    changes: Sequence[ResourceChange]


@dataclass(frozen=True)
class StackDescription:
    """A stack that exists.

    Parameters
    ----------
    status, reason : str
        As AWS gives them; the reason may be empty.
    parameters, outputs : Mapping of str to str
    changed : str
        Time of the last change, UTC, ISO 8601.

    """

    status: str
    reason: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    changed: str = ""


@dataclass(frozen=True)
class StackEvent:
    """A change of a resource's status. `time` is UTC, ISO 8601."""

    id: str
    time: str
    logical_id: str
    kind: str
    status: str
    reason: str

    @property
    def is_failure(self) -> bool:
        """Whether this resource itself failed, rather than being cancelled because another one did."""
        return self.status.endswith("_FAILED") and _CANCELLED not in self.reason.lower()


@dataclass(frozen=True)
class ResourceDrift:
    """A resource that differs from what the stack created.

    Parameters
    ----------
    logical_id : str
    status : str
        AWS's drift status, `MODIFIED` or `DELETED`.
    differences : sequence of str
        One text `property: expected -> actual` for each property that differs.

    """

    logical_id: str
    status: str
    differences: Sequence[str]


class StackFailedError(SetupError):
    """A change of a stack failed.

    Parameters
    ----------
    stack : str
        The stack's name.
    status : str
        The status in which the failure left the stack.
    event : StackEvent or None
        The first resource that failed, if one did.
    reason : str
        AWS's reason, for a failure without such a resource.

    """

    def __init__(self, stack: str, status: str, event: StackEvent | None, reason: str = "") -> None:
        cause = (
            f"{event.logical_id} ({event.kind}): {event.reason or event.status}"
            if event is not None
            else reason or "AWS gives no reason"
        )
        super().__init__(
            "stack_failed", f"The stack {stack} is {status}. {' '.join(cause.split())} {_next_step(status, stack)}"
        )
        self.status = status
        self.event = event


class Stack:
    """A CloudFormation stack, addressed by its name or id.

    Parameters
    ----------
    client : botocore client
        For CloudFormation.
    name : str
    poll_seconds : float
        Longest pause between two requests for the stack's state.

    """

    def __init__(self, client: BaseClient, name: str, poll_seconds: float = POLL_SECONDS) -> None:
        self._client = client
        self.name = name
        self._poll_seconds = poll_seconds

    def describe(self) -> StackDescription | None:
        """Return the stack's state; None if it does not exist or has no resources. Raises FaceqError."""
        description = self._describe()
        return None if description is None or description.status in _EMPTY else description

    def exists(self) -> bool:
        """Return whether the stack exists, in whatever state. Raises FaceqError."""
        return self._describe() is not None

    def wait_until_stable(self, on_event: Callable[[StackEvent], None]) -> StackDescription | None:
        """Wait until no change of the stack is in progress, and return its state then.

        Parameters
        ----------
        on_event : callable
            Called with each event of the change in progress.

        Returns
        -------
        StackDescription or None
            None if the stack does not exist or has no resources.

        Raises
        ------
        BadInput
            The stack is in a state in which AWS refuses to change it.
        FaceqError
            AWS refuses the request.

        """
        description = self._describe()
        if description is not None and description.status.endswith("_IN_PROGRESS") and description.status not in _EMPTY:
            description = self._wait(set(), on_event)
        if description is None or description.status in _EMPTY:
            return None
        if description.status not in _UPDATABLE:
            raise BadInput(
                "stack_stuck",
                f"The stack {self.name} is {description.status}. {_next_step(description.status, self.name)}",
            )
        return description

    def create_change_set(self, template: str, parameters: Mapping[str, str]) -> ChangeSet | None:
        """Create a change set; return None if it would change nothing.

        Raises
        ------
        BadInput
            The template is larger than AWS takes in a request.
        StackFailedError
            AWS could not create the change set.
        FaceqError
            AWS refuses the template or a parameter's value.

        """
        template_bytes = len(template.encode())
        if template_bytes > INLINE_BYTES:
            raise BadInput(
                "template_too_large",
                f"The template has {template_bytes} bytes; AWS takes at most {INLINE_BYTES} in a request. Shorten it.",
            )
        is_first = self.describe() is None
        with translated_aws_errors():
            response = self._client.create_change_set(
                StackName=self.name,
                ChangeSetName=f"faceq-{uuid.uuid4().hex[:12]}",
                ChangeSetType="CREATE" if is_first else "UPDATE",
                TemplateBody=template,
                Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
                Capabilities=["CAPABILITY_IAM"],
                # A new stack whose creation fails is deleted, so that the same command can be run again.
                **({"OnStackFailure": "DELETE"} if is_first else {}),
            )
            change_set = ChangeSet(response["Id"], response["StackId"], is_first, ())
            try:
                changes = self._wait_for_changes(change_set.arn)
            except BaseException:
                self.delete_change_set(change_set)
                raise
            if changes is None:
                self.delete_change_set(change_set)
                return None
        return replace(change_set, changes=changes)

    def delete_change_set(self, change_set: ChangeSet) -> None:
        """Delete a change set, and the empty stack that the first change set of a stack creates. Raises FaceqError."""
        with translated_aws_errors():
            self._client.delete_change_set(ChangeSetName=change_set.arn, StackName=self.name)
            description = self._describe() if change_set.is_first else None
            if description is not None and description.status in _EMPTY:
                self._client.delete_stack(StackName=self.name)

    def execute_change_set(self, change_set: ChangeSet, on_event: Callable[[StackEvent], None]) -> StackDescription:
        """Execute a change set, wait until the stack is stable, and return its state.

        Raises
        ------
        StackFailedError
            A resource failed; CloudFormation has rolled the stack back as far as it could.
        FaceqError
            AWS refuses the request.

        """
        # AWS deletes a new stack that fails, and reports a deleted stack only by its id.
        stack = Stack(self._client, change_set.stack_id, self._poll_seconds)
        earlier_events = {event.id for event in stack._events()}
        with translated_aws_errors():
            self._client.execute_change_set(ChangeSetName=change_set.arn, StackName=self.name)
        return stack._wait_for_success(
            earlier_events, on_event, ("CREATE_COMPLETE", "UPDATE_COMPLETE"), stack_name=self.name
        )

    def delete(self, on_event: Callable[[StackEvent], None]) -> None:
        """Delete the stack and its resources, and wait until that is done. Raises StackFailedError, and FaceqError."""
        with translated_aws_errors():
            stack_id = self._client.describe_stacks(StackName=self.name)["Stacks"][0]["StackId"]
            earlier_events = {event.id for event in self._events()}
            self._client.delete_stack(StackName=stack_id)
        # AWS reports a deleted stack only by its id.
        stack = Stack(self._client, stack_id, self._poll_seconds)
        stack._wait_for_success(earlier_events, on_event, ("DELETE_COMPLETE",), stack_name=self.name)

    def detect_drift(self) -> list[ResourceDrift]:
        """Return the resources that someone changed by hand since the last deploy. Raises FaceqError."""
        with translated_aws_errors():
            detection_id = self._client.detect_stack_drift(StackName=self.name)["StackDriftDetectionId"]
            pauses = self._pauses()
            while True:
                detection = self._client.describe_stack_drift_detection_status(StackDriftDetectionId=detection_id)
                if detection["DetectionStatus"] != "DETECTION_IN_PROGRESS":
                    break
                time.sleep(next(pauses))
            if detection.get("StackDriftStatus") != "DRIFTED":
                return []
            drifts = self._client.describe_stack_resource_drifts(
                StackName=self.name, StackResourceDriftStatusFilters=["MODIFIED", "DELETED"]
            )["StackResourceDrifts"]
        return [
            ResourceDrift(
                drift["LogicalResourceId"],
                drift["StackResourceDriftStatus"],
                [
                    f"{one['PropertyPath'].strip('/')}: {one['ExpectedValue']} -> {one['ActualValue']}"
                    for one in drift.get("PropertyDifferences", ())
                ],
            )
            for drift in drifts
        ]

    def resources(self) -> list[tuple[str, str, str]]:
        """Return (logical id, type, physical id) of each resource. Raises FaceqError."""
        with translated_aws_errors():
            pages = self._client.get_paginator("list_stack_resources").paginate(StackName=self.name)
            return [
                (summary["LogicalResourceId"], summary["ResourceType"], summary.get("PhysicalResourceId", ""))
                for page in pages
                for summary in page["StackResourceSummaries"]
            ]

    def _describe(self) -> StackDescription | None:
        with translated_aws_errors():
            try:
                stack = self._client.describe_stacks(StackName=self.name)["Stacks"][0]
            except ClientError as error:
                # AWS's answer for a stack that does not exist. (measured; LocalStack's recordings have the same)
                if error.response["Error"]["Code"] == "ValidationError" and "does not exist" in str(error):
                    return None
                raise
        return StackDescription(
            stack["StackStatus"],
            stack.get("StackStatusReason", ""),
            {one["ParameterKey"]: one.get("ParameterValue", "") for one in stack.get("Parameters", ())},
            {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", ())},
            (stack.get("LastUpdatedTime") or stack["CreationTime"]).isoformat(timespec="seconds"),
        )

    def _wait_for_changes(self, change_set_arn: str) -> list[ResourceChange] | None:
        """Wait until AWS has created a change set; return its changes, None if there are none."""
        deadline = time.monotonic() + _CHANGE_SET_SECONDS
        pauses = self._pauses()
        while True:
            page = self._client.describe_change_set(
                ChangeSetName=change_set_arn, StackName=self.name, IncludePropertyValues=True
            )
            reason = page.get("StatusReason", "")
            if page["Status"] == "FAILED":
                if any(text in reason for text in _NO_CHANGE):
                    return None
                raise StackFailedError(self.name, _NOT_CHANGED, None, reason)
            if page["Status"] == "CREATE_COMPLETE":
                break
            if time.monotonic() > deadline:
                raise StackFailedError(
                    self.name,
                    _NOT_CHANGED,
                    None,
                    f"AWS has not created the change set within {_CHANGE_SET_SECONDS:.0f} s: {page['Status']} {reason}",
                )
            time.sleep(next(pauses))
        changes = list(page["Changes"])
        while token := page.get("NextToken"):
            page = self._client.describe_change_set(
                ChangeSetName=change_set_arn, StackName=self.name, IncludePropertyValues=True, NextToken=token
            )
            changes += page["Changes"]
        return [_read_change(change["ResourceChange"]) for change in changes] or None

    def _wait_for_success(
        self,
        earlier_events: set[str],
        on_event: Callable[[StackEvent], None],
        success: Sequence[str],
        stack_name: str,
    ) -> StackDescription:
        """Wait until the stack is stable; raise StackFailedError unless its status is one of `success` then."""
        failures: list[StackEvent] = []

        def record(event: StackEvent) -> None:
            if event.is_failure and event.logical_id != stack_name:
                failures.append(event)
            on_event(event)

        description = self._wait(earlier_events, record) or StackDescription("DELETE_COMPLETE")
        if description.status in success:
            return description
        raise StackFailedError(stack_name, description.status, failures[0] if failures else None, description.reason)

    def _wait(self, earlier_events: set[str], on_event: Callable[[StackEvent], None]) -> StackDescription | None:
        """Wait until no change is in progress, and report each event that is not one of the earlier ones."""
        pauses = self._pauses()
        while True:
            description = self._describe()
            for event in reversed([event for event in self._events() if event.id not in earlier_events]):
                earlier_events.add(event.id)
                on_event(event)
            if description is None or not description.status.endswith("_IN_PROGRESS"):
                return description
            time.sleep(next(pauses))

    def _pauses(self) -> Iterator[float]:
        """Yield the pauses between requests, in seconds: short ones first, for changes that take no time."""
        pause = min(_FIRST_POLL_SECONDS, self._poll_seconds)
        while True:
            yield pause
            pause = min(2 * pause, self._poll_seconds)

    def _events(self) -> Iterator[StackEvent]:
        """Yield the stack's events, newest first."""
        with translated_aws_errors():
            try:
                pages = self._client.get_paginator("describe_stack_events").paginate(StackName=self.name)
                for page in pages:
                    for event in page["StackEvents"]:
                        yield StackEvent(
                            event["EventId"],
                            event["Timestamp"].isoformat(),
                            event["LogicalResourceId"],
                            event.get("ResourceType", ""),
                            event.get("ResourceStatus", ""),
                            event.get("ResourceStatusReason", ""),
                        )
            except ClientError as error:
                if "does not exist" not in str(error):
                    raise


def _read_change(change: Mapping[str, Any]) -> ResourceChange:
    """Read a ResourceChange. (CloudFormation API reference, data types ResourceChange, ResourceChangeDetail)."""
    properties: dict[str, PropertyChange] = {}
    for detail in change.get("Details", ()):
        target = detail["Target"]
        name = target.get("Name") or target["Attribute"]
        # CloudFormation lists a property once for each cause: the parameter, and the template's own text.
        earlier = properties.get(name)
        properties[name] = PropertyChange(
            name,
            target.get("BeforeValue") or (earlier.before if earlier else None),
            target.get("AfterValue") or (earlier.after if earlier else None),
            target.get("RequiresRecreation") == "Always" or bool(earlier and earlier.replaces),
        )
    return ResourceChange(
        change["Action"],
        change["LogicalResourceId"],
        change["ResourceType"],
        change.get("Replacement", "") if change["Action"] == "Modify" else "",
        list(properties.values()),
    )


def _next_step(status: str, stack: str) -> str:
    """Return what the user can do about a stack in this status."""
    if status == "UPDATE_ROLLBACK_FAILED":
        return (
            "CloudFormation could not roll it back. Fix the resource that `faceq deploy status` names, then: "
            f"aws cloudformation continue-update-rollback --stack-name {stack}"
        )
    if status in ("DELETE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", _NOT_CHANGED):
        return "Fix that and run the same command again."
    if status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"):
        return "AWS cannot update a stack in this state. Delete it, then deploy again: faceq deploy destroy"
    return "See: faceq deploy status"
