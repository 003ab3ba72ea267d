"""What runs the functions: one Protocol and its drivers, each held to tests/conformance/test_runtimes.py.

A driver plays the Lambda service between a caller and a function's processes: it starts execution environments, hands
each one request at a time, and answers for those that fail, hang or die.
"""

import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:  # functions that start import this module, and need no event loop
    import asyncio

#: Largest payload of a synchronous invocation, bytes. (Lambda developer guide, "Lambda quotas")
MAX_REQUEST_BYTES: Final = 6 * 1024 * 1024

#: Longest init phase before an invocation's own time starts, seconds. ("Execution environment lifecycle", init phase)
INIT_SECONDS: Final = 10.0

#: Largest response, bytes: AWS's own limit, 100 bytes above the round number. (text of its error message)
MAX_RESPONSE_BYTES: Final = 6 * 1024 * 1024 + 100


#: How much of a request's log an invocation returns, bytes. (API reference, Invoke, LogResult)
LOG_TAIL_BYTES: Final = 4096


class TooManyRequests(Exception):  # noqa: N818 - AWS's name
    """All environments that the function may have stayed busy. Try again later."""


class RequestTooLarge(Exception):  # noqa: N818 - AWS's name
    """The payload is over `MAX_REQUEST_BYTES`."""


class FunctionNotFound(Exception):  # noqa: N818 - AWS's name
    """There is no function of this name."""


class FunctionInitError(Exception):
    """A function cannot start.

    Parameters
    ----------
    function : str
        Its name.
    reason : str
        Its own message, in one line.
    place : str
        File and line in the function's code, empty where none is known.

    """

    def __init__(self, function: str, reason: str, place: str = "") -> None:
        super().__init__(f"The function {function} did not start: {reason}")
        self.function = function
        self.reason = reason
        self.place = place


@dataclass(frozen=True)
class Invocation:
    """What came of one invocation.

    Parameters
    ----------
    request_id : str
        The id in the function's context and in its log lines.
    payload : bytes
        The function's result as it sent it, mostly JSON; with `function_error`, a JSON object that has at least
        `errorType` and `errorMessage`.
    function_error : str or None
        "Unhandled" if the function failed, hung or died. None if it answered.
    log_tail : bytes
        Last 4 KB of what the request logged, START, END and REPORT lines included.
    duration_ms : float
        From handing the event over to the answer; no waiting, no init.

    """

    request_id: str
    payload: bytes
    function_error: str | None
    log_tail: bytes
    duration_ms: float


def check_payload(payload: bytes) -> None:
    """Raise RequestTooLarge, in AWS's words, for an event over `MAX_REQUEST_BYTES`."""
    if len(payload) > MAX_REQUEST_BYTES:
        raise RequestTooLarge(
            f"{len(payload)} byte payload is too large for the RequestResponse invocation type "
            f"(limit {MAX_REQUEST_BYTES} bytes)"
        )


def response_too_large(size: int) -> tuple[str, str]:
    """Return AWS's error type and message for a response of `size` bytes, which is over `MAX_RESPONSE_BYTES`."""
    return (
        "Function.ResponseSizeTooLarge",
        f"Response payload size ({size} bytes) exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes).",
    )


def timestamp() -> str:
    """Return the time now as Lambda's log lines have it, `2026-11-25T01:02:03.004Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def look_at(task: "asyncio.Task[Invocation] | asyncio.Task[None]") -> None:
    """Keep asyncio from reporting the task's exception as one that nobody saw: its caller may have gone."""
    if not task.cancelled():
        task.exception()


def new_trace_id() -> str:
    """Return an X-Ray trace header for a request that brought none: not sampled, for nothing here collects traces."""
    return f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Parent={uuid.uuid4().hex[:16]};Sampled=0"


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
            Longest wait for an environment while all that may exist are busy. First come, first served.
        client_context : bytes or None
            JSON object, one line of ASCII, for the handler's `context.client_context`.
        trace_id : str or None
            X-Ray trace header; a fresh one if None.

        Raises
        ------
        FunctionNotFound, RequestTooLarge, TooManyRequests
            The function did not run.

        """

    async def stop(self) -> None:
        """End all environments, busy ones too. Leaves no process. May be called at any time, and twice."""
