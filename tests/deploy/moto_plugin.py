"""What moto 5.2.5 lacks of the AWS that `faceq deploy` uses, and where moto is not as AWS is.

moto's server holds the resources; this module puts its own CloudFormation before them. The template is never bent to the
mock. Where moto differs from AWS:

- CloudFormation has no `AWS::Lambda::Url`, `AWS::Lambda::Alias`, `AWS::CloudWatch::Alarm`; a `AWS::Lambda::Version` and
  a `AWS::Lambda::Permission` cannot be removed or replaced.
- A change set names resources only. AWS names each property, the value before and after, and whether the resource is
  replaced (CloudFormation API reference, "ResourceChangeDetail"); which properties replace comes from AWS's resource
  schemas, as cfn-lint carries them.
- Executing a change set happens inside the call and cannot fail; there are no events of resources and no rolling back.
- A parameter that only `Fn::Sub` names, or a resource that depends on a changed one, is not updated; an
  `AWS::NoValue` in a list stays as null; limits, capabilities, allowed values and patterns are not checked.
- Updating a Lambda function changes the code of published versions too, and leaves ImageConfig, Architectures,
  LoggingConfig, KmsKeyArn and concurrency; creating one through CloudFormation leaves them out.
- Updating a role leaves its policies, updating a queue all but two attributes, creating a bucket its versioning, creating
  a repository its lifecycle policy. A log group's Arn lacks the `:*` at its end.
- SQS hands a message to a mapped function inside SendMessage, in a container of its own. Mappings are inert here.
- ECR's repositories are names without a registry. Here a real one stands behind them.
- Drift detection is missing.
"""

import copy
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection
from typing import Any

from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from moto.awslambda.models import LambdaBackend, LambdaFunction, lambda_backends
from moto.cloudformation import parsing
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import (
    CloudFormationBackend,
    Event,
    OutputMap,
    Stack,
    cloudformation_backends,
)
from moto.cloudformation.responses import CloudFormationResponse
from moto.cloudformation.utils import generate_changeset_id, generate_stack_id
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, EmptyResult
from moto.core.utils import utcnow
from moto.ecr.models import ECRBackend, Image, Repository, ecr_backends
from moto.ecr.responses import ECRResponse
from moto.iam.models import iam_backends
from moto.logs.models import LogGroup, logs_backends
from moto.s3.models import s3_backends
from moto.sqs.models import Queue, sqs_backends
from werkzeug.exceptions import HTTPException

#: Bytes of a template in a request. (CloudFormation user guide, "Understand CloudFormation quotas")
TEMPLATE_BYTES = 51_200
MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.index.v1+json"
)
REMOVED = object()
#: User and password of the registry: `AWS` and `testing`, as base64.
TOKEN = "QVdTOnRlc3Rpbmc="


@dataclass
class Break:
    """A resource that is to fail: at `when` ("create", "update", "delete"), or at whatever comes."""

    resource: str
    reason: str
    when: str | None
    times: int


@dataclass
class Controls:
    """What tests set: see tests.deploy.cloud.Cloud."""

    region: str = "us-east-1"
    url: str = ""
    registry: str = ""
    storage: str = ""
    pace: float = 0.0
    token: str = TOKEN
    breaks: list[Break] = field(default_factory=list)
    drifts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def mend(self) -> None:
        self.breaks.clear()
        self.drifts.clear()
        self.pace, self.token = 0.0, TOKEN


CONTROLS = Controls()


class Failed(Exception):
    """A resource failed; the text is the event's ResourceStatusReason."""


class Thing:
    """A resource that moto's CloudFormation does not know."""

    def __init__(self, physical_resource_id: str, **attributes: str) -> None:
        self.physical_resource_id = physical_resource_id
        self.attributes = attributes

    def get_cfn_attribute(self, name: str) -> str:
        return self.attributes[name]

    def is_created(self) -> bool:
        return True


# --------------------------------------------------------------------------------------------------------------------
# The resources: how each type is made, changed, removed. What is not here is moto's own.


@dataclass(frozen=True)
class Place:
    account: str
    region: str


Properties = dict[str, Any]


def _functions(place: Place) -> LambdaBackend:
    return lambda_backends[place.account][place.region]


def _configure(function: LambdaFunction, properties: Properties) -> None:
    """Set what moto leaves out, with CloudFormation's defaults for what the template leaves out."""
    function.code = dict(function.code)
    function.environment_vars = {
        name: str(value) for name, value in properties.get("Environment", {}).get("Variables", {}).items()
    }
    function.memory_size = int(properties.get("MemorySize", 128))
    function.timeout = int(properties.get("Timeout", 3))
    function.description = properties.get("Description", "")
    function.role = properties["Role"]
    function.package_type = properties.get("PackageType", "Zip")
    function.architectures = properties.get("Architectures", ["x86_64"])
    function.kms_key_arn = properties.get("KmsKeyArn")
    function.reserved_concurrency = properties.get("ReservedConcurrentExecutions")
    function._vpc_config = properties.get("VpcConfig")
    function.image_config.cmd = properties.get("ImageConfig", {}).get("Command", [])
    function.logging_config = {"LogFormat": "Text", **properties.get("LoggingConfig", {})}
    function.code_or_config_updated = True


def create_function(place: Place, name: str, properties: Properties) -> LambdaFunction:
    if name in _functions(place)._lambdas._functions:
        raise Failed(_handler(f"{name} already exists", "AlreadyExists"))
    function = LambdaFunction.create_from_cloudformation_json(
        name, {"Properties": properties}, place.account, place.region
    )
    _configure(function, properties)
    return function


def update_function(place: Place, function: LambdaFunction, properties: Properties) -> LambdaFunction:
    # Published versions share this dictionary with the function.
    function.code = dict(function.code)
    function.update_function_code(properties["Code"])
    _configure(function, properties)
    return function


def create_version(place: Place, name: str, properties: Properties) -> Thing:
    function = _functions(place).get_function(properties["FunctionName"])
    last = getattr(function, "last_version", 0)
    if last and not function.code_or_config_updated:
        raise Failed(
            _handler(
                f"A version for this Lambda function exists ( {last} ). Modify the function to create a new version.",
                "AlreadyExists",
            )
        )
    function.code_or_config_updated = True
    version = _functions(place).publish_version(function.function_name, properties.get("Description", ""))
    function.code_or_config_updated = False
    function.last_version = last + 1  # a number is never given twice; moto counts the versions there are
    version.set_version(function.last_version)
    return Thing(version.function_arn, Version=str(version.version), FunctionArn=version.function_arn)


def delete_version(place: Place, version: Thing) -> None:
    name = version.physical_resource_id.split(":")[-2]
    versions = _functions(place)._lambdas._functions[name]["versions"]
    versions[:] = [one for one in versions if str(one.version) != version.attributes["Version"]]


def create_alias(place: Place, name: str, properties: Properties) -> Thing:
    alias = _functions(place).create_alias(
        properties["Name"], properties["FunctionName"], properties["FunctionVersion"], "", ""
    )
    made = Thing(alias.arn, AliasArn=alias.arn)
    _provision(place, properties)
    return made


def update_alias(place: Place, alias: Thing, properties: Properties) -> Thing:
    _functions(place).update_alias(
        properties["Name"], properties["FunctionName"], properties["FunctionVersion"], "", ""
    )
    _provision(place, properties)
    return alias


def _provision(place: Place, properties: Properties) -> None:
    function = _functions(place).get_function(properties["FunctionName"])
    function.provisioned = properties.get("ProvisionedConcurrencyConfig", {})


def delete_alias(place: Place, alias: Thing) -> None:
    function, name = alias.physical_resource_id.split(":")[-2:]
    _functions(place).delete_alias(name, function)


def create_url(place: Place, name: str, properties: Properties) -> Thing:
    function = _functions(place).get_function(properties["TargetFunctionArn"])
    config = function.create_url_config({"AuthType": properties["AuthType"]})
    config.url = CONTROLS.url
    config.qualifier = properties.get("Qualifier", "$LATEST")
    arn = ":".join(filter(None, [function.function_arn, properties.get("Qualifier")]))
    return Thing(arn, FunctionUrl=config.url, FunctionArn=arn)


def update_url(place: Place, url: Thing, properties: Properties) -> Thing:
    _functions(place).get_function(properties["TargetFunctionArn"]).url_config.update(
        {"AuthType": properties["AuthType"]}
    )
    return url


def delete_url(place: Place, url: Thing) -> None:
    _functions(place).get_function(url.physical_resource_id.split(":")[6]).delete_url_config()


def create_permission(place: Place, name: str, properties: Properties) -> Thing:
    arn = properties["FunctionName"]
    function = _functions(place).get_function(arn.split(":")[6] if arn.startswith("arn:") else arn.split(":")[0])
    sid = name[:100]
    function.policy.statements.append(
        {
            "Sid": sid,
            "Effect": "Allow",
            "Principal": properties["Principal"],
            "Action": properties["Action"],
            "Resource": arn if arn.startswith("arn:") else function.function_arn,
            "Condition": _permission_condition(properties),
        }
    )
    return Thing(sid, Id=sid, function=function.function_name)


def _permission_condition(properties: Properties) -> dict[str, Any]:
    condition: dict[str, Any] = {}
    if "FunctionUrlAuthType" in properties:
        condition["StringEquals"] = {"lambda:FunctionUrlAuthType": properties["FunctionUrlAuthType"]}
    if "InvokedViaFunctionUrl" in properties:
        condition["Bool"] = {"lambda:InvokedViaFunctionUrl": str(properties["InvokedViaFunctionUrl"]).lower()}
    return condition


def delete_permission(place: Place, permission: Thing) -> None:
    policy = _functions(place).get_function(permission.attributes["function"]).policy
    policy.statements = [one for one in policy.statements if one.get("Sid") != permission.physical_resource_id]


def create_alarm(place: Place, name: str, properties: Properties) -> Thing:
    name = properties.get("AlarmName", name)
    cloudwatch_backends[place.account][place.region].put_metric_alarm(
        name=name,
        namespace=properties["Namespace"],
        metric_name=properties["MetricName"],
        comparison_operator=properties["ComparisonOperator"],
        evaluation_periods=properties["EvaluationPeriods"],
        period=properties["Period"],
        threshold=float(properties["Threshold"]),
        statistic=properties["Statistic"],
        description=properties.get("AlarmDescription", ""),
        dimensions=properties.get("Dimensions", []),
        alarm_actions=properties.get("AlarmActions", []),
        treat_missing_data=properties.get("TreatMissingData"),
    )
    return Thing(name, Arn=f"arn:aws:cloudwatch:{place.region}:{place.account}:alarm:{name}")


def update_alarm(place: Place, alarm: Thing, properties: Properties) -> Thing:
    return create_alarm(place, alarm.physical_resource_id, properties)


def delete_alarm(place: Place, alarm: Thing) -> None:
    cloudwatch_backends[place.account][place.region].delete_alarms([alarm.physical_resource_id])


def update_queue(place: Place, queue: Queue, properties: Properties) -> Queue:
    attributes = {name: value for name, value in properties.items() if name not in ("QueueName", "Tags")}
    sqs_backends[place.account][place.region].set_queue_attributes(queue.name, attributes)
    return queue


def create_role(place: Place, name: str, properties: Properties) -> Any:
    from moto.iam.models import Role

    name = properties.get("RoleName", name)
    return Role.create_from_cloudformation_json(name, {"Properties": properties}, place.account, place.region)


def update_role(place: Place, role: Any, properties: Properties) -> Any:
    role.assume_role_policy_document = json.dumps(properties["AssumeRolePolicyDocument"])
    for name in list(role.policies):
        role.delete_policy(name)
    for policy in properties.get("Policies", []):
        role.put_policy(policy["PolicyName"], json.dumps(policy["PolicyDocument"]))
    return role


def delete_role(place: Place, role: Any) -> None:
    backend = iam_backends[place.account]["aws"]
    for name in list(role.policies):
        role.delete_policy(name)
    backend.delete_role(role.name)


def update_log_group(place: Place, group: LogGroup, properties: Properties) -> LogGroup:
    logs_backends[place.account][place.region].put_retention_policy(group.name, properties.get("RetentionInDays"))
    return group


def create_repository(place: Place, name: str, properties: Properties) -> Repository:
    made = Repository.create_from_cloudformation_json(name, {"Properties": properties}, place.account, place.region)
    return update_repository(place, made, properties)


def update_repository(place: Place, repository: Repository, properties: Properties) -> Repository:
    repository.image_scanning_configuration = {
        "scanOnPush": properties.get("ImageScanningConfiguration", {}).get("ScanOnPush", False)
    }
    repository.image_tag_mutability = properties.get("ImageTagMutability", "MUTABLE")
    repository.empty_on_delete = bool(properties.get("EmptyOnDelete"))
    text = properties.get("LifecyclePolicy", {}).get("LifecyclePolicyText")
    if text is not None:
        ecr_backends[place.account][place.region].put_lifecycle_policy(None, repository.name, text)
    return repository


def delete_repository(place: Place, repository: Repository) -> None:
    sync(repository)
    if repository.images and not repository.empty_on_delete:
        raise Failed(
            _handler(
                f"The repository with name '{repository.name}' in registry with id '{place.account}' cannot be deleted "
                "because it still contains images",
                "GeneralServiceException",
            )
        )
    ecr_backends[place.account][place.region].delete_repository(repository.name, force=True)


def create_bucket(place: Place, name: str, properties: Properties) -> Any:
    from moto.s3.models import FakeBucket

    if name in s3_backends[place.account]["aws"].buckets:
        raise Failed(_handler(f"{name} already exists", "AlreadyExists"))
    bucket = FakeBucket.create_from_cloudformation_json(name, {"Properties": properties}, place.account, place.region)
    return update_bucket(place, bucket, properties)


def update_bucket(place: Place, bucket: Any, properties: Properties) -> Any:
    backend = s3_backends[place.account]["aws"]
    if "VersioningConfiguration" in properties:
        backend.put_bucket_versioning(bucket.name, properties["VersioningConfiguration"]["Status"])
    if "PublicAccessBlockConfiguration" in properties:
        backend.put_public_access_block(
            bucket.name,
            {key: str(value).lower() for key, value in properties["PublicAccessBlockConfiguration"].items()},
        )
    return bucket


@dataclass(frozen=True)
class Kind:
    create: Callable[[Place, str, Properties], Any] | None = None
    update: Callable[[Place, Any, Properties], Any] | None = None
    delete: Callable[[Place, Any], None] | None = None


KINDS = {
    "AWS::Lambda::Function": Kind(create_function, update_function),
    "AWS::Lambda::Version": Kind(create_version, None, delete_version),
    "AWS::Lambda::Alias": Kind(create_alias, update_alias, delete_alias),
    "AWS::Lambda::Url": Kind(create_url, update_url, delete_url),
    "AWS::Lambda::Permission": Kind(create_permission, None, delete_permission),
    "AWS::CloudWatch::Alarm": Kind(create_alarm, update_alarm, delete_alarm),
    "AWS::SQS::Queue": Kind(None, update_queue),
    "AWS::IAM::Role": Kind(create_role, update_role, delete_role),
    "AWS::Logs::LogGroup": Kind(None, update_log_group),
    "AWS::ECR::Repository": Kind(create_repository, update_repository, delete_repository),
    "AWS::S3::Bucket": Kind(create_bucket, update_bucket),
}


def _handler(message: str, code: str = "GeneralServiceException") -> str:
    """Return a reason as CloudFormation's resource handlers give it."""
    return f'Resource handler returned message: "{message}" (RequestToken: {uuid.uuid4()}, HandlerErrorCode: {code})'


def _fail_if_broken(resource: str, when: str) -> None:
    for broken in CONTROLS.breaks:
        if broken.resource == resource and broken.when in (None, when) and broken.times:
            broken.times -= 1
            raise Failed(_handler(broken.reason))


# --------------------------------------------------------------------------------------------------------------------
# CloudFormation: what a template means, what a change set changes, and carrying it out.


@cache
def _schema(kind: str) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    return schema


def _replaces(kind: str) -> set[str]:
    """Return the properties whose change means a new resource."""
    return {path.split("/")[2] for path in _schema(kind).get("createOnlyProperties", ())}


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
        raise _invalid(f"Parameters: [{', '.join(unknown)}] do not exist in the template")
    missing = [name for name, one in declared.items() if name not in given and "Default" not in one]
    if missing:
        raise _invalid(f"Parameters: [{', '.join(missing)}] must have values")
    values = {name: str(given.get(name, one.get("Default"))) for name, one in declared.items()}
    for name, one in declared.items():
        value = values[name]
        if "AllowedValues" in one and value not in map(str, one["AllowedValues"]):
            allowed = ", ".join(map(str, one["AllowedValues"]))
            raise _invalid(f"Template error: Parameter '{name}' must be one of AllowedValues: [{allowed}]")
        if "AllowedPattern" in one and not re.fullmatch(one["AllowedPattern"], value):
            raise _invalid(f"Parameter {name} failed to satisfy constraint: must match pattern {one['AllowedPattern']}")
        if one["Type"] == "Number":
            try:
                number = float(value)
            except ValueError:
                raise _invalid(f"Parameter '{name}' must be a number.") from None
            if number < one.get("MinValue", number):
                raise _invalid(f"Parameter '{name}' must be a number not less than {one['MinValue']}")
            if number > one.get("MaxValue", number):
                raise _invalid(f"Parameter '{name}' must be a number not greater than {one['MaxValue']}")
    return values


def _invalid(message: str) -> ServiceException:
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
    now = _resources(stack)
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
        replaced = bool(_replaces(kind) & set(names))
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
        "RequiresRecreation": "Always" if name in _replaces(kind) else "Never",
        "Path": f"/Properties/{name}",
        "AttributeChangeType": "Modify" if name in before and name in after else "Add" if name in after else "Remove",
    }
    if with_values:
        if name in before:
            target["BeforeValue"] = _text(before[name])
        if name in after:
            target["AfterValue"] = _text(after[name])
    return {"Target": target, "Evaluation": "Static", "ChangeSource": "DirectModification"}


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


@dataclass
class Held:
    """A resource of a stack, as it was last made."""

    kind: str
    resource: Any
    properties: Properties
    template: Mapping[str, Any]


def _resources(stack: Stack) -> dict[str, Held]:
    if not hasattr(stack, "held"):
        stack.held = {}
    held: dict[str, Held] = stack.held
    return held


class Execution:
    """Carries out a template, in the order of what needs what; undoes all of it if one resource fails."""

    def __init__(self, stack: Stack, meant: Meant, body: str) -> None:
        self.stack, self.meant, self.body = stack, meant, body
        self.place = Place(stack.account_id, stack.region_name)
        self.creating = not _resources(stack)
        self.word = "CREATE" if self.creating else "UPDATE"
        self.undo: list[Callable[[], None]] = []
        self.cleanup: list[tuple[str, Held]] = []

    def run(self) -> None:
        stack = self.stack
        before = dict(_resources(stack))
        after: dict[str, Held] = {}
        failed: list[tuple[str, str]] = []
        for name, resource in self.meant.resources.items():
            try:
                after[name] = self._apply(name, resource, before.get(name))
            except (Failed, ServiceException, HTTPException, KeyError, ValueError) as error:
                failed.append((name, self._said(error)))
                break
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
        if isinstance(error, Failed):
            return str(error)
        return _handler(str(getattr(error, "message", error)))

    def _apply(self, name: str, resource: Mapping[str, Any], old: Held | None) -> Held:
        kind = resource["Type"]
        properties = self.meant.properties(name)
        if old is not None and old.kind == kind:
            changed = _changed(old.properties, properties)
            if not changed:
                self._keep(name, old.resource)
                return Held(kind, old.resource, old.properties, resource)
            if not _replaces(kind) & set(changed):
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
            _fail_if_broken(name, "create" if word == "CREATE" else "update")
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
            raise Failed(f"moto has no {kind}; tests/deploy/moto_plugin.py must play it.")
        return model.create_from_cloudformation_json(
            physical, {"Type": kind, "Properties": given}, self.place.account, self.place.region,
            LogicalId=name, StackId=self.stack.stack_id, ResourceType=kind,
        )  # fmt: skip

    def _update(self, name: str, resource: Mapping[str, Any], old: Held, properties: Properties) -> Held:
        kind, made = old.kind, old.resource
        self._event(name, kind, "UPDATE_IN_PROGRESS", made.physical_resource_id)
        try:
            self._pause()
            _fail_if_broken(name, "update")
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
            _fail_if_broken(name, "delete")
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
        held = _resources(stack)
        for name in reversed(_ordered({name: dict(one.template) for name, one in held.items()})):
            try:
                self._delete(name, held[name], "DeletionPolicy")
            except (Failed, ServiceException, HTTPException, KeyError, ValueError):
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
        _STATUS[stack.stack_id, name] = (status, reason)


_STATUS: dict[tuple[str, str], tuple[str, str | None]] = {}


_AT_WORK: list[threading.Thread] = []


def _in_background(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    _AT_WORK.append(thread)
    thread.start()


def finish() -> None:
    """Wait until every change set and removal that is under way has ended."""
    while _AT_WORK:
        _AT_WORK.pop().join()


# --------------------------------------------------------------------------------------------------------------------
# The API of CloudFormation where moto's does not do.


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
        self.body = ""
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
    exists = stack is not None and stack.status != "REVIEW_IN_PROGRESS"
    if kind == "CREATE" and exists:
        raise ServiceException("AlreadyExistsException", f"Stack [{name}] already exists and cannot be created again.")
    if kind == "UPDATE":
        if not exists:
            raise _invalid(f"Stack [{name}] does not exist")
        if stack.status.endswith("_IN_PROGRESS") or stack.status in (
            "ROLLBACK_COMPLETE",
            "ROLLBACK_FAILED",
            "UPDATE_ROLLBACK_FAILED",
            "DELETE_FAILED",
        ):
            raise _invalid(f"Stack:{stack.stack_id} is in {stack.status} state and can not be updated.")
    body = self._get_param("TemplateBody")
    if body is not None and len(body.encode()) > TEMPLATE_BYTES:
        raise _invalid(
            "1 validation error detected: Value at 'templateBody' failed to satisfy constraint: Member must have length "
            f"less than or equal to {TEMPLATE_BYTES}"
        )
    if self._get_param("TemplateURL"):
        body = self._get_stack_from_s3_url(self._get_param("TemplateURL"))
    if self._get_bool_param("UsePreviousTemplate", False):
        body = stack.template
    template = Stack.parse_template(body)
    needs = any(one["Type"].startswith("AWS::IAM::") for one in template["Resources"].values())
    if needs and not {"CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"} & set(self._get_param("Capabilities", [])):
        raise ServiceException("InsufficientCapabilitiesException", "Requires capabilities : [CAPABILITY_IAM]")
    if stack is None:
        stack = Stack(
            generate_stack_id(name, backend.region_name, backend.account_id), name, {}, {}, backend.account_id,
            backend.region_name,
        )  # fmt: skip
        stack.status = "REVIEW_IN_PROGRESS"
        stack._add_stack_event("REVIEW_IN_PROGRESS", resource_status_reason="User Initiated")
        backend.stacks[stack.stack_id] = stack
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
    made.body, made.meant = body, Meant(stack, template, given)
    made.parameters = made.meant.parameters
    # The preview leaves its stand-ins in the map, so it gets one of its own.
    made.changes = preview(stack, Meant(stack, template, given), with_values=True)
    if kind == "UPDATE" and not made.changes:
        made.status, made.execution_status = "FAILED", "UNAVAILABLE"
        made.status_reason = (
            "The submitted information didn't contain changes. Submit different information to create a change set."
        )
    _sets(stack)[made.change_set_name] = made
    return ActionResult({"Id": made.change_set_id, "StackId": stack.stack_id})


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
    execution = Execution(stack, Meant(stack, found.meant.template, found.parameters), found.body)
    found.execution_status = "EXECUTE_COMPLETE"
    # The other change sets of the stack no longer say what they would change. (CloudFormation API, ExecuteChangeSet)
    stack.change_sets = {found.change_set_name: found}
    if found.tags:
        stack.tags = found.tags
    stack._add_stack_event(f"{execution.word}_IN_PROGRESS", resource_status_reason="User Initiated")
    stack.status = f"{execution.word}_IN_PROGRESS"
    _in_background(execution.run)
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
        raise _invalid(f"Stack [{name}] cannot be deleted while TerminationProtection is enabled")
    execution = Execution(stack, Meant.__new__(Meant), "")
    execution._status("DELETE_IN_PROGRESS", "User Initiated")
    if _resources(stack):
        _in_background(execution.delete_all)
    else:
        execution.delete_all()
    return EmptyResult()


def _summaries(stack: Stack) -> list[dict[str, Any]]:
    return [
        {
            "LogicalResourceId": name,
            "PhysicalResourceId": held.resource.physical_resource_id,
            "ResourceType": held.kind,
            "ResourceStatus": _STATUS.get((stack.stack_id, name), ("CREATE_COMPLETE", None))[0],
            "LastUpdatedTimestamp": stack.creation_time,
            "Timestamp": stack.creation_time,
            "StackName": stack.name,
            "StackId": stack.stack_id,
        }
        for name, held in _resources(stack).items()
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
    raise _invalid(f"Resource {wanted} does not exist for stack {stack}")


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
    held = _resources(stack)
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
                            "ExpectedValue": _text(held[one["resource"]].properties.get(one["property"])),
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


# --------------------------------------------------------------------------------------------------------------------
# ECR: its repositories are a real registry's.


def _registry(method: str, path: str) -> tuple[int, Mapping[str, str], bytes]:
    connection = HTTPConnection(CONTROLS.storage, timeout=30)
    try:
        connection.request(method, path, headers={"Accept": MANIFESTS})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def sync(repository: Repository) -> None:
    """Let a repository of moto's know what was pushed."""
    if not CONTROLS.storage:
        return
    status, _, body = _registry("GET", f"/v2/{repository.name}/tags/list")
    tags = json.loads(body).get("tags") or [] if status == 200 else []
    known = {tag for image in repository.images for tag in image.image_tags}
    for tag in set(tags) - known:
        status, headers, manifest = _registry("GET", f"/v2/{repository.name}/manifests/{tag}")
        if status == 200:
            media_type = {name.lower(): value for name, value in headers.items()}["content-type"]
            digest = {name.lower(): value for name, value in headers.items()}["docker-content-digest"]
            image = Image(repository.account_id, tag, manifest.decode(), repository.name, media_type, digest)
            repository.images.append(image)


def _image_bytes(image: Image) -> int:
    """As ECR: the layers as they are stored, compressed."""
    manifest = json.loads(image.image_manifest)
    return sum(layer.get("size", 0) for layer in manifest.get("layers", []))


def _get_authorization_token(self: ECRResponse) -> ActionResult:
    return ActionResult(
        {
            "authorizationData": [
                {
                    "authorizationToken": CONTROLS.token,
                    "expiresAt": utcnow(),
                    "proxyEndpoint": f"https://{CONTROLS.registry}"
                    if CONTROLS.registry
                    else f"https://{self.current_account}.dkr.ecr.{self.region}.amazonaws.com",
                }
            ]
        }
    )


def install() -> None:
    """Put all of this before moto's own. Idempotent."""
    for function in (
        create_change_set, describe_change_set, execute_change_set, delete_change_set, list_change_sets, delete_stack,
        list_stack_resources, describe_stack_resources, describe_stack_resource, update_termination_protection,
        detect_stack_drift, describe_stack_drift_detection_status, describe_stack_resource_drifts,
    ):  # fmt: skip
        setattr(CloudFormationResponse, function.__name__, function)
    Stack.parameter_list = property(_parameter_list)
    CloudFormationBackend.stack_status_reason = None
    Queue.lambda_event_source_mappings = property(lambda self: {}, lambda self, value: None)
    ECRResponse.get_authorization_token = _get_authorization_token

    original_get = ECRBackend._get_repository
    original_batch = ECRBackend.batch_get_image
    original_list = ECRBackend.list_images

    def get_repository(self: ECRBackend, name: str, registry_id: str | None = None) -> Repository:
        repository = original_get(self, name, registry_id)
        sync(repository)
        return repository

    def batch_get_image(self: ECRBackend, repository_name: str, *args: Any, **kwargs: Any) -> Any:
        if repository_name in self.repositories:
            sync(self.repositories[repository_name])
        return original_batch(self, repository_name, *args, **kwargs)

    def list_images(self: ECRBackend, repository_name: str, *args: Any, **kwargs: Any) -> Any:
        if repository_name in self.repositories:
            sync(self.repositories[repository_name])
        return original_list(self, repository_name, *args, **kwargs)

    ECRBackend._get_repository = get_repository
    ECRBackend.batch_get_image = batch_get_image
    ECRBackend.list_images = list_images
    Image.get_image_size_in_bytes = _image_bytes

    original_repository = Repository.__init__

    def init(self: Repository, *args: Any, **kwargs: Any) -> None:
        original_repository(self, *args, **kwargs)
        self.empty_on_delete = False
        if CONTROLS.registry:
            self.uri = f"{CONTROLS.registry}/{self.name}"

    Repository.__init__ = init

    original_configuration = LambdaFunction.get_configuration

    def get_configuration(self: LambdaFunction, *args: Any, **kwargs: Any) -> dict[str, Any]:
        configuration = original_configuration(self, *args, **kwargs)
        if hasattr(self, "logging_config"):
            configuration["LoggingConfig"] = self.logging_config
        return configuration

    LambdaFunction.get_configuration = get_configuration

    original_code = LambdaFunction.get_code

    def get_code(self: LambdaFunction) -> dict[str, Any]:
        answer = original_code(self)
        if "ImageUri" in self.code:
            repository = re.sub(r"(@.*|:[^:/]*)$", "", self.code["ImageUri"])
            answer["Code"]["ResolvedImageUri"] = f"{repository}@sha256:{self.code_sha_256}"
        return answer

    LambdaFunction.get_code = get_code
    LogGroup.get_cfn_attribute = lambda self, name: f"{self.arn}:*"


def set_status(name: str, status: str, reason: str | None) -> None:
    """Put a stack into a status."""
    for backends in cloudformation_backends.values():
        for backend in backends.values():
            for stack in backend.stacks.values():
                if stack.name == name:
                    stack._add_stack_event(status, resource_status_reason=reason)
                    stack.status, stack.stack_status_reason = status, reason
