"""What the local HTTP endpoints share: how they listen, and how they read a body without trusting its sender."""

import asyncio
import logging
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from local.runtimes.function_runtime import RequestTooLarge

LOOPBACK: Final = "127.0.0.1"

#: Longest time for a request's body to arrive, seconds.
BODY_SECONDS: Final = 60.0


class BrokenRequestError(Exception):
    """The body is not whole: its client has gone, or did not keep to HTTP."""


def _is_ours(record: logging.LogRecord) -> bool:
    """Leave out what clients do wrong: they are told, with a 400."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log = logging.getLogger(__name__)
_log.addFilter(_is_ours)


async def listen(application: web.Application, port: int, host: str = LOOPBACK) -> tuple[web.AppRunner, int]:
    """Serve, on this machine only unless told otherwise.

    Parameters
    ----------
    application : web.Application
        What answers.
    port : int
        0 for any free one.
    host : str
        Address to listen on.

    Returns
    -------
    web.AppRunner, int
        `await runner.cleanup()` ends it within a second; the port it listens on.

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
        auto_decompress=False,  # bodies belong to the functions, as they were sent
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, runner.addresses[0][1]


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """Return the body, whether its length was announced or not.

    Raises
    ------
    RequestTooLarge
        It is over `limit` bytes; no more than these were kept.
    BrokenRequestError
        It did not arrive whole.
    TimeoutError
        It did not arrive within `BODY_SECONDS`.

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
        raise BrokenRequestError(str(error)) from None
    return bytes(content)
