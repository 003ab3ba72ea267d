"""What CloudFormation does with a stack: resolve a template, preview a change set, execute it, roll it back."""

import copy
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from moto.cloudformation import parsing
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import Event, OutputMap, Stack, cloudformation_backends
from moto.core.exceptions import ServiceException
from werkzeug.exceptions import HTTPException

from tests.deploy.fake_aws.controls import CONTROLS, ResourceError, fail_if_broken, handler_message
from tests.deploy.fake_aws.resource_types import RESOURCE_TYPES, Location, Properties, ResourceType

_MISSING = object()


@cache
def schema(kind: str) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    return schema


def replaces(kind: str) -> set[str]:
    """Return the properties of a type whose change makes CloudFormation replace the resource."""
    return {path.split("/")[2] for path in schema(kind).get("createOnlyProperties", ())}


def _references(node: Any) -> Iterator[str]:
    """Yield the logical ids that a part of a template refers to."""
    if isinstance(node, list):
        for item in node:
            yield from _references(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "Ref":
                yield value
            elif key == "Fn::GetAtt":
                yield value[0]
            elif key == "Fn::Sub":
                text = value[0] if isinstance(value, list) else value
                yield from (name.split(".")[0] for name in re.findall(r"\$\{([A-Za-z0-9.:]+)\}", text))
                yield from _references(value[1:] if isinstance(value, list) else [])
            else:
                yield from _references(value)


def _in_order_of_creation(resources: Mapping[str, Any]) -> list[str]:
    """Return the logical ids, each after the resources that it depends on."""
    done: list[str] = []

    def visit(name: str) -> None:
        if name in done or name not in resources:
            return
        needs = resources[name].get("DependsOn", [])
        for need in [*([needs] if isinstance(needs, str) else needs), *_references(resources[name])]:
            if need != name:
                visit(need)
        done.append(name)

    for name in resources:
        visit(name)
    return done


def _without_no_values(value: Any) -> Any:
    """Drop the nulls that moto makes of AWS::NoValue."""
    if isinstance(value, dict):
        return {key: _without_no_values(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_no_values(item) for item in value if item is not None]
    return value


class ResolvedTemplate:
    """A template with its parameters: the resources that it describes, in the order of their dependencies."""

    def __init__(self, stack: Stack, template: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        self.template = template
        self.parameters = _checked(template, parameters)
        self.map = parsing.ResourceMap(
            stack.stack_id, stack.name, dict(self.parameters), stack.tags, stack.region_name, stack.account_id,
            dict(template), {},
        )  # fmt: skip
        self.map.load_mapping()
        self.map.load_parameters()
        self.map.load_conditions()
        every = template["Resources"]
        self.resources = {
            name: every[name]
            for name in _in_order_of_creation(every)
            if "Condition" not in every[name] or self.map.lazy_condition_map[every[name]["Condition"]]
        }
        # Without this entry, moto's map would create a resource whose condition is false.
        for name in every.keys() - self.resources.keys():
            self.map._parsed_resources[name] = None

    def properties(self, name: str) -> Properties:
        """Return a resource's properties; the resources that it refers to must be in the map."""
        cleaned = parsing.clean_json(copy.deepcopy(self.resources[name].get("Properties", {})), self.map)
        result: Properties = _without_no_values(cleaned)
        return result


def _checked(template: Mapping[str, Any], parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters as text, with defaults; raise CloudFormation's own errors for invalid ones."""
    declared = template.get("Parameters", {})
    unknown = [name for name in parameters if name not in declared]
    if unknown:
        raise invalid(f"Parameters: [{', '.join(unknown)}] do not exist in the template")
    missing = [
        name for name, declaration in declared.items() if name not in parameters and "Default" not in declaration
    ]
    if missing:
        raise invalid(f"Parameters: [{', '.join(missing)}] must have values")
    values = {name: str(parameters.get(name, declaration.get("Default"))) for name, declaration in declared.items()}
    for name, declaration in declared.items():
        value = values[name]
        if "AllowedValues" in declaration and value not in map(str, declaration["AllowedValues"]):
            allowed = ", ".join(map(str, declaration["AllowedValues"]))
            raise invalid(f"Template error: Parameter '{name}' must be one of AllowedValues: [{allowed}]")
        if "AllowedPattern" in declaration and not re.fullmatch(declaration["AllowedPattern"], value):
            raise invalid(
                f"Parameter {name} failed to satisfy constraint: must match pattern {declaration['AllowedPattern']}"
            )
        if declaration["Type"] == "Number":
            try:
                number = float(value)
            except ValueError:
                raise invalid(f"Parameter '{name}' must be a number.") from None
            if number < declaration.get("MinValue", number):
                raise invalid(f"Parameter '{name}' must be a number not less than {declaration['MinValue']}")
            if number > declaration.get("MaxValue", number):
                raise invalid(f"Parameter '{name}' must be a number not greater than {declaration['MaxValue']}")
    return values


def invalid(message: str) -> ServiceException:
    return ValidationError(message=message)


@dataclass
class Change:
    """One entry of a change set, under the names that moto's serialiser looks for."""

    action: str
    logical_resource_id: str
    resource_type: str
    physical_resource_id: str | None = None
    replacement: str | None = None
    scope: list[str] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    before_context: str | None = None
    after_context: str | None = None


class _AfterApply:
    """Placeholder in a preview for a resource that does not exist yet."""

    physical_resource_id = "{{changeSet:KNOWN_AFTER_APPLY}}"

    def get_cfn_attribute(self, name: str) -> str:
        return self.physical_resource_id


def preview(stack: Stack, resolved: ResolvedTemplate, with_values: bool) -> list[Change]:
    """Return the changes that executing a template would make."""
    now = resources_of(stack)
    changes = []
    for name, resource in resolved.resources.items():
        kind = resource["Type"]
        old = now.get(name)
        properties = resolved.properties(name)
        if old is None or old.kind != kind:
            change = Change("Add", name, kind)
            resolved.map._parsed_resources[name] = _AfterApply()
            if with_values:
                change.after_context = json.dumps({"Properties": properties})
            changes.append(change)
            continue
        resolved.map._parsed_resources[name] = old.resource
        names = _changed(old.properties, properties)
        if not names:
            continue
        replaced = bool(replaces(kind) & set(names))
        if replaced:
            resolved.map._parsed_resources[name] = _AfterApply()
        change = Change("Modify", name, kind, old.resource.physical_resource_id, str(replaced), ["Properties"])
        change.details = [
            _detail(kind, property_name, old.properties, properties, with_values) for property_name in names
        ]
        if with_values:
            change.before_context = json.dumps({"Properties": old.properties})
            change.after_context = json.dumps({"Properties": properties})
        changes.append(change)
    for name in reversed(list(now)):
        if name not in resolved.resources:
            old = now[name]
            removed = Change("Remove", name, old.kind, old.resource.physical_resource_id)
            if with_values:
                removed.before_context = json.dumps({"Properties": old.properties})
            changes.append(removed)
    return changes


def _changed(before: Properties, after: Properties) -> list[str]:
    return [name for name in {**before, **after} if before.get(name, _MISSING) != after.get(name, _MISSING)]


def _detail(kind: str, name: str, before: Properties, after: Properties, with_values: bool) -> dict[str, Any]:
    target: dict[str, Any] = {
        "Attribute": "Properties",
        "Name": name,
        "RequiresRecreation": "Always" if name in replaces(kind) else "Never",
        "Path": f"/Properties/{name}",
        "AttributeChangeType": "Modify" if name in before and name in after else "Add" if name in after else "Remove",
    }
    if with_values:
        if name in before:
            target["BeforeValue"] = text_of(before[name])
        if name in after:
            target["AfterValue"] = text_of(after[name])
    return {"Target": target, "Evaluation": "Static", "ChangeSource": "DirectModification"}


def text_of(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


@dataclass
class StackResource:
    """A resource of a stack, with the template and the properties from which it was last created or updated."""

    kind: str
    resource: Any
    properties: Properties
    template: Mapping[str, Any]


def resources_of(stack: Stack) -> dict[str, StackResource]:
    if not hasattr(stack, "resource_records"):
        stack.resource_records = {}
    records: dict[str, StackResource] = stack.resource_records
    return records


class Execution:
    """Executes a template in the order of its dependencies, and undoes everything if a resource fails."""

    def __init__(self, stack: Stack, resolved: ResolvedTemplate, body: str, on_failure: str = "ROLLBACK") -> None:
        self.stack, self.resolved, self.body, self.on_failure = stack, resolved, body, on_failure
        self.location = Location(stack.account_id, stack.region_name)
        self.creating = not resources_of(stack)
        self.action = "CREATE" if self.creating else "UPDATE"
        self.undo: list[Callable[[], None]] = []
        self.cleanup: list[tuple[str, StackResource]] = []

    def run(self) -> None:
        stack = self.stack
        before = dict(resources_of(stack))
        after: dict[str, StackResource] = {}
        failed: list[tuple[str, str]] = []
        for name, resource in self.resolved.resources.items():
            try:
                after[name] = self._apply(name, resource, before.get(name))
            except (ResourceError, ServiceException, HTTPException, KeyError, ValueError) as error:
                failed.append((name, self._reason(error)))
                break
        if failed and self.creating and self.on_failure == "DELETE":
            stack.resource_records = after
            reason = f"The following resource(s) failed to create: [{failed[0][0]}]. Delete requested by user."
            self._status("DELETE_IN_PROGRESS", reason)
            self.delete_all()
            return
        if failed:
            self._roll_back(before, *failed[0])
            return
        gone = [(name, before[name]) for name in reversed(list(before)) if name not in after]
        if not self.creating and (gone or self.cleanup):
            self._status("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
        for name, entry in self.cleanup:
            self._delete(name, entry, "UpdateReplacePolicy")
        for name, entry in gone:
            self._delete(name, entry, "DeletionPolicy")
        stack.resource_records = after
        self._adopt()
        self._status(f"{self.action}_COMPLETE")

    def _adopt(self) -> None:
        stack = self.stack
        stack.template = self.body
        stack.template_dict = dict(self.resolved.template)
        stack.description = self.resolved.template.get("Description")
        stack.parameters = dict(self.resolved.parameters)
        stack.resource_map = self.resolved.map
        stack.output_map = OutputMap(self.resolved.map, dict(self.resolved.template), stack.stack_id)

    def _reason(self, error: Exception) -> str:
        if isinstance(error, ResourceError):
            return str(error)
        return handler_message(str(getattr(error, "message", error)))

    def _apply(self, name: str, resource: Mapping[str, Any], old: StackResource | None) -> StackResource:
        kind = resource["Type"]
        properties = self.resolved.properties(name)
        if old is not None and old.kind == kind:
            changed = _changed(old.properties, properties)
            if not changed:
                self._keep(name, old.resource)
                return StackResource(kind, old.resource, old.properties, resource)
            if not replaces(kind) & set(changed):
                return self._update(name, resource, old, properties)
            self._event(
                name, kind, "UPDATE_IN_PROGRESS", old.resource.physical_resource_id,
                "Requested update requires the creation of a new physical resource; hence creating one.",
            )  # fmt: skip
        entry = self._create(name, resource, properties, "UPDATE" if old is not None else "CREATE")
        if old is not None:
            self.cleanup.append((name, old))
        return entry

    def _keep(self, name: str, resource: Any) -> None:
        self.resolved.map._parsed_resources[name] = resource

    def _create(self, name: str, resource: Mapping[str, Any], properties: Properties, word: str) -> StackResource:
        kind = resource["Type"]
        if word == "CREATE":
            self._event(name, kind, "CREATE_IN_PROGRESS")
        try:
            self._pause()
            fail_if_broken(name, "create" if word == "CREATE" else "update")
            created = self._create_resource(name, kind, properties)
        except Exception as error:
            self._event(name, kind, f"{word}_FAILED", "", self._reason(error))
            raise
        created.cf_resource_type, created.logical_resource_id = kind, name
        self._keep(name, created)
        entry = StackResource(kind, created, properties, resource)
        self._event(name, kind, f"{word}_COMPLETE", created.physical_resource_id)
        self.undo.append(lambda: self._delete(name, entry, ""))
        return entry

    def _create_resource(self, name: str, kind: str, properties: Properties) -> Any:
        own = RESOURCE_TYPES.get(kind, ResourceType())
        model = parsing.get_model_map().get(kind)
        named = model.cloudformation_name_type() if model else None
        physical = str(properties.get(named) or parsing.generate_resource_name(kind, self.stack.name, name))
        own_properties = copy.deepcopy(properties)
        if own.create is not None:
            return own.create(self.location, physical, own_properties)
        if model is None:
            raise ResourceError(f"moto has no {kind}; tests/deploy/fake_aws/resource_types.py must emulate it.")
        return model.create_from_cloudformation_json(
            physical, {"Type": kind, "Properties": own_properties}, self.location.account, self.location.region,
            LogicalId=name, StackId=self.stack.stack_id, ResourceType=kind,
        )  # fmt: skip

    def _update(
        self, name: str, resource: Mapping[str, Any], old: StackResource, properties: Properties
    ) -> StackResource:
        kind, current = old.kind, old.resource
        self._event(name, kind, "UPDATE_IN_PROGRESS", current.physical_resource_id)
        try:
            self._pause()
            fail_if_broken(name, "update")
            changed = self._update_resource(kind, current, properties)
        except Exception as error:
            self._event(name, kind, "UPDATE_FAILED", current.physical_resource_id, self._reason(error))
            raise
        changed.cf_resource_type, changed.logical_resource_id = kind, name
        self._keep(name, changed)
        self._event(name, kind, "UPDATE_COMPLETE", changed.physical_resource_id)

        def back() -> None:
            self._event(name, kind, "UPDATE_IN_PROGRESS", changed.physical_resource_id)
            self._pause()
            self._update_resource(kind, changed, old.properties)
            self._event(name, kind, "UPDATE_COMPLETE", changed.physical_resource_id)

        self.undo.append(back)
        return StackResource(kind, changed, properties, resource)

    def _update_resource(self, kind: str, current: Any, properties: Properties) -> Any:
        own = RESOURCE_TYPES.get(kind, ResourceType())
        own_properties = copy.deepcopy(properties)
        if own.update is not None:
            return own.update(self.location, current, own_properties)
        model = parsing.get_model_map()[kind]
        return model.update_from_cloudformation_json(
            current,
            current.physical_resource_id,
            {"Type": kind, "Properties": own_properties},
            self.location.account,
            self.location.region,
        )

    def _delete(self, name: str, entry: StackResource, policy: str) -> None:
        kind, physical = entry.kind, entry.resource.physical_resource_id
        if entry.template.get(policy) in ("Retain", "RetainExceptOnCreate"):
            self._event(name, kind, "DELETE_SKIPPED", physical)
            return
        self._event(name, kind, "DELETE_IN_PROGRESS", physical)
        try:
            self._pause()
            fail_if_broken(name, "delete")
            own = RESOURCE_TYPES.get(kind, ResourceType())
            if own.delete is not None:
                own.delete(self.location, entry.resource)
            elif "delete" in dir(entry.resource):
                entry.resource.delete(self.location.account, self.location.region)
            else:
                parsing.get_model_map()[kind].delete_from_cloudformation_json(
                    physical,
                    {"Type": kind, "Properties": entry.properties},
                    self.location.account,
                    self.location.region,
                )
        except Exception as error:
            self._event(name, kind, "DELETE_FAILED", physical, self._reason(error))
            raise
        self._event(name, kind, "DELETE_COMPLETE", physical)

    def _roll_back(self, before: dict[str, StackResource], name: str, reason: str) -> None:
        stack = self.stack
        if self.creating:
            self._status(
                "ROLLBACK_IN_PROGRESS",
                f"The following resource(s) failed to create: [{name}]. Rollback requested by user.",
            )
        else:
            self._status("UPDATE_ROLLBACK_IN_PROGRESS", f"The following resource(s) failed to update: [{name}].")
        for step in reversed(self.undo):
            step()
        stack.resource_records = before
        if self.creating:
            stack.template_dict, stack.template = dict(self.resolved.template), self.body
            stack.parameters = dict(self.resolved.parameters)
            self._status("ROLLBACK_COMPLETE")
            return
        self._status("UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS")
        self._status("UPDATE_ROLLBACK_COMPLETE")

    def delete_all(self) -> None:
        """Delete the stack's resources, the last created first."""
        stack = self.stack
        records = resources_of(stack)
        for name in reversed(_in_order_of_creation({name: dict(record.template) for name, record in records.items()})):
            try:
                self._delete(name, records[name], "DeletionPolicy")
            except (ResourceError, ServiceException, HTTPException, KeyError, ValueError):
                self._status("DELETE_FAILED", f"The following resource(s) failed to delete: [{name}]. ")
                return
            del records[name]
        self._status("DELETE_COMPLETE")
        backend = cloudformation_backends[stack.account_id][stack.region_name]
        backend.stacks.pop(stack.stack_id, None)
        backend.deleted_stacks[stack.stack_id] = stack

    def _pause(self) -> None:
        time.sleep(CONTROLS.pace)

    def _status(self, status: str, reason: str | None = None) -> None:
        self.stack._add_stack_event(status, resource_status_reason=reason)
        self.stack.status, self.stack.stack_status_reason = status, reason

    def _event(self, name: str, kind: str, status: str, physical: str | None = "", reason: str | None = None) -> None:
        stack = self.stack
        stack.events.append(Event(stack.stack_id, stack.name, name, physical or "", kind, status, reason, None))
        RESOURCE_STATUS[stack.stack_id, name] = (status, reason)


RESOURCE_STATUS: dict[tuple[str, str], tuple[str, str | None]] = {}


_threads: list[threading.Thread] = []


def in_background(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    _threads.append(thread)
    thread.start()


def finish() -> None:
    """Wait until every change and deletion in progress has ended."""
    while _threads:
        _threads.pop().join()
