"""Emulate the operations of the Lambda API that invoke and describe functions, for boto3's `lambda` client.

Set AWS_ENDPOINT_URL_LAMBDA to its address. (Lambda API reference: each operation's page, "Common errors"; error
messages as recorded on AWS, LocalStack's `test_lambda_api.snapshot.json`)
Unlike AWS: no call is authenticated; the only version is $LATEST; an asynchronous invocation is tried once; no
operation creates, changes or deletes anything, because the template defines what exists.
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
from local.http_server import IncompleteBodyError, read_body
from local.runtimes.function_runtime import FunctionRuntime, RequestTooLarge, TooManyRequests, new_trace_id
from local.runtimes.limits import MAX_REQUEST_BYTES
from template.model import ServiceTemplate
from template.values import Value

#: Largest payload of an asynchronous invocation, bytes. (AWS Compute Blog, "More room to build", January 2026)
MAX_EVENT_BYTES: Final = 1024 * 1024

#: Most asynchronous invocations that wait or run, and how long one waits for a free environment, seconds.
MAX_EVENTS: Final = 100
EVENT_WAIT_SECONDS: Final = 60.0

#: Most entries of one page by default, and the largest MaxItems. (Lambda API reference, ListFunctions,
#: ListEventSourceMappings, and ListFunctionUrlConfigs, whose page gives a largest MaxItems and no other default)
_FUNCTIONS_PAGE: Final = 50
_MAPPINGS_PAGE: Final = 100
_URLS_PAGE: Final = 50
_MAX_ITEMS: Final = 10_000

#: Recorded on AWS for a mapping that does not exist, and for GetPolicy of a function without a policy.
_NO_SUCH_RESOURCE: Final = "The resource you requested does not exist."

#: A function's name, partial ARN or full ARN, with or without a qualifier. (API reference, FunctionName)
_FUNCTION: Final = re.compile(
    r"(?:(?:arn:[a-z-]+:lambda:[a-z0-9-]+:)?\d{12}:function:)?(?P<name>[a-zA-Z0-9-_]+)(?::(?P<qualifier>[$a-zA-Z0-9-_]+))?"
)

_log = logging.getLogger(__name__)


class _ApiError(Exception):
    def __init__(self, status: int, code: str, message: str, **fields: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        # Lambda sends `Message` in some errors and `message` in others; SDKs read both.
        self.body = {"Type": "User", "message": message, **fields}


def application(
    runtime: FunctionRuntime,
    template: ServiceTemplate,
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
        Runs the functions of `template`.
    template : ServiceTemplate
        Describes the functions, their URLs and their event source mappings.
    function_urls : Mapping of str to str
        The address of the function URL on this machine, by the name of its function.
    region, account : str
        Parts of the ARNs.
    wait_seconds : float
        Longest wait of a synchronous call for an environment; AWS does not wait.

    """
    api = _Api(runtime, template, function_urls, region, account, wait_seconds)
    server = web.Application()
    server.router.add_post("/2015-03-31/functions/{function}/invocations", _answering(api.invoke))
    # `{_:/?}`: older versions of botocore end these paths with a slash.
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
        template: ServiceTemplate,
        function_urls: Mapping[str, str],
        region: str,
        account: str,
        wait_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._template = template
        self._function_urls = function_urls
        self._account = account
        self._arn = f"arn:aws:lambda:{region}:{account}:function:"
        self._wait_seconds = wait_seconds
        self._events: set[asyncio.Task[None]] = set()
        self._modified = datetime.now(UTC)  # functions do not change while this server runs

    async def unknown(self, request: web.Request) -> web.Response:
        message = (
            f"{request.method} {request.path} is not emulated. This endpoint only invokes and describes functions."
        )
        raise _ApiError(404, "UnknownOperationException", message)

    # Descriptions

    async def list_functions(self, request: web.Request) -> web.Response:
        # FunctionVersion=ALL returns qualified ARNs (recorded on AWS). MasterRegion asks for Lambda@Edge replicas only.
        suffix = ":$LATEST" if request.query.get("FunctionVersion") == "ALL" else ""
        functions = [] if "MasterRegion" in request.query else self._template.functions.values()
        listed = [
            lambda_configuration.function_summary(function, self._arn + function.name + suffix, self._modified)
            for function in functions
        ]
        return web.json_response(_page(request, "Functions", listed, _FUNCTIONS_PAGE))

    async def get_function(self, request: web.Request) -> web.Response:
        name, arn = self._requested_function(request)
        return web.json_response(
            lambda_configuration.function_description(self._template.functions[name], arn, self._modified)
        )

    async def get_function_configuration(self, request: web.Request) -> web.Response:
        name, arn = self._requested_function(request)
        return web.json_response(
            lambda_configuration.function_configuration(self._template.functions[name], arn, self._modified)
        )

    async def get_function_concurrency(self, request: web.Request) -> web.Response:
        name, _ = self._requested_function(request)
        reserved = self._template.functions[name].reserved_concurrency
        return web.json_response({} if reserved is None else {"ReservedConcurrentExecutions": reserved})

    async def get_policy(self, request: web.Request) -> web.Response:
        name, _ = self._requested_function(request)
        permissions = [permission for permission in self._template.permissions if permission.function == name]
        if not permissions:
            raise _ApiError(404, "ResourceNotFoundException", _NO_SUCH_RESOURCE)
        return web.json_response({"Policy": lambda_configuration.policy(permissions, self._arn + name)})

    async def get_function_url_config(self, request: web.Request) -> web.Response:
        urls = self._urls(request)
        if not urls:
            raise _ApiError(404, "ResourceNotFoundException", _NO_SUCH_RESOURCE)
        return web.json_response(urls[0])

    async def list_function_url_configs(self, request: web.Request) -> web.Response:
        return web.json_response(_page(request, "FunctionUrlConfigs", self._urls(request), _URLS_PAGE, _URLS_PAGE))

    async def list_event_source_mappings(self, request: web.Request) -> web.Response:
        source, function = request.query.get("EventSourceArn"), request.query.get("FunctionName")
        name = self._resolve(function)[0] if function else None
        mappings = [
            lambda_configuration.mapping_configuration(mapping, self._account, self._modified)
            for mapping in self._template.event_source_mappings
            if source in {None, mapping.queue_arn} and name in {None, mapping.function}
        ]
        return web.json_response(_page(request, "EventSourceMappings", mappings, _MAPPINGS_PAGE))

    async def get_event_source_mapping(self, request: web.Request) -> web.Response:
        for mapping in self._template.event_source_mappings:
            fields = lambda_configuration.mapping_configuration(mapping, self._account, self._modified)
            if fields["UUID"] == request.match_info["uuid"]:
                return web.json_response(fields)
        raise _ApiError(404, "ResourceNotFoundException", _NO_SUCH_RESOURCE)

    def _urls(self, request: web.Request) -> list[dict[str, Value]]:
        name, _ = self._requested_function(request)
        return [
            lambda_configuration.url_configuration(url, self._function_urls[name], self._arn + name, self._modified)
            for url in self._template.function_urls
            if url.function == name
        ]

    # Invocations

    async def stop(self, _server: web.Application) -> None:
        for task in self._events:
            task.cancel()
        await asyncio.gather(*self._events, return_exceptions=True)

    async def invoke(self, request: web.Request) -> web.Response:
        name, _ = self._requested_function(request)
        kind = request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        limit = MAX_EVENT_BYTES if kind == "Event" else MAX_REQUEST_BYTES
        payload = await read_body(request, limit) or b"{}"
        _check_json(payload)
        context = _client_context(request.headers.get("X-Amz-Client-Context"))
        if kind == "DryRun":
            return web.Response(status=204)
        if kind == "Event":
            self._invoke_later(name, payload, context)
            return web.Response(status=202, headers={"x-amzn-RequestId": str(uuid.uuid4())})
        if kind != "RequestResponse":
            raise _ApiError(400, "InvalidParameterValueException", f"{kind} is not an invocation type")
        trace_id = request.headers.get("X-Amzn-Trace-Id") or new_trace_id()
        invocation = await self._runtime.invoke(name, payload, self._wait_seconds, context, trace_id)
        headers = {
            "Content-Type": "application/json",
            "X-Amz-Executed-Version": "$LATEST",
            "x-amzn-RequestId": invocation.request_id,
            "X-Amzn-Trace-Id": trace_id,
        }
        if invocation.function_error:
            headers["X-Amz-Function-Error"] = invocation.function_error
        if request.headers.get("X-Amz-Log-Type") == "Tail":
            headers["X-Amz-Log-Result"] = base64.b64encode(invocation.log_tail).decode()
        return web.Response(body=invocation.payload, headers=headers)

    def _invoke_later(self, name: str, payload: bytes, context: bytes | None) -> None:
        if len(self._events) >= MAX_EVENTS:
            raise TooManyRequests("Too many asynchronous invocations wait.")
        task = asyncio.create_task(self._run_event(name, payload, context))
        self._events.add(task)
        task.add_done_callback(self._events.discard)

    async def _run_event(self, name: str, payload: bytes, context: bytes | None) -> None:
        try:
            await self._runtime.invoke(name, payload, EVENT_WAIT_SECONDS, context)
        except TooManyRequests as error:
            _log.warning("An asynchronous invocation of %s was dropped: %s", name, error)

    # Names

    def _requested_function(self, request: web.Request) -> tuple[str, str]:
        """Return the name and the ARN of the function in the request's path."""
        return self._resolve(request.match_info["function"], request.query.get("Qualifier"))

    def _resolve(self, function: str, qualifier: str | None = None) -> tuple[str, str]:
        """Return the name and the ARN of a function; the ARN is qualified if the request is (recorded on AWS)."""
        match = _FUNCTION.fullmatch(function)
        if match is None:
            raise _ApiError(400, "InvalidParameterValueException", f"{function} is not the name or ARN of a function")
        version = match["qualifier"] or qualifier
        arn = f"{self._arn}{match['name']}" + (f":{version}" if version else "")
        if match["name"] not in self._template.functions or version not in {None, "", "$LATEST"}:
            raise _ApiError(404, "ResourceNotFoundException", f"Function not found: {arn}")
        return match["name"], arn


def _check_json(payload: bytes) -> None:
    try:
        json.loads(payload.decode(), parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        message = f"Could not parse request body into json: {error}"
        raise _ApiError(400, "InvalidRequestContentException", message) from None


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _client_context(header: str | None) -> bytes | None:
    if not header:
        return None
    try:
        context = json.loads(base64.b64decode(header, validate=True))
    except (binascii.Error, ValueError):
        context = None
    if not isinstance(context, dict):
        message = "Client context must be a valid Base64-encoded JSON object."
        raise _ApiError(400, "InvalidRequestContentException", message)
    return json.dumps(context).encode()  # one line of ASCII, so that it can be the value of a header


def _page(
    request: web.Request, key: str, entries: Sequence[dict[str, Value]], page: int, largest: int = _MAX_ITEMS
) -> dict[str, Value]:
    """Return the page of entries that Marker and MaxItems select. A marker is the number of entries before the page."""
    max_items, marker = request.query.get("MaxItems", str(page)), request.query.get("Marker", "0")
    count, start = _digits(max_items), _digits(marker)
    if count is None or not 1 <= count <= largest:
        bound = f"less than or equal to {largest}" if count else "greater than or equal to 1"
        constraint = f"Value '{max_items}' at 'maxItems' failed to satisfy constraint: Member must have value {bound}"
        raise _ApiError(400, "ValidationException", f"1 validation error detected: {constraint}")
    if start is None:
        raise _ApiError(
            400, "InvalidParameterValueException", "Invalid Marker. Use the NextMarker of an earlier answer."
        )
    end = start + min(count, page)
    answer: dict[str, Value] = {key: list(entries[start:end])}
    return answer | ({"NextMarker": str(end)} if end < len(entries) else {})


def _digits(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _answering(
    operation: Callable[[web.Request], Awaitable[web.Response]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the operation with its errors translated into the API's error responses."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return await operation(request)
        except RequestTooLarge as error:
            return _failure(_ApiError(413, "RequestTooLargeException", str(error)))
        except IncompleteBodyError:
            return _failure(_ApiError(400, "InvalidRequestContentException", "The request's body is incomplete."))
        except TimeoutError:
            return _failure(_ApiError(408, "RequestTimeoutException", "The request's body did not arrive in time."))
        except TooManyRequests:
            reason = "ReservedFunctionConcurrentInvocationLimitExceeded"
            return _failure(_ApiError(429, "TooManyRequestsException", "Rate Exceeded.", Reason=reason))
        except _ApiError as error:
            return _failure(error)

    return handle


def _failure(error: _ApiError) -> web.Response:
    headers = {"x-amzn-ErrorType": error.code, "x-amzn-RequestId": str(uuid.uuid4())}
    return web.json_response(error.body, status=error.status, headers=headers)
