"""What `rie_request.py` and `rie_client.py` send each other through RIE, which by itself passes on too little.

The driver sends an `Order` inside the client context, which is the only thing that RIE passes on unchanged. The client
in the container puts a head line before the body of its answer.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from local.runtimes.limits import INIT_SECONDS, LOG_TAIL_BYTES, MAX_RESPONSE_BYTES

#: The client context's key that contains an order.
_KEY: Final = "faceq"

#: A head line without a log: an id of 36 characters, an outcome of at most 5, two spaces, a dash, the line's end.
_SHORTEST_HEAD_BYTES: Final = 36 + 1 + 5 + 1 + 1 + 1

#: Outcomes of an order: the handler's result, its error, or nothing, because the container runs another function.
OK: Final = "ok"
ERROR: Final = "error"
OTHER: Final = "other"


@dataclass(frozen=True)
class Order:
    """One request of the driver.

    Parameters
    ----------
    request_id : str
        The request id that the function sees.
    function : str
        The name of the function that shall run. The address may meanwhile belong to another function's container.
    warm_up : bool
        Whether to answer after the init without calling the handler.
    trace_id : str or None
        X-Ray trace header; RIE does not pass it on. (measured)
    client_context : str or None
        The caller's own client context, JSON.
    timeout_seconds : float or None
        How long the function may take before its process is ended. RIE's own timer also counts the init.

    """

    request_id: str
    function: str
    warm_up: bool = False
    trace_id: str | None = None
    client_context: str | None = None
    timeout_seconds: float | None = None

    def header(self) -> str:
        """Return it as the value of X-Amz-Client-Context."""
        return base64.b64encode(json.dumps({_KEY: vars(self)}).encode()).decode()


def rie_timeout(timeout_seconds: int) -> int:
    """Return the timeout to configure in RIE for a function's timeout: RIE's includes the init, Lambda's does not."""
    return timeout_seconds + round(INIT_SECONDS)


def read_order(client_context: str | None) -> Order | None:
    """Return the order in a client context, None if it contains none."""
    try:
        content = json.loads(client_context or "null")
    except ValueError:
        return None
    fields = content.get(_KEY) if isinstance(content, Mapping) else None
    try:
        return Order(**fields) if isinstance(fields, Mapping) else None
    except TypeError:
        return None


def with_head(request_id: str, outcome: str, body: bytes, log_tail: bytes = b"") -> bytes:
    """Put the head line before a body.

    A head line without the log, or no head line, if the result would otherwise be over `MAX_RESPONSE_BYTES`.
    """
    for log in (base64.b64encode(log_tail) or b"-", b"-"):
        content = b"%s %s %s\n%s" % (request_id.encode(), outcome.encode(), log, body)
        if len(content) <= MAX_RESPONSE_BYTES:
            return content
    return body


def fits_with_head(body: bytes) -> bool:
    """Return whether `with_head` puts a head line before this body."""
    return len(body) + _SHORTEST_HEAD_BYTES <= MAX_RESPONSE_BYTES


def read_head(request_id: str, content: bytes) -> tuple[str, bytes, bytes] | None:
    """Return the outcome, body and log of an answer; None if it has no head line or that of another request."""
    head, _, _ = content[: 2 * LOG_TAIL_BYTES].partition(b"\n")
    parts = head.split(b" ")
    if len(parts) != 3 or parts[0] != request_id.encode():
        return None
    outcome, log = parts[1].decode(), parts[2]
    return outcome, content[len(head) + 1 :], b"" if log == b"-" else base64.b64decode(log)
