"""CloudFormation: what a template means, what a change set changes, and carrying it out."""

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

from tests.deploy.played.controls import CONTROLS, ResourceError, fail_if_broken, handler_says
from tests.deploy.played.resources import KINDS, Kind, Place, Properties

REMOVED = object()


@cache
def schema(kind: str) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    return schema


def replaces(kind: str) -> set[str]:
    """Return the properties whose change means a new resource."""
    return {path.split("/")[2] for path in schema(kind).get("createOnlyProperties", ())}


def _references(node: Any) -> Iterator[str]:
    """Yield the logical ids that a part of a template names."""
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


def _ordered(resources: Mapping[str, Any]) -> list[str]:
    """Return the logical ids, each after what it needs."""
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


def _without_nothing(value: Any) -> Any:
    """Drop what AWS::NoValue left."""
    if isinstance(value, dict):
        return {key: _without_nothing(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nothing(item) for item in value if item is not None]
    return value


class Meant:
    """A template with its parameters: what it wants, resource by resource, in order."""

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
            for name in _ordered(every)
            if "Condition" not in every[name] or self.map.lazy_condition_map[every[name]["Condition"]]
        }
        # What exists by no condition is nothing, not made when it is looked at.
        for name in every.keys() - self.resources.keys():
            self.map._parsed_resources[name] = None

    def properties(self, name: str) -> Properties:
        """Return a resource's properties; what it refers to must be in the map."""
        cleaned = parsing.clean_json(copy.deepcopy(self.resources[name].get("Properties", {})), self.map)
        result: Properties = _without_nothing(cleaned)
        return result


def _checked(template: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters as text, with defaults; refuse what CloudFormation refuses, in its words."""
    declared = template.get("Parameters", {})
    unknown = [name for name in given if name not in declared]
    if unknown:
        raise invalid(f"Parameters: [{', '.join(unknown)}] do not exist in the template")
    missing = [name for name, one in declared.items() if name not in given and "Default" not in one]
    if missing:
        raise invalid(f"Parameters: [{', '.join(missing)}] must have values")
    values = {name: str(given.get(name, one.get("Default"))) for name, one in declared.items()}
    for name, one in declared.items():
        value = values[name]
        if "AllowedValues" in one and value not in map(str, one["AllowedValues"]):
            allowed = ", ".join(map(str, one["AllowedValues"]))
            raise invalid(f"Template error: Parameter '{name}' must be one of AllowedValues: [{allowed}]")
        if "AllowedPattern" in one and not re.fullmatch(one["AllowedPattern"], value):
            raise invalid(f"Parameter {name} failed to satisfy constraint: must match pattern {one['AllowedPattern']}")
        if one["Type"] == "Number":
            try:
                number = float(value)
            except ValueError:
                raise invalid(f"Parameter '{name}' must be a number.") from None
            if number < one.get("MinValue", number):
                raise invalid(f"Parameter '{name}' must be a number not less than {one['MinValue']}")
            if number > one.get("MaxValue", number):
                raise invalid(f"Parameter '{name}' must be a number not greater than {one['MaxValue']}")
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
    """Stands in a preview for a resource that is not there yet."""

    physical_resource_id = "{{changeSet:KNOWN_AFTER_APPLY}}"

    def get_cfn_attribute(self, name: str) -> str:
        return self.physical_resource_id


def preview(stack: Stack, meant: Meant, with_values: bool) -> list[Change]:
    """Return what carrying out a template would change."""
    now = resources_of(stack)
    changes = []
    for name, resource in meant.resources.items():
        kind = resource["Type"]
        old = now.get(name)
        properties = meant.properties(name)
        if old is None or old.kind != kind:
            change = Change("Add", name, kind)
            meant.map._parsed_resources[name] = _AfterApply()
            if with_values:
                change.after_context = json.dumps({"Properties": properties})
            changes.append(change)
            continue
        meant.map._parsed_resources[name] = old.resource
        names = _changed(old.properties, properties)
        if not names:
            continue
        replaced = bool(replaces(kind) & set(names))
        if replaced:
            meant.map._parsed_resources[name] = _AfterApply()
        change = Change("Modify", name, kind, old.resource.physical_resource_id, str(replaced), ["Properties"])
        change.details = [_detail(kind, one, old.properties, properties, with_values) for one in names]
        if with_values:
            change.before_context = json.dumps({"Properties": old.properties})
            change.after_context = json.dumps({"Properties": properties})
        changes.append(change)
    for name in reversed(list(now)):
        if name not in meant.resources:
            old = now[name]
            removed = Change("Remove", name, old.kind, old.resource.physical_resource_id)
            if with_values:
                removed.before_context = json.dumps({"Properties": old.properties})
            changes.append(removed)
    return changes


def _changed(before: Properties, after: Properties) -> list[str]:
    return [name for name in {**before, **after} if before.get(name, REMOVED) != after.get(name, REMOVED)]


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
class Held:
    """A resource of a stack, as it was last made."""

    kind: str
    resource: Any
    properties: Properties
    template: Mapping[str, Any]


def resources_of(stack: Stack) -> dict[str, Held]:
    if not hasattr(stack, "held"):
        stack.held = {}
    held: dict[str, Held] = stack.held
    return held


class Execution:
    """Carries out a template, in the order of what needs what; undoes all of it if one resource fails."""

    def __init__(self, stack: Stack, meant: Meant, body: str, on_failure: str = "ROLLBACK") -> None:
        self.stack, self.meant, self.body, self.on_failure = stack, meant, body, on_failure
        self.place = Place(stack.account_id, stack.region_name)
        self.creating = not resources_of(stack)
        self.word = "CREATE" if self.creating else "UPDATE"
        self.undo: list[Callable[[], None]] = []
        self.cleanup: list[tuple[str, Held]] = []

    def run(self) -> None:
        stack = self.stack
        before = dict(resources_of(stack))
        after: dict[str, Held] = {}
        failed: list[tuple[str, str]] = []
        for name, resource in self.meant.resources.items():
            try:
                after[name] = self._apply(name, resource, before.get(name))
            except (ResourceError, ServiceException, HTTPException, KeyError, ValueError) as error:
                failed.append((name, self._said(error)))
                break
        if failed and self.creating and self.on_failure == "DELETE":
            stack.held = after
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
        for name, held in self.cleanup:
            self._delete(name, held, "UpdateReplacePolicy")
        for name, held in gone:
            self._delete(name, held, "DeletionPolicy")
        stack.held = after
        self._adopt()
        self._status(f"{self.word}_COMPLETE")

    def _adopt(self) -> None:
        stack = self.stack
        stack.template = self.body
        stack.template_dict = dict(self.meant.template)
        stack.description = self.meant.template.get("Description")
        stack.parameters = dict(self.meant.parameters)
        stack.resource_map = self.meant.map
        stack.output_map = OutputMap(self.meant.map, dict(self.meant.template), stack.stack_id)

    def _said(self, error: Exception) -> str:
        if isinstance(error, ResourceError):
            return str(error)
        return handler_says(str(getattr(error, "message", error)))

    def _apply(self, name: str, resource: Mapping[str, Any], old: Held | None) -> Held:
        kind = resource["Type"]
        properties = self.meant.properties(name)
        if old is not None and old.kind == kind:
            changed = _changed(old.properties, properties)
            if not changed:
                self._keep(name, old.resource)
                return Held(kind, old.resource, old.properties, resource)
            if not replaces(kind) & set(changed):
                return self._update(name, resource, old, properties)
            self._event(
                name, kind, "UPDATE_IN_PROGRESS", old.resource.physical_resource_id,
                "Requested update requires the creation of a new physical resource; hence creating one.",
            )  # fmt: skip
        held = self._create(name, resource, properties, "UPDATE" if old is not None else "CREATE")
        if old is not None:
            self.cleanup.append((name, old))
        return held

    def _keep(self, name: str, resource: Any) -> None:
        self.meant.map._parsed_resources[name] = resource

    def _create(self, name: str, resource: Mapping[str, Any], properties: Properties, word: str) -> Held:
        kind = resource["Type"]
        if word == "CREATE":
            self._event(name, kind, "CREATE_IN_PROGRESS")
        try:
            self._pause()
            fail_if_broken(name, "create" if word == "CREATE" else "update")
            made = self._made(name, kind, properties)
        except Exception as error:
            self._event(name, kind, f"{word}_FAILED", "", self._said(error))
            raise
        made.cf_resource_type, made.logical_resource_id = kind, name
        self._keep(name, made)
        held = Held(kind, made, properties, resource)
        self._event(name, kind, f"{word}_COMPLETE", made.physical_resource_id)
        self.undo.append(lambda: self._delete(name, held, ""))
        return held

    def _made(self, name: str, kind: str, properties: Properties) -> Any:
        own = KINDS.get(kind, Kind())
        model = parsing.get_model_map().get(kind)
        named = model.cloudformation_name_type() if model else None
        physical = str(properties.get(named) or parsing.generate_resource_name(kind, self.stack.name, name))
        given = copy.deepcopy(properties)
        if own.create is not None:
            return own.create(self.place, physical, given)
        if model is None:
            raise ResourceError(f"moto has no {kind}; tests/deploy/played/resources.py must play it.")
        return model.create_from_cloudformation_json(
            physical, {"Type": kind, "Properties": given}, self.place.account, self.place.region,
            LogicalId=name, StackId=self.stack.stack_id, ResourceType=kind,
        )  # fmt: skip

    def _update(self, name: str, resource: Mapping[str, Any], old: Held, properties: Properties) -> Held:
        kind, made = old.kind, old.resource
        self._event(name, kind, "UPDATE_IN_PROGRESS", made.physical_resource_id)
        try:
            self._pause()
            fail_if_broken(name, "update")
            changed = self._updated(kind, made, properties)
        except Exception as error:
            self._event(name, kind, "UPDATE_FAILED", made.physical_resource_id, self._said(error))
            raise
        changed.cf_resource_type, changed.logical_resource_id = kind, name
        self._keep(name, changed)
        self._event(name, kind, "UPDATE_COMPLETE", changed.physical_resource_id)

        def back() -> None:
            self._event(name, kind, "UPDATE_IN_PROGRESS", changed.physical_resource_id)
            self._pause()
            self._updated(kind, changed, old.properties)
            self._event(name, kind, "UPDATE_COMPLETE", changed.physical_resource_id)

        self.undo.append(back)
        return Held(kind, changed, properties, resource)

    def _updated(self, kind: str, made: Any, properties: Properties) -> Any:
        own = KINDS.get(kind, Kind())
        given = copy.deepcopy(properties)
        if own.update is not None:
            return own.update(self.place, made, given)
        model = parsing.get_model_map()[kind]
        return model.update_from_cloudformation_json(
            made, made.physical_resource_id, {"Type": kind, "Properties": given}, self.place.account, self.place.region
        )

    def _delete(self, name: str, held: Held, policy: str) -> None:
        kind, physical = held.kind, held.resource.physical_resource_id
        if held.template.get(policy) in ("Retain", "RetainExceptOnCreate"):
            self._event(name, kind, "DELETE_SKIPPED", physical)
            return
        self._event(name, kind, "DELETE_IN_PROGRESS", physical)
        try:
            self._pause()
            fail_if_broken(name, "delete")
            own = KINDS.get(kind, Kind())
            if own.delete is not None:
                own.delete(self.place, held.resource)
            elif "delete" in dir(held.resource):
                held.resource.delete(self.place.account, self.place.region)
            else:
                parsing.get_model_map()[kind].delete_from_cloudformation_json(
                    physical, {"Type": kind, "Properties": held.properties}, self.place.account, self.place.region
                )
        except Exception as error:
            self._event(name, kind, "DELETE_FAILED", physical, self._said(error))
            raise
        self._event(name, kind, "DELETE_COMPLETE", physical)

    def _roll_back(self, before: dict[str, Held], name: str, reason: str) -> None:
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
        stack.held = before
        if self.creating:
            stack.template_dict, stack.template = dict(self.meant.template), self.body
            stack.parameters = dict(self.meant.parameters)
            self._status("ROLLBACK_COMPLETE")
            return
        self._status("UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS")
        self._status("UPDATE_ROLLBACK_COMPLETE")

    def delete_all(self) -> None:
        """Remove the stack's resources, last made first."""
        stack = self.stack
        held = resources_of(stack)
        for name in reversed(_ordered({name: dict(one.template) for name, one in held.items()})):
            try:
                self._delete(name, held[name], "DeletionPolicy")
            except (ResourceError, ServiceException, HTTPException, KeyError, ValueError):
                self._status("DELETE_FAILED", f"The following resource(s) failed to delete: [{name}]. ")
                return
            del held[name]
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
        STATUS[stack.stack_id, name] = (status, reason)


STATUS: dict[tuple[str, str], tuple[str, str | None]] = {}


_AT_WORK: list[threading.Thread] = []


def in_background(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    _AT_WORK.append(thread)
    thread.start()


def finish() -> None:
    """Wait until every change set and removal that is under way has ended."""
    while _AT_WORK:
        _AT_WORK.pop().join()
