"""The SQS endpoint of a laptop without Docker: `python -m local.queue_server --port P` serves moto's SQS on 127.0.0.1.

We put a small HTTP server of our own in front of moto's backend, for three measured reasons:

- werkzeug's server closes every connection and starts a thread for each. Keep-alive saves 1 to 2 ms of every call, and
  a frame takes six calls.
- moto changes its lists without a lock. Two readers can receive the same message (seen with 4 readers and 4 writers),
  and by its code a send can be lost when a delete runs at the same time. Here one lock covers every request; a long
  poll releases it while it waits.
- In moto, a long poll whose reader has died keeps waiting and takes the next message for a whole visibility timeout.
  Here the poll ends when a message wakes it and its reader has disconnected, as on SQS.

The remaining differences from SQS: messages are in memory and lost when the process ends; a long poll returns a message
whose visibility timeout lapses up to 0.5 s late; a message moves to the dead-letter queue on the first receive after
its last allowed one; cost grows with the backlog (1 ms a call when empty, about 20 ms with 200 messages); a queue
exists only in the region that created it; retention, policies and encryption are stored but have no effect.
"""

import argparse
import errno
import io
import json
import logging
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

from adapters import json_log
from local.addresses import ACCOUNT
from local.queue_creation import dead_letter_queues_first, queue_attributes

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

    from template.model import Queue

_log = logging.getLogger("local.queue_server")  # `__name__` is `__main__` here

#: Shortest and longest pause between two looks of a long poll for messages that became visible again, seconds.
RECHECK_SECONDS: Final = (0.1, 0.5)


# The server process


def command(port: int, queues: "Iterable[Queue]" = (), region: str = "us-east-1") -> list[str]:
    """Return the arguments that start the server, which ends when its standard input is closed.

    Parameters
    ----------
    port : int
        0 for any free port.
    queues : iterable of Queue
        The server creates them before it reports that it is ready.
    region : str
        The region of these queues.

    """
    arguments = [sys.executable, "-m", "local.queue_server", "--region", region]
    for queue in dead_letter_queues_first(queues):
        arn = f"arn:aws:sqs:{region}:{ACCOUNT}:{queue.redrive.dead_letter_queue}" if queue.redrive is not None else ""
        creation = {"QueueName": queue.name, "Attributes": queue_attributes(queue, arn)}
        arguments += ["--queue", json.dumps(creation)]
    return [*arguments, "--port", str(port)]


#: Held while a request is served; a long poll releases it while it waits.
_request_lock = threading.RLock()
#: `connection`: the socket of the request that this thread serves.
_current_request = threading.local()


class _DisconnectedError(BaseException):
    """The client has disconnected. Not an Exception, so that Flask does not report it as a failure."""


class _Arrival(threading.Condition):
    """The condition on which moto's queues wait for messages: uses our lock, and ends polls of disconnected readers."""

    def __init__(self) -> None:
        super().__init__(_request_lock)

    def notify_all(self) -> None:
        """Wake one reader, though moto asks for all: one takes the message, and each other would cost 1 to 2 ms."""
        self.notify()

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> object:  # type: ignore[override]
        # moto looks once a second for messages that became visible again. Suppose two clients wait with a visibility
        # timeout of 1 s, and one has received the other's answer. That one would always look first and receive the
        # answer again and again. Random pauses give each client a chance, as on SQS.
        pause = random.uniform(*RECHECK_SECONDS)  # noqa: S311 - a pause, not a secret
        result = super().wait_for(predicate, pause if timeout is None else min(pause, timeout))
        if _has_disconnected(_current_request.connection):
            self.notify()  # let another reader take the message
            raise _DisconnectedError
        return result


def _has_disconnected(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False  # connected, and has sent nothing more
    except OSError:
        return True


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive in front of moto's WSGI application."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65_536  # headers and body are sent together

    app: "WSGIApplication"

    def do_POST(self) -> None:
        """Serve one SQS call."""
        length = self.headers.get("Content-Length", "0" if self.command == "GET" else "")
        if not length.isdecimal():
            self.send_error(411)
            return
        environ: dict[str, object] = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": self.path.partition("?")[0],
            "QUERY_STRING": self.path.partition("?")[2],
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self.connection.getsockname()[1]),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": length,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(self.rfile.read(int(length))),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in self.headers.items()}
        answer: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], _failure: object = None) -> Callable[..., None]:
            answer.append((status, headers))
            return lambda _data: None

        _current_request.connection = self.connection
        try:
            if _has_disconnected(self.connection):
                raise _DisconnectedError
            with _request_lock:
                body = b"".join(self.app(environ, _as_start_response(start_response)))
        except _DisconnectedError:
            self.close_connection = True
            return
        status, headers = answer[-1]
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in headers:
            if name.lower() not in {"server", "date", "content-length", "connection"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log no calls: the clients of the queues log what matters."""


def _as_start_response(function: Callable[..., Callable[..., None]]) -> "StartResponse":
    return function


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, _request: object, _client_address: object) -> None:
        """Ignore clients that disconnect; log other errors."""
        if not isinstance(sys.exception(), ConnectionError):
            _log.exception("A request could not be served.")


def _moto_application(region: str, creations: Iterable[str]) -> "WSGIApplication":
    """Return moto's application after creating queues; `creations` are inputs of SQS's CreateQueue, as JSON."""
    os.environ["MOTO_ACCOUNT_ID"] = ACCOUNT
    # Closed by default: no web page may read the queues.
    os.environ["MOTO_DISABLE_GLOBAL_CORS"] = "true"
    # AWS allows one purge a minute because its purge takes that long; ours is immediate.
    os.environ["MOTO_SQS_ENFORCE_STRICT_QUEUE_PURGE_BEHAVIOUR"] = "false"
    import moto.core.responses
    import moto.sqs.models
    from moto.moto_server.werkzeug_app import create_backend_app

    moto.sqs.models.Condition = _Arrival  # type: ignore[attr-defined, assignment]
    # Pure functions that each request calls some twenty times with the same arguments. Caching saves 1 to 2 ms a frame.
    moto.sqs.models.camelcase_to_underscores = cache(moto.sqs.models.camelcase_to_underscores)  # type: ignore[attr-defined]
    moto.core.responses.method_names_from_class = cache(moto.core.responses.method_names_from_class)  # type: ignore[attr-defined]
    app = create_backend_app("sqs")
    # The first request imports and parses for 0.1 s, which should delay the start and not the first frame.
    for action, data in [("ListQueues", "{}"), *(("CreateQueue", creation) for creation in creations)]:
        headers = {
            "X-Amz-Target": f"AmazonSQS.{action}",
            "Content-Type": "application/x-amz-json-1.0",
            "Authorization": f"AWS4-HMAC-SHA256 Credential=local/20120105/{region}/sqs/aws4_request",
        }
        answer = app.test_client().post("/", data=data, headers=headers)
        if answer.status_code != 200:
            sys.exit(f"{action} of {data} failed: {' '.join(answer.text.split())}")
    return app.wsgi_app


def main() -> int:
    """Serve until standard input is closed or SIGTERM comes."""
    parser = argparse.ArgumentParser(prog="python -m local.queue_server", description="An SQS endpoint on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=9324, help="0 takes a free port")
    parser.add_argument("--region", default="us-east-1", help="of the queues that --queue creates")
    parser.add_argument(
        "--queue", action="append", default=[], help="input of CreateQueue, JSON: a queue to create at the start"
    )
    arguments = parser.parse_args()
    port = arguments.port
    json_log.set_up("queue-server", sys.stderr)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        server = _Server(("127.0.0.1", port), _Handler)
    except OSError as error:
        why = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        sys.stderr.write(f"Port {port} {why}. Choose another with --port, or --port 0 for a free one.\n")
        return 1
    # The port is open but no request is served yet: a client that connects now waits until the queues exist.
    _Handler.app = staticmethod(_moto_application(arguments.region, arguments.queue))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(json.dumps({"ready": True, "port": server.server_address[1]}) + "\n")
    sys.stdout.flush()
    # The parent has the other end of the pipe. This read ends when the parent ends, however it ends, on every Unix.
    while sys.stdin.buffer.read(4096):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
