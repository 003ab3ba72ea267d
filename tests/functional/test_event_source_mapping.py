"""The process of the event source mappings between a real queue server and a fake Lambda API."""

import json
import os
import signal
import subprocess
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient

from client import queue_operations
from local import event_source_mapping, queue_creation
from local.addresses import ACCOUNT, queue_url
from local.free_ports import free_port
from template.model import EventSourceMapping, Queue, Redrive
from tests.conftest import StartQueueServer
from tests.polling import eventually
from tests.sqs_servers import sqs_client

Record = dict[str, Any]


@dataclass
class Answer:
    """The fake Lambda API's answer to one call."""

    body: bytes = b""
    status: int = 200
    function_error: bool = False
    hang_up: bool = False
    cut_short: bool = False


THROTTLED = Answer(b'{"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded", "message": "Rate Exceeded."}', 429)


class LambdaApi:
    """The Invoke operation: `POST /2015-03-31/functions/NAME/invocations` (Lambda API reference)."""

    def __init__(self) -> None:
        self.functions: dict[str, Callable[[list[Record]], Answer]] = {}
        self.calls: dict[str, list[list[Record]]] = defaultdict(list)
        self.payload_bytes: list[int] = []
        self.running = self.most_running = 0
        self._lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65_536

            def do_POST(handler) -> None:  # noqa: N805 - `self` is the API
                self._serve(handler)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        payload = handler.rfile.read(int(handler.headers["Content-Length"]))
        name = handler.path.split("/")[3]
        records = json.loads(payload)["Records"]
        with self._lock:
            self.calls[name].append(records)
            self.payload_bytes.append(len(payload))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        answer = self.functions[name](records)
        with self._lock:
            self.running -= 1
        if answer.hang_up:
            handler.close_connection = True
            return
        handler.send_response(answer.status)
        if answer.function_error:
            handler.send_header("X-Amz-Function-Error", "Unhandled")
        if answer.status == 429:
            handler.send_header("x-amzn-ErrorType", "TooManyRequestsException")
        handler.send_header("x-amzn-RequestId", str(uuid.uuid4()))
        handler.send_header("Content-Length", str(len(answer.body) + 10 * answer.cut_short))
        handler.end_headers()
        handler.wfile.write(answer.body)
        handler.close_connection = answer.cut_short

    def bodies(self, name: str) -> list[list[str]]:
        """Return the sorted bodies of each call."""
        return [sorted(record["body"] for record in records) for records in list(self.calls[name])]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Flow:
    """A queue, a function of the same name, and the mapping between them."""

    name: str
    mapping: EventSourceMapping
    sqs: BaseClient
    api: LambdaApi
    stderr: Path

    def send(self, *bodies: str) -> None:
        for start in range(0, len(bodies), 10):
            entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[start : start + 10])]
            self.sqs.send_message_batch(QueueUrl=self.mapping.queue_url, Entries=entries)

    def depth(self, name: str = "") -> tuple[int, int]:
        """Return how many messages are visible and in flight."""
        (depth,) = [depth for depth in queue_operations.depths(self.sqs) if depth.name == (name or self.name)]
        return depth.visible, depth.in_flight

    @property
    def calls(self) -> list[list[Record]]:
        return self.api.calls[self.name]

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr.read_text().splitlines()]


@dataclass
class Setup:
    endpoint: str
    api: LambdaApi
    directory: Path
    sqs: BaseClient = field(init=False)

    def __post_init__(self) -> None:
        self.sqs = sqs_client(self.endpoint)

    def flow(
        self,
        function: Callable[[list[Record]], Answer] = lambda _records: Answer(),
        *,
        visibility: int = 1,
        batch_size: int = 10,
        window: int = 0,
        report: bool = True,
        attempts: int | None = None,
        maximum_concurrency: int | None = None,
    ) -> Flow:
        name = f"flow-{uuid.uuid4().hex[:8]}"
        dead = Queue("Dead", f"{name}-dlq", 30, 0, 0, None)
        redrive = Redrive(dead.name, attempts) if attempts else None
        queue_creation.create_queues(self.sqs, {dead.name: dead, name: Queue("Q", name, visibility, 0, 0, redrive)})
        self.api.functions[name] = function
        mapping = EventSourceMapping(
            logical_id="Mapping",
            function=name,
            queue=name,
            queue_url=queue_url(self.endpoint, name),
            queue_arn=f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}",
            region="us-east-1",
            visibility_timeout=visibility,
            batch_size=batch_size,
            window_seconds=window,
            maximum_concurrency=maximum_concurrency,
            report_batch_item_failures=report,
            enabled=True,
        )
        return Flow(name, mapping, self.sqs, self.api, self.directory / f"{name}.log")

    @contextmanager
    def running(
        self, *flows: Flow, concurrency: int = 1, endpoint: str = "", api_endpoint: str = ""
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run the process for the flows, and kill it in the end. A test of a stop stops it first."""
        command = event_source_mapping.command(
            [flow.mapping for flow in flows], {flow.name: concurrency for flow in flows}
        )
        with flows[0].stderr.open("ab") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=os.environ
                | {
                    "AWS_ENDPOINT_URL_SQS": endpoint or self.endpoint,
                    "AWS_ENDPOINT_URL_LAMBDA": api_endpoint or self.api.endpoint,
                },
            )
        assert process.stdin
        assert process.stdout
        try:
            assert json.loads(process.stdout.readline()) == {"ready": True}
            yield process
        finally:
            process.kill()
            process.wait(10)
            process.stdin.close()
            process.stdout.close()


@pytest.fixture
def setup(endpoint: str, tmp_path: Path) -> Iterator[Setup]:
    api = LambdaApi()
    yield Setup(endpoint, api, tmp_path)
    api.close()


def test_a_message_reaches_the_function_as_sqs_delivers_it_and_is_deleted(setup: Setup) -> None:
    flow = setup.flow(visibility=30)
    sent = setup.sqs.send_message(
        QueueUrl=flow.mapping.queue_url,
        MessageBody="ü € 😀",
        MessageAttributes={
            "Author": {"DataType": "String", "StringValue": "me"},
            "Raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        },
    )
    with setup.running(flow):
        eventually(lambda: flow.calls)
        eventually(lambda: flow.depth() == (0, 0))
    (record,) = flow.calls[0]
    assert len(flow.calls) == 1
    assert (record["messageId"], record["md5OfBody"]) == (sent["MessageId"], sent["MD5OfMessageBody"])
    assert record["md5OfMessageAttributes"] == sent["MD5OfMessageAttributes"]
    assert (record["body"], record["eventSource"], record["awsRegion"]) == ("ü € 😀", "aws:sqs", "us-east-1")
    assert record["eventSourceARN"] == flow.mapping.queue_arn
    assert record["messageAttributes"]["Raw"]["binaryValue"] == "AP8="
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert set(record["attributes"]) >= {"SenderId", "SentTimestamp", "ApproximateFirstReceiveTimestamp"}
    assert flow.log() == []


# Partial batch responses: Lambda developer guide, "Handling errors for an SQS event source"; `foo` recorded from AWS.
ALL = ["a", "b", "c"]
PARTIAL_BATCHES: dict[str, tuple[Answer, bool, list[str]]] = {
    # name: (answer, with message bodies in place of message ids; ReportBatchItemFailures; bodies that fail)
    "empty answer": (Answer(b""), True, []),
    "null": (Answer(b"null"), True, []),
    "empty object": (Answer(b"{}"), True, []),
    "empty list": (Answer(b'{"batchItemFailures": []}'), True, []),
    "null list": (Answer(b'{"batchItemFailures": null}'), True, []),
    "one": (Answer(b'{"batchItemFailures": [{"itemIdentifier": "b"}]}'), True, ["b"]),
    "two": (Answer(b'{"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "c"}]}'), True, ["a", "c"]),
    "all": (Answer(json.dumps({"batchItemFailures": [{"itemIdentifier": i} for i in ALL]}).encode()), True, ALL),
    "twice": (Answer(b'{"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "b"}]}'), True, ["b"]),
    "no JSON": (Answer(b"{"), True, ALL),
    "empty id": (Answer(b'{"batchItemFailures": [{"itemIdentifier": ""}]}'), True, ALL),
    "null id": (Answer(b'{"batchItemFailures": [{"itemIdentifier": null}]}'), True, ALL),
    "wrong key": (Answer(b'{"batchItemFailures": [{"foo": "notvalid"}]}'), True, ALL),
    "unknown id": (Answer(b'{"batchItemFailures": [{"itemIdentifier": "unknown"}]}'), True, ALL),
    "function error": (Answer(b'{"errorMessage": "x"}', function_error=True), True, ALL),
    "function error that reports": (
        Answer(b'{"batchItemFailures": [{"itemIdentifier": "b"}]}', function_error=True),
        True,
        ALL,
    ),
    "without reports": (Answer(b'{"batchItemFailures": [{"itemIdentifier": "b"}]}'), False, []),
    "without reports, no JSON": (Answer(b"{"), False, []),
    "without reports, function error": (Answer(b"{}", function_error=True), False, ALL),
}


def _answer_once(answer: Answer) -> Callable[[list[Record]], Answer]:
    called = threading.Event()

    def function(records: list[Record]) -> Answer:
        if called.is_set():
            return Answer()
        called.set()
        body = answer.body
        for record in records:
            body = body.replace(f'"{record["body"]}"'.encode(), f'"{record["messageId"]}"'.encode())
        return Answer(body, function_error=answer.function_error)

    return function


@pytest.fixture(scope="module")
def partial_batches(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """Run all rows together; return the bodies of each call, by row."""
    api = LambdaApi()
    setup = Setup(endpoint, api, tmp_path_factory.mktemp("partial"))
    flows = {
        row: setup.flow(_answer_once(answer), visibility=2, report=report)
        for row, (answer, report, _) in PARTIAL_BATCHES.items()
    }
    for flow in flows.values():
        flow.send(*ALL)
    with setup.running(*flows.values()):
        # A failed message comes back and then succeeds, so each queue is empty in the end.
        eventually(lambda: all(flow.calls and flow.depth() == (0, 0) for flow in flows.values()), 60)
    api.close()
    return {row: api.bodies(flow.name) for row, flow in flows.items()}


@pytest.mark.parametrize("row", PARTIAL_BATCHES)
def test_exactly_the_failed_messages_come_back(partial_batches: dict[str, list[list[str]]], row: str) -> None:
    first, *later = partial_batches[row]
    assert first == ALL
    assert sorted(body for call in later for body in call) == PARTIAL_BATCHES[row][2]


def test_a_function_may_delete_its_messages_itself(setup: Setup) -> None:
    """AWS accepts the second delete. ElasticMQ refuses it, which must not keep the poller from the next batch."""

    def function(records: list[Record]) -> Answer:
        for record in records:
            setup.sqs.delete_message(QueueUrl=flow.mapping.queue_url, ReceiptHandle=record["receiptHandle"])
        return Answer(b'{"batchItemFailures": []}')

    flow = setup.flow(function, visibility=600, batch_size=2)
    flow.send(*"abcdef")
    with setup.running(flow):
        eventually(lambda: len(flow.calls) >= 3 and flow.depth() == (0, 0))
    assert sorted(body for call in setup.api.bodies(flow.name) for body in call) == list("abcdef")
    assert flow.log() == []


def test_only_a_poison_message_reaches_the_dead_letter_queue_after_its_attempts(setup: Setup) -> None:
    def function(records: list[Record]) -> Answer:
        failed = [{"itemIdentifier": record["messageId"]} for record in records if record["body"] == "poison"]
        return Answer(json.dumps({"batchItemFailures": failed}).encode())

    flow = setup.flow(function, visibility=1, attempts=2)
    flow.send("good", "poison", "better")
    with setup.running(flow):
        eventually(lambda: flow.depth(f"{flow.name}-dlq") == (1, 0))
        assert flow.depth() == (0, 0)
    counts = [
        record["attributes"]["ApproximateReceiveCount"]
        for records in flow.calls
        for record in records
        if record["body"] == "poison"
    ]
    assert counts == ["1", "2"]
    assert sorted(record["body"] for record in flow.calls[0]) == ["better", "good", "poison"]
    assert [message.body for message in queue_operations.peek(setup.sqs, f"{flow.name}-dlq")] == ["poison"]


@pytest.mark.parametrize(("maximum", "environments", "most"), [(None, 1, 1), (None, 3, 3), (2, 8, 2)])
def test_concurrency_reaches_its_limit_and_never_exceeds_it(
    setup: Setup, maximum: int | None, environments: int, most: int
) -> None:
    all_busy = threading.Event()

    def function(_records: list[Record]) -> Answer:
        if setup.api.running >= most:
            all_busy.set()
        assert all_busy.wait(15)
        return Answer()

    flow = setup.flow(function, visibility=60, batch_size=1, maximum_concurrency=maximum)
    flow.send(*map(str, range(4 * most)))
    with setup.running(flow, concurrency=environments):
        eventually(lambda: len(flow.calls) == 4 * most and flow.depth() == (0, 0))
    assert setup.api.most_running == most


def test_concurrency_follows_the_number_of_environments(setup: Setup) -> None:
    """GIVEN one environment, WHEN the parent reports three, THEN three calls run at once."""
    all_busy = threading.Event()

    def function(_records: list[Record]) -> Answer:
        if setup.api.running >= 3:
            all_busy.set()
        if len(flow.calls) > 1:  # the first call ran alone
            assert all_busy.wait(15)
        return Answer()

    flow = setup.flow(function, visibility=60, batch_size=1)
    flow.send("alone")
    with setup.running(flow, concurrency=1) as process:
        eventually(lambda: flow.depth() == (0, 0))
        assert setup.api.most_running == 1
        assert process.stdin
        process.stdin.write(json.dumps({flow.name: 3, "another": 9}).encode() + b"\n")
        process.stdin.flush()
        flow.send(*map(str, range(6)))
        eventually(lambda: len(flow.calls) == 7 and flow.depth() == (0, 0))
    assert setup.api.most_running == 3


def test_pollers_grow_beyond_the_first_five_while_all_are_busy(setup: Setup) -> None:
    all_busy = threading.Event()

    def function(_records: list[Record]) -> Answer:
        if setup.api.running >= 12:
            all_busy.set()
        assert all_busy.wait(15)
        return Answer()

    flow = setup.flow(function, visibility=60, batch_size=1)
    flow.send(*map(str, range(30)))
    with setup.running(flow, concurrency=12):
        eventually(lambda: len(flow.calls) == 30 and flow.depth() == (0, 0))
    assert setup.api.most_running == 12


def test_a_window_collects_the_messages_that_come_within_it(setup: Setup) -> None:
    flow = setup.flow(visibility=60, window=3)
    with setup.running(flow):
        flow.send("a")
        eventually(lambda: flow.depth() == (0, 1))  # received, which opens the window
        flow.send("b")
        flow.send("c")
        eventually(lambda: flow.calls)
    assert setup.api.bodies(flow.name) == [["a", "b", "c"]]


def test_a_full_batch_does_not_wait_for_the_window_and_may_take_several_receives(setup: Setup) -> None:
    flow = setup.flow(visibility=300, batch_size=25, window=300)
    flow.send(*map(str, range(30)))
    with setup.running(flow):
        eventually(lambda: flow.depth() == (0, 5))  # 25 are processed, 5 wait for the next window
    assert [len(records) for records in flow.calls] == [25]


def test_a_batch_holds_at_most_6_mb_and_the_rest_follows(setup: Setup) -> None:
    flow = setup.flow(visibility=60)
    for number in range(10):
        flow.send(str(number) + "x" * 1_000_000)
    with setup.running(flow):
        eventually(lambda: flow.depth() == (0, 0))
    assert sorted(body[0] for call in setup.api.bodies(flow.name) for body in call) == list("0123456789")
    assert max(setup.api.payload_bytes) <= 6 * 1024 * 1024
    assert len(flow.calls[0]) > 1


def test_a_stop_makes_messages_visible_that_wait_for_their_window(setup: Setup) -> None:
    flow = setup.flow(visibility=300, window=300)
    flow.send("a", "b")
    with setup.running(flow) as process:
        eventually(lambda: flow.depth() == (0, 2))
        process.terminate()
        assert process.wait(10) == 0
    assert flow.depth() == (2, 0)
    assert flow.calls == []


def test_a_stop_makes_messages_visible_that_wait_for_a_throttled_function(setup: Setup) -> None:
    flow = setup.flow(lambda _records: THROTTLED, visibility=300)
    flow.send("a", "b")
    with setup.running(flow) as process:
        eventually(lambda: flow.calls)
        process.terminate()
        assert process.wait(10) == 0
    assert flow.depth() == (2, 0)


def test_a_stop_waits_for_a_running_function_and_deletes_its_messages(setup: Setup) -> None:
    stopped = threading.Event()

    def function(_records: list[Record]) -> Answer:
        assert stopped.wait(15)
        return Answer()

    flow = setup.flow(function, visibility=300)
    flow.send("a")
    with setup.running(flow) as process:
        eventually(lambda: flow.calls)
        process.terminate()
        stopped.set()
        assert process.wait(10) == 0
    assert flow.depth() == (0, 0)


def test_a_stop_does_not_wait_for_a_slow_function(setup: Setup) -> None:
    stopped = threading.Event()

    def function(_records: list[Record]) -> Answer:
        stopped.wait(30)
        return Answer()

    flow = setup.flow(function, visibility=300)
    flow.send("a")
    with setup.running(flow) as process:
        eventually(lambda: flow.calls)
        process.terminate()
        assert process.wait(10) == 0
    stopped.set()
    assert flow.depth() == (0, 1)
    assert [line["running"] for line in flow.log()] == [1]


def test_the_process_ends_with_its_parent(setup: Setup) -> None:
    flow = setup.flow()
    with setup.running(flow) as process:
        assert process.stdin
        process.stdin.close()
        assert process.wait(10) == 0


def test_no_poll_outlives_a_stop_and_takes_a_message(setup: Setup) -> None:
    flow = setup.flow(visibility=300)
    with setup.running(flow, concurrency=5) as process:
        process.terminate()
        process.wait(10)
    flow.send("a")
    assert flow.depth() == (1, 0)


def test_a_kill_loses_nothing(setup: Setup) -> None:
    killed = threading.Event()

    def function(_records: list[Record]) -> Answer:
        killed.wait(15)
        return Answer()

    flow = setup.flow(function, visibility=2, batch_size=2)
    flow.send(*map(str, range(6)))
    with setup.running(flow, concurrency=2) as process:
        eventually(lambda: len(flow.calls) == 2)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    killed.set()
    before = len(flow.calls)
    with setup.running(flow, concurrency=2):
        eventually(lambda: flow.depth() == (0, 0))
    again = [body for call in setup.api.bodies(flow.name)[before:] for body in call]
    assert sorted(again) == list("012345")


def test_a_throttled_call_is_repeated_without_another_receive(setup: Setup) -> None:
    def function(_records: list[Record]) -> Answer:
        return THROTTLED if len(flow.calls) < 4 else Answer()

    flow = setup.flow(function, visibility=60, attempts=2)
    flow.send("a")
    with setup.running(flow):
        eventually(lambda: flow.depth() == (0, 0))
    assert [records[0]["attributes"]["ApproximateReceiveCount"] for records in flow.calls] == ["1"] * 4


def test_messages_that_are_throttled_beyond_their_visibility_timeout_come_back(setup: Setup) -> None:
    def function(records: list[Record]) -> Answer:
        return Answer() if records[0]["attributes"]["ApproximateReceiveCount"] == "2" else THROTTLED

    flow = setup.flow(function, visibility=1)
    flow.send("a")
    with setup.running(flow):
        eventually(lambda: flow.depth() == (0, 0))
    assert flow.calls[-1][0]["attributes"]["ApproximateReceiveCount"] == "2"
    assert [line["message"] for line in flow.log()] == [
        "The function did not take the batch in time. Its messages come back."
    ]


@pytest.mark.parametrize("lost", [Answer(hang_up=True), Answer(b"{", cut_short=True)], ids=["all", "half"])
def test_a_call_whose_answer_is_lost_is_not_repeated_before_the_visibility_timeout(setup: Setup, lost: Answer) -> None:
    def function(records: list[Record]) -> Answer:
        return lost if records[0]["attributes"]["ApproximateReceiveCount"] == "1" else Answer()

    flow = setup.flow(function, visibility=1)
    flow.send("a")
    with setup.running(flow):
        eventually(lambda: flow.depth() == (0, 0))
    assert [records[0]["attributes"]["ApproximateReceiveCount"] for records in flow.calls] == ["1", "2"]


def test_messages_wait_for_a_lambda_api_that_starts_later(setup: Setup) -> None:
    flow = setup.flow(visibility=60)
    flow.send("a")
    late = LambdaApi()
    late.close()  # its port is free again
    with setup.running(flow, api_endpoint=late.endpoint) as process:
        eventually(lambda: flow.depth() == (0, 1))
        process.terminate()
        assert process.wait(10) == 0
    assert flow.depth() == (1, 0)


def test_an_outage_of_the_queue_server_is_waited_out_and_logged_once(
    setup: Setup, queue_server: StartQueueServer
) -> None:
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    flow = setup.flow()
    flow.mapping = EventSourceMapping(**(vars(flow.mapping) | {"queue_url": queue_url(endpoint, flow.name)}))
    lost, regained = "The queue cannot be read. Retrying until it can.", "The queue can be read again."

    def logged() -> list[str]:
        return [line["message"] for line in flow.log() if line["message"] in {lost, regained}]

    with setup.running(flow, concurrency=3, endpoint=endpoint):
        for outage in (1, 2):
            eventually(lambda: logged() == [lost, regained] * (outage - 1) + [lost])  # noqa: B023
            with queue_server(port):
                client = sqs_client(endpoint)
                url = client.create_queue(QueueName=flow.name)["QueueUrl"]
                client.send_message(QueueUrl=url, MessageBody=str(outage))
                eventually(lambda: logged() == [lost, regained] * outage)  # noqa: B023
                eventually(lambda: [(d.visible, d.in_flight) for d in queue_operations.depths(client)] == [(0, 0)])  # noqa: B023
    assert [records[0]["body"] for records in flow.calls] == ["1", "2"]


class FailingDeletes:
    """A proxy in front of the queue server that refuses the first deletes."""

    def __init__(self, endpoint: str, refusals: int) -> None:
        self.deletes = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                if handler.headers["X-Amz-Target"] == "AmazonSQS.DeleteMessageBatch":
                    self.deletes += 1
                    if self.deletes <= refusals:
                        return handler.send_error(503)
                connection = HTTPConnection(endpoint.removeprefix("http://"))
                connection.request("POST", handler.path, body, dict(handler.headers))
                response = connection.getresponse()
                content = response.read()
                connection.close()
                handler.send_response(response.status)
                handler.send_header("Content-Type", response.headers["Content-Type"])
                handler.send_header("Content-Length", str(len(content)))
                handler.end_headers()
                handler.wfile.write(content)
                return None

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()


def test_a_failed_delete_is_repeated_so_that_no_message_is_processed_twice(setup: Setup) -> None:
    flow = setup.flow(visibility=30)
    flow.send("a", "b", "c")
    proxy = FailingDeletes(setup.endpoint, refusals=3)
    with setup.running(flow, endpoint=proxy.endpoint):
        eventually(lambda: flow.depth() == (0, 0))
    proxy.server.shutdown()
    proxy.server.server_close()
    assert proxy.deletes == 4
    assert setup.api.bodies(flow.name) == [["a", "b", "c"]]


def test_each_of_many_messages_is_processed_once(setup: Setup) -> None:
    flow = setup.flow(visibility=60)
    with setup.running(flow, concurrency=4):
        senders = [threading.Thread(target=flow.send, args=[f"{thread}-{n}" for n in range(50)]) for thread in range(4)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        eventually(lambda: flow.depth() == (0, 0), 30)
    bodies = [body for call in setup.api.bodies(flow.name) for body in call]
    assert sorted(bodies) == sorted(f"{thread}-{n}" for thread in range(4) for n in range(50))


def test_without_local_endpoints_the_process_refuses_to_start(setup: Setup) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_ENDPOINT_URL")}
    done = subprocess.run(
        event_source_mapping.command([setup.flow().mapping], defaultdict(lambda: 1)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "Set AWS_ENDPOINT_URL_SQS: event source mappings run against local endpoints only.\n"
