"""What the local HTTP endpoints share: they listen on this machine and read a body without trusting its sender."""

import asyncio
import logging
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from local.runtimes.function_runtime import RequestTooLarge
from pipeline.errors import BadInput

LOOPBACK: Final = "127.0.0.1"

#: How long we wait for the whole body of a request, seconds.
BODY_SECONDS: Final = 60.0


class IncompleteBodyError(BadInput):
    """The body is incomplete: its client disconnected or violated HTTP."""

    def __init__(self, reason: str) -> None:
        super().__init__("incomplete", f"The request's body is incomplete: {reason}")


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Leave mistakes of clients out of the log; the client gets a 400 that names the mistake."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log = logging.getLogger(__name__)
_log.addFilter(_is_our_fault)


async def listen(application: web.Application, port: int, host: str = LOOPBACK) -> tuple[web.AppRunner, int]:
    """Serve an application, by default to clients on this machine only.

    Parameters
    ----------
    application : web.Application
    port : int
        0 for any free port.
    host : str
        Address to listen on.

    Returns
    -------
    web.AppRunner, int
        The server, which `await runner.cleanup()` ends within a second, and the port it listens on.

    Raises
    ------
    OSError
        The port is taken.

    """
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=_log,
        shutdown_timeout=0.25,
        auto_decompress=False,  # the function gets the body as the client sent it
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, runner.addresses[0][1]


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """Return the body of a request, with or without a Content-Length.

    Raises
    ------
    RequestTooLarge
        The body is over `limit` bytes; reading stopped there.
    IncompleteBodyError
        The client disconnected or violated HTTP before the body was complete.
    TimeoutError
        The body did not arrive within `BODY_SECONDS`.

    """
    if (request.content_length or 0) > limit:
        raise RequestTooLarge(f"{request.content_length} byte payload is too large (limit {limit} bytes)")
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                content += chunk
                if len(content) > limit:
                    raise RequestTooLarge(f"the payload is too large (limit {limit} bytes)")
    except (ConnectionError, HttpProcessingError, web.RequestPayloadError) as error:
        raise IncompleteBodyError(str(error)) from None
    return bytes(content)
