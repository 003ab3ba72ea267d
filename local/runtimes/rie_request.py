"""Send requests to the Runtime Interface Emulator (RIE) and understand its answers.

What RIE does was measured on the binary of aws-sam-cli 1.170.0 (docs/emulation.md); the word "measured" marks it.
"""

import json
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

import aiohttp
from yarl import URL

from local.runtimes.limits import MAX_RESPONSE_BYTES
from local.runtimes.platform_failure import EXIT_ERROR, KILLED, PlatformFailure, timed_out
from local.runtimes.rie_protocol import ERROR, OTHER, Order, fits_with_head, read_head

#: Host and port.
Address: TypeAlias = tuple[str, int]

#: Longest wait for a connection, seconds. A container that has left the network does not refuse, it stays silent.
CONNECT_SECONDS: Final = 1.0

#: An event that no handler gets, not even in a container that runs plain awslambdaric: it is not JSON.
NO_EVENT: Final = b"{"

_PATH: Final = "/2015-03-31/functions/function/invocations"
_TIMEOUT: Final = re.compile(rb"Task timed out after \d+\.\d\d seconds")
#: What RIE reports for a function that `rie_client`'s timer has ended. (measured)
_ALARM: Final = "Runtime exited with error: signal: alarm clock"
_REQUEST_ID: Final = re.compile(r"RequestId: \S+ Error: ")


@dataclass(frozen=True)
class Answer:
    """What came back for a request: a result or an error of the handler, or a failure of the platform.

    Parameters
    ----------
    body : bytes
        The handler's result, or its error report.
    is_error : bool
        Whether `body` is an error report.
    log_tail : bytes
        The end of the request's log.
    failure : PlatformFailure or None
        Why the handler did not answer; None if it did.
    is_broken : bool
        Whether the connection broke after the request was sent, so that RIE has ended.

    """

    body: bytes = b""
    is_error: bool = False
    log_tail: bytes = b""
    failure: PlatformFailure | None = None
    is_broken: bool = False


#: The answer of a RIE that ended during a request.
BROKEN: Final = Answer(failure=KILLED, is_broken=True)


class RieSession:
    """Requests to RIEs, each on a connection of its own."""

    def __init__(self) -> None:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )

    async def post(self, address: Address, order: Order, payload: bytes, timeout_seconds: float) -> Answer | None:
        """Send one request to a RIE.

        Parameters
        ----------
        address : (str, int)
            Host and port of the RIE.
        order : Order
            For `rie_client`.
        payload : bytes
            The event.
        timeout_seconds : float
            The time that the function has, for the message of a timeout.

        Returns
        -------
        Answer or None
            None if the function has not run and will not run, so another replica can take the request.

        """
        host, port = address
        headers = {"X-Amz-Client-Context": order.header(), "Content-Type": "application/json"}
        url = URL.build(scheme="http", host=host, port=port, path=_PATH)
        try:
            async with self._http.post(url, data=payload, headers=headers) as response:
                return read_answer(order.request_id, response.status, await _content(response), timeout_seconds)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return None
        except (aiohttp.ClientError, OSError):
            return BROKEN

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()


def read_answer(request_id: str, status: int, content: bytes, timeout_seconds: float) -> Answer | None:
    """Return what RIE's answer means; None if another function runs at this address.

    RIE's answers (measured): 200 with the function's body, which begins with the head line of `rie_client`; 200 with
    `Task timed out after N.NN seconds`; 502 with an error that RIE knows, as JSON; 502 without a body if the process
    ended during its init. It passes on neither the content type nor X-Amz-Function-Error.
    """
    head = read_head(request_id, content)
    if head is not None:
        outcome, body, log_tail = head
        return None if outcome == OTHER else Answer(body, outcome == ERROR, log_tail)
    if status == 200 and not fits_with_head(content):
        return Answer(content)
    if _TIMEOUT.fullmatch(content):
        return Answer(failure=timed_out(timeout_seconds))
    if not content:
        return Answer(failure=PlatformFailure(EXIT_ERROR, "Runtime exited without providing a reason"))
    try:
        report = json.loads(content)
        error_type, message = str(report["errorType"]), str(report["errorMessage"])
    except (ValueError, TypeError, LookupError):
        return Answer(failure=PlatformFailure(EXIT_ERROR, f"RIE answered {status} {content[:200]!r}"))
    if message.endswith(_ALARM):
        return Answer(failure=timed_out(timeout_seconds))
    if _REQUEST_ID.match(message):
        return Answer(failure=PlatformFailure(error_type, _REQUEST_ID.sub("", message, count=1)))
    return Answer(failure=PlatformFailure(error_type, message, content))


async def _content(response: aiohttp.ClientResponse) -> bytes:
    """Return the body. It is never longer than Lambda's limit."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_RESPONSE_BYTES:
            raise aiohttp.ClientPayloadError("more than RIE ever sends")
    return bytes(content)
