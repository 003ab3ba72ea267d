"""The part of the Lambda API that invokes functions and tells of them, as boto3's `lambda` client calls it.

Set AWS_ENDPOINT_URL_LAMBDA to its address. (Lambda API reference: each operation's page, "Common errors"; texts of
errors as recorded on AWS, LocalStack's `test_lambda_api.snapshot.json`)
Unlike AWS: nothing is authenticated; the only version is $LATEST; an event of `InvocationType=Event` is tried once;
nothing is created, changed or deleted, the template says what exists.
"""

import asyncio
import base64
import binascii
import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from local import lambda_configuration
from local.http_server import BrokenRequestError, read_body
from local.runtimes.function_runtime import FunctionRuntime, RequestTooLarge, TooManyRequests, new_trace_id
from local.runtimes.limits import MAX_REQUEST_BYTES
from template.model import ServiceTemplate
from template.values import Value

#: Largest payload of an asynchronous invocation, bytes. (AWS Compute Blog, "More room to build", January 2026)
MAX_EVENT_BYTES: Final = 1024 * 1024

#: How many asynchronous invocations may wait or run, and how long one waits for an environment, seconds.
MAX_EVENTS: Final = 100
EVENT_WAIT_SECONDS: Final = 60.0

#: Most entries of one answer, and what MaxItems may be. (Lambda API reference, ListFunctions, ListEventSourceMappings,
#: ListFunctionUrlConfigs, whose page says no other default than its largest MaxItems)
_FUNCTIONS_PAGE: Final = 50
_MAPPINGS_PAGE: Final = 100
_URLS_PAGE: Final = 50
_MAX_ITEMS: Final = 10_000

#: Recorded on AWS for a mapping that is not there, and for GetPolicy of a function without one.
_NOTHING_THERE: Final = "The resource you requested does not exist."

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
    played: ServiceTemplate,
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
        Runs the functions of `played`.
    played : ServiceTemplate
        What there is to invoke and to tell of.
    function_urls : Mapping of str to str
        From a function's name to its address on this machine.
    region, account : str
        What the ARNs say.
    wait_seconds : float
        Longest wait of a synchronous call for an environment; AWS does not wait.

    """
    api = _Api(runtime, played, function_urls, region, account, wait_seconds)
    server = web.Application()
    server.router.add_post("/2015-03-31/functions/{function}/invocations", _answering(api.invoke))
    # `{_:/?}`: botocore wrote these paths with a slash at the end, and no longer does.
    for path, operation in {
        "/2015-03-31/functions{_:/?}": api.list_functions,
        "/2015-03-31/functions/{function}": api.get_function,
        "/2015-03-31/functions/{function}/configuration": api.get_function_configuration,
        "/2015-03-31/functions/{function}/policy": api.get_policy,
        "/2019-09-30/functions/{function}/concurrency": api.get_function_concurrency,
        "/2021-10-31/functions/{function}/url": api.get_function_url_config,
        "/2021-10-31/functions/{function}/urls": api.list_function_url_configs,
        "/2015-03-31/event-source-mappings{_:/?}": api.list_event_source_mappings,
        "/2015-03-31/event-source-mappings/{uuid}": api.get_event_source_mapping,
    }.items():
        server.router.add_get(path, _answering(operation), allow_head=False)
    server.router.add_route("*", "/{path:.*}", _answering(api.unknown))
    server.on_shutdown.append(api.stop)
    return server


class _Api:
    def __init__(
        self,
        runtime: FunctionRuntime,
        played: ServiceTemplate,
        function_urls: Mapping[str, str],
        region: str,
        account: str,
        wait_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._played = played
        self._function_urls = function_urls
        self._account = account
        self._arn = f"arn:aws:lambda:{region}:{account}:function:"
        self._wait_seconds = wait_seconds
        self._events: set[asyncio.Task[None]] = set()
        self._modified = datetime.now(UTC)  # the functions are as they were when this server started

    async def unknown(self, request: web.Request) -> web.Response:
        message = (
            f"{request.method} {request.path} is not played here; this endpoint invokes functions and tells of them."
        )
        raise _ApiError(404, "UnknownOperationException", message)

    # What the template says

    async def list_functions(self, request: web.Request) -> web.Response:
        # With FunctionVersion=ALL, ARNs are qualified (recorded on AWS). MasterRegion asks for replicas of Lambda@Edge.
        suffix = ":$LATEST" if request.query.get("FunctionVersion") == "ALL" else ""
        functions = [] if "MasterRegion" in request.query else self._played.functions.values()
        listed = [
            lambda_configuration.function_summary(function, self._arn + function.name + suffix, self._modified)
            for function in functions
        ]
        return web.json_response(_page(request, "Functions", listed, _FUNCTIONS_PAGE))

    async def get_function(self, request: web.Request) -> web.Response:
        name, arn = self._asked(request)
        return web.json_response(
            lambda_configuration.function_description(self._played.functions[name], arn, self._modified)
        )

    async def get_function_configuration(self, request: web.Request) -> web.Response:
        name, arn = self._asked(request)
        return web.json_response(
            lambda_configuration.function_configuration(self._played.functions[name], arn, self._modified)
        )

    async def get_function_concurrency(self, request: web.Request) -> web.Response:
        name, _ = self._asked(request)
        reserved = self._played.functions[name].reserved_concurrency
        return web.json_response({} if reserved is None else {"ReservedConcurrentExecutions": reserved})

    async def get_policy(self, request: web.Request) -> web.Response:
        name, _ = self._asked(request)
        permissions = [permission for permission in self._played.permissions if permission.function == name]
        if not permissions:
            raise _ApiError(404, "ResourceNotFoundException", _NOTHING_THERE)
        return web.json_response({"Policy": lambda_configuration.policy(permissions, self._arn + name)})

    async def get_function_url_config(self, request: web.Request) -> web.Response:
        urls = self._urls(request)
        if not urls:
            raise _ApiError(404, "ResourceNotFoundException", _NOTHING_THERE)
        return web.json_response(urls[0])

    async def list_function_url_configs(self, request: web.Request) -> web.Response:
        return web.json_response(_page(request, "FunctionUrlConfigs", self._urls(request), _URLS_PAGE, _URLS_PAGE))

    async def list_event_source_mappings(self, request: web.Request) -> web.Response:
        source, function = request.query.get("EventSourceArn"), request.query.get("FunctionName")
        name = self._named(function)[0] if function else None
        mappings = [
            lambda_configuration.mapping_configuration(mapping, self._account, self._modified)
            for mapping in self._played.event_source_mappings
            if source in {None, mapping.queue_arn} and name in {None, mapping.function}
        ]
        return web.json_response(_page(request, "EventSourceMappings", mappings, _MAPPINGS_PAGE))

    async def get_event_source_mapping(self, request: web.Request) -> web.Response:
        for mapping in self._played.event_source_mappings:
            fields = lambda_configuration.mapping_configuration(mapping, self._account, self._modified)
            if fields["UUID"] == request.match_info["uuid"]:
                return web.json_response(fields)
        raise _ApiError(404, "ResourceNotFoundException", _NOTHING_THERE)

    def _urls(self, request: web.Request) -> list[dict[str, Value]]:
        name, _ = self._asked(request)
        return [
            lambda_configuration.url_configuration(url, self._function_urls[name], self._arn + name, self._modified)
            for url in self._played.function_urls
            if url.function == name
        ]

    # Invocations

    async def stop(self, _server: web.Application) -> None:
        for task in self._events:
            task.cancel()
        await asyncio.gather(*self._events, return_exceptions=True)

    async def invoke(self, request: web.Request) -> web.Response:
        name, _ = self._asked(request)
        kind = request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        limit = MAX_EVENT_BYTES if kind == "Event" else MAX_REQUEST_BYTES
        payload = await read_body(request, limit) or b"{}"
        _check_json(payload)
        context = _client_context(request.headers.get("X-Amz-Client-Context"))
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

    # Names

    def _asked(self, request: web.Request) -> tuple[str, str]:
        """Return the name and the ARN of the function that the path names."""
        return self._named(request.match_info["function"], request.query.get("Qualifier"))

    def _named(self, function: str, qualifier: str | None = None) -> tuple[str, str]:
        """Return a function's name and its ARN, which is qualified if the question was (recorded on AWS)."""
        match = _FUNCTION.fullmatch(function)
        if match is None:
            raise _ApiError(400, "InvalidParameterValueException", f"{function} is not a function's name or ARN")
        asked = match["qualifier"] or qualifier
        arn = f"{self._arn}{match['name']}" + (f":{asked}" if asked else "")
        if match["name"] not in self._played.functions or asked not in {None, "", "$LATEST"}:
            raise _ApiError(404, "ResourceNotFoundException", f"Function not found: {arn}")
        return match["name"], arn


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


def _page(
    request: web.Request, key: str, entries: Sequence[dict[str, Value]], page: int, largest: int = _MAX_ITEMS
) -> dict[str, Value]:
    """Return the entries that Marker and MaxItems ask for; a marker is the number of those before it."""
    wanted, marker = request.query.get("MaxItems", str(page)), request.query.get("Marker", "0")
    count, start = _digits(wanted), _digits(marker)
    if count is None or not 1 <= count <= largest:
        bound = f"less than or equal to {largest}" if count else "greater than or equal to 1"
        constraint = f"Value '{wanted}' at 'maxItems' failed to satisfy constraint: Member must have value {bound}"
        raise _ApiError(400, "ValidationException", f"1 validation error detected: {constraint}")
    if start is None:
        raise _ApiError(400, "InvalidParameterValueException", "Invalid Marker: take one that an answer gave.")
    end = start + min(count, page)
    answer: dict[str, Value] = {key: list(entries[start:end])}
    return answer | ({"NextMarker": str(end)} if end < len(entries) else {})


def _digits(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _answering(
    operation: Callable[[web.Request], Awaitable[web.Response]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the operation with its errors answered as the API does."""

    async def answered(request: web.Request) -> web.Response:
        try:
            return await operation(request)
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

    return answered


def _failure(error: _ApiError) -> web.Response:
    headers = {"x-amzn-ErrorType": error.code, "x-amzn-RequestId": str(uuid.uuid4())}
    return web.json_response(error.body, status=error.status, headers=headers)
