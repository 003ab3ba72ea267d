"""YAML nodes, which know their lines."""

import yaml

from pipeline.errors import BadInput
from template.values import Value, as_whole_number


class TemplateError(BadInput):
    """The template cannot be read or played, or AWS would refuse it.

    Parameters
    ----------
    line : int
        Where, counted from 1.
    problem : str
        What is wrong and what to do, in one line.

    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__("bad_template", f"line {line}: {problem}")
        self.line = line
        self.problem = problem


def error_at(node: yaml.Node, problem: str) -> TemplateError:
    """Return an error at the node's line."""
    return TemplateError(node.start_mark.line + 1, problem)


def entries(node: yaml.Node | None) -> dict[str, yaml.Node]:
    """Return a mapping node's entries by key; CloudFormation refuses a key that stands twice, YAML does not."""
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise error_at(node, "A map from names to values is expected here.")
    entries: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise error_at(key, "A name is expected here.")
        if key.value in entries:
            raise error_at(key, f"{key.value} stands here twice.")
        entries[key.value] = value
    return entries


def call(node: yaml.Node) -> tuple[str, yaml.Node] | None:
    """Return the intrinsic function that a node is, short form or long, with its argument; None if it is a value."""
    if node.tag.startswith("!"):
        name = node.tag[1:]
        plain = type(node)("tag:yaml.org,2002:str", node.value, node.start_mark, node.end_mark)
        return name if name in {"Ref", "Condition"} else f"Fn::{name}", plain
    if isinstance(node, yaml.MappingNode) and len(node.value) == 1:
        key, argument = node.value[0]
        if key.value in {"Ref", "Condition"} or str(key.value).startswith("Fn::"):
            return str(key.value), argument
    return None


def scalar(node: yaml.ScalarNode) -> Value:
    """Return the value that a scalar is written for."""
    match node.tag.rpartition(":")[2]:
        case "int":
            return as_whole_number(node.value.replace("_", ""))
        case "float":
            return float(node.value)
        case "bool":
            return node.value.lower() in {"true", "yes", "on"}
        case "null":
            return None
    return str(node.value)
