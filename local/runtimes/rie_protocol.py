"""What `rie.py` and `rie_client.py` say to each other through RIE, which tells too little by itself.

There: an `Order` in the client context, the one thing that RIE passes on as it is. Back: a head line before the body.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from local.runtimes.limits import INIT_SECONDS, LOG_TAIL_BYTES, MAX_RESPONSE_BYTES
from template.model import Function

#: The client context's key that holds an order.
_KEY: Final = "faceq"

#: A head without a log: an id of 36 characters, a word of 5 at most, two spaces, a dash, the line's end.
_SHORTEST_HEAD_BYTES: Final = 36 + 1 + 5 + 1 + 1 + 1

#: What became of an order: the handler's result, its error, or nothing at all, for it is another function's.
OK: Final = "ok"
ERROR: Final = "error"
OTHER: Final = "other"


@dataclass(frozen=True)
class Order:
    """One request of the driver.

    Parameters
    ----------
    request_id : str
        What the function is to see as its request's id.
    function : str
        The name of the function that is meant: an address may have become another's.
    warm_up : bool
        To be answered once the init is done, without the handler.
    trace_id : str or None
        X-Ray trace header; RIE loses it on the way. (measured)
    client_context : str or None
        The caller's own, JSON.
    timeout_seconds : float or None
        Time that the function has; its process is ended when it is over. RIE's own timer counts the init too.

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


def rie_timeout(function: Function) -> int:
    """Return what RIE is to be told of a function's timeout, seconds: RIE's includes the init, Lambda's does not."""
    return function.timeout_seconds + round(INIT_SECONDS)


def read_order(client_context: str | None) -> Order | None:
    """Return the order in a client context, None if it holds none."""
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
    """Put the head line before a body; without the log, or without the head, where the limit leaves no room for it."""
    for log in (base64.b64encode(log_tail) or b"-", b"-"):
        whole = b"%s %s %s\n%s" % (request_id.encode(), outcome.encode(), log, body)
        if len(whole) <= MAX_RESPONSE_BYTES:
            return whole
    return body


def fits_with_head(body: bytes) -> bool:
    """Return whether `with_head` puts a head before this body."""
    return len(body) + _SHORTEST_HEAD_BYTES <= MAX_RESPONSE_BYTES


def read_head(request_id: str, content: bytes) -> tuple[str, bytes, bytes] | None:
    """Return outcome, body and log of an answer; None if it has no head, or that of another request."""
    head, _, body = content[: 2 * LOG_TAIL_BYTES].partition(b"\n")
    parts = head.split(b" ")
    if len(parts) != 3 or parts[0] != request_id.encode():
        return None
    body = content[len(head) + 1 :]
    return parts[1].decode(), body, b"" if parts[2] == b"-" else base64.b64decode(parts[2])
