"""The port that runs functions: what a runtime does for its callers, and the errors it raises.

A runtime does what the Lambda service does between a caller and a function's processes: it starts execution
environments, gives each one request at a time, and answers for those that fail, hang or die.
"""

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from local.runtimes.limits import MAX_REQUEST_BYTES
from pipeline.errors import BadInput, SetupError, TransientError


class TooManyRequests(TransientError):  # noqa: N818 - AWS's name
    """All environments that the function may have stayed busy. The same call may succeed later."""

    def __init__(self, message: str) -> None:
        super().__init__("too_many_requests", message)


class RequestTooLarge(BadInput):
    """The payload is over `MAX_REQUEST_BYTES`."""

    def __init__(self, message: str) -> None:
        super().__init__("too_large", message, status=413)


class FunctionNotFound(BadInput):
    """No function has this name.

    Parameters
    ----------
    function : str
        The name.
    functions : iterable of str
        The names that exist.

    """

    def __init__(self, function: str, functions: Iterable[str]) -> None:
        super().__init__(
            "no_such_function",
            f"There is no function {function}. The functions are: {', '.join(functions)}.",
            status=404,
        )


class FunctionInitError(SetupError):
    """A function cannot start.

    Parameters
    ----------
    function : str
        Its name.
    reason : str
        The function's own error message, in one line.
    place : str
        File and line in the function's code; empty if unknown.

    """

    def __init__(self, function: str, reason: str, place: str = "") -> None:
        super().__init__("function_init", f"The function {function} did not start: {reason}")
        self.function = function
        self.reason = reason
        self.place = place


@dataclass(frozen=True)
class Invocation:
    """The outcome of one invocation.

    Parameters
    ----------
    request_id : str
        The id in the function's context and in its log lines.
    payload : bytes
        The function's result as the function sent it, usually JSON. With `function_error` it is a JSON object that has
        at least `errorType` and `errorMessage`.
    function_error : str or None
        "Unhandled" if the function failed, hung or died. None if it answered.
    log_tail : bytes
        The last 4 KB of the request's log, including the START, END and REPORT lines.
    duration_ms : float
        Time from handing the event to the function until its answer, without waiting and init.

    """

    request_id: str
    payload: bytes
    function_error: str | None
    log_tail: bytes
    duration_ms: float


class FunctionRuntime(Protocol):
    """Runs functions as Lambda runs them: one request at a time in each execution environment."""

    async def start(self) -> None:
        """Init the first environment(s) of each function, all in parallel.

        Raises
        ------
        FunctionInitError
            A function cannot init. Nothing is left running.

        """

    def concurrency(self, function: str) -> int:
        """Return how many environments the function may have. Raises FunctionNotFound."""

    async def invoke(
        self,
        function: str,
        payload: bytes,
        wait_seconds: float = 0.0,
        client_context: bytes | None = None,
        trace_id: str | None = None,
    ) -> Invocation:
        """Run the function once. A failure of the function is a result (`Invocation.function_error`), not an exception.

        The function runs to its end, or to its timeout, even if the caller is cancelled.

        Parameters
        ----------
        function : str
            Its name.
        payload : bytes
            The event, JSON, at most `MAX_REQUEST_BYTES`.
        wait_seconds : float
            Longest wait for an environment while all that the function may have are busy. First come, first served.
        client_context : bytes or None
            JSON object, one line of ASCII, for the handler's `context.client_context`.
        trace_id : str or None
            X-Ray trace header; None for a new one.

        Raises
        ------
        FunctionNotFound, RequestTooLarge, TooManyRequests
            The function did not run.

        """

    async def stop(self) -> None:
        """End all environments, busy ones too. Leaves no process. May be called at any time, and twice."""


def check_payload(payload: bytes) -> None:
    """Raise RequestTooLarge, with AWS's message, for an event over `MAX_REQUEST_BYTES`."""
    if len(payload) > MAX_REQUEST_BYTES:
        raise RequestTooLarge(
            f"{len(payload)} byte payload is too large for the RequestResponse invocation type "
            f"(limit {MAX_REQUEST_BYTES} bytes)"
        )


def new_trace_id() -> str:
    """Return an X-Ray trace header for a request that has none: not sampled, because no local part collects traces."""
    return f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Parent={uuid.uuid4().hex[:16]};Sampled=0"
