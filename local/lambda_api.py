"""The part of the Lambda API that invokes functions, as boto3's `lambda` client calls it.

Set AWS_ENDPOINT_URL_LAMBDA to its address. (Lambda API reference, "Invoke", "Common errors")
Unlike AWS: nothing is authenticated; the only version is $LATEST; an event of `InvocationType=Event` is tried once.
"""

import asyncio
import base64
import binascii
import json
import logging
import re
import uuid
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from local.http_server import BrokenRequestError, read_body
from local.runtimes import (
    MAX_REQUEST_BYTES,
    FunctionNotFound,
    FunctionRuntime,
    RequestTooLarge,
    TooManyRequests,
    new_trace_id,
)
from local.template import Template

#: Largest payload of an asynchronous invocation, bytes. (AWS Compute Blog, "More room to build", January 2026)
MAX_EVENT_BYTES: Final = 1024 * 1024

#: How many asynchronous invocations may wait or run, and how long one waits for an environment, seconds.
MAX_EVENTS: Final = 100
EVENT_WAIT_SECONDS: Final = 60.0

#: A function's name, alone or in an ARN, whole or partial, with or without a qualifier. (API reference, FunctionName)
_FUNCTION: Final = re.compile(
    r"(?:(?:arn:[a-z-]+:lambda:[a-z0-9-]+:)?\d{12}:function:)?(?P<name>[a-zA-Z0-9-_]+)(?::(?P<qualifier>[$a-zA-Z0-9-_]+))?"
)

_log = logging.getLogger(__name__)


class _ApiError(Exception):
    def __init__(self, status: int, code: str, message: str, **fields: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        # Lambda writes `Message` in some errors and `message` in others; SDKs read both.
        self.body = {"Type": "User", "message": message, **fields}


def application(
    runtime: FunctionRuntime,
    played: Template,
    function_urls: Mapping[str, str],
    *,
    region: str,
    account: str,
    wait_seconds: float = 0.0,
) -> web.Application:
    """Return the API's server; `local.http_server.listen` runs it.

    Parameters
    ----------
    runtime : FunctionRuntime
        Runs the functions.
    played : Template
        What there is to tell of them.
    function_urls : Mapping of str to str
        From a function's name to its address on this machine.
    region, account : str
        What the ARNs say.
    wait_seconds : float
        Longest wait of a synchronous call for an environment; AWS does not wait.

    """
    api = _Api(runtime, f"arn:aws:lambda:{region}:{account}:function:", wait_seconds)
    server = web.Application()
    server.router.add_post("/2015-03-31/functions/{function}/invocations", api.invoke)
    server.router.add_route("*", "/{path:.*}", api.unknown)
    server.on_shutdown.append(api.stop)
    return server


class _Api:
    def __init__(self, runtime: FunctionRuntime, arn: str, wait_seconds: float) -> None:
        self._runtime = runtime
        self._arn = arn
        self._wait_seconds = wait_seconds
        self._events: set[asyncio.Task[None]] = set()

    async def invoke(self, request: web.Request) -> web.Response:
        try:
            return await self._invoke(request)
        except FunctionNotFound:
            return _failure(self._not_found(request.match_info["function"]))
        except RequestTooLarge as error:
            return _failure(_ApiError(413, "RequestTooLargeException", str(error)))
        except BrokenRequestError:
            return _failure(_ApiError(400, "InvalidRequestContentException", "The request's body is not whole."))
        except TimeoutError:
            return _failure(_ApiError(408, "RequestTimeoutException", "The request's body did not arrive in time."))
        except TooManyRequests:
            reason = "ReservedFunctionConcurrentInvocationLimitExceeded"
            return _failure(_ApiError(429, "TooManyRequestsException", "Rate Exceeded.", Reason=reason))
        except _ApiError as error:
            return _failure(error)

    async def unknown(self, request: web.Request) -> web.Response:
        message = f"{request.method} {request.path} is not played here; this endpoint invokes functions."
        return _failure(_ApiError(404, "UnknownOperationException", message))

    async def stop(self, _server: web.Application) -> None:
        for task in self._events:
            task.cancel()
        await asyncio.gather(*self._events, return_exceptions=True)

    async def _invoke(self, request: web.Request) -> web.Response:
        name = self._name(request.match_info["function"], request.query.get("Qualifier"))
        kind = request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        limit = MAX_EVENT_BYTES if kind == "Event" else MAX_REQUEST_BYTES
        payload = await read_body(request, limit) or b"{}"
        _check_json(payload)
        context = _client_context(request.headers.get("X-Amz-Client-Context"))
        self._runtime.concurrency(name)  # asks whether there is such a function
        if kind == "DryRun":
            return web.Response(status=204)
        if kind == "Event":
            self._run_later(name, payload, context)
            return web.Response(status=202, headers={"x-amzn-RequestId": str(uuid.uuid4())})
        if kind != "RequestResponse":
            raise _ApiError(400, "InvalidParameterValueException", f"{kind} is not an invocation type")
        trace_id = request.headers.get("X-Amzn-Trace-Id") or new_trace_id()
        done = await self._runtime.invoke(name, payload, self._wait_seconds, context, trace_id)
        headers = {
            "Content-Type": "application/json",
            "X-Amz-Executed-Version": "$LATEST",
            "x-amzn-RequestId": done.request_id,
            "X-Amzn-Trace-Id": trace_id,
        }
        if done.function_error:
            headers["X-Amz-Function-Error"] = done.function_error
        if request.headers.get("X-Amz-Log-Type") == "Tail":
            headers["X-Amz-Log-Result"] = base64.b64encode(done.log_tail).decode()
        return web.Response(body=done.payload, headers=headers)

    def _name(self, function: str, qualifier: str | None) -> str:
        match = _FUNCTION.fullmatch(function)
        if match is None:
            raise _ApiError(400, "InvalidParameterValueException", f"{function} is not a function's name or ARN")
        asked = match["qualifier"] or qualifier or "$LATEST"
        if asked != "$LATEST":
            raise self._not_found(f"{match['name']}:{asked}")
        return match["name"]

    def _not_found(self, function: str) -> _ApiError:
        arn = function if function.startswith("arn:") else self._arn + function
        return _ApiError(404, "ResourceNotFoundException", f"Function not found: {arn}")

    def _run_later(self, name: str, payload: bytes, context: bytes | None) -> None:
        if len(self._events) >= MAX_EVENTS:
            raise TooManyRequests("too many events wait")
        task = asyncio.create_task(self._run(name, payload, context))
        self._events.add(task)
        task.add_done_callback(self._events.discard)

    async def _run(self, name: str, payload: bytes, context: bytes | None) -> None:
        try:
            await self._runtime.invoke(name, payload, EVENT_WAIT_SECONDS, context)
        except TooManyRequests as error:
            _log.warning("an event is dropped: %s", error)


def _check_json(payload: bytes) -> None:
    try:
        json.loads(payload.decode(), parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        message = f"Could not parse request body into json: {error}"
        raise _ApiError(400, "InvalidRequestContentException", message) from None


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _client_context(header: str | None) -> bytes | None:
    if not header:
        return None
    try:
        given = json.loads(base64.b64decode(header, validate=True))
    except (binascii.Error, ValueError):
        given = None
    if not isinstance(given, dict):
        message = "Client context must be a valid Base64-encoded JSON object."
        raise _ApiError(400, "InvalidRequestContentException", message)
    return json.dumps(given).encode()  # one line of ASCII, as a header's value must be


def _failure(error: _ApiError) -> web.Response:
    headers = {"x-amzn-ErrorType": error.code, "x-amzn-RequestId": str(uuid.uuid4())}
    return web.json_response(error.body, status=error.status, headers=headers)
