"""Read deploy/template.yaml into what the local side plays.

In order: YAML nodes, which know their lines -> parameters and conditions -> each resource that is played, property by
property, its intrinsic functions resolved on the way -> AWS's own checks, as they would fail on creation.

Four resource types are played. What can be left out without changing what a frame sees (roles, logs, retention) is
listed in `ServiceTemplate.only_on_aws`, and kept where the Lambda API shows it. Anything else that this file does not
know is an error with its line, so that no difference between the laptop and AWS is silent.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from template.lambda_facts import RESERVED_VARIABLES
from template.model import (
    EventSourceMapping,
    Function,
    FunctionUrl,
    Permission,
    Queue,
    Redrive,
    ServiceTemplate,
)
from template.values import Value, as_number, as_text, as_whole_number
from template.yaml_nodes import TemplateError, call, entries, error_at, scalar

#: The one template, in the repository and in the image alike.
TEMPLATE_FILE: Final = Path(__file__).parents[1] / "deploy" / "template.yaml"

#: Stands for AWS::NoValue inside lists and maps until it is dropped; never leaves this file.
_MISSING: Final[Value] = "\0AWS::NoValue"

#: Resource types that are not played, each with the sentence that says so.
NOT_PLAYED: Final = {
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

#: Properties of a played resource that are not played: what is said of each; an empty text where nothing need be said.
_IGNORED: Final[Mapping[str, Mapping[str, str]]] = {
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
        "Code": "",  # which image it is, is AWS's business; here the code of this directory runs
        "Role": NOT_PLAYED["AWS::IAM::Role"],
        "Architectures": "The processor architecture: local functions run on this machine's.",
        "LoggingConfig": NOT_PLAYED["AWS::Logs::LogGroup"],
        "EphemeralStorage": "The size of /tmp: local functions see this machine's.",
        "TracingConfig": "X-Ray tracing: no trace leaves this machine.",
        "KmsKeyArn": "Encryption of function variables: local variables are plain text.",
        "VpcConfig": NOT_PLAYED["AWS::EC2::VPCEndpoint"],
        "Description": "",
        "Tags": "",
    },
    "AWS::Lambda::Url": {
        "AuthType": NOT_PLAYED["AWS::Lambda::Permission"],
        "Qualifier": NOT_PLAYED["AWS::Lambda::Alias"],
        "Cors": "CORS of the function URL: the local URL sends no CORS headers of its own.",
    },
    "AWS::Lambda::EventSourceMapping": {"Tags": ""},
    "AWS::Lambda::Permission": {},
}

_PSEUDO: Final = {"AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com", "AWS::StackName": "faceq"}


def read(
    text: str, parameters: Mapping[str, str], region: str, account: str, queue_url: Callable[[str], str]
) -> ServiceTemplate:
    """Read a CloudFormation template.

    Parameters
    ----------
    text : str
        The template, YAML or JSON.
    parameters : Mapping of str to str
        Values for the template's parameters; the others take their defaults. A parameter without either is an error
        only where something that is played needs it.
    region, account : str
        What ARNs and pseudo parameters say.
    queue_url : callable
        From a queue's name to its URL, what `!Ref` of a queue becomes.

    Raises
    ------
    TemplateError
        The template is not one, needs what is not played, or breaks a rule that AWS checks on creation.

    """
    return _Reader(text, parameters, region, account, queue_url).template()


class _Missing(Exception):  # noqa: N818 - AWS::NoValue: the property is not there
    pass


class _Reader:
    def __init__(
        self, text: str, parameters: Mapping[str, str], region: str, account: str, queue_url: Callable[[str], str]
    ) -> None:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise TemplateError(line, f"This is not YAML: {error.problem}.") from None
        if not isinstance(root, yaml.MappingNode):
            raise TemplateError(1, "This is no CloudFormation template: it has no Resources.")
        sections = entries(root)
        if "Resources" not in sections:
            raise TemplateError(1, "This is no CloudFormation template: it has no Resources.")
        if "Transform" in sections:
            raise error_at(
                sections["Transform"], "Transforms (SAM, macros) are not played. Write plain CloudFormation."
            )
        self._region, self._account, self._queue_url = region, account, queue_url
        self._conditions = entries(sections.get("Conditions"))
        self._not_played: dict[str, None] = {}
        self._parameters = self._read_parameters(entries(sections.get("Parameters")), parameters)
        self._resources = {name: node for name, node in entries(sections["Resources"]).items() if self._is_wanted(node)}

    def template(self) -> ServiceTemplate:
        queues: dict[str, Queue] = {}
        functions: dict[str, Function] = {}
        urls: list[FunctionUrl] = []
        for logical_id, node in self._resources.items():
            match self._type(node):
                case "AWS::SQS::Queue":
                    queue = self._queue(logical_id)
                    queues[queue.name] = queue
                case "AWS::Lambda::Function":
                    function = self._function(logical_id)
                    functions[function.name] = function
                case "AWS::Lambda::Url":
                    urls.append(self._url(logical_id))
                case "AWS::Lambda::EventSourceMapping":
                    pass  # after the queues and functions that it joins
                case other if other in NOT_PLAYED:
                    self._not_played[NOT_PLAYED[other]] = None
                case other:
                    played = "queues, functions, function URLs and event source mappings"
                    raise error_at(
                        entries(node)["Type"], f"{logical_id} is a {other}, which is not played: only {played} are."
                    )
        mappings = tuple(
            self._mapping(logical_id, queues, functions)
            for logical_id, node in self._resources.items()
            if self._type(node) == "AWS::Lambda::EventSourceMapping"
        )
        return ServiceTemplate(
            functions,
            tuple(urls),
            queues,
            mappings,
            list(self._not_played),
            _advice(queues, functions, mappings),
            tuple(self._permission(logical_id) for logical_id in self._of_type("AWS::Lambda::Permission")),
        )

    # Resources

    def _queue(self, logical_id: str) -> Queue:
        properties = self._properties(logical_id)
        name = properties.text("QueueName", "Name the queue: the local side makes up no names.")
        # SQS API reference, CreateQueue: up to 80 of these characters.
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name):
            raise properties.error(
                "QueueName", f"'{name}' is no queue name: 1 to 80 letters, digits, hyphens or underscores."
            )
        queue = Queue(
            logical_id=logical_id,
            name=name,
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
        name = str(policy["deadLetterTargetArn"]).rsplit(":", 1)[-1]
        if name not in {self._name(other) for other in self._of_type("AWS::SQS::Queue")}:
            raise properties.error("RedrivePolicy", f"The dead-letter queue {name} is not in this template.")
        return Redrive(name, most)

    def _function(self, logical_id: str) -> Function:
        properties = self._properties(logical_id)
        name = properties.text("FunctionName", "Name the function: the local side makes up no names.")
        if properties.text("PackageType", "Only functions from images are played: set PackageType: Image.") != "Image":
            raise properties.error("PackageType", "Only functions from images are played: set PackageType: Image.")
        image = properties.take("ImageConfig")
        command = image.get("Command") if isinstance(image, dict) else None
        if not (
            isinstance(image, dict)
            and set(image) == {"Command"}
            and isinstance(command, list)
            and len(command) == 1
            and isinstance(command[0], str)
        ):
            raise properties.error("ImageConfig", "ImageConfig must be a Command with one word, the handler.")
        function = Function(
            logical_id=logical_id,
            name=name,
            handler=command[0],
            # Defaults and ranges: Lambda API reference, CreateFunction; Lambda quotas.
            timeout_seconds=properties.number("Timeout", 1, 900, default=3),
            memory_mb=properties.number("MemorySize", 128, 10_240, default=128),
            environment=self._environment(properties),
            reserved_concurrency=properties.number_or_none("ReservedConcurrentExecutions", 0, 1_000_000),
            unplayed_properties=properties.unplayed(),
        )
        properties.finish()
        return function

    def _environment(self, properties: "_Properties") -> dict[str, str]:
        environment = properties.take("Environment")
        variables = environment.get("Variables") if isinstance(environment, dict) else {}
        if not isinstance(variables, dict):
            raise properties.error("Environment", "Environment needs Variables, a map from names to texts.")
        for name, value in variables.items():
            if name in RESERVED_VARIABLES:
                raise properties.error(
                    "Environment", f"{name} is set by Lambda, which refuses it here. Take it out.", "Variables", name
                )
            if isinstance(value, list | dict) or value is None:
                raise properties.error(
                    "Environment", f"The variable {name} must be a text or a number.", "Variables", name
                )
        texts = {name: as_text(value) for name, value in variables.items()}
        if sum(len(name.encode()) + len(text.encode()) for name, text in texts.items()) > 4096:  # Lambda quotas
            raise properties.error("Environment", "The variables are longer than the 4 KB that Lambda takes.")
        return texts

    def _url(self, logical_id: str) -> FunctionUrl:
        properties = self._properties(logical_id)
        function = self._end(properties, "TargetFunctionArn", "AWS::Lambda::Function")
        auth_type = properties.text("AuthType", "Set AuthType: AWS_IAM or NONE.", keep=True)
        if auth_type not in {"AWS_IAM", "NONE"}:  # Lambda API reference, CreateFunctionUrlConfig
            raise properties.error("AuthType", f"AuthType is AWS_IAM or NONE, not {auth_type}.")
        if properties.take("InvokeMode") not in {None, "BUFFERED"}:
            raise properties.error("InvokeMode", "Streamed answers are not played. Set InvokeMode: BUFFERED.")
        properties.finish()
        return FunctionUrl(logical_id, function, auth_type, properties.unplayed())

    def _permission(self, logical_id: str) -> Permission:
        properties = self._properties(logical_id)
        conditions = {key: properties.take(key) for key in PERMISSION_CONDITIONS}
        permission = Permission(
            logical_id=logical_id,
            function=self._end(properties, "FunctionName", "AWS::Lambda::Function"),
            action=properties.text("Action", "Set Action, such as lambda:InvokeFunction."),
            principal=properties.text("Principal", "Set Principal: an account, an ARN, a service's domain, or *."),
            conditions={key: as_text(value) for key, value in conditions.items() if value is not None},
        )
        properties.finish()
        return permission

    def _mapping(
        self, logical_id: str, queues: Mapping[str, Queue], functions: Mapping[str, Function]
    ) -> EventSourceMapping:
        properties = self._properties(logical_id)
        queue = queues[self._end(properties, "EventSourceArn", "AWS::SQS::Queue")]
        function = functions[self._end(properties, "FunctionName", "AWS::Lambda::Function")]
        types = properties.take("FunctionResponseTypes")
        if types not in (None, [], ["ReportBatchItemFailures"]):  # the only value there is (Lambda API reference)
            raise properties.error("FunctionResponseTypes", "FunctionResponseTypes knows ReportBatchItemFailures only.")
        scaling = properties.take("ScalingConfig")
        most = as_whole_number(scaling.get("MaximumConcurrency")) if isinstance(scaling, dict) else None
        if scaling is not None and (most is None or not 2 <= most <= 1000):  # Lambda API reference, ScalingConfig
            raise properties.error(
                "ScalingConfig", "MaximumConcurrency must be a whole number from 2 to 1000.", "MaximumConcurrency"
            )
        enabled = properties.take("Enabled")
        mapping = EventSourceMapping(
            logical_id=logical_id,
            function=function.name,
            queue=queue.name,
            queue_url=self._queue_url(queue.name),
            queue_arn=self._arn("sqs", queue.name),
            region=self._region,
            visibility_timeout=queue.visibility_timeout,
            # Defaults and ranges: Lambda API reference, CreateEventSourceMapping.
            batch_size=properties.number("BatchSize", 1, 10_000, default=10),
            window_seconds=properties.number("MaximumBatchingWindowInSeconds", 0, 300, default=0),
            maximum_concurrency=most,
            report_batch_item_failures=bool(types),
            enabled=enabled is None or as_text(enabled).lower() == "true",
        )
        if mapping.batch_size > 10 and mapping.window_seconds < 1:  # Lambda API reference, CreateEventSourceMapping
            raise properties.error(
                "BatchSize", "A BatchSize above 10 needs MaximumBatchingWindowInSeconds of at least 1."
            )
        # What CreateEventSourceMapping answers, InvalidParameterValueException.
        if queue.visibility_timeout < function.timeout_seconds:
            raise properties.error(
                "EventSourceArn",
                f"Queue visibility timeout: {queue.visibility_timeout} seconds is less than Function timeout: "
                f"{function.timeout_seconds} seconds. Give {queue.logical_id} at least 6 times as much.",
            )
        properties.finish()
        return mapping

    def _end(self, properties: "_Properties", key: str, kind: str) -> str:
        """Return the name of the queue or function that `key` names by ARN or by name."""
        name = properties.text(key, f"{key} is missing.").rsplit(":", 1)[-1]
        if name not in {self._name(logical_id) for logical_id in self._of_type(kind)}:
            raise properties.error(key, f"{key} is {name}, which is no {kind} of this template.")
        return name

    def _properties(self, logical_id: str) -> "_Properties":
        node = self._resources[logical_id]
        kind = self._type(node)
        nodes = entries(entries(node).get("Properties"))
        return _Properties(logical_id, kind, node, nodes, self._value, self._not_played)

    def _type(self, node: yaml.Node) -> str:
        kind = entries(node).get("Type")
        if not isinstance(kind, yaml.ScalarNode):
            raise error_at(node, "This resource has no Type.")
        return str(kind.value)

    def _of_type(self, kind: str) -> list[str]:
        return [logical_id for logical_id, node in self._resources.items() if self._type(node) == kind]

    def _name(self, logical_id: str) -> str:
        properties = entries(entries(self._resources[logical_id]).get("Properties"))
        for key in ("QueueName", "FunctionName", "RoleName", "LogGroupName"):
            if key in properties:
                return as_text(self._value(properties[key]))
        # CloudFormation's form, "Name type": it adds twelve characters that nobody knows before.
        return f"{_PSEUDO['AWS::StackName']}-{logical_id}"

    def _function_of(self, logical_id: str) -> str:
        """Return the name of an alias's function."""
        return self._end(self._properties(logical_id), "FunctionName", "AWS::Lambda::Function")

    def _arn(self, service: str, resource: str) -> str:
        return f"arn:aws:{service}:{self._region}:{self._account}:{resource}"

    # Parameters, conditions and intrinsic functions

    def _read_parameters(self, declared: Mapping[str, yaml.Node], given: Mapping[str, str]) -> dict[str, Value]:
        unknown = sorted(set(given) - set(declared))
        if unknown:
            known = ", ".join(declared) or "none"
            raise TemplateError(1, f"The template has no parameter {unknown[0]}. It has: {known}.")
        values: dict[str, Value] = {}
        for name, node in declared.items():
            fields = {key: self._value(value) for key, value in entries(node).items()}
            value: Value = given[name] if name in given else fields.get("Default")
            if value is None:
                continue  # found out where it is used, if it is
            where = node if name in given else entries(node)["Default"]
            allowed = fields.get("AllowedValues")
            if isinstance(allowed, list) and as_text(value) not in {as_text(item) for item in allowed}:
                raise error_at(where, f"{name} is {value}; allowed are {', '.join(as_text(item) for item in allowed)}.")
            pattern = fields.get("AllowedPattern")
            if isinstance(pattern, str) and not re.fullmatch(pattern, as_text(value)):
                raise error_at(where, f"{name} is '{value}', which does not match {pattern}.")
            if fields.get("Type") == "Number":
                number = as_number(value)
                least, most = as_number(fields.get("MinValue")), as_number(fields.get("MaxValue"))
                if number is None:
                    raise error_at(where, f"{name} is '{value}', which is no number.")
                if (least is not None and number < least) or (most is not None and number > most):
                    raise error_at(where, f"{name} is {value}, outside {least} to {most}.")
                values[name] = number
            else:
                values[name] = as_text(value)
        return values

    def _is_wanted(self, node: yaml.Node) -> bool:
        condition = entries(node).get("Condition")
        return condition is None or self._holds(condition)

    def _holds(self, name: yaml.Node) -> bool:
        if not isinstance(name, yaml.ScalarNode) or name.value not in self._conditions:
            raise error_at(name, "There is no such condition.")
        return self._value(self._conditions[name.value]) is True

    def _value(self, node: yaml.Node) -> Value:
        """Return the node's value with every intrinsic function in it resolved."""
        function_call = call(node)
        if function_call is not None:
            return self._resolve(node, *function_call)
        if isinstance(node, yaml.ScalarNode):
            return scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [value for value in map(self._value_or_missing, node.value) if value is not _MISSING]
        values = {key: self._value_or_missing(value) for key, value in entries(node).items()}
        return {key: value for key, value in values.items() if value is not _MISSING}

    def _value_or_missing(self, node: yaml.Node) -> Value:
        try:
            return self._value(node)
        except _Missing:
            return _MISSING

    def _resolve(self, node: yaml.Node, function: str, argument: yaml.Node) -> Value:
        match function:
            case "Ref" if isinstance(argument, yaml.ScalarNode):
                return self._ref(node, argument.value)
            case "Fn::GetAtt":
                value = self._value(argument)
                parts = value if isinstance(value, list) else str(value).split(".", 1)
                return self._attribute(node, *(str(part) for part in parts))
            case "Fn::Sub":
                return self._sub(node, argument)
            case "Fn::Join" if isinstance(argument, yaml.SequenceNode):
                separator, items = self._value(argument.value[0]), self._value(argument.value[1])
                if isinstance(items, list):
                    return str(separator).join(as_text(item) for item in items)
            case "Fn::If" if isinstance(argument, yaml.SequenceNode) and len(argument.value) == 3:
                condition, yes, no = argument.value
                return self._value(yes if self._holds(condition) else no)
            case "Condition":
                return self._holds(argument)
            case "Fn::Equals" | "Fn::And" | "Fn::Or" | "Fn::Not":
                values = self._value(argument)
                if isinstance(values, list) and values:
                    return {
                        "Fn::Equals": len({as_text(value) for value in values}) == 1,
                        "Fn::And": all(values),
                        "Fn::Or": any(values),
                        "Fn::Not": not values[0],
                    }[function]
        raise error_at(node, f"{function} is not understood here.")

    def _ref(self, node: yaml.Node, name: str) -> Value:
        if name == "AWS::NoValue":
            raise _Missing
        if name in self._parameters:
            return self._parameters[name]
        pseudo = _PSEUDO | {"AWS::Region": self._region, "AWS::AccountId": self._account}
        if name in pseudo:
            return pseudo[name]
        if name in self._resources:
            kind = self._type(self._resources[name])
            if kind == "AWS::SQS::Queue":
                return self._queue_url(self._name(name))
            if kind in {"AWS::Lambda::Function", "AWS::Logs::LogGroup"}:
                return self._name(name)
            if kind == "AWS::Lambda::Alias":  # stands for its function, without a qualifier
                return self._arn("lambda", f"function:{self._function_of(name)}")
            raise error_at(
                node, f"{name} is a {kind}, which the local side does not make, so nothing here can refer to it."
            )
        raise error_at(
            node, f"{name} has no value: it is no resource, and no parameter with a default or a given value."
        )

    def _attribute(self, node: yaml.Node, name: str, attribute: str = "") -> str:
        kind = self._type(self._resources[name]) if name in self._resources else None
        match kind, attribute:
            case "AWS::SQS::Queue", "Arn":
                return self._arn("sqs", self._name(name))
            case "AWS::SQS::Queue", "QueueName":
                return self._name(name)
            case "AWS::SQS::Queue", "QueueUrl":
                return self._queue_url(self._name(name))
            case "AWS::Lambda::Function", "Arn":
                return self._arn("lambda", f"function:{self._name(name)}")
            case "AWS::IAM::Role", "Arn":
                return f"arn:aws:iam::{self._account}:role/{self._name(name)}"
        raise error_at(node, f"The local side has no attribute {name}.{attribute}.")

    def _sub(self, node: yaml.Node, argument: yaml.Node) -> str:
        text, own = argument, dict[str, Value]()
        if isinstance(argument, yaml.SequenceNode) and len(argument.value) == 2:
            text = argument.value[0]
            own = {key: self._value(value) for key, value in entries(argument.value[1]).items()}

        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return f"${{{name[1:]}}}"  # ${!Literal} stays as ${Literal}
            if name in own:
                return as_text(own[name])
            return self._attribute(node, *name.split(".", 1)) if "." in name else as_text(self._ref(node, name))

        if not isinstance(text, yaml.ScalarNode):
            raise error_at(node, "Fn::Sub needs a text.")
        return re.sub(r"\$\{([^}]+)\}", replace, text.value)


@dataclass
class _Properties:
    """The properties of one resource. Each is taken once; what nobody took is an error."""

    logical_id: str
    kind: str
    node: yaml.Node
    nodes: dict[str, yaml.Node]
    resolve: Callable[[yaml.Node], Value]
    not_played: dict[str, None]
    taken: set[str] = field(default_factory=set)

    def take(self, key: str) -> Value:
        """Return the property, None if it is not there."""
        self.taken.add(key)
        try:
            return self.resolve(self.nodes[key]) if key in self.nodes else None
        except _Missing:
            return None

    def unplayed(self) -> dict[str, Value]:
        """Return the properties that are not played; None for one that has no value on this machine."""
        unplayed: dict[str, Value] = {}
        for key in self.nodes:
            if key not in _IGNORED[self.kind]:
                continue
            try:
                unplayed[key] = self.resolve(self.nodes[key])
            except TemplateError:
                unplayed[key] = None
            except _Missing:
                pass
        return unplayed

    def text(self, key: str, otherwise: str, *, keep: bool = False) -> str:
        value = self.take(key)
        if keep:
            self.taken.discard(key)
        if value is None or isinstance(value, list | dict):
            raise self.error(key, otherwise)
        return as_text(value)

    def number(self, key: str, least: int, most: int, default: int) -> int:
        value = self.number_or_none(key, least, most)
        return default if value is None else value

    def number_or_none(self, key: str, least: int, most: int) -> int | None:
        value = self.take(key)
        if value is None:
            return None
        number = as_whole_number(value)
        if number is None or not least <= number <= most:
            raise self.error(key, f"{key} is {value}; it must be a whole number from {least} to {most}.")
        return number

    def error(self, key: str, problem: str, *path: str) -> TemplateError:
        """Return the error at `key`, or deeper, where `path` leads; at the resource where there is no `key`."""
        node = self.nodes.get(key, self.node)
        for name in path:
            node = entries(node).get(name, node) if isinstance(node, yaml.MappingNode) else node
        return error_at(node, f"{self.logical_id}: {problem}")

    def finish(self) -> None:
        """Say what is not played; fail at what nobody knows."""
        for key in self.nodes:
            if key in self.taken:
                continue
            if key not in _IGNORED[self.kind]:
                raise self.error(key, f"{key} is not played, and leaving it out would change what happens.")
            if (sentence := _IGNORED[self.kind][key]) and self._is_there(key):
                self.not_played[sentence] = None

    def _is_there(self, key: str) -> bool:
        try:
            self.resolve(self.nodes[key])
        except _Missing:
            return False
        except TemplateError:  # it has a value on AWS only
            pass
        return True


def _advice(
    queues: Mapping[str, Queue], functions: Mapping[str, Function], mappings: Iterable[EventSourceMapping]
) -> list[str]:
    """Return what the Lambda developer guide advises against ("Configuring a queue to use with Lambda")."""
    advice = []
    for mapping in mappings:
        queue, function = queues[mapping.queue], functions[mapping.function]
        wanted = 6 * function.timeout_seconds + mapping.window_seconds
        if queue.visibility_timeout < wanted:
            advice.append(
                f"{queue.name}: the visibility timeout of {queue.visibility_timeout} s is less than {wanted} s, six "
                f"times the timeout of {function.name} plus the batching window; a throttled batch may run twice."
            )
        if queue.redrive is None:
            advice.append(f"{queue.name}: no dead-letter queue; what always fails comes back until it expires.")
        elif queue.redrive.max_receive_count < 5:
            advice.append(
                f"{queue.name}: a maxReceiveCount of {queue.redrive.max_receive_count} sends throttled messages to "
                f"the dead-letter queue early; take 5 or more."
            )
        reserved = function.reserved_concurrency
        if reserved is not None and (mapping.maximum_concurrency or reserved + 1) > reserved:
            advice.append(
                f"{function.name}: the mapping may call more at once than the {reserved} that are reserved; the rest "
                f"is throttled. Set MaximumConcurrency to at most {reserved}."
            )
    return advice
