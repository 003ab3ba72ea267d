"""The queue server process, and the operations on its queues that faceq offers."""

import json
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from uuid import uuid4

import boto3
import pytest
from botocore.client import BaseClient
from botocore.config import Config

from client import queue_operations
from local import queue_creation, queue_server
from local.addresses import ACCOUNT, queue_url
from template.model import Queue, Redrive
from tests.polling import eventually
from tests.sqs_servers import sqs_client


@pytest.fixture
def sqs(endpoint: str) -> BaseClient:
    return sqs_client(endpoint)


@pytest.fixture
def name(sqs: BaseClient) -> str:
    """The name of a queue whose messages move to a dead-letter queue, `<name>-dlq`, after two receives."""
    name = f"q-{uuid4().hex[:8]}"
    dead = Queue("Dead", f"{name}-dlq", 30, 0, 0, None)
    # The wrong order on purpose: dead-letter queues must be created first.
    queue_creation.create_queues(sqs, {name: Queue("Q", name, 30, 0, 0, Redrive(dead.name, 2)), dead.name: dead})
    return name


def url(endpoint: str, name: str) -> str:
    return queue_url(endpoint, name)


def depth(sqs: BaseClient, name: str) -> queue_operations.Depth:
    return next(depth for depth in queue_operations.depths(sqs) if depth.name == name)


# The process

only_our_process = pytest.mark.only("processes", "about the start and end of our own server")


def start(*arguments: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*queue_server.command(0)[:-2], *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


@only_our_process
def test_the_server_reports_when_it_is_ready_and_ends_on_sigterm() -> None:
    with start("--port", "0") as process:
        assert process.stdout
        ready = json.loads(process.stdout.readline())
        assert ready["ready"] is True
        assert sqs_client(f"http://127.0.0.1:{ready['port']}").list_queues().get("QueueUrls", []) == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stderr
        assert process.stderr.read() == ""


@only_our_process
def test_the_server_ends_with_its_parent() -> None:
    with start("--port", "0") as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(10) == 0


@only_our_process
def test_a_taken_port_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start("--port", str(port)) as process:
            assert process.wait(10) == 1
            assert process.stderr
            assert process.stderr.read() == (
                f"Port {port} is taken by another program. Choose another with --port, or --port 0 for a free one.\n"
            )


def test_the_server_listens_on_this_machine_only_and_refuses_web_pages(endpoint: str) -> None:
    host, port = endpoint.removeprefix("http://").split(":")
    assert host == "127.0.0.1"
    connection = HTTPConnection(host, int(port))
    headers = {
        "Origin": "http://example.com",
        "X-Amz-Target": "AmazonSQS.ListQueues",
        "Content-Type": "application/x-amz-json-1.0",
    }
    connection.request("POST", "/", "{}", headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status == 200
    assert "Access-Control-Allow-Origin" not in response.headers


def test_clients_with_any_credentials_see_the_same_queues(endpoint: str, name: str) -> None:
    client = boto3.client(
        "sqs",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="A" * 20,
        aws_secret_access_key="other",
        aws_session_token="token",
        config=Config(proxies={}),
    )
    assert client.get_queue_url(QueueName=name)["QueueUrl"] == url(endpoint, name)


# Concurrency: what our server adds to moto


def test_concurrent_clients_receive_each_message_exactly_once(endpoint: str, sqs: BaseClient, name: str) -> None:
    received: Counter[str] = Counter()
    lock = threading.Lock()
    all_sent = threading.Event()

    def send(sender: int) -> None:
        for number in range(60):
            sqs.send_message(QueueUrl=url(endpoint, name), MessageBody=f"{sender}-{number}")

    def receive() -> None:
        while True:
            done = all_sent.is_set()
            answer = sqs.receive_message(QueueUrl=url(endpoint, name), MaxNumberOfMessages=3, WaitTimeSeconds=1)
            if done and not answer.get("Messages"):
                return
            for message in answer.get("Messages", []):
                with lock:
                    received[message["Body"]] += 1
                sqs.delete_message(QueueUrl=url(endpoint, name), ReceiptHandle=message["ReceiptHandle"])

    with ThreadPoolExecutor(8) as threads:
        readers = [threads.submit(receive) for _ in range(4)]
        for sender in [threads.submit(send, number) for number in range(4)]:
            sender.result()
        all_sent.set()
        for reader in readers:
            reader.result()
    assert received == Counter(f"{sender}-{number}" for sender in range(4) for number in range(60))


def test_a_long_poll_whose_reader_has_disconnected_takes_no_message(
    endpoint: str, sqs: BaseClient, name: str, in_containers: bool
) -> None:
    sqs.set_queue_attributes(QueueUrl=url(endpoint, name), Attributes={"VisibilityTimeout": "2"})
    body = json.dumps({"QueueUrl": url(endpoint, name), "WaitTimeSeconds": 20})
    connection = HTTPConnection(endpoint.removeprefix("http://"))
    headers = {"X-Amz-Target": "AmazonSQS.ReceiveMessage", "Content-Type": "application/x-amz-json-1.0"}
    connection.request("POST", "/", body, headers)
    connection.close()
    sqs.send_message(QueueUrl=url(endpoint, name), MessageBody="for another reader")
    (message,) = sqs.receive_message(
        QueueUrl=url(endpoint, name), WaitTimeSeconds=20, AttributeNames=["ApproximateReceiveCount"]
    )["Messages"]
    assert message["Body"] == "for another reader"
    # ElasticMQ 1.7.1 does not notice that the reader has disconnected and sends it the message; other readers see the
    # message when its visibility timeout has lapsed (measured), or immediately if the send overtakes the poll.
    counts = {"1", "2"} if in_containers else {"1"}
    assert message["Attributes"]["ApproximateReceiveCount"] in counts


def test_each_waiting_reader_receives_a_message_of_its_own(endpoint: str, sqs: BaseClient, name: str) -> None:
    def receive() -> int:
        answer = sqs.receive_message(QueueUrl=url(endpoint, name), MaxNumberOfMessages=1, WaitTimeSeconds=20)
        return len(answer.get("Messages", []))

    with ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(receive) for _ in range(4)]
        for number in range(4):
            sqs.send_message(QueueUrl=url(endpoint, name), MessageBody=str(number))
        assert [reader.result(timeout=15) for reader in readers] == [1, 1, 1, 1]


# Operations


def test_a_queue_that_exists_gets_new_attributes_and_keeps_messages(endpoint: str, sqs: BaseClient, name: str) -> None:
    sqs.send_message(QueueUrl=url(endpoint, name), MessageBody="kept")
    dead = Queue("Dead", f"{name}-dlq", 30, 0, 0, None)
    queue_creation.create_queues(sqs, {dead.name: dead, name: Queue("Q", name, 7, 3, 0, Redrive(dead.name, 9))})
    attributes = sqs.get_queue_attributes(QueueUrl=url(endpoint, name), AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == "7"
    assert attributes["ReceiveMessageWaitTimeSeconds"] == "3"
    assert json.loads(attributes["RedrivePolicy"])["maxReceiveCount"] == 9
    assert attributes["QueueArn"] == f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"
    assert depth(sqs, name).visible == 1


def test_depths_count_visible_in_flight_and_delayed_messages(endpoint: str, sqs: BaseClient, name: str) -> None:
    for body in "abc":
        sqs.send_message(QueueUrl=url(endpoint, name), MessageBody=body)
    sqs.send_message(QueueUrl=url(endpoint, name), MessageBody="later", DelaySeconds=60)
    sqs.receive_message(QueueUrl=url(endpoint, name), MaxNumberOfMessages=1)
    assert depth(sqs, name) == queue_operations.Depth(
        name, visible=2, in_flight=1, delayed=1, dead_letter_queue=f"{name}-dlq"
    )
    assert depth(sqs, f"{name}-dlq").dead_letter_queue is None


def test_a_peek_shows_messages_and_leaves_them(endpoint: str, sqs: BaseClient, name: str) -> None:
    for number in range(12):
        sqs.send_message(QueueUrl=url(endpoint, name), MessageBody=str(number))
    peeked = queue_operations.peek(sqs, name, most=11)
    assert sorted(int(message.body) for message in peeked) == list(range(11))
    assert {message.receive_count for message in peeked} == {1}
    eventually(lambda: depth(sqs, name).visible == 12)


def test_a_purge_empties_a_queue_and_may_be_repeated(endpoint: str, sqs: BaseClient, name: str) -> None:
    for _ in range(2):
        sqs.send_message(QueueUrl=url(endpoint, name), MessageBody="a")
        queue_operations.purge(sqs, name)
        assert depth(sqs, name).visible == 0


def test_a_redrive_sends_every_message_back_with_its_attributes(endpoint: str, sqs: BaseClient, name: str) -> None:
    dead = f"{name}-dlq"
    attributes = {"K": {"DataType": "String", "StringValue": "v"}}
    for number in range(12):
        sqs.send_message(QueueUrl=url(endpoint, dead), MessageBody=str(number), MessageAttributes=attributes)
    assert queue_operations.redrive(sqs, dead, most=1) == 1
    assert queue_operations.redrive(sqs, dead) == 11
    assert queue_operations.redrive(sqs, dead) == 0
    assert (depth(sqs, name).visible, depth(sqs, dead).visible, depth(sqs, dead).in_flight) == (12, 0, 0)
    answer = sqs.receive_message(QueueUrl=url(endpoint, name), MessageAttributeNames=["All"])
    assert answer["Messages"][0]["MessageAttributes"] == attributes


def test_a_redrive_through_a_chain_of_dead_letter_queues_goes_back_to_its_beginning(
    endpoint: str, sqs: BaseClient
) -> None:
    first, middle, last = (f"q-{uuid4().hex[:8]}" for _ in range(3))
    queues = [
        Queue("First", first, 1, 0, 0, Redrive(middle, 1)),
        Queue("Middle", middle, 1, 0, 0, Redrive(last, 1)),
        Queue("Last", last, 30, 0, 0, None),
    ]
    queue_creation.create_queues(sqs, {queue.name: queue for queue in queues})
    for body in ("a", "b"):
        sqs.send_message(QueueUrl=url(endpoint, first), MessageBody=body)

    def both_moved_to(target: str) -> bool:
        for queue in (first, middle):
            sqs.receive_message(QueueUrl=url(endpoint, queue), MaxNumberOfMessages=10)
        return depth(sqs, target).visible == 2

    eventually(lambda: both_moved_to(last), 30)
    assert (depth(sqs, first).dead_letter_queue, depth(sqs, middle).dead_letter_queue) == (middle, last)
    assert queue_operations.redrive(sqs, last) == 2
    assert [depth(sqs, name).visible for name in (first, middle, last)] == [2, 0, 0]
    sqs.send_message(QueueUrl=url(endpoint, middle), MessageBody="c")
    assert queue_operations.redrive(sqs, middle) == 1
    assert [depth(sqs, name).visible for name in (first, middle, last)] == [3, 0, 0]


def test_a_redrive_needs_a_dead_letter_queue(sqs: BaseClient, name: str) -> None:
    with pytest.raises(queue_operations.QueueError, match=f"The queue {name} is not a dead-letter queue"):
        queue_operations.redrive(sqs, name)


@pytest.mark.parametrize("operation", [queue_operations.peek, queue_operations.purge, queue_operations.redrive])
def test_an_unknown_queue_is_reported_with_the_queues_that_exist(
    sqs: BaseClient, name: str, operation: Callable[[BaseClient, str], object]
) -> None:
    with pytest.raises(
        queue_operations.QueueError, match=rf"The queue nothing does not exist\. Existing queues: .*{name}"
    ) as refused:
        operation(sqs, "nothing")
    assert refused.value.code == "queue"
