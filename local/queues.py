"""The SQS endpoint of a laptop without Docker, and what people do with queues.

`python -m local.queues --port P` serves moto's SQS on 127.0.0.1; the rest of the file talks to any SQS endpoint
(this one, ElasticMQ, AWS) through a boto3 client that the caller made.

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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

from local.template import ACCOUNT

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication
    from botocore.client import BaseClient

    from local.template import Queue

#: Most messages that SQS gives or takes in one call.
BATCH: Final = 10

#: How long a look for messages may take, in seconds. A call that waits asks all of SQS's servers, one that does not
#: asks a sample of them and may find nothing. (SQS developer guide, "Amazon SQS short and long polling")
LOOK_SECONDS: Final = 1

#: How long a peeked message stays hidden if the one who peeks dies before putting it back, in seconds.
PEEK_HIDDEN_SECONDS: Final = 5

#: How long a message that is being redriven stays hidden on the dead-letter queue, in seconds.
REDRIVE_HIDDEN_SECONDS: Final = 30


#: Shortest and longest time until a waiting reader looks for messages whose visibility lapsed, seconds.
LAPSE_SECONDS: Final = (0.1, 0.5)


class QueueError(Exception):
    """A queue command that cannot be done, in one line for people."""


# What people do with queues


@dataclass(frozen=True)
class Depth:
    """How many messages a queue holds. SQS calls these numbers approximate; locally they are exact.

    Parameters
    ----------
    name : str
        The queue.
    visible, in_flight, delayed : int
        Waiting to be received; received and not yet deleted; not yet due.
    dead_letter_queue : str or None
        Name of the queue that takes what failed too often.

    """

    name: str
    visible: int
    in_flight: int
    delayed: int
    dead_letter_queue: str | None


@dataclass(frozen=True)
class PeekedMessage:
    """A message as `peek` found it.

    Parameters
    ----------
    message_id, body : str
        As sent.
    receive_count : int
        How often it has been received, this peek included.
    sent_ms : int
        When it was sent, epoch milliseconds.

    """

    message_id: str
    body: str
    receive_count: int
    sent_ms: int


def create_queues(client: "BaseClient", queues: "Mapping[str, Queue]") -> None:
    """Make the template's queues, dead-letter queues first; a queue that exists gets the template's attributes."""
    arns: dict[str, str] = {}
    for queue in sorted(queues.values(), key=_has_redrive):
        # Created by name alone and then set: creating with attributes fails where the queue exists with others.
        url = client.create_queue(QueueName=queue.name)["QueueUrl"]
        arn = arns[queue.redrive.dead_letter_queue] if queue.redrive is not None else ""
        client.set_queue_attributes(QueueUrl=url, Attributes=_settings(queue, arn))
        arns[queue.name] = _attributes(client, url, "QueueArn")["QueueArn"]


def _has_redrive(queue: "Queue") -> bool:
    return queue.redrive is not None


def _settings(queue: "Queue", dead_letter_arn: str) -> dict[str, str]:
    """Return a queue's attributes as SQS takes them."""
    attributes = {
        "VisibilityTimeout": str(queue.visibility_timeout),
        "ReceiveMessageWaitTimeSeconds": str(queue.receive_wait),
        "DelaySeconds": str(queue.delay),
    }
    if queue.redrive is not None:
        policy = {"deadLetterTargetArn": dead_letter_arn, "maxReceiveCount": queue.redrive.max_receive_count}
        attributes["RedrivePolicy"] = json.dumps(policy)
    return attributes


def depths(client: "BaseClient", urls: Iterable[str] | None = None) -> list[Depth]:
    """Return the depth of these queues, or of every queue of the endpoint, sorted by name."""
    if urls is None:
        pages = client.get_paginator("list_queues").paginate()
        urls = [url for page in pages for url in page.get("QueueUrls", [])]
    return sorted((_depth(client, url) for url in urls), key=lambda depth: depth.name)


def peek(client: "BaseClient", name: str, most: int = BATCH) -> list[PeekedMessage]:
    """Return up to `most` messages that wait on queue `name`, and leave them there.

    SQS has no look without a receive: each peek adds one to a message's receive count, so a message of a queue with a
    dead-letter queue can be looked at only so often. The messages are hidden from others while they are read.
    Raises QueueError if there is no such queue.
    """
    url = _url(client, name)
    seen: dict[str, PeekedMessage] = {}
    receipts: list[str] = []
    try:
        while len(seen) < most:
            messages = client.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=min(BATCH, most - len(seen)),
                WaitTimeSeconds=LOOK_SECONDS,
                VisibilityTimeout=PEEK_HIDDEN_SECONDS,
                AttributeNames=["All"],
            ).get("Messages", [])
            receipts += [message["ReceiptHandle"] for message in messages]
            if all(message["MessageId"] in seen for message in messages):  # none, or the first ones come round again
                break
            for message in messages:
                attributes = message["Attributes"]
                seen[message["MessageId"]] = PeekedMessage(
                    message_id=message["MessageId"],
                    body=message["Body"],
                    receive_count=int(attributes["ApproximateReceiveCount"]),
                    sent_ms=int(attributes["SentTimestamp"]),
                )
    finally:
        for chunk in chunks(receipts):
            entries = [
                {"Id": str(index), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                for index, receipt in enumerate(chunk)
            ]
            client.change_message_visibility_batch(QueueUrl=url, Entries=entries)
    return list(seen.values())


def purge(client: "BaseClient", name: str) -> None:
    """Throw away every message of queue `name`, those in flight too. Raises QueueError if there is no such queue.

    AWS takes up to 60 s to do it and refuses a second purge within that time.
    """
    url = _url(client, name)
    try:
        client.purge_queue(QueueUrl=url)
    except client.exceptions.PurgeQueueInProgress:
        raise QueueError(f"The queue {name} was purged less than 60 s ago. Wait a minute and purge again.") from None


def redrive(client: "BaseClient", name: str, most: int | None = None, urls: Iterable[str] | None = None) -> int:
    """Send what lies on the dead-letter queue `name` back to its source; return how many messages went.

    The source is looked for among `urls`, or among all queues of the endpoint. Each message is sent before it is
    deleted, so a redrive that is cut off can repeat a message and never loses one. SQS's own StartMessageMoveTask is
    not used: moto has none, and one way that works everywhere is enough. What arrives meanwhile is left for the next
    redrive, so a message that fails again does not go round for ever.
    Raises QueueError if there is no such queue or it is not the dead-letter queue of exactly one queue.
    """
    url = _url(client, name)
    # Read from the queues themselves: ElasticMQ 1.7.1's ListDeadLetterSourceQueues knows only the policy that a queue
    # was created with, not one that was set later (measured).
    sources = [depth.name for depth in depths(client, urls) if depth.dead_letter_queue == name]
    if len(sources) != 1:
        raise QueueError(f"The queue {name} is the dead-letter queue of {len(sources)} queues; redrive needs one.")
    source = _url(client, sources[0])
    left = _depth(client, url).visible if most is None else most
    moved = 0
    while moved < left:
        messages = client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=min(BATCH, left - moved),
            WaitTimeSeconds=LOOK_SECONDS,
            VisibilityTimeout=REDRIVE_HIDDEN_SECONDS,
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        if not messages:
            break
        for message in messages:
            client.send_message(
                QueueUrl=source,
                MessageBody=message["Body"],
                MessageAttributes=message.get("MessageAttributes", {}),
            )
            client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            moved += 1
    return moved


def chunks(items: list[str]) -> Iterable[list[str]]:
    """Cut `items` into lists of at most ten, what one SQS call takes."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _url(client: "BaseClient", name: str) -> str:
    try:
        return str(client.get_queue_url(QueueName=name)["QueueUrl"])
    except client.exceptions.QueueDoesNotExist:
        names = ", ".join(depth.name for depth in depths(client)) or "none"
        raise QueueError(f"There is no queue {name}. There are: {names}.") from None


def _attributes(client: "BaseClient", url: str, *names: str) -> dict[str, str]:
    return dict(client.get_queue_attributes(QueueUrl=url, AttributeNames=list(names)).get("Attributes", {}))


def _depth(client: "BaseClient", url: str) -> Depth:
    attributes = _attributes(client, url, "All")
    policy = attributes.get("RedrivePolicy")
    return Depth(
        name=url.rsplit("/", 1)[-1],
        visible=int(attributes["ApproximateNumberOfMessages"]),
        in_flight=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
        delayed=int(attributes["ApproximateNumberOfMessagesDelayed"]),
        dead_letter_queue=json.loads(policy)["deadLetterTargetArn"].rsplit(":", 1)[-1] if policy else None,
    )


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
    arguments = [sys.executable, "-m", "local.queues", "--region", region]
    for queue in sorted(queues, key=_has_redrive):
        arn = f"arn:aws:sqs:{region}:{ACCOUNT}:{queue.redrive.dead_letter_queue}" if queue.redrive is not None else ""
        creation = {"QueueName": queue.name, "Attributes": _settings(queue, arn)}
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
    parser = argparse.ArgumentParser(prog="python -m local.queues", description="An SQS endpoint on 127.0.0.1.")
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
