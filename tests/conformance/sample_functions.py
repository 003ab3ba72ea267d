"""A Lambda function that does what its event requests, for the tests of the runtimes."""

import ctypes
import http.client
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

CALLS = 0


class CustomError(Exception):
    pass


def handler(event, context):
    global CALLS
    CALLS += 1
    do = event.get("do") if isinstance(event, dict) else None
    return ACTIONS.get(do, _echo)(event, context)


def url_handler(event, context):
    """Answer an event of a function URL, with the event itself unless its path requests something else."""
    match event["rawPath"]:
        case "/result":
            return json.loads(event["body"])
        case "/fail":
            raise CustomError("not for the caller")
        case "/exit":
            os._exit(1)
        case "/wait":
            return _wait(event["queryStringParameters"], context)
        case "/bytes":
            return b"not json"
    return event


def queue_handler(event, context):
    """Write each message of an SQS event, and the queue that it came from, to the file that a variable names."""
    lines = [json.dumps([record["eventSourceARN"].rsplit(":", 1)[-1], record["body"]]) for record in event["Records"]]
    with Path(os.environ["MESSAGES_FILE"]).open("a") as file:
        file.write("\n".join([*lines, ""]))


def _echo(event, context):
    return event


def _fail(event, context):
    raise CustomError(event["message"])


def _fail_deep(event, context):
    def deeper(depth):
        if depth:
            deeper(depth - 1)
        raise CustomError("deep " + "x" * 2000)

    deeper(200)


def _exit(event, context):
    sys.stdout.flush()
    os._exit(event["status"])


def _system_exit(event, context):
    sys.exit(event["status"])


def _die(event, context):
    os.kill(os.getpid(), getattr(signal, event["signal"]))


def _segfault(event, context):
    ctypes.string_at(0)


def _wait(event, context):
    """Write the process id to a file as a sign that the request began, then wait until the test creates a file."""
    Path(event["began"]).write_text(str(os.getpid()))
    while not Path(event["until"]).exists():
        time.sleep(0.005)
    return os.getpid()


def _wait_in_c(event, context):
    Path(event["began"]).write_text(str(os.getpid()))
    time.sleep(600)


def _wait_with_child(event, context):
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    Path(event["began"]).write_text(str(child))
    time.sleep(600)


def _allocate(event, context):
    kept = [bytearray(os.urandom(1024)) * 1024 for _ in range(event["megabytes"])]
    time.sleep(event.get("hold_seconds", 0))
    return len(kept)


def _record(event, context):
    began = time.time()
    time.sleep(event["seconds"])
    with Path(event["file"]).open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "began": began, "ended": time.time(), "n": event["n"]}) + "\n")
    return event["n"]


def _context(event, context):
    return {
        "aws_request_id": context.aws_request_id,
        "function_name": context.function_name,
        "function_version": context.function_version,
        "memory_limit_in_mb": context.memory_limit_in_mb,
        "invoked_function_arn": context.invoked_function_arn,
        "log_group_name": context.log_group_name,
        "log_stream_name": context.log_stream_name,
        "remaining": context.get_remaining_time_in_millis(),
        "custom": context.client_context.custom if context.client_context else None,
        "identity": context.identity.cognito_identity_id,
        "trace": os.environ.get("_X_AMZN_TRACE_ID"),
        "calls": CALLS,
    }


def _environment(event, context):
    return {
        "variables": dict(os.environ),
        "directory": str(Path.cwd()),
        "stdin": sys.stdin.read(),
        "session": os.getsid(0) == os.getpid(),
    }


def _print(event, context):
    sys.stdout.write("to stdout\n")
    sys.stderr.write("to stderr\n")
    logging.getLogger().warning("to the log")
    sys.stdout.write("\u00e9t\u00e9 without an end")


def _print_much(event, context):
    for number in range(event["lines"]):
        sys.stdout.write(f"line {number} " + "x" * 100 + "\n")


def _call_api(event, context):
    """Return what the Runtime API answers to calls that are out of turn."""
    address = os.environ["AWS_LAMBDA_RUNTIME_API"]

    def call(method, path):
        connection = http.client.HTTPConnection(address)
        connection.request(method, "/2018-06-01/runtime" + path, b"{}" if method == "POST" else None)
        response = connection.getresponse()
        return [response.status, json.loads(response.read())["errorType"]]

    return {
        "another's answer": call("POST", "/invocation/00000000-0000-0000-0000-000000000000/response"),
        "another's error": call("POST", "/invocation/00000000-0000-0000-0000-000000000000/error"),
        "next before the answer": call("GET", "/invocation/next"),
        "init error after init": call("POST", "/init/error"),
    }


def _constants(event, context):
    return RESULTS[event["result"]]


RESULTS = {
    "set": {1, 2},
    "object": object(),
    "bytes": b'{"from": "bytes"}',
    "not utf-8": b"\xff\xfe\x00",
    "large": "x" * (7 * 1024 * 1024),
    "largest": "x" * (6 * 1024 * 1024 + 98),
}

ACTIONS = {
    "fail": _fail,
    "fail deep": _fail_deep,
    "exit": _exit,
    "system exit": _system_exit,
    "die": _die,
    "segfault": _segfault,
    "wait": _wait,
    "wait in C": _wait_in_c,
    "wait with a child": _wait_with_child,
    "allocate": _allocate,
    "record": _record,
    "context": _context,
    "environment": _environment,
    "print": _print,
    "print much": _print_much,
    "call the API": _call_api,
    "result": _constants,
}
