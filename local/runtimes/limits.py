"""Limits of the Lambda service that its documentation and its error messages state."""

from typing import Final

#: Largest payload of a synchronous invocation, bytes. (Lambda developer guide, "Lambda quotas")
MAX_REQUEST_BYTES: Final = 6 * 1024 * 1024

#: Largest response, bytes: AWS's own limit, 100 bytes above the round number. (text of its error message)
MAX_RESPONSE_BYTES: Final = 6 * 1024 * 1024 + 100

#: Longest init phase before the invocation's own time starts to count, seconds.
#: (Lambda developer guide, "Understanding the Lambda execution environment lifecycle", init phase)
INIT_SECONDS: Final = 10.0

#: How much of a request's log an invocation returns, bytes. (Lambda API reference, Invoke, LogResult)
LOG_TAIL_BYTES: Final = 4096


def response_too_large(size: int) -> dict[str, str]:
    """Return AWS's error report for a response of `size` bytes, which is over `MAX_RESPONSE_BYTES`."""
    return {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": f"Response payload size ({size} bytes) exceeded maximum allowed payload size "
        f"({MAX_RESPONSE_BYTES} bytes).",
    }
