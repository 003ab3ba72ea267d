"""Emulate a function URL.

Two pure functions translate an HTTP request into a payload 2.0 event and a function's result into an HTTP response; a
server calls them.

Sources: Lambda developer guide, "Invoking Lambda function URLs" (formats, inference, base64) and "Lambda quotas". Where
these pages are silent, we do what others recorded on AWS; "unconfirmed" marks behaviour of which we know no recording.
Unlike AWS: no TLS (so no x-amzn-tls-* headers), no IAM, no CORS settings, and a request waits a bounded time for a busy
function, where AWS throttles it immediately.
"""

import base64
import binascii
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias
from urllib.parse import parse_qsl

from aiohttp import web

from local.http_server import IncompleteBodyError, read_body
from local.runtimes.function_runtime import FunctionRuntime, RequestTooLarge, TooManyRequests, new_trace_id
from local.runtimes.limits import MAX_REQUEST_BYTES

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

#: A body is text if its content type contains one of these; any other body is base64. (recorded: forms and multipart
#: bodies are base64)
_TEXT_TYPES: Final = ("text", "json", "xml")

#: Headers of the connection, which the server sets and the function cannot.
_CONNECTION_HEADERS: Final = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"})

#: Characters of a header's name. (RFC 9110, section 5.6.2, token)
_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True)
class HttpRequest:
    """An HTTP request as received.

    Parameters
    ----------
    method, target : str
        From the request line; `target` is path and query string, still encoded.
    headers : sequence of (str, str)
        In the order of the request; a name may repeat.
    body : bytes
        Empty if the request has no body.
    source_ip : str
        The client's address.
    port : int
        The server's port.

    """

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    source_ip: str
    port: int


@dataclass(frozen=True)
class HttpResponse:
    """A response to send: status 200 to 599, headers (a name may repeat), body."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


#: The response for a function that failed, hung, died or returned an invalid result.
#: (status and body recorded; the content type is unconfirmed)
FUNCTION_FAILED: Final = HttpResponse(502, [("content-type", "application/json")], b"Internal Server Error")


def to_event(request: HttpRequest, *, url_id: str, request_id: str, trace_id: str, now: datetime) -> dict[str, Json]:
    """Return the event, payload format 2.0.

    Parameters
    ----------
    request : HttpRequest
    url_id : str
        Identifies the URL; on AWS, the first part of its host name.
    request_id, trace_id : str
        Identify this request.
    now : datetime
        When the request came, with a time zone.

    """
    path, _, query = request.target.partition("?")
    headers: dict[str, str] = {}
    for name, value in request.headers:
        earlier = headers.get(name.lower())
        headers[name.lower()] = value if earlier is None else f"{earlier},{value}"
    headers["x-amzn-trace-id"] = trace_id
    headers["x-forwarded-for"] = request.source_ip
    headers["x-forwarded-port"] = str(request.port)
    headers["x-forwarded-proto"] = "http"
    event: dict[str, Json] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": dict(headers),
        "requestContext": {
            "accountId": "anonymous",  # sent by AWS for AuthType NONE; its documentation shows the owner's account
            "apiId": url_id,
            "domainName": headers.get("host", ""),
            "domainPrefix": url_id,
            "http": {
                "method": request.method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": request.source_ip,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": now.astimezone(UTC).strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": int(now.timestamp() * 1000),
        },
        "isBase64Encoded": False,
    }
    # Unlike API Gateway, a function URL keeps the cookie header as well. (seen on a deployed URL)
    cookies = [value for name, value in request.headers if name.lower() == "cookie"]
    if cookies:
        event["cookies"] = [cookie.strip() for value in cookies for cookie in value.split(";") if cookie.strip()]
    if query:
        parameters: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            earlier = parameters.get(name)
            parameters[name] = value if earlier is None else f"{earlier},{value}"
        event["queryStringParameters"] = dict(parameters)
    if request.body:
        text = _as_text(request.body, headers.get("content-type", ""))
        event["body"] = base64.b64encode(request.body).decode() if text is None else text
        event["isBase64Encoded"] = text is None
    return event


def _as_text(body: bytes, content_type: str) -> str | None:
    if not any(part in content_type.lower() for part in _TEXT_TYPES):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def to_response(payload: bytes) -> HttpResponse:
    """Return the HTTP response for a function's result; `FUNCTION_FAILED` if the result is invalid.

    Parameters
    ----------
    payload : bytes
        The result, JSON. An object with `statusCode` describes a response. Any other result is the body of a response
        with status 200; a string loses its quotes (recorded, though the documentation shows them).

    """
    try:
        result: Json = json.loads(payload, parse_constant=_reject_constant)
        if isinstance(result, dict) and "statusCode" in result:
            return _described_response(result)
    except (ValueError, RecursionError):  # neither JSON nor a valid response; AWS's answer is unconfirmed
        return FUNCTION_FAILED
    body = _encoded(result) if isinstance(result, str) else payload
    return HttpResponse(200, [("content-type", "application/json")], body)


def _reject_constant(constant: str) -> Json:
    raise ValueError(f"{constant} is not JSON")


def _described_response(result: Mapping[str, Json]) -> HttpResponse:
    """Return the response that the result describes. Raises ValueError if the description is malformed."""
    code = result["statusCode"]
    if isinstance(code, bool) or not isinstance(code, int | str):
        raise ValueError("statusCode is not a number")
    status = int(code)  # recorded: a string such as "418" works
    if not 200 <= status <= 599:
        raise ValueError("statusCode is not an HTTP status")
    fields = {} if result.get("headers") is None else result["headers"]
    cookies = [] if result.get("cookies") is None else result["cookies"]
    if not isinstance(fields, dict) or not isinstance(cookies, list):
        raise ValueError("headers must be an object and cookies a list")
    headers = [
        (name, _header_value(name, value))
        for name, value in fields.items()
        if value is not None and name.lower() not in _CONNECTION_HEADERS
    ]
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("content-type", "application/json"))
    headers += [("set-cookie", _header_value("set-cookie", cookie)) for cookie in cookies]
    body = result.get("body")
    if body is None:
        content = b""
    elif not isinstance(body, str):
        raise ValueError("body is not a string")
    elif result.get("isBase64Encoded") is True:
        try:
            content = base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise ValueError("body is not base64") from error
    else:
        content = _encoded(body)
    return HttpResponse(status, headers, content)


def _header_value(name: str, value: Json) -> str:
    if not name or not _TOKEN.issuperset(name):
        raise ValueError(f"{name!r} is not a header name")
    text = value if isinstance(value, str) else json.dumps(value)
    if any(ord(character) < 32 and character != "\t" for character in text) or "\x7f" in text:
        raise ValueError(f"the value of {name} has control characters")
    return text


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # JSON can contain half a surrogate pair, UTF-8 cannot


# The server


def application(runtime: FunctionRuntime, function: str, wait_seconds: float = 5.0) -> web.Application:
    """Return the server of one function's URL; `local.http_server.listen` runs it.

    It answers 502 if the function fails, 413 if the event is over 6 MB (base64 included), 400 if the body is
    incomplete, 408 if the body does not arrive in time, and 429 if all environments stay busy for `wait_seconds`. The
    bodies of the last four are JSON, `{"error": code, "message": sentence}`; AWS's own bodies are unconfirmed.

    Parameters
    ----------
    runtime : FunctionRuntime
        Runs the function, to its end even if the client disconnects.
    function : str
        The function's name.
    wait_seconds : float
        Longest wait for a free environment.

    """
    url_id = hashlib.sha256(function.encode()).hexdigest()[:32]

    async def handle(request: web.Request) -> web.Response:
        request_id = str(uuid.uuid4())
        trace_id = new_trace_id()
        try:
            event = to_event(
                HttpRequest(
                    method=request.method,
                    target=_without_surrogates(request.raw_path),
                    headers=[(_decoded(name), _decoded(value)) for name, value in request.raw_headers],
                    body=await read_body(request, MAX_REQUEST_BYTES),
                    source_ip=request.remote or "127.0.0.1",
                    port=request.get_extra_info("sockname")[1],
                ),
                url_id=url_id,
                request_id=request_id,
                trace_id=trace_id,
                now=datetime.now(UTC),
            )
            payload = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
            invocation = await runtime.invoke(function, payload, wait_seconds, trace_id=trace_id)
        except RequestTooLarge:
            limit = f"{MAX_REQUEST_BYTES // (1 << 20)} MB"
            response = _refusal(
                413, "too_large", f"The request is over {limit}, base64 included. Send a smaller frame."
            )
        except IncompleteBodyError:
            response = _refusal(400, "incomplete", "The request's body is incomplete. Send the request again.")
        except TimeoutError:
            response = _refusal(408, "too_slow", "The request's body did not arrive in time. Send the request again.")
        except TooManyRequests as error:
            response = _refusal(429, "too_many_requests", f"{error} Send the request again later.")
        else:
            response = FUNCTION_FAILED if invocation.function_error else to_response(invocation.payload)
        http_response = web.Response(status=response.status, body=response.body)
        for name, value in response.headers:
            if name.lower() == "set-cookie":  # each cookie is a header of its own
                http_response.headers.add(name, value)
            else:
                http_response.headers[name] = value
        http_response.headers["x-amzn-requestid"] = request_id
        http_response.headers["x-amzn-trace-id"] = trace_id
        return http_response

    server = web.Application()
    server.router.add_route("*", "/{path:.*}", handle)
    return server


def _refusal(status: int, error: str, message: str) -> HttpResponse:
    body = json.dumps({"error": error, "message": message}).encode()
    return HttpResponse(status, [("content-type", "application/json")], body)


def _decoded(header: bytes) -> str:
    return header.decode("utf-8", "replace")


def _without_surrogates(target: str) -> str:
    """Return the target with U+FFFD for bytes that are not UTF-8, which aiohttp keeps as surrogate escapes."""
    return target.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
