"""A Lambda runtime client in pure Python: it asks the Runtime API for events and gives them to a handler.

It replaces `awslambdaric` where that has no wheels (macOS) and behaves in the same way: the same errors, the same
JSON, the same context object. `python -m local.runtimes.runtime_client MODULE.FUNCTION`, with the Runtime API's address
in AWS_LAMBDA_RUNTIME_API. (Lambda developer guide, "Using the Lambda runtime API for custom runtimes")
"""

import http.client
import importlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from email.message import Message
from types import SimpleNamespace
from typing import Final, TextIO

API: Final = "/2018-06-01/runtime"


class RuntimeClientError(Exception):
    """An error that the runtime client finds, not the handler.

    Parameters
    ----------
    error_type : str
        Lambda's name for it, `Runtime.Something`.
    message : str
        What is wrong.
    trace : list of str
        The lines of its stack trace, for errors that have a place in the code.

    """

    def __init__(self, error_type: str, message: str, trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.trace = trace or []


@dataclass(frozen=True)
class Context:
    """The handler's context object, with the names of the Lambda developer guide."""

    aws_request_id: str
    invoked_function_arn: str
    deadline_ms: int
    client_context: SimpleNamespace | None
    identity: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(cognito_identity_id=None, cognito_identity_pool_id=None)
    )
    function_name: str | None = field(default_factory=lambda: os.environ.get("AWS_LAMBDA_FUNCTION_NAME"))
    function_version: str | None = field(default_factory=lambda: os.environ.get("AWS_LAMBDA_FUNCTION_VERSION"))
    memory_limit_in_mb: str | None = field(default_factory=lambda: os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"))
    log_group_name: str | None = field(default_factory=lambda: os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME"))
    log_stream_name: str | None = field(default_factory=lambda: os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME"))

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the handler may still run, milliseconds, at least 0."""
        return max(0, self.deadline_ms - int(time.time() * 1000))


Handler = Callable[[object, Context], object]


class _UnbufferedStream:
    """A stream that flushes after every write, so that no line is lost when the process is killed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        written = self._stream.write(text)
        self._stream.flush()
        return written

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class _RequestIdFilter(logging.Filter):
    """Adds the current request's id to each log record."""

    request_id = ""

    def filter(self, record: logging.LogRecord) -> bool:
        record.aws_request_id = self.request_id
        return True


def find_handler(name: str) -> Handler:
    """Import a handler.

    Parameters
    ----------
    name : str
        `module.function`; the module may have dots or slashes.

    Raises
    ------
    RuntimeClientError
        The handler does not exist, or its module cannot be imported. Other exceptions of the module pass through.

    """
    module_name, dot, function = name.rpartition(".")
    if not dot:
        raise RuntimeClientError(
            "Runtime.MalformedHandlerName", f"Bad handler '{name}': not of the form module.function"
        )
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ImportError as error:
        raise RuntimeClientError(
            "Runtime.ImportModuleError", f"Unable to import module '{module_name}': {error}"
        ) from error
    except SyntaxError as error:
        place = f'  File "{error.filename}" Line {error.lineno}\n    {error.text}'
        message = f"Syntax error in module '{module_name}': {error}"
        raise RuntimeClientError("Runtime.UserCodeSyntaxError", message, [place]) from error
    try:
        handler: Handler = getattr(module, function)
    except AttributeError:
        raise RuntimeClientError(
            "Runtime.HandlerNotFound", f"Handler '{function}' missing on module '{module_name}'"
        ) from None
    return handler


def to_json(result: object) -> bytes:
    """Return a handler's result as it is sent: bytes unchanged, everything else as JSON.

    Raises
    ------
    RuntimeClientError
        The result cannot be written as JSON.

    """
    if isinstance(result, bytes):
        return result
    try:
        return json.dumps(result, default=_decimal_to_float).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RuntimeClientError("Runtime.MarshalError", f"Unable to marshal response: {error}") from error


def _decimal_to_float(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def error_report(error: BaseException, request_id: str = "") -> dict[str, object]:
    """Return the error as Lambda reports it: `errorMessage`, `errorType`, `requestId` and `stackTrace`."""
    if isinstance(error, RuntimeClientError):
        error_type, trace = error.error_type, error.trace
    else:
        frames = traceback.extract_tb(error.__traceback__)
        error_type = type(error).__name__
        # The handler's author needs no frames of this file.
        trace = traceback.format_list([frame for frame in frames if frame.filename != __file__])
    return {"errorMessage": str(error), "errorType": error_type, "requestId": request_id, "stackTrace": trace}


class RuntimeApi:
    """A client of the Runtime API that keeps one connection open.

    Parameters
    ----------
    address : str
        host:port.

    """

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address)

    def next(self) -> tuple[Message, bytes]:
        """Wait for an event without a limit; return its headers and its bytes."""
        return self._call("GET", "/invocation/next", None, {}, 200)

    def respond(self, request_id: str, result: bytes) -> None:
        """Send a handler's result."""
        headers = {"Content-Type": "application/json"}
        self._call("POST", f"/invocation/{request_id}/response", result, headers, 202)

    def fail(self, path: str, report: Mapping[str, object]) -> None:
        """Send an error; `path` is `/init/error` or `/invocation/ID/error`."""
        headers = {"Content-Type": "application/json", "Lambda-Runtime-Function-Error-Type": str(report["errorType"])}
        self._call("POST", path, json.dumps(report).encode(), headers, 202)

    def _call(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], expected: int
    ) -> tuple[Message, bytes]:
        self._connection.request(method, API + path, body, dict(headers))
        response = self._connection.getresponse()
        content = response.read()
        if response.status != expected:
            raise ConnectionError(f"the Runtime API answered {path} with {response.status}: {content[:500]!r}")
        return response.headers, content


def _context(headers: Message) -> Context:
    text = headers.get("Lambda-Runtime-Client-Context")
    try:
        parsed = json.loads(text) if text else None
    except ValueError as error:
        message = f"Unable to parse Client Context JSON: {error}"
        raise RuntimeClientError("Runtime.LambdaContextUnmarshalError", message) from error
    client_context = None
    if isinstance(parsed, dict):
        client_context = SimpleNamespace(**{name: parsed.get(name) for name in ("custom", "env", "client")})
    return Context(
        aws_request_id=headers["Lambda-Runtime-Aws-Request-Id"],
        invoked_function_arn=headers["Lambda-Runtime-Invoked-Function-Arn"],
        deadline_ms=int(headers["Lambda-Runtime-Deadline-Ms"]),
        client_context=client_context,
    )


def _serve_one(api: RuntimeApi, handler: Handler, headers: Message, event: bytes) -> None:
    request_id = headers["Lambda-Runtime-Aws-Request-Id"]
    if trace_id := headers.get("Lambda-Runtime-Trace-Id"):
        os.environ["_X_AMZN_TRACE_ID"] = trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)
    try:
        context = _context(headers)
        try:
            parsed = json.loads(event)
        except ValueError as error:
            raise RuntimeClientError("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}") from error
        result = to_json(handler(parsed, context))
    except Exception as error:  # noqa: BLE001 - every exception of a handler is its result
        report = error_report(error, request_id)
        _log(report)
        api.fail(f"/invocation/{request_id}/error", report)
    else:
        api.respond(request_id, result)


def _log(report: Mapping[str, object]) -> None:
    trace = report["stackTrace"]
    lines = "".join(trace) if isinstance(trace, list) else ""
    print(f"[ERROR] {report['errorType']}: {report['errorMessage']}\nTraceback (most recent call last):\n{lines}")  # noqa: T201


def _set_up_logging() -> _RequestIdFilter:
    sys.stdout, sys.stderr = _UnbufferedStream(sys.stdout), _UnbufferedStream(sys.stderr)
    ids = _RequestIdFilter()
    logging.Formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        logging.Formatter(
            "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s", "%Y-%m-%dT%H:%M:%S"
        )
    )
    handler.addFilter(ids)
    logging.getLogger().addHandler(handler)
    return ids


def main() -> None:
    """Import the handler, then serve events until the Runtime API closes."""
    ids = _set_up_logging()
    api = RuntimeApi(os.environ["AWS_LAMBDA_RUNTIME_API"])
    try:
        handler = find_handler(sys.argv[1])
    except Exception as error:  # noqa: BLE001 - a module may raise anything
        report = error_report(error)
        _log(report)
        api.fail("/init/error", report)
        sys.exit(1)
    try:
        while True:
            headers, event = api.next()
            ids.request_id = headers["Lambda-Runtime-Aws-Request-Id"]
            _serve_one(api, handler, headers, event)
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"LAMBDA_RUNTIME {error}")


if __name__ == "__main__":
    main()
