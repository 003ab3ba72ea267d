"""From a template's resources to the service that they describe.

In order: the resources that exist with these parameters (template.resources), their intrinsic functions resolved on the
way -> functions, queues and what joins them, property by property -> AWS's rules (template.rules).

The laptop plays queues, functions, function URLs and event source mappings. `ServiceTemplate.only_on_aws` lists what it
leaves out without changing what happens to a frame, such as roles, logs and retention; the Lambda API still shows it.
Anything else that this file does not know is an error with its line, so that no difference between the laptop and AWS
is silent.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final

from template import rules
from template.intrinsic_functions import CreatedValue
from template.lambda_facts import MAX_MEMORY_MB, MAX_TIMEOUT_SECONDS
from template.model import (
    EventSourceMapping,
    Function,
    FunctionUrl,
    Permission,
    Queue,
    Redrive,
    ServiceTemplate,
)
from template.resources import FUNCTION, QUEUE, Resource, Template
from template.values import Symbol, Value, as_list, as_map, as_text, as_whole_number, has_symbol
from template.yaml_nodes import TemplateError, child_nodes, error_at, intrinsic_call

#: The one template, in the repository and in the image alike.
TEMPLATE_FILE: Final = Path(__file__).parents[1] / "deploy" / "template.yaml"

#: Resource types that only AWS creates, each with the sentence that says what the laptop does instead.
ONLY_ON_AWS: Final = {
    "AWS::IAM::Role": "Roles and permissions (IAM): local functions may call every queue; AWS checks each call.",
    "AWS::IAM::Policy": "Roles and permissions (IAM): local functions may call every queue; AWS checks each call.",
    "AWS::Lambda::Permission": "Who may call a function: the local URL takes unsigned requests, from this machine.",
    "AWS::Lambda::Version": "Versions and aliases: locally a function has one version, the code of this directory.",
    "AWS::Lambda::Alias": "Versions and aliases: locally a function has one version, the code of this directory.",
    "AWS::Logs::LogGroup": "CloudWatch log groups and their retention: `faceq logs` shows local logs.",
    "AWS::CloudWatch::Alarm": "Alarms and dashboards: nothing watches the local queues but `faceq queues list`.",
    "AWS::CloudWatch::Dashboard": "Alarms and dashboards: nothing watches the local queues but `faceq queues list`.",
    "AWS::EC2::SecurityGroup": "The VPC: local functions use this machine's network.",
    "AWS::EC2::VPCEndpoint": "The VPC: local functions use this machine's network.",
}

#: Properties of AWS::Lambda::Permission that narrow it. (CloudFormation template reference, AWS::Lambda::Permission)
PERMISSION_CONDITIONS: Final = (
    "SourceArn",
    "SourceAccount",
    "PrincipalOrgID",
    "EventSourceToken",
    "FunctionUrlAuthType",
    "InvokedViaFunctionUrl",
)

#: Properties that the laptop leaves out, for each type that it plays, with a sentence about the difference; an
#: empty text where there is none.
_UNPLAYED_PROPERTIES: Final[Mapping[str, Mapping[str, str]]] = {
    "AWS::SQS::Queue": {
        "MessageRetentionPeriod": "How long queues keep messages: locally no message grows too old.",
        "SqsManagedSseEnabled": "Encryption of queues: local messages are plain text.",
        "KmsMasterKeyId": "Encryption of queues: local messages are plain text.",
        "KmsDataKeyReusePeriodSeconds": "Encryption of queues: local messages are plain text.",
        "MaximumMessageSize": "Message limits below 1 MiB: local queues take 1 MiB whatever the template says.",
        "RedriveAllowPolicy": "Who may use a dead-letter queue: any local queue may.",
        "Tags": "",
    },
    "AWS::Lambda::Function": {
        "Code": "",  # only AWS needs the image; here the code of this directory runs
        "Role": ONLY_ON_AWS["AWS::IAM::Role"],
        "Architectures": "The processor architecture: local functions run on this machine's.",
        "LoggingConfig": ONLY_ON_AWS["AWS::Logs::LogGroup"],
        "EphemeralStorage": "The size of /tmp: local functions see this machine's.",
        "TracingConfig": "X-Ray tracing: no trace leaves this machine.",
        "KmsKeyArn": "Encryption of function variables: local variables are plain text.",
        "VpcConfig": ONLY_ON_AWS["AWS::EC2::VPCEndpoint"],
        "Description": "",
        "Tags": "",
    },
    "AWS::Lambda::Url": {
        "AuthType": ONLY_ON_AWS["AWS::Lambda::Permission"],
        "Qualifier": ONLY_ON_AWS["AWS::Lambda::Alias"],
        "Cors": "CORS of the function URL: the local URL sends no CORS headers of its own.",
    },
    "AWS::Lambda::EventSourceMapping": {"Tags": ""},
    "AWS::Lambda::Permission": {},
}

_PLAYED: Final = "queues, functions, function URLs and event source mappings"


def read_playable(text: str, parameters: Mapping[str, str], created_value: CreatedValue) -> ServiceTemplate:
    """Read a template that will be played on this machine.

    Parameters
    ----------
    text : str
        The template, YAML or JSON.
    parameters : Mapping of str to str
        Values for the template's parameters; the others take their defaults. `AWS::Region`, `AWS::AccountId` and
        `AWS::StackName` should be among them.
    created_value : callable
        What references give for the resources that are played.

    Raises
    ------
    TemplateError
        The template is not one, needs what the laptop does not play, or breaks a rule that AWS checks on creation.

    """
    template = Template(text, parameters, created_value)
    service = read_service(template)
    for error in service.unplayable:
        raise error
    findings = rules.findings(template, service)
    for finding in findings:
        if finding.severity is rules.Severity.REFUSED:
            raise TemplateError(finding.line, finding.sentence)
    return replace(service, advice=[finding.sentence for finding in findings])


@cache
def shipped_service() -> ServiceTemplate:
    """Return the service of deploy/template.yaml with its default parameters; names that AWS makes stay symbols."""
    return read_service(Template(TEMPLATE_FILE.read_text(), {}))


def read_service(template: Template) -> ServiceTemplate:
    """Return the service that a template describes, on the laptop or on AWS.

    Raises TemplateError for a property that AWS would refuse. What AWS would take and the laptop cannot play is in
    `ServiceTemplate.unplayable`.
    """
    return _Reader(template).service()


class _Reader:
    def __init__(self, template: Template) -> None:
        self._template = template
        self._only_on_aws: dict[str, None] = {}
        self._unplayable: list[TemplateError] = []

    def service(self) -> ServiceTemplate:
        for logical_id, resource in self._template.resources.items():
            if resource.kind in ONLY_ON_AWS:
                self._only_on_aws[ONLY_ON_AWS[resource.kind]] = None
            elif resource.kind not in _UNPLAYED_PROPERTIES:
                problem = f"{logical_id} is a {resource.kind}, which is not played: only {_PLAYED} are."
                self._unplayable.append(error_at(resource.kind_node, problem))
        queues = [self._queue(resource) for resource in self._template.of(QUEUE).values()]
        functions = [self._function(resource) for resource in self._template.of(FUNCTION).values()]
        urls = [self._url(resource) for resource in self._template.of("AWS::Lambda::Url").values()]
        mappings = [
            self._mapping(resource, queues)
            for resource in self._template.of("AWS::Lambda::EventSourceMapping").values()
        ]
        permissions = [self._permission(resource) for resource in self._template.of("AWS::Lambda::Permission").values()]
        return ServiceTemplate(
            functions={function.name: function for function in functions},
            function_urls=tuple(url for url in urls if url is not None),
            queues={queue.name: queue for queue in queues},
            event_source_mappings=tuple(mapping for mapping in mappings if mapping is not None),
            only_on_aws=list(self._only_on_aws),
            permissions=tuple(permission for permission in permissions if permission is not None),
            unplayable=tuple(self._unplayable),
        )

    def _queue(self, resource: Resource) -> Queue:
        properties = self._properties(resource)
        name = properties.text("QueueName", "Name the queue: the laptop makes up no names.")
        # SQS API reference, CreateQueue: up to 80 of these characters.
        if name and not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) and not has_symbol(resource.property("QueueName")):
            raise properties.error(
                "QueueName", f"'{name}' is no queue name: 1 to 80 letters, digits, hyphens or underscores."
            )
        queue = Queue(
            logical_id=resource.logical_id,
            name=name or resource.logical_id,
            # Defaults and ranges: SQS API reference, SetQueueAttributes.
            visibility_timeout=properties.number("VisibilityTimeout", 0, 43_200, default=30),
            receive_wait=properties.number("ReceiveMessageWaitTimeSeconds", 0, 20, default=0),
            delay=properties.number("DelaySeconds", 0, 900, default=0),
            redrive=self._redrive(properties),
        )
        properties.finish()
        return queue

    def _redrive(self, properties: "_Properties") -> Redrive | None:
        policy = properties.take("RedrivePolicy")
        if policy is None:
            return None
        if not isinstance(policy, dict) or set(policy) != {"deadLetterTargetArn", "maxReceiveCount"}:
            raise properties.error("RedrivePolicy", "RedrivePolicy needs deadLetterTargetArn and maxReceiveCount.")
        most = as_whole_number(policy["maxReceiveCount"])
        if most is None or not 1 <= most <= 1000:  # SQS API reference, SetQueueAttributes
            raise properties.error(
                "RedrivePolicy", "maxReceiveCount must be a whole number from 1 to 1000.", "maxReceiveCount"
            )
        queue = self._template.queue_of(policy["deadLetterTargetArn"])
        if queue is None:
            arn = as_text(policy["deadLetterTargetArn"])
            problem = f"The dead-letter queue {arn.rsplit(':', 1)[-1]} is not in this template."
            properties.cannot_play("RedrivePolicy", problem)
            return Redrive(arn, most)
        return Redrive(self._template.name_of(queue), most)

    def _function(self, resource: Resource) -> Function:
        properties = self._properties(resource)
        name = properties.text("FunctionName", "Name the function: the laptop makes up no names.")
        only_images = "The laptop plays only functions from images: set PackageType: Image."
        if properties.text("PackageType", only_images) not in {"", "Image"}:
            properties.cannot_play("PackageType", only_images)
        command = as_map(properties.take("ImageConfig"))
        words = as_list(command.get("Command"))
        if set(command) != {"Command"} or len(words) != 1 or not isinstance(words[0], str):
            properties.cannot_play("ImageConfig", "ImageConfig must be a Command with one word, the handler.")
        architectures = as_list(resource.property("Architectures"))
        function = Function(
            logical_id=resource.logical_id,
            name=name or resource.logical_id,
            handler=as_text(words[0]) if words else "",
            # Defaults and ranges: Lambda API reference, CreateFunction; Lambda quotas.
            timeout_seconds=properties.number("Timeout", 1, MAX_TIMEOUT_SECONDS, default=3),
            memory_mb=properties.number("MemorySize", 128, MAX_MEMORY_MB, default=128),
            environment=self._environment(properties),
            reserved_concurrency=properties.number_or_none("ReservedConcurrentExecutions", 0, 1_000_000),
            unplayed_properties=properties.unplayed(),
            architecture=as_text(architectures[0]) if architectures else "x86_64",
            provisioned_concurrency=self._template.provisioned_concurrency(resource.logical_id),
        )
        properties.finish()
        return function

    def _environment(self, properties: "_Properties") -> dict[str, str]:
        environment = properties.take("Environment")
        variables = environment.get("Variables") if isinstance(environment, dict) else {}
        if not isinstance(variables, dict):
            raise properties.error("Environment", "Environment needs Variables, a map from names to texts.")
        for name, value in variables.items():
            if isinstance(value, list | dict) or value is None:
                raise properties.error(
                    "Environment", f"The variable {name} must be a text or a number.", "Variables", name
                )
        return {name: as_text(value) for name, value in variables.items()}

    def _url(self, resource: Resource) -> FunctionUrl | None:
        properties = self._properties(resource)
        function = self._function_named(properties, "TargetFunctionArn")
        auth_type = properties.text("AuthType", "Set AuthType: AWS_IAM or NONE.", is_played=False)
        if auth_type not in {"AWS_IAM", "NONE"}:  # Lambda API reference, CreateFunctionUrlConfig
            raise properties.error("AuthType", f"AuthType is AWS_IAM or NONE, not {auth_type}.")
        if properties.take("InvokeMode") not in {None, "BUFFERED"}:
            properties.cannot_play("InvokeMode", "The laptop does not stream answers. Set InvokeMode: BUFFERED.")
        properties.finish()
        return FunctionUrl(resource.logical_id, function, auth_type, properties.unplayed()) if function else None

    def _permission(self, resource: Resource) -> Permission | None:
        properties = self._properties(resource)
        conditions = {key: properties.take(key) for key in PERMISSION_CONDITIONS}
        function = self._function_named(properties, "FunctionName")
        permission = Permission(
            logical_id=resource.logical_id,
            function=function or "",
            action=properties.text("Action", "Set Action, such as lambda:InvokeFunction."),
            principal=properties.text("Principal", "Set Principal: an account, an ARN, a service's domain, or *."),
            conditions={key: as_text(value) for key, value in conditions.items() if value is not None},
        )
        properties.finish()
        return permission if function else None

    def _mapping(self, resource: Resource, queues: list[Queue]) -> EventSourceMapping | None:
        properties = self._properties(resource)
        source = self._template.queue_of(properties.take("EventSourceArn"))
        if source is None:
            arn = properties.text("EventSourceArn", "EventSourceArn is missing.")
            problem = f"EventSourceArn is {arn}, which is no {QUEUE} of this template."
            properties.cannot_play("EventSourceArn", problem)
        function = self._function_named(properties, "FunctionName")
        types = properties.take("FunctionResponseTypes")
        if types not in (None, [], ["ReportBatchItemFailures"]):  # the only value there is (Lambda API reference)
            raise properties.error("FunctionResponseTypes", "FunctionResponseTypes knows ReportBatchItemFailures only.")
        scaling = properties.take("ScalingConfig")
        most = as_whole_number(as_map(scaling).get("MaximumConcurrency"))
        if scaling is not None and (most is None or not 2 <= most <= 1000):  # Lambda API reference, ScalingConfig
            raise properties.error(
                "ScalingConfig", "MaximumConcurrency must be a whole number from 2 to 1000.", "MaximumConcurrency"
            )
        enabled = properties.take("Enabled")
        # Defaults and ranges: Lambda API reference, CreateEventSourceMapping.
        batch_size = properties.number("BatchSize", 1, 10_000, default=10)
        window_seconds = properties.number("MaximumBatchingWindowInSeconds", 0, 300, default=0)
        properties.finish()
        if source is None or function is None:
            return None
        queue = next(queue for queue in queues if queue.logical_id == source)
        return EventSourceMapping(
            logical_id=resource.logical_id,
            function=function,
            queue=queue.name,
            queue_url=as_text(self._template.reference(source)),
            queue_arn=as_text(self._template.reference(source, "Arn")),
            region=as_text(self._template.region),
            visibility_timeout=queue.visibility_timeout,
            batch_size=batch_size,
            window_seconds=window_seconds,
            maximum_concurrency=most,
            report_batch_item_failures=bool(types),
            enabled=enabled is None or as_text(enabled).lower() == "true",
        )

    def _function_named(self, properties: "_Properties", key: str) -> str | None:
        """Return the name of the function that `key` names by ARN or by name, None if it is not in the template."""
        value = properties.take(key)
        function = self._template.function_of(value) if value is not None else None
        if function is not None:
            return self._template.name_of(function)
        name = properties.text(key, f"{key} is missing.").rsplit(":", 1)[-1]
        properties.cannot_play(key, f"{key} is {name}, which is no {FUNCTION} of this template.")
        return None

    def _properties(self, resource: Resource) -> "_Properties":
        return _Properties(resource, self._only_on_aws, self._unplayable)


@dataclass
class _Properties:
    """The properties of one resource. `finish` reports those that no code has read."""

    resource: Resource
    only_on_aws: dict[str, None]
    unplayable: list[TemplateError]
    taken: set[str] = field(default_factory=set)

    def take(self, key: str) -> Value:
        """Return the value of a property that is played, None if it is not set."""
        value = self.resource.property(key)
        if key not in self.taken and has_symbol(value):
            self.unplayable.append(self._only_known_on_aws(key))
        self.taken.add(key)
        return value

    def text(self, key: str, otherwise: str, *, is_played: bool = True) -> str:
        """Return a property as text; empty, and not playable for the reason `otherwise`, where it is not set."""
        value = self.take(key) if is_played else self.resource.property(key)
        if value is None or isinstance(value, list | dict):
            self.cannot_play(key, otherwise)
            return ""
        return as_text(value)

    def number(self, key: str, least: int, most: int, default: int) -> int:
        value = self.number_or_none(key, least, most)
        return default if value is None else value

    def number_or_none(self, key: str, least: int, most: int) -> int | None:
        value = self.take(key)
        if value is None or isinstance(value, Symbol):
            return None
        number = as_whole_number(value)
        if number is None or not least <= number <= most:
            raise self.error(key, f"{key} is {as_text(value)}; it must be a whole number from {least} to {most}.")
        return number

    def unplayed(self) -> dict[str, Value]:
        """Return the properties that are not played; None for one that is only known on AWS."""
        values = {
            key: self.resource.property(key)
            for key in self.resource.property_nodes
            if key in _UNPLAYED_PROPERTIES[self.resource.kind] and self.resource.is_set(key)
        }
        return {key: None if has_symbol(value) else value for key, value in values.items()}

    def error(self, key: str, problem: str, *path: str) -> TemplateError:
        """Return the error at `key`, or deeper, where `path` leads; at the resource where `key` is not set."""
        return TemplateError(self.resource.line(key, *path), f"{self.resource.logical_id}: {problem}")

    def cannot_play(self, key: str, problem: str) -> None:
        """Record a problem that only the laptop has."""
        self.unplayable.append(self.error(key, problem))

    def finish(self) -> None:
        """Record which properties are not played, and those without which something else would happen."""
        for key in self.resource.property_nodes:
            if key in self.taken:
                continue
            sentence = _UNPLAYED_PROPERTIES[self.resource.kind].get(key)
            if sentence is None:
                self.cannot_play(key, f"{key} is not played, and leaving it out would change what happens.")
            elif sentence and self.resource.is_set(key):
                self.only_on_aws[sentence] = None

    def _only_known_on_aws(self, key: str) -> TemplateError:
        """Return the error at the innermost intrinsic function without a value on this machine."""
        node = self.resource.property_nodes[key]
        while intrinsic_call(node) is None:
            node = next(child for child in child_nodes(node) if has_symbol(self.resource.value_of(child)))
        call = intrinsic_call(node)
        function = call[0] if call is not None else ""
        return error_at(
            node,
            f"{self.resource.logical_id}: the value of {key} ({function} gives "
            f"{as_text(self.resource.value_of(node))}) is only known on AWS.",
        )
