"""A template's YAML (or JSON) as nodes, which know their lines."""

from collections.abc import Mapping
from typing import Final

import yaml

from pipeline.errors import BadInput
from template.values import Value

#: Code of a text that CloudFormation would not take for a template at all.
NOT_A_TEMPLATE: Final = "not_a_template"


class TemplateError(BadInput):
    """The template cannot be read or played, or AWS would refuse it.

    Parameters
    ----------
    line : int
        Where, counted from 1.
    problem : str
        What is wrong and what to do, in one line.
    code : str
        `bad_template`, or `not_a_template`.

    """

    def __init__(self, line: int, problem: str, code: str = "bad_template") -> None:
        super().__init__(code, f"line {line}: {problem}")
        self.line = line
        self.problem = problem


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases, which CloudFormation does not take and which could make a node contain itself.

        (CloudFormation user guide, "Template formats")
        """
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call] # PyYAML's stubs leave it untyped
            raise TemplateError(event.start_mark.line + 1, "CloudFormation takes no YAML aliases. Write the value out.")
        return super().compose_node(parent, index)


def read_sections(text: str) -> Mapping[str, yaml.Node]:
    """Return the sections of a template by name. Raises TemplateError if the text is not a template."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise TemplateError(line, f"This is not YAML: {error.problem}.", NOT_A_TEMPLATE) from None
    except yaml.YAMLError as error:
        raise TemplateError(1, f"This is not YAML: {' '.join(str(error).split())}", NOT_A_TEMPLATE) from None
    except RecursionError:
        raise TemplateError(1, "This template nests its values too deeply.", NOT_A_TEMPLATE) from None
    sections = entries(root) if isinstance(root, yaml.MappingNode) else {}
    if not isinstance(sections.get("Resources"), yaml.Node):
        raise TemplateError(1, "This is not a CloudFormation template: it has no Resources.", NOT_A_TEMPLATE)
    if "Transform" in sections:
        raise error_at(sections["Transform"], "faceq reads no transforms (SAM, macros). Write plain CloudFormation.")
    return sections


def line_of(node: yaml.Node) -> int:
    """Return the line on which a node begins, counted from 1."""
    return node.start_mark.line + 1


def error_at(node: yaml.Node, problem: str) -> TemplateError:
    """Return an error with the node's line."""
    return TemplateError(line_of(node), problem)


def entries(node: yaml.Node | None) -> dict[str, yaml.Node]:
    """Return a mapping node's entries by key; none for no node.

    Raises
    ------
    TemplateError
        The node is no mapping, or has a key twice, which CloudFormation refuses and YAML does not.

    """
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise error_at(node, "A map from names to values is expected here.")
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise error_at(key, "A name is expected here.")
        if key.value in found:
            raise error_at(key, f"The key {key.value} appears twice in this map.")
        found[key.value] = value
    return found


def child_nodes(node: yaml.Node) -> list[yaml.Node]:
    """Return the nodes of the values directly inside a node."""
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def intrinsic_call(node: yaml.Node) -> tuple[str, yaml.Node] | None:
    """Return an intrinsic function's name in its long form, such as `Fn::Sub`, and its argument's node.

    Returns None if the node is a plain value. `{Condition: ...}` is one: it is also a key of IAM policies.
    """
    if node.tag.startswith("!"):
        name = node.tag[1:]
        argument = type(node)("tag:yaml.org,2002:str", node.value, node.start_mark, node.end_mark)
        return name if name in {"Ref", "Condition"} else f"Fn::{name}", argument
    if isinstance(node, yaml.MappingNode) and len(node.value) == 1:
        key, argument = node.value[0]
        if isinstance(key, yaml.ScalarNode) and (key.value == "Ref" or key.value.startswith("Fn::")):
            return key.value, argument
    return None


def scalar(node: yaml.ScalarNode) -> Value:
    """Return a scalar's value. A date stays text, as in CloudFormation: an unquoted policy version is one."""
    kind = node.tag.rpartition(":")[2]
    if kind not in {"int", "float", "bool", "null"}:
        return str(node.value)
    try:
        value: Value = yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, KeyError) as error:
        raise error_at(node, f"'{node.value}' is no {kind}.") from error
    return value
