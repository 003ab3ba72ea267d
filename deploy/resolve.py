"""A CloudFormation template as its parameters resolve it, without a call to AWS.

Resources whose condition is false are not there. What is known on creation only, such as a queue's ARN, stays a
`Symbol` with its logical id.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import yaml

from pipeline.errors import BadInput

#: Sections of which CloudFormation limits the number of entries.
SECTIONS: Final = ("Resources", "Parameters", "Outputs")

Value: TypeAlias = "Symbol | bool | int | float | str | list[Value] | dict[str, Value] | None"


@dataclass(frozen=True)
class Symbol:
    """A resource of the template, or an attribute of it, that is known on creation only."""

    logical_id: str
    attribute: str = ""

    def __str__(self) -> str:
        return f"${{{self.logical_id}{'.' if self.attribute else ''}{self.attribute}}}"


@dataclass(frozen=True)
class Resource:
    """A resource that would be made: its properties resolved, and as they were written."""

    kind: str
    properties: Mapping[str, Value]
    written: Mapping[str, Any]


@dataclass(frozen=True)
class Template:
    """A template resolved with its parameters.

    Parameters
    ----------
    resources : Mapping of str to Resource
        By logical id; without those whose condition is false.
    bytes : int
        Of its text.
    counts : Mapping of str to int
        How many entries each section has.

    """

    resources: Mapping[str, Resource]
    bytes: int
    counts: Mapping[str, int]

    def of(self, *kinds: str) -> Mapping[str, Resource]:
        """Return the resources of these types, such as `AWS::SQS::Queue`."""
        return {name: resource for name, resource in self.resources.items() if resource.kind in kinds}


def load(text: str) -> dict[str, Any]:
    """Read a template's text, intrinsic functions in their long form. Raises BadInput if it is none."""
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with CloudFormation's tags
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise BadInput("not_a_template", f"The template is not YAML in line {line}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("Resources"), dict):
        raise BadInput("not_a_template", "This is no CloudFormation template: it has no Resources.")
    return content


def read(text: str, parameters: Mapping[str, str]) -> Template:
    """Resolve a template's text.

    Parameters
    ----------
    text : str
        YAML or JSON.
    parameters : Mapping of str to str
        Those that are not left at their default. `AWS::Region` and the like may be among them.

    Raises
    ------
    BadInput
        It is no template.

    """
    content = load(text)
    try:
        resolver = _Resolver(content, parameters)
        resources = {
            name: Resource(resource["Type"], resolver.map(resource.get("Properties")), resource.get("Properties") or {})
            for name, resource in content["Resources"].items()
            if resolver.holds(resource.get("Condition"))
        }
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise BadInput("not_a_template", f"The template is not as CloudFormation takes it: {error!r}.") from error
    return Template(resources, len(text.encode()), {section: len(content.get(section) or ()) for section in SECTIONS})


def as_text(value: object) -> str:
    """Return a value as CloudFormation writes it where a text is wanted."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_list(value: Value) -> list[Value]:
    """Return what may be one thing or several as several."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def each_map(value: Value) -> Iterator[Mapping[str, Value]]:
    """Return the maps of what may be one thing or several."""
    return (one for one in as_list(value) if isinstance(one, dict))


def as_map(value: Value) -> Mapping[str, Value]:
    """Return a map; an empty one where there is none."""
    return value if isinstance(value, dict) else {}


def as_whole(value: Value, default: int) -> int:
    """Return a number as it stands in a property; the default where it is not there or known on creation only."""
    text = as_text(value)
    return int(text) if re.fullmatch(r"-?\d+", text) else default


class _Loader(yaml.SafeLoader):
    """SafeLoader that knows `!Ref` and its like, and leaves dates alone, which CloudFormation takes as text."""


def _intrinsic(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    argument: Any
    if isinstance(node, yaml.ScalarNode):
        argument = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        argument = loader.construct_sequence(node, deep=True)
    else:
        argument = loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else None
    if suffix == "GetAtt" and isinstance(argument, str):
        argument = argument.split(".", 1)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": argument}


_Loader.add_multi_constructor("!", _intrinsic)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

_GONE: Final[Any] = object()  # AWS::NoValue, until the entry that it stands for is dropped


class _Resolver:
    def __init__(self, content: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        self._resources = content["Resources"]
        self._conditions = content.get("Conditions") or {}
        self._mappings = content.get("Mappings") or {}
        self._known: dict[str, Value] = {"AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com"}
        self._known |= {name: value for name, value in parameters.items() if name.startswith("AWS::")}
        for name, declared in (content.get("Parameters") or {}).items():
            value = parameters.get(name, declared.get("Default"))
            if value is None:
                continue  # it stays `${Name}`
            is_list = str(declared.get("Type")).startswith(("CommaDelimitedList", "List<"))
            self._known[name] = [part.strip() for part in str(value).split(",") if part] if is_list else as_text(value)

    def holds(self, condition: str | None) -> bool:
        return condition is None or self._truth(self._conditions[condition])

    def map(self, node: object) -> Mapping[str, Value]:
        value = self.value(node)
        return value if isinstance(value, dict) else {}

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [value for value in map(self.value, node) if value is not _GONE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((name, argument),) = node.items()
            if name in self._CALLS:
                return self._CALLS[name](self, argument)
        values = {key: self.value(value) for key, value in node.items()}
        return {key: value for key, value in values.items() if value is not _GONE}

    def _truth(self, node: Any) -> bool:
        ((name, argument),) = node.items()
        match name:
            case "Condition":
                return self.holds(argument)
            case "Fn::Equals":
                left, right = (as_text(self.value(side)) for side in argument)
                return left == right
            case "Fn::Not":
                return not self._truth(argument[0])
            case "Fn::And":
                return all(map(self._truth, argument))
            case "Fn::Or":
                return any(map(self._truth, argument))
        raise BadInput("not_a_template", f"A condition of the template uses {name}, which no condition may.")

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _GONE
        if name in self._known:
            return self._known[name]
        return Symbol(name) if name in self._resources else f"<{name.removeprefix('AWS::')}>"

    def _attribute(self, argument: Sequence[str]) -> Value:
        return Symbol(argument[0], ".".join(argument[1:]))

    def _sub(self, argument: Any) -> Value:
        text, names = (argument, {}) if isinstance(argument, str) else argument

        def replaced(found: re.Match[str]) -> str:
            name = found[1]
            if name.startswith("!"):
                return f"${{{name[1:]}}}"
            if name in names:
                return as_text(self.value(names[name]))
            first, dot, attribute = name.partition(".")
            return str(Symbol(first, attribute)) if dot else as_text(self._ref(name))

        return re.sub(r"\$\{([^}]+)\}", replaced, text)

    def _if(self, argument: Sequence[Any]) -> Any:
        condition, then, otherwise = argument
        return self.value(then if self.holds(condition) else otherwise)

    def _join(self, argument: Sequence[Any]) -> Value:
        separator, parts = argument
        return str(separator).join(as_text(part) for part in as_list(self.value(parts)))

    def _select(self, argument: Sequence[Any]) -> Value:
        index, parts = argument
        found = as_list(self.value(parts))
        return found[int(index)] if int(index) < len(found) else None

    def _split(self, argument: Sequence[Any]) -> Value:
        separator, text = argument
        return list(as_text(self.value(text)).split(separator))

    def _find(self, argument: Sequence[Any]) -> Any:
        found: Any = self._mappings
        for key in argument:
            found = found[as_text(self.value(key))]
        return found

    #: What is not here, such as an import of another stack's output, stays as it is written.
    _CALLS: Final[Mapping[str, Callable[["_Resolver", Any], Value]]] = {
        "Ref": _ref,
        "Fn::GetAtt": _attribute,
        "Fn::Sub": _sub,
        "Fn::If": _if,
        "Fn::Join": _join,
        "Fn::Select": _select,
        "Fn::Split": _split,
        "Fn::FindInMap": _find,
    }
