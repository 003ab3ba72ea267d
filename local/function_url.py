"""A function URL: HTTP requests to payload 2.0 events, results to HTTP responses (both pure), and a server around them.

Sources: Lambda developer guide, "Invoking Lambda function URLs" (formats, inference, base64) and "Lambda quotas"; what
these leave open is as AWS was recorded to answer by others, or marked "unconfirmed" where no recording is known.
Unlike AWS: no TLS (so no x-amzn-tls-* headers), no IAM, no CORS settings; a request waits a bounded time for a busy
function where AWS throttles it at once.
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

from local.http_server import BrokenRequestError, read_body
from local.runtimes.function_runtime import FunctionRuntime, RequestTooLarge, TooManyRequests, new_trace_id
from local.runtimes.limits import MAX_REQUEST_BYTES

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

#: Parts of a content type that make a body text; any other body is base64. (recorded: forms and multipart are base64)
_TEXT_TYPES: Final = ("text", "json", "xml")

#: Headers of a connection, which are the server's to set, not the function's.
_SERVERS_OWN: Final = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"})

_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True)
class HttpRequest:
    """A request as it came.

    Parameters
    ----------
    method, target : str
        From the request line; `target` is path and query string, undecoded.
    headers : sequence of (str, str)
        In their order, a name as often as it came.
    body : bytes
        Empty if there is none.
    source_ip : str
        The client's address.
    port : int
        The server's.

    """

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    source_ip: str
    port: int


@dataclass(frozen=True)
class HttpResponse:
    """A response to send: status 200 to 599, headers (a name may be there twice), body."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


#: What a client sees of a function that failed, hung, died or answered nonsense.
#: (status and body recorded; the content type is unconfirmed)
FUNCTION_FAILED: Final = HttpResponse(502, [("content-type", "application/json")], b"Internal Server Error")


def to_event(request: HttpRequest, *, url_id: str, request_id: str, trace_id: str, now: datetime) -> dict[str, Json]:
    """Return the event, payload format 2.0.

    Parameters
    ----------
    request : HttpRequest
        What came.
    url_id : str
        Names the URL, as the first part of its host does on AWS.
    request_id, trace_id : str
        This request's own.
    now : datetime
        When it came, with its time zone.

    """
    path, _, query = request.target.partition("?")
    headers: dict[str, str] = {}
    for name, value in request.headers:
        known = headers.get(name.lower())
        headers[name.lower()] = value if known is None else f"{known},{value}"
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
            "accountId": "anonymous",  # what AWS sends for AuthType NONE; its documentation says the owner's id
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
    # A function URL leaves the cookie header where it is, unlike API Gateway. (seen on a deployed URL)
    cookies = [value for name, value in request.headers if name.lower() == "cookie"]
    if cookies:
        event["cookies"] = [cookie.strip() for value in cookies for cookie in value.split(";") if cookie.strip()]
    if query:
        parameters: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            known = parameters.get(name)
            parameters[name] = value if known is None else f"{known},{value}"
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
    """Return the response that a function's result means; `FUNCTION_FAILED` for one that means none.

    Parameters
    ----------
    payload : bytes
        The result, JSON. An object with `statusCode` is a response. Anything else is a body: as it is, but a string
        without its quotes (so recorded, though the documentation shows them), with status 200.

    """
    try:
        result: Json = json.loads(payload, parse_constant=_no_json)
        if isinstance(result, dict) and "statusCode" in result:
            return _mapped(result)
    except (ValueError, RecursionError):  # unconfirmed what AWS says of a result that is no JSON or no valid response
        return FUNCTION_FAILED
    body = _bytes(result) if isinstance(result, str) else payload
    return HttpResponse(200, [("content-type", "application/json")], body)


def _no_json(constant: str) -> Json:
    raise ValueError(f"{constant} is not JSON")


def _mapped(result: Mapping[str, Json]) -> HttpResponse:
    """Return the response that is written out in the result. Raises ValueError if it is malformed."""
    code = result["statusCode"]
    if isinstance(code, bool) or not isinstance(code, int | str):
        raise ValueError("statusCode is not a number")
    status = int(code)  # "418" was recorded to do
    if not 200 <= status <= 599:
        raise ValueError("statusCode is not an HTTP status")
    given = {} if result.get("headers") is None else result["headers"]
    cookies = [] if result.get("cookies") is None else result["cookies"]
    if not isinstance(given, dict) or not isinstance(cookies, list):
        raise ValueError("headers are an object, cookies a list")
    headers = [
        (name, _header(name, value))
        for name, value in given.items()
        if value is not None and name.lower() not in _SERVERS_OWN
    ]
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("content-type", "application/json"))
    headers += [("set-cookie", _header("set-cookie", cookie)) for cookie in cookies]
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
        content = _bytes(body)
    return HttpResponse(status, headers, content)


def _header(name: str, value: Json) -> str:
    if not name or not _TOKEN.issuperset(name):
        raise ValueError(f"{name!r} is not a header's name")
    text = value if isinstance(value, str) else json.dumps(value)
    if any(ord(character) < 32 and character != "\t" for character in text) or "\x7f" in text:
        raise ValueError(f"the value of {name} has control characters")
    return text


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # JSON can hold half a surrogate pair, UTF-8 cannot


# The server


def application(runtime: FunctionRuntime, function: str, wait_seconds: float = 5.0) -> web.Application:
    """Return the server of one function's URL; `local.http_server.listen` runs it.

    It answers 502 for a failure of the function; 413 for a request over 6 MB as an event (base64 included), 400 for
    half a body, 408 for one that does not arrive, 429 when all environments stay busy for `wait_seconds`. The bodies of
    these four are JSON, `{"error": code, "message": sentence}`; AWS's own are unconfirmed.

    Parameters
    ----------
    runtime : FunctionRuntime
        Runs the function. A request whose client goes is run to its end.
    function : str
        Its name.
    wait_seconds : float
        Longest wait for an environment.

    """
    url_id = hashlib.sha256(function.encode()).hexdigest()[:32]

    async def answer(request: web.Request) -> web.Response:
        request_id = str(uuid.uuid4())
        trace_id = new_trace_id()
        try:
            event = to_event(
                HttpRequest(
                    method=request.method,
                    target=_unescaped(request.raw_path),
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
        except BrokenRequestError:
            response = _refusal(400, "incomplete", "The request's body is not whole. Send it again.")
        except TimeoutError:
            response = _refusal(408, "too_slow", "The request's body did not arrive in time. Send it again.")
        except TooManyRequests as error:
            response = _refusal(429, "too_many_requests", f"{error} Send the request again later.")
        else:
            response = FUNCTION_FAILED if invocation.function_error else to_response(invocation.payload)
        answered = web.Response(status=response.status, body=response.body)
        for name, value in response.headers:
            # Each Set-Cookie is a header of its own.
            (answered.headers.add if name.lower() == "set-cookie" else answered.headers.__setitem__)(name, value)
        answered.headers["x-amzn-requestid"] = request_id
        answered.headers["x-amzn-trace-id"] = trace_id
        return answered

    server = web.Application()
    server.router.add_route("*", "/{path:.*}", answer)
    return server


def _refusal(status: int, error: str, message: str) -> HttpResponse:
    body = json.dumps({"error": error, "message": message}).encode()
    return HttpResponse(status, [("content-type", "application/json")], body)


def _decoded(header: bytes) -> str:
    return header.decode("utf-8", "replace")


def _unescaped(target: str) -> str:
    """Return the request line's target without the escapes in which aiohttp keeps bytes that are not UTF-8."""
    return target.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
