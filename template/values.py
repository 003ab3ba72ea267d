"""The values of a template's properties."""

from typing import TypeAlias

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"


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
