"""One CloudFormation stack: what it is now, what a change set would do to it, and doing it while telling the events.

CloudFormation does the work, here is only what it is asked and what its answers mean: a change set is made, read and
thrown away (a plan) or executed; the events of the execution are read until the stack rests; the first resource that
failed, with AWS's reason, is what a person is told. A stack that is at work already, because an earlier command was
interrupted or somebody else deploys, is waited for.

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
from deploy.review import INLINE_BYTES
from pipeline.errors import BadInput, SetupError

#: Time between two looks at a stack, seconds: CloudFormation allows few calls.
LOOK_SECONDS: Final = 2.0
#: How long CloudFormation may take to make a change set, seconds.
_CHANGE_SET_SECONDS: Final = 300.0

#: Statuses of a stack that can be changed.
_READY: Final = frozenset(
    {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"}
)
#: Statuses of a stack that has no resources: a change set was made for it and not executed, or it is gone.
_NOTHING: Final = frozenset({"REVIEW_IN_PROGRESS", "DELETE_COMPLETE"})
#: What CloudFormation says in a change set that changes nothing. (There is no error code for it.)
_NO_CHANGE: Final = ("didn't contain changes", "No updates are to be performed")
#: A status of ours: AWS made no change set.
_NOT_CHANGED: Final = "not changed"
#: Reasons of resources that did not fail themselves.
_CANCELLED: Final = "cancelled"


@dataclass(frozen=True)
class Detail:
    """One property that changes. Values are texts, None where CloudFormation does not tell them."""

    name: str
    before: str | None
    after: str | None
    replaces: bool


@dataclass(frozen=True)
class Change:
    """What happens to one resource.

    Parameters
    ----------
    action : str
        `Add`, `Modify` or `Remove`.
    replacement : str
        `True`, `False`, `Conditional`; empty where nothing is modified.

    """

    action: str
    logical_id: str
    kind: str
    replacement: str = ""
    details: Sequence[Detail] = ()


@dataclass(frozen=True)
class ChangeSet:
    """A change set that can be executed."""

    arn: str
    stack_id: str
    is_first: bool
    changes: Sequence[Change]


@dataclass(frozen=True)
class State:
    """A stack that exists.

    Parameters
    ----------
    status, reason : str
        AWS's words; the reason may be empty.
    parameters, outputs : Mapping of str to str
    changed : str
        When, UTC, ISO 8601.

    """

    status: str
    reason: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    changed: str = ""


@dataclass(frozen=True)
class Event:
    """Something that happened to a resource. `time` is UTC, ISO 8601."""

    id: str
    time: str
    logical_id: str
    kind: str
    status: str
    reason: str

    @property
    def is_failure(self) -> bool:
        """Whether this resource itself failed."""
        return self.status.endswith("_FAILED") and _CANCELLED not in self.reason.lower()


@dataclass(frozen=True)
class Drift:
    """A resource that is not as its stack made it: AWS's status, and `property: expected -> actual` texts."""

    logical_id: str
    status: str
    differences: Sequence[str]


class StackFailedError(SetupError):
    """A stack did not become what it should.

    Parameters
    ----------
    stack, status : str
        What it is now.
    event : Event or None
        The first resource that failed.

    """

    def __init__(self, stack: str, status: str, event: Event | None, reason: str = "") -> None:
        what = (
            f"{event.logical_id} ({event.kind}): {event.reason or event.status}"
            if event is not None
            else reason or "AWS gives no reason"
        )
        super().__init__(
            "stack_failed", f"The stack {stack} is {status}. {' '.join(what.split())} {_way_out(status, stack)}"
        )
        self.status = status
        self.event = event


class Stack:
    """A stack by its name.

    Parameters
    ----------
    client : botocore client
        For CloudFormation.
    name : str
    look_seconds : float
        Time between two looks.

    """

    def __init__(self, client: BaseClient, name: str, look_seconds: float = LOOK_SECONDS) -> None:
        self._client = client
        self.name = name
        self._look_seconds = look_seconds

    def state(self) -> State | None:
        """Return what the stack is, None if there is none or one without resources. Raises FaceqError."""
        found = self._describe()
        return None if found is None or found.status in _NOTHING else found

    def exists(self) -> bool:
        """Tell whether there is a stack, in whatever state. Raises FaceqError."""
        return self._describe() is not None

    def template(self) -> str:
        """Return the template as it was given. Raises FaceqError."""
        with translated_aws_errors():
            body: object = self._client.get_template(StackName=self.name, TemplateStage="Original")["TemplateBody"]
        return body if isinstance(body, str) else _json(body)

    def settled(self, tell: Callable[[Event], None]) -> State | None:
        """Wait until nobody changes the stack; return what it is then. Raises BadInput if it cannot be changed."""
        found = self._describe()
        if found is not None and found.status.endswith("_IN_PROGRESS") and found.status not in _NOTHING:
            found = self._until_rest(set(), tell)
        if found is None or found.status in _NOTHING:
            return None
        if found.status not in _READY:
            raise BadInput(
                "stack_stuck", f"The stack {self.name} is {found.status}. {_way_out(found.status, self.name)}"
            )
        return found

    def prepare(self, template: str, parameters: Mapping[str, str]) -> ChangeSet | None:
        """Make a change set; return None if it would change nothing.

        Raises
        ------
        BadInput
            The template is larger than a call takes.
        FaceqError
            AWS refuses the template or a value.

        """
        if len(template.encode()) > INLINE_BYTES:
            raise BadInput(
                "template_too_large", f"The template has {len(template.encode())} bytes; AWS takes {INLINE_BYTES}."
            )
        is_first = self.state() is None
        with translated_aws_errors():
            made = self._client.create_change_set(
                StackName=self.name,
                ChangeSetName=f"faceq-{uuid.uuid4().hex[:12]}",
                ChangeSetType="CREATE" if is_first else "UPDATE",
                TemplateBody=template,
                Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
                Capabilities=["CAPABILITY_IAM"],
                # A first stack that fails goes, so that the same command can be run again.
                **({"OnStackFailure": "DELETE"} if is_first else {}),
            )
            found = ChangeSet(made["Id"], made["StackId"], is_first, ())
            try:
                changes = self._made(found.arn)
            except BaseException:
                self.discard(found)
                raise
            found = replace(found, changes=changes or ())
            if changes is None:
                self.discard(found)
                return None
        return found

    def discard(self, change_set: ChangeSet) -> None:
        """Throw a change set away, and the empty stack that a first one made. Raises FaceqError."""
        with translated_aws_errors():
            self._client.delete_change_set(ChangeSetName=change_set.arn, StackName=self.name)
            if change_set.is_first and (found := self._describe()) is not None and found.status in _NOTHING:
                self._client.delete_stack(StackName=self.name)

    def execute(self, change_set: ChangeSet, tell: Callable[[Event], None]) -> State:
        """Do what a change set says, telling each event. Raises StackFailedError, and FaceqError."""
        # A first stack that fails is deleted, and is known by its id only.
        made = Stack(self._client, change_set.stack_id, self._look_seconds)
        seen = {event.id for event in made._events()}
        with translated_aws_errors():
            self._client.execute_change_set(ChangeSetName=change_set.arn, StackName=self.name)
        return made._finished(seen, tell, ("CREATE_COMPLETE", "UPDATE_COMPLETE"), self.name)

    def delete(self, tell: Callable[[Event], None]) -> None:
        """Delete the stack with what is in it. Raises StackFailedError, and FaceqError."""
        with translated_aws_errors():
            found = self._client.describe_stacks(StackName=self.name)["Stacks"][0]
            seen = {event.id for event in self._events()}
            self._client.delete_stack(StackName=found["StackId"])
        # A stack that is gone is known by its id only.
        gone = Stack(self._client, found["StackId"], self._look_seconds)
        gone._finished(seen, tell, ("DELETE_COMPLETE",), self.name)

    def drift(self) -> list[Drift]:
        """Return what was changed by hand since the last deploy. Raises FaceqError."""
        with translated_aws_errors():
            detection = self._client.detect_stack_drift(StackName=self.name)["StackDriftDetectionId"]
            while True:
                found = self._client.describe_stack_drift_detection_status(StackDriftDetectionId=detection)
                if found["DetectionStatus"] != "DETECTION_IN_PROGRESS":
                    break
                time.sleep(self._look_seconds)
            if found.get("StackDriftStatus") != "DRIFTED":
                return []
            drifts = self._client.describe_stack_resource_drifts(
                StackName=self.name, StackResourceDriftStatusFilters=["MODIFIED", "DELETED"]
            )["StackResourceDrifts"]
        return [
            Drift(
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
        """Return logical id, type and physical id of each resource. Raises FaceqError."""
        with translated_aws_errors():
            pages = self._client.get_paginator("list_stack_resources").paginate(StackName=self.name)
            return [
                (one["LogicalResourceId"], one["ResourceType"], one.get("PhysicalResourceId", ""))
                for page in pages
                for one in page["StackResourceSummaries"]
            ]

    def _describe(self) -> State | None:
        with translated_aws_errors():
            try:
                found = self._client.describe_stacks(StackName=self.name)["Stacks"][0]
            except ClientError as error:
                # What AWS answers for a stack that is not there. (measured; also LocalStack's recordings)
                if error.response["Error"]["Code"] == "ValidationError" and "does not exist" in str(error):
                    return None
                raise
        return State(
            found["StackStatus"],
            found.get("StackStatusReason", ""),
            {one["ParameterKey"]: one.get("ParameterValue", "") for one in found.get("Parameters", ())},
            {one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", ())},
            (found.get("LastUpdatedTime") or found["CreationTime"]).isoformat(timespec="seconds"),
        )

    def _made(self, arn: str) -> list[Change] | None:
        """Wait for a change set; return its changes, None if there are none."""
        deadline = time.monotonic() + _CHANGE_SET_SECONDS
        while True:
            found = self._client.describe_change_set(ChangeSetName=arn, StackName=self.name, IncludePropertyValues=True)
            reason = found.get("StatusReason", "")
            if found["Status"] == "FAILED":
                if any(words in reason for words in _NO_CHANGE):
                    return None
                raise StackFailedError(self.name, _NOT_CHANGED, None, reason)
            if found["Status"] == "CREATE_COMPLETE":
                break
            if time.monotonic() > deadline:
                raise StackFailedError(
                    self.name, _NOT_CHANGED, None, f"AWS makes no change set: {found['Status']} {reason}"
                )
            time.sleep(self._look_seconds)
        changes = list(found["Changes"])
        while token := found.get("NextToken"):
            found = self._client.describe_change_set(
                ChangeSetName=arn, StackName=self.name, IncludePropertyValues=True, NextToken=token
            )
            changes += found["Changes"]
        return [_change(one["ResourceChange"]) for one in changes] or None

    def _finished(self, seen: set[str], tell: Callable[[Event], None], good: Sequence[str], name: str) -> State:
        failures: list[Event] = []

        def look(event: Event) -> None:
            if event.is_failure and event.logical_id != name:
                failures.append(event)
            tell(event)

        found = self._until_rest(seen, look) or State("DELETE_COMPLETE")
        if found.status in good:
            return found
        raise StackFailedError(name, found.status, failures[0] if failures else None, found.reason)

    def _until_rest(self, seen: set[str], tell: Callable[[Event], None]) -> State | None:
        while True:
            found = self._describe()
            for event in reversed([event for event in self._events() if event.id not in seen]):
                seen.add(event.id)
                tell(event)
            if found is None or not found.status.endswith("_IN_PROGRESS"):
                return found
            time.sleep(self._look_seconds)

    def _events(self) -> Iterator[Event]:
        """Yield the events, newest first."""
        with translated_aws_errors():
            try:
                pages = self._client.get_paginator("describe_stack_events").paginate(StackName=self.name)
                for page in pages:
                    for one in page["StackEvents"]:
                        yield Event(
                            one["EventId"],
                            one["Timestamp"].isoformat(),
                            one["LogicalResourceId"],
                            one.get("ResourceType", ""),
                            one.get("ResourceStatus", ""),
                            one.get("ResourceStatusReason", ""),
                        )
            except ClientError as error:
                if "does not exist" not in str(error):
                    raise


def _change(change: Mapping[str, Any]) -> Change:
    """Read a ResourceChange. (CloudFormation API reference, data types ResourceChange, ResourceChangeDetail)."""
    details: dict[str, Detail] = {}
    for one in change.get("Details", ()):
        target = one["Target"]
        name = target.get("Name") or target["Attribute"]
        # A property is named once for each cause (its parameter, its own text).
        before = details.get(name)
        details[name] = Detail(
            name,
            target.get("BeforeValue") or (before.before if before else None),
            target.get("AfterValue") or (before.after if before else None),
            target.get("RequiresRecreation") == "Always" or bool(before and before.replaces),
        )
    return Change(
        change["Action"],
        change["LogicalResourceId"],
        change["ResourceType"],
        change.get("Replacement", "") if change["Action"] == "Modify" else "",
        list(details.values()),
    )


def _way_out(status: str, name: str) -> str:
    if status == "UPDATE_ROLLBACK_FAILED":
        return (
            "It could not go back by itself. Mend what `faceq deploy status` names, then: "
            f"aws cloudformation continue-update-rollback --stack-name {name}"
        )
    if status in ("DELETE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", _NOT_CHANGED):
        return "Mend that and run the same command again."
    if status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"):
        return "Its creation failed and nothing runs in it. Remove it, then deploy anew: faceq deploy destroy"
    return "See: faceq deploy status"


def _json(body: object) -> str:
    import json

    return json.dumps(body)
