"""The parameters that a template declares, and the values they have in one reading of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import yaml

from template.values import Value, as_list, as_number, as_text
from template.yaml_nodes import TemplateError, entries, error_at, intrinsic_call, read_sections, scalar

#: Pseudo parameters, which CloudFormation sets. (CloudFormation user guide, "Get AWS values using pseudo parameters")
PSEUDO_PARAMETERS: Final = frozenset(
    f"AWS::{name}"
    for name in ("AccountId", "NotificationARNs", "Partition", "Region", "StackId", "StackName", "URLSuffix")
)
#: Those that have one value in all regions but China's and GovCloud's.
_COMMON: Final[Mapping[str, Value]] = {"AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com"}


@dataclass(frozen=True)
class Parameter:
    """A declared parameter.

    Parameters
    ----------
    kind : str
        Its type, such as `String`, `Number` or `CommaDelimitedList`.
    default : Value
        As the template writes it; None without one.
    node : yaml.Node
        Its declaration.

    """

    name: str
    kind: str
    default: Value
    allowed_values: tuple[str, ...]
    allowed_pattern: str
    least: int | float | None
    most: int | float | None
    node: yaml.Node

    def value(self, text: Value, node: yaml.Node) -> Value:
        """Return the value that references to the parameter get: a list, a number or a text.

        Raises
        ------
        TemplateError
            At `node`: the parameter does not allow this value.

        """
        if self.kind.startswith(("CommaDelimitedList", "List<")):
            return [part.strip() for part in as_text(text).split(",") if part]
        if self.allowed_values and as_text(text) not in self.allowed_values:
            raise error_at(node, f"{self.name} is {text}; allowed are {', '.join(self.allowed_values)}.")
        if self.allowed_pattern and not re.fullmatch(self.allowed_pattern, as_text(text)):
            raise error_at(node, f"{self.name} is '{text}', which does not match {self.allowed_pattern}.")
        if self.kind != "Number":
            return as_text(text)
        number = as_number(text)
        if number is None:
            raise error_at(node, f"{self.name} is '{text}', which is no number.")
        if (self.least is not None and number < self.least) or (self.most is not None and number > self.most):
            raise error_at(node, f"{self.name} is {text}, outside {self.least} to {self.most}.")
        return number


def declared_parameters(text: str) -> Mapping[str, Parameter]:
    """Return the parameters that a template's text declares. Raises TemplateError if it is not a template."""
    return parameters_in(read_sections(text).get("Parameters"))


def parameters_in(section: yaml.Node | None) -> Mapping[str, Parameter]:
    """Return the parameters of a template's section `Parameters`, by name."""
    return {name: _parameter(name, node) for name, node in entries(section).items()}


def parameter_values(declared: Mapping[str, Parameter], given: Mapping[str, str]) -> dict[str, Value]:
    """Return the values of all parameters that have one: given, or by default.

    Parameters
    ----------
    given : Mapping of str to str
        Pseudo parameters such as `AWS::Region` may be among them.

    Raises
    ------
    TemplateError
        The template has no such parameter, or does not allow the value.

    """
    for name in sorted(set(given) - set(declared) - PSEUDO_PARAMETERS):
        raise TemplateError(1, f"The template has no parameter {name}. It has: {', '.join(declared) or 'none'}.")
    values = dict(_COMMON) | {name: value for name, value in given.items() if name in PSEUDO_PARAMETERS}
    for name, parameter in declared.items():
        if name in given:
            values[name] = parameter.value(given[name], parameter.node)
        elif parameter.default is not None:
            values[name] = parameter.value(parameter.default, entries(parameter.node)["Default"])
    return values


def _parameter(name: str, node: yaml.Node) -> Parameter:
    fields = {key: _literal(value) for key, value in entries(node).items()}
    pattern = as_text(fields.get("AllowedPattern") or "")
    try:
        re.compile(pattern)
    except re.error as error:
        raise error_at(node, f"{name}: its AllowedPattern is no regular expression: {error}.") from error
    return Parameter(
        name=name,
        kind=as_text(fields.get("Type")),
        default=fields.get("Default"),
        allowed_values=tuple(as_text(value) for value in as_list(fields.get("AllowedValues"))),
        allowed_pattern=pattern,
        least=as_number(fields.get("MinValue")),
        most=as_number(fields.get("MaxValue")),
        node=node,
    )


def _literal(node: yaml.Node) -> Value:
    if intrinsic_call(node) is not None:
        raise error_at(node, "A parameter's declaration takes no intrinsic functions.")
    if isinstance(node, yaml.ScalarNode):
        return scalar(node)
    return [_literal(item) for item in node.value] if isinstance(node, yaml.SequenceNode) else None
