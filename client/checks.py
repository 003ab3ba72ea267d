"""One check of `faceq doctor`: what was examined, and the result."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import FaceqError


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Parameters
    ----------
    name : str
        What was examined.
    passed : bool or None
        None for a fact that is neither good nor bad.
    finding : str
        What was found, and for a failed check the command that puts it right. One line.

    """

    name: str
    passed: bool | None
    finding: str


def check_result(name: str, examine: Callable[[], str]) -> Check:
    """Return a passed check with what `examine` returns, or a failed one with the message of its FaceqError."""
    try:
        return Check(name, True, examine())
    except FaceqError as error:
        return Check(name, False, error.message)
