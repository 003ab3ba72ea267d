"""A template with its parameters applied: what CloudFormation would create, and what refers to what."""

from collections.abc import Mapping
from functools import cached_property
from typing import Final

import yaml

from template.intrinsic_functions import CreatedValue, Resolver
from template.parameters import parameter_values, parameters_in
from template.values import Symbol, Value, as_map, as_text, as_whole_number, logical_ids_in
from template.yaml_nodes import entries, error_at, intrinsic_call, line_of, read_sections

#: Sections of which CloudFormation limits the number of entries.
SECTIONS: Final = ("Resources", "Parameters", "Outputs")

FUNCTION: Final = "AWS::Lambda::Function"
QUEUE: Final = "AWS::SQS::Queue"
ROLE: Final = "AWS::IAM::Role"
#: Types of resources that refer to a function and can be named in its place.
_QUALIFIED: Final = ("AWS::Lambda::Version", "AWS::Lambda::Alias")


class Resource:
    """A resource that would be created.

    Parameters
    ----------
    logical_id, kind : str
        Its name in the template and its type, such as `AWS::SQS::Queue`.
    node : yaml.Node
        What the template says of it.
    resolver : Resolver

    """

    def __init__(self, logical_id: str, node: yaml.Node, resolver: Resolver) -> None:
        kind = entries(node).get("Type")
        if not isinstance(kind, yaml.ScalarNode):
            raise error_at(node, "This resource has no Type.")
        self.logical_id = logical_id
        self.kind = str(kind.value)
        self.kind_node = kind
        self.node = node
        self.property_nodes = entries(entries(node).get("Properties"))
        self._resolver = resolver

    def is_set(self, key: str) -> bool:
        """Whether a property is there and not AWS::NoValue. Raises TemplateError."""
        return key in self.property_nodes and self._resolver.is_set(self.property_nodes[key])

    def property(self, key: str) -> Value:
        """Return a property's value, None if it is not set. Raises TemplateError."""
        return self._resolver.value(self.property_nodes[key]) if key in self.property_nodes else None

    def value_of(self, node: yaml.Node) -> Value:
        """Return the value of a node inside this resource. Raises TemplateError."""
        return self._resolver.value(node)

    @cached_property
    def properties(self) -> Mapping[str, Value]:
        """The values of all properties that are set. Raises TemplateError."""
        return {key: self.property(key) for key in self.property_nodes if self.is_set(key)}

    def node_at(self, *path: str) -> yaml.Node:
        """Return the node at the end of a path of properties, or the last one on the way that exists."""
        node = self.node
        nodes = self.property_nodes
        for key in path:
            if key not in nodes:
                break
            node = nodes[key]
            nodes = entries(node) if isinstance(node, yaml.MappingNode) else {}
        return node

    def line(self, *path: str) -> int:
        """Return the line of a property; of the resource where it has none such."""
        return line_of(self.node_at(*path))

    def parameter(self, *path: str) -> str | None:
        """Return the name of the parameter that a property takes its value from, None if there is none."""
        nodes, node = self.property_nodes, None
        for key in path:
            node = _without_condition(nodes.get(key))
            nodes = entries(node) if isinstance(node, yaml.MappingNode) else {}
        call = intrinsic_call(node) if node is not None else None
        if call is not None and call[0] == "Ref" and isinstance(call[1], yaml.ScalarNode):
            return str(call[1].value)
        return None

    def setting(self, *path: str) -> str:
        """Return where the user sets a property: `the parameter NAME` if it comes from one, else the property."""
        parameter = self.parameter(*path)
        return f"the parameter {parameter}" if parameter else f"{'.'.join(path)} of {self.logical_id}"


class Template:
    """A template with its parameters applied.

    Parameters
    ----------
    text : str
        YAML or JSON.
    parameters : Mapping of str to str
        Those that are not left at their default. `AWS::Region` and other pseudo parameters may be among them.
    created_value : callable, optional
        What references give for resources that exist; without it they give Symbols.

    Raises
    ------
    TemplateError
        It is not a template, or does not take these parameters.

    """

    def __init__(self, text: str, parameters: Mapping[str, str], created_value: CreatedValue | None = None) -> None:
        sections = read_sections(text)
        declared = parameters_in(sections.get("Parameters"))
        nodes = entries(sections["Resources"])
        values = parameter_values(declared, parameters)
        self.region: Value = values.get("AWS::Region", Symbol("AWS::Region"))
        self._resolver = Resolver(
            values,
            list(declared),
            entries(sections.get("Conditions")),
            sections.get("Mappings"),
            nodes,
            created_value,
        )
        self._created_value = created_value
        self.bytes = len(text.encode())
        self.counts = {section: len(entries(sections.get(section))) for section in SECTIONS}
        self.resources: Mapping[str, Resource] = {
            name: Resource(name, node, self._resolver)
            for name, node in nodes.items()
            if self._resolver.is_created(node)
        }

    def of(self, *kinds: str) -> Mapping[str, Resource]:
        """Return the resources of these types, such as `AWS::SQS::Queue`, by logical id."""
        return {name: resource for name, resource in self.resources.items() if resource.kind in kinds}

    def reference(self, logical_id: str, attribute: str = "") -> Value:
        """Return what Ref or GetAtt gives for a resource. Raises TemplateError."""
        symbol = Symbol(logical_id, attribute)
        if self._created_value is None:
            return symbol
        return self._created_value(symbol, self.resources[logical_id].kind, self._resolver.physical_name(logical_id))

    def name_of(self, logical_id: str) -> str:
        """Return a resource's physical name; its logical id if the template does not give it one."""
        resource = self.resources[logical_id]
        key = "QueueName" if resource.kind == QUEUE else "FunctionName"
        name = resource.property(key)
        return logical_id if name is None else as_text(name)

    def referenced(self, value: Value, *kinds: str) -> list[str]:
        """Return the logical ids of the resources of these types that a value refers to."""
        return [name for name in logical_ids_in(value) if name in self.of(*kinds)]

    def function_of(self, value: Value) -> str | None:
        """Return the logical id of the function that a name or ARN means, itself or by a version or an alias."""
        for name in self.referenced(value, *_QUALIFIED):
            value = self.resources[name].property("FunctionName")
        for name in self.referenced(value, FUNCTION):
            return name
        parts = as_text(value).split(":")
        return next((name for name in self.of(FUNCTION) if self.name_of(name) in parts), None)

    def queue_of(self, value: Value) -> str | None:
        """Return the logical id of the queue that an ARN or a name means."""
        for name in self.referenced(value, QUEUE):
            return name
        last = as_text(value).rsplit(":", 1)[-1]
        return next((name for name in self.of(QUEUE) if self.name_of(name) == last), None)

    def functions_with_role(self, role: str) -> tuple[str, ...]:
        """Return the names of the functions that have a role, which is given by its logical id."""
        return tuple(self.name_of(name) for name, function in self.of(FUNCTION).items() if role in self.roles_of(name))

    def roles_of(self, function: str) -> list[str]:
        """Return the logical ids of the roles of a function, which is given by its logical id: one, or none."""
        value = self.resources[function].property("Role")
        roles = self.of(ROLE)
        return self.referenced(value, ROLE) or [
            name for name in roles if as_text(value) and as_text(value) == as_text(self.reference(name, "Arn"))
        ]

    def provisioned_concurrency(self, function: str) -> int:
        """Return how many environments are kept ready for a function, which is given by its logical id."""
        total = 0
        for qualified in self.of(*_QUALIFIED).values():
            config = as_map(qualified.property("ProvisionedConcurrencyConfig"))
            kept = config.get("ProvisionedConcurrentExecutions")
            if kept is not None and self.function_of(qualified.property("FunctionName")) == function:
                total += as_whole_number(kept) or 0
        return total


def _without_condition(node: yaml.Node | None) -> yaml.Node | None:
    """Return the first branch of an Fn::If, where a property has its setting: in the other one it is not set."""
    call = intrinsic_call(node) if node is not None else None
    if call is not None and call[0] == "Fn::If" and isinstance(call[1], yaml.SequenceNode) and len(call[1].value) == 3:
        return _without_condition(call[1].value[1])
    return node
