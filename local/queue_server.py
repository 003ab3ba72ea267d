"""The SQS endpoint of a laptop without Docker: `python -m local.queue_server --port P` serves moto's SQS on 127.0.0.1.

The server is moto's backend behind a small HTTP front of our own, for three measured reasons:

- werkzeug's server closes every connection and takes a thread for each; keep-alive saves 1 to 2 ms of every call,
  of which a frame makes six;
- moto changes its lists without a lock around them: two readers can be given one message (seen with 4 readers and
  4 writers), and by its code a send that meets a delete can be lost. Here one lock covers every request, and a long
  poll lets go of it while it waits;
- a long poll whose reader has died goes on waiting in moto and swallows the next message for a whole visibility
  timeout. Here it ends when it is woken and finds nobody at the other end, as on SQS.

What remains different from SQS: messages live in memory and are gone when the process ends; a message whose visibility
lapses during a long poll is noticed up to 0.5 s late; a message moves to the dead-letter queue on the first receive
after its last allowed one; cost grows with the backlog (1 ms a call when empty, about 20 ms with 200 messages);
a queue exists only in the region that created it; retention, policies and encryption are stored and not acted upon.
"""

import argparse
import errno
import io
import json
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

from local.addresses import ACCOUNT
from local.queue_creation import has_redrive, queue_attributes

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

    from template.model import Queue

#: Shortest and longest time until a waiting reader looks for messages whose visibility lapsed, seconds.
LAPSE_SECONDS: Final = (0.1, 0.5)


# The server process


def command(port: int, queues: "Iterable[Queue]" = (), region: str = "us-east-1") -> list[str]:
    """Return the arguments that start the server; it lives as long as the pipe that is its standard input.

    Parameters
    ----------
    port : int
        0 for any free one.
    queues : iterable of Queue
        What it makes before it says that it is ready.
    region : str
        Where these queues are.

    """
    arguments = [sys.executable, "-m", "local.queue_server", "--region", region]
    for queue in sorted(queues, key=has_redrive):
        arn = f"arn:aws:sqs:{region}:{ACCOUNT}:{queue.redrive.dead_letter_queue}" if queue.redrive is not None else ""
        creation = {"QueueName": queue.name, "Attributes": queue_attributes(queue, arn)}
        arguments += ["--queue", json.dumps(creation)]
    return [*arguments, "--port", str(port)]


#: Held by the request that is being served, and let go by a long poll while it waits.
_gate = threading.RLock()
#: `connection`: the socket of the request that this thread serves.
_serving = threading.local()


class _HungUpError(BaseException):
    """The reader of a long poll is gone. Not an Exception, so that Flask does not report it as a failure."""


class _Arrival(threading.Condition):
    """What moto's queues wait on for messages: shares the gate, and ends the poll of a reader that has hung up."""

    def __init__(self) -> None:
        super().__init__(_gate)

    def notify_all(self) -> None:
        """Wake one reader where moto asks for all: one can take what came, each other would cost 1 ms or 2."""
        self.notify()

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> object:  # type: ignore[override]
        # moto looks once a second for messages whose visibility lapsed. Of two clients with a visibility timeout of
        # 1 s, the one that took the other's answer then always looks first and takes it again, for ever. At random
        # moments each has its chance, as on SQS.
        moment = random.uniform(*LAPSE_SECONDS)  # noqa: S311 - a moment, not a secret
        result = super().wait_for(predicate, moment if timeout is None else min(moment, timeout))
        if _has_hung_up(_serving.connection):
            self.notify()  # somebody else's turn
            raise _HungUpError
        return result


def _has_hung_up(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False  # there, and silent
    except OSError:
        return True


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive in front of moto's WSGI application."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65_536  # headers and body leave as one write

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

        _serving.connection = self.connection
        try:
            if _has_hung_up(self.connection):
                raise _HungUpError
            with _gate:
                body = b"".join(self.app(environ, _start(start_response)))
        except _HungUpError:
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
        """Say nothing: the queue's users log."""


def _start(function: Callable[..., Callable[..., None]]) -> "StartResponse":
    return function


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away; report the rest."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _moto(region: str, creations: Iterable[str]) -> "WSGIApplication":
    """Return moto's application with queues in it; `creations` are inputs of SQS's CreateQueue, as JSON."""
    os.environ["MOTO_ACCOUNT_ID"] = ACCOUNT
    # Closed by default: no page of a browser may read the queues.
    os.environ["MOTO_DISABLE_GLOBAL_CORS"] = "true"
    # AWS allows one purge a minute because a purge takes it that long; here it is done at once.
    os.environ["MOTO_SQS_ENFORCE_STRICT_QUEUE_PURGE_BEHAVIOUR"] = "false"
    import moto.core.responses
    import moto.sqs.models
    from moto.moto_server.werkzeug_app import create_backend_app

    moto.sqs.models.Condition = _Arrival  # type: ignore[attr-defined, assignment]
    # Pure functions that each call asks some twenty times the same; remembered, a frame is 1 ms to 2 ms sooner.
    moto.sqs.models.camelcase_to_underscores = cache(moto.sqs.models.camelcase_to_underscores)  # type: ignore[attr-defined]
    moto.core.responses.method_names_from_class = cache(moto.core.responses.method_names_from_class)  # type: ignore[attr-defined]
    app = create_backend_app("sqs")
    # The first request imports and parses for 0.1 s; that belongs to the start, not to the first frame.
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
    """Serve until standard input closes or SIGTERM comes."""
    parser = argparse.ArgumentParser(prog="python -m local.queue_server", description="An SQS endpoint on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=9324, help="0 takes a free one")
    parser.add_argument("--region", default="us-east-1", help="of the queues that it makes")
    parser.add_argument("--queue", action="append", default=[], help="CreateQueue's input, JSON; there from the start")
    arguments = parser.parse_args()
    port = arguments.port
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        server = _Server(("127.0.0.1", port), _Handler)
    except OSError as error:
        why = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        sys.stderr.write(f"Port {port} {why}. Choose another with --port, or --port 0 for a free one.\n")
        return 1
    # The port is open and nobody is served yet: who comes now waits, and then finds the queues.
    _Handler.app = staticmethod(_moto(arguments.region, arguments.queue))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(json.dumps({"ready": True, "port": server.server_address[1]}) + "\n")
    sys.stdout.flush()
    # The parent holds the other end: when it dies, however it dies, this read ends. Works on every Unix.
    while sys.stdin.buffer.read(4096):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
