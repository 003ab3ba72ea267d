"""Values of a template's properties, with symbols for what is only known once AWS has created a resource."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = "Symbol | bool | int | float | str | list[Value] | dict[str, Value] | None"


@dataclass(frozen=True)
class Symbol:
    """A value that is only known on creation: a resource, one of its attributes, or what else CloudFormation fills in.

    Parameters
    ----------
    logical_id : str
        A resource of the template. Otherwise a parameter without a value, a pseudo parameter such as `AWS::Region`, or
        an intrinsic function such as `Fn::ImportValue`.
    attribute : str
        The resource's attribute; empty for what `Ref` gives.

    """

    logical_id: str
    attribute: str = ""

    def __str__(self) -> str:
        if "::" in self.logical_id:  # not in braces: the colons would look like those of an ARN
            return f"<{self.logical_id.partition('::')[2]}>"
        return f"${{{self.logical_id}{'.' if self.attribute else ''}{self.attribute}}}"


class SymbolicText(str):
    """A text, some parts of which are only known on creation. It shows them as Symbols are shown."""

    __slots__ = ()


def has_symbol(value: Value) -> bool:
    """Whether a value, or anything inside it, is only known on creation."""
    if isinstance(value, list):
        return any(map(has_symbol, value))
    if isinstance(value, dict):
        return any(map(has_symbol, value.values()))
    return isinstance(value, Symbol | SymbolicText)


def as_text(value: Value) -> str:
    """Return a value as CloudFormation writes it where a text is wanted."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_number(value: Value) -> int | float | None:
    """Return a number, or a text that is one, as a number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return int(value) if not isinstance(value, float) else value
    except ValueError:
        try:
            return float(value)
        except ValueError:
            return None


def as_whole_number(value: Value) -> int | None:
    """Return a whole number, or a text that is one, as an int; None for anything else."""
    number = as_number(value)
    return number if isinstance(number, int) else None


def as_list(value: Value) -> list[Value]:
    """Return a list as it is, None as no values, and anything else as a list with this one value."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def as_map(value: Value) -> Mapping[str, Value]:
    """Return a map as it is, and an empty map for anything else."""
    return value if isinstance(value, dict) else {}


def each_map(value: Value) -> Iterator[Mapping[str, Value]]:
    """Yield the maps among the values that `as_list` returns."""
    return (entry for entry in as_list(value) if isinstance(entry, dict))


def logical_ids_in(value: Value) -> list[str]:
    """Return the logical ids that a value consists of or that its text contains, in order."""
    if isinstance(value, Symbol):
        return [value.logical_id]
    return re.findall(r"\$\{(\w+)[.}]", value) if isinstance(value, SymbolicText) else []
