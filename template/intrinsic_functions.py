"""CloudFormation's intrinsic functions, resolved without a call to AWS.

(CloudFormation template reference, "Intrinsic function reference" and "Condition functions")
"""

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Final, TypeAlias, TypeVar

import yaml

from template.parameters import PSEUDO_PARAMETERS
from template.values import Symbol, SymbolicText, Value, as_list, as_text, as_whole_number, has_symbol
from template.yaml_nodes import entries, error_at, intrinsic_call, scalar

#: Gives a created resource's value: from the Symbol that asks for it, the resource's type and its physical name.
#: It returns the Symbol itself for what it does not know.
CreatedValue: TypeAlias = Callable[[Symbol, str, str], Value]

_Result = TypeVar("_Result", str, bool)

#: Functions whose result only CloudFormation knows.
_ON_CREATION: Final = frozenset(
    {"Fn::Base64", "Fn::Cidr", "Fn::GetAZs", "Fn::ImportValue", "Fn::Length",
     "Fn::ToJsonString", "Fn::Transform"}
)  # fmt: skip

#: Properties that give a resource its physical name. An alias and a version go by their function's.
_NAMES: Final = ("QueueName", "FunctionName", "RoleName", "LogGroupName")


class _NoValue(Enum):
    NO_VALUE = "AWS::NoValue"


_NO_VALUE: Final = _NoValue.NO_VALUE
_Resolved: TypeAlias = "Value | _NoValue"


class Resolver:
    """Resolves the nodes of one template.

    Parameters
    ----------
    parameters : Mapping of str to Value
        All that have a value, pseudo parameters included.
    declared : collection of str
        Names of the declared parameters; a Symbol stands for one without a value.
    conditions, mappings, resources : Mapping of str to yaml.Node
        The template's sections.
    created_value : callable, optional
        What Ref and GetAtt give for resources; without it they give Symbols.

    """

    def __init__(
        self,
        parameters: Mapping[str, Value],
        declared: Sequence[str],
        conditions: Mapping[str, yaml.Node],
        mappings: yaml.Node | None,
        resources: Mapping[str, yaml.Node],
        created_value: CreatedValue | None = None,
    ) -> None:
        self._parameters = parameters
        self._symbols = {*declared, *PSEUDO_PARAMETERS}
        self._conditions = conditions
        self._mappings = mappings
        self._resources = resources
        self._created_value = created_value
        self._evaluating: list[str] = []  # conditions and names, so that none refers to itself

    def value(self, node: yaml.Node) -> Value:
        """Return a node's value with all intrinsic functions resolved; None for AWS::NoValue. Raises TemplateError."""
        value = self._value(node)
        return None if value is _NO_VALUE else value

    def is_set(self, node: yaml.Node) -> bool:
        """Whether a node has a value other than AWS::NoValue. Raises TemplateError."""
        return self._value(node) is not _NO_VALUE

    def is_created(self, resource: yaml.Node) -> bool:
        """Whether a resource has no condition, or one that holds. Raises TemplateError."""
        condition = entries(resource).get("Condition")
        return condition is None or self._holds(condition)

    def physical_name(self, logical_id: str) -> str:
        """Return a resource's name as the template gives it. Raises TemplateError.

        Without one it has CloudFormation's form, `stack-LogicalId`; the suffix that CloudFormation adds is not known.
        """
        properties = entries(entries(self._resources[logical_id]).get("Properties"))
        for key in _NAMES:
            if key in properties:
                return self._unless_evaluating(
                    f"the name of {logical_id}",
                    properties[key],
                    partial(self._last_part, properties[key]),
                )
        return f"{as_text(self._parameters.get('AWS::StackName', 'faceq'))}-{logical_id}"

    def _last_part(self, node: yaml.Node) -> str:
        return as_text(self.value(node)).rsplit(":", 1)[-1]

    # Values

    def _value(self, node: yaml.Node) -> _Resolved:
        function_call = intrinsic_call(node)
        if function_call is not None:
            return self._call(node, *function_call)
        if isinstance(node, yaml.ScalarNode):
            return scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [value for value in map(self._value, node.value) if value is not _NO_VALUE]
        values = {key: self._value(value) for key, value in entries(node).items()}
        return {key: value for key, value in values.items() if value is not _NO_VALUE}

    def _call(self, node: yaml.Node, function: str, argument: yaml.Node) -> _Resolved:
        match function:
            case "Ref":
                return self._ref(node, self._name(argument))
            case "Fn::GetAtt":
                value = self.value(argument)
                parts = [as_text(part) for part in value] if isinstance(value, list) else as_text(value).split(".", 1)
                return self._attribute(node, parts[0] if parts else "", ".".join(parts[1:]))
            case "Fn::Sub":
                return self._sub(node, argument)
            case "Fn::If":
                condition, then, otherwise = self._arguments(node, function, argument, 3)
                return self._value(then if self._holds(condition) else otherwise)
            case "Fn::Join":
                separator, items = map(self.value, self._arguments(node, function, argument, 2))
                return _joined(as_text(separator), as_list(items))
            case "Fn::Split":
                return self._split(node, argument)
            case "Fn::Select":
                return self._select(node, argument)
            case "Fn::FindInMap":
                return self._find_in_map(node, argument)
            case _ if function in _ON_CREATION:
                return Symbol(function)
        raise error_at(node, f"{function} is not understood here.")

    def _arguments(self, node: yaml.Node, function: str, argument: yaml.Node, count: int) -> list[yaml.Node]:
        if not isinstance(argument, yaml.SequenceNode) or len(argument.value) != count:
            raise error_at(node, f"{function} takes a list of {count} values.")
        return list(argument.value)

    def _name(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise error_at(node, "A name is expected here.")
        return str(node.value)

    def _ref(self, node: yaml.Node, name: str) -> _Resolved:
        if name == "AWS::NoValue":
            return _NO_VALUE
        if name in self._parameters:
            return self._parameters[name]
        if name in self._resources:
            return self._created(Symbol(name))
        if name in self._symbols:
            return Symbol(name)
        raise error_at(node, f"{name} is no parameter and no resource of this template.")

    def _attribute(self, node: yaml.Node, logical_id: str, attribute: str) -> Value:
        if logical_id not in self._resources or not attribute:
            raise error_at(node, f"This template has no attribute {logical_id}.{attribute}.")
        return self._created(Symbol(logical_id, attribute))

    def _created(self, symbol: Symbol) -> Value:
        resource = self._resources[symbol.logical_id]
        if self._created_value is None or not self.is_created(resource):
            return symbol
        kind = self._name(entries(resource).get("Type", resource))
        return self._created_value(symbol, kind, self.physical_name(symbol.logical_id))

    def _sub(self, node: yaml.Node, argument: yaml.Node) -> Value:
        text, variables = argument, dict[str, Value]()
        if isinstance(argument, yaml.SequenceNode):
            text, names = self._arguments(node, "Fn::Sub", argument, 2)
            variables = {key: self.value(value) for key, value in entries(names).items()}
        if not isinstance(text, yaml.ScalarNode):
            raise error_at(node, "Fn::Sub needs a text.")
        is_symbolic = False

        def replacement(match: re.Match[str]) -> str:
            nonlocal is_symbolic
            name = match[1].strip()
            if name.startswith("!"):
                return f"${{{name[1:]}}}"  # ${!Literal} stays as ${Literal}
            if name in variables:
                value = variables[name]
            elif "." in name:
                value = self._attribute(node, *name.split(".", 1))
            else:
                reference = self._ref(node, name)
                value = "" if reference is _NO_VALUE else reference
            is_symbolic = is_symbolic or has_symbol(value)
            return as_text(value)

        replaced = re.sub(r"\$\{([^}]+)\}", replacement, text.value)
        return SymbolicText(replaced) if is_symbolic else replaced

    def _split(self, node: yaml.Node, argument: yaml.Node) -> Value:
        separator, text = map(self.value, self._arguments(node, "Fn::Split", argument, 2))
        if not separator:
            raise error_at(node, "Fn::Split needs a separator.")
        parts = as_text(text).split(as_text(separator))
        return [SymbolicText(part) for part in parts] if has_symbol(text) else [*parts]

    def _select(self, node: yaml.Node, argument: yaml.Node) -> Value:
        index_node, items_node = self._arguments(node, "Fn::Select", argument, 2)
        index, items = as_whole_number(self.value(index_node)), self.value(items_node)
        if isinstance(items, Symbol):
            return items
        if not isinstance(items, list) or index is None or not 0 <= index < len(items):
            raise error_at(node, f"Fn::Select finds no value {as_text(index)} in its list.")
        return items[index]

    def _find_in_map(self, node: yaml.Node, argument: yaml.Node) -> Value:
        found = self._mappings
        for key in self._arguments(node, "Fn::FindInMap", argument, 3):
            name = self.value(key)
            if isinstance(name, Symbol):
                return name
            found = entries(found).get(as_text(name))
            if found is None:
                raise error_at(node, f"Fn::FindInMap finds no {as_text(name)} in the Mappings.")
        return None if found is None else self.value(found)

    # Conditions

    def _holds(self, node: yaml.Node) -> bool:
        name = self._name(node)
        if name not in self._conditions:
            raise error_at(node, f"There is no condition {name}.")
        return self._unless_evaluating(f"the condition {name}", node, lambda: self._truth(self._conditions[name]))

    def _truth(self, node: yaml.Node) -> bool:
        call = intrinsic_call(node)
        if call is None and isinstance(node, yaml.MappingNode) and set(named := entries(node)) == {"Condition"}:
            call = "Condition", named["Condition"]
        function, argument = call or ("a plain value", node)
        match function:
            case "Condition":
                return self._holds(argument)
            case "Fn::Equals":
                left, right = (as_text(self.value(side)) for side in self._arguments(node, function, argument, 2))
                return left == right
            case "Fn::Not":
                (negated,) = self._arguments(node, function, argument, 1)
                return not self._truth(negated)
            case "Fn::And" | "Fn::Or" if isinstance(argument, yaml.SequenceNode) and argument.value:
                return (all if function == "Fn::And" else any)([self._truth(part) for part in argument.value])
        raise error_at(
            node, f"A condition cannot be {function}: use Fn::Equals, Fn::And, Fn::Or, Fn::Not or Condition."
        )

    def _unless_evaluating(self, what: str, node: yaml.Node, evaluate: Callable[[], _Result]) -> _Result:
        """Evaluate a condition or a name; refuse one that is needed for its own evaluation."""
        if what in self._evaluating:
            raise error_at(node, f"In this template {what} refers to itself.")
        self._evaluating.append(what)
        try:
            return evaluate()
        finally:
            self._evaluating.pop()


def _joined(separator: str, items: Sequence[Value]) -> str:
    text = separator.join(map(as_text, items))
    return SymbolicText(text) if any(map(has_symbol, items)) else text
