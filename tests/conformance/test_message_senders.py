"""Every MessageSender keeps the contract of its port."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from adapters.queue_sqs import SqsSender
from pipeline.errors import TransientError
from pipeline.ports import MAX_MESSAGE_BYTES, MessageSender
from tests.conftest import StartQueueServer
from tests.memory_queue import MemoryQueue
from tests.sqs_servers import sqs_client


@dataclass
class Queue:
    sender: MessageSender
    bodies: Callable[[], list[str]]


@pytest.fixture(params=["memory", "sqs"])
def queue(request: pytest.FixtureRequest) -> Queue:
    if request.param == "memory":
        memory = MemoryQueue()
        return Queue(memory, lambda: [message.body for message in memory.receive()])
    client = sqs_client(request.getfixturevalue("endpoint"))
    url = client.create_queue(QueueName=f"q{abs(hash(request.node.name))}")["QueueUrl"]
    return Queue(
        SqsSender(client, url),
        lambda: [m["Body"] for m in client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])],
    )


@pytest.mark.parametrize(
    "body",
    ["x", '{"a": 1}', "ü € 😀 中", "tab\tnewline\nreturn\r", " ", "<&>\"'\\", "\ud7ff\ue000\ufffd\U0010ffff"],
    ids=["one", "json", "unicode", "whitespace", "space", "markup", "edges"],
)
def test_a_body_arrives_as_it_was_sent(queue: Queue, body: str) -> None:
    queue.sender.send(body)
    assert queue.bodies() == [body]


def test_the_longest_body_is_accepted(queue: Queue) -> None:
    queue.sender.send("x" * MAX_MESSAGE_BYTES)
    assert [len(body) for body in queue.bodies()] == [MAX_MESSAGE_BYTES]


@pytest.mark.parametrize(
    "body",
    ["", "x" * (MAX_MESSAGE_BYTES + 1), "€" * (MAX_MESSAGE_BYTES // 3 + 1)],
    ids=["empty", "too long", "too many bytes"],
)
def test_an_empty_or_too_long_body_is_a_value_error_and_is_not_sent(queue: Queue, body: str) -> None:
    with pytest.raises(ValueError, match="a message"):
        queue.sender.send(body)
    assert queue.bodies() == []


@pytest.mark.parametrize("character", [0x00, 0x08, 0x0B, 0x1F, 0xFFFE, 0xFFFF, 0xD800, 0xDFFF])
def test_a_body_with_a_character_that_sqs_refuses_is_a_value_error_and_is_not_sent(
    queue: Queue, character: int
) -> None:
    with pytest.raises(ValueError, match=f"U\\+{character:04X}"):
        queue.sender.send(f"before{chr(character)}after")
    assert queue.bodies() == []


def test_no_message_is_lost_when_several_threads_send(queue: Queue) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(queue.sender.send, [str(number) for number in range(10)]))
    received: list[str] = []
    while bodies := queue.bodies():
        received += bodies
    assert sorted(received) == [str(number) for number in range(10)]


def test_an_sqs_queue_that_cannot_be_reached_is_a_transient_error(queue_server: StartQueueServer) -> None:
    with queue_server() as endpoint:
        pass
    sender = SqsSender(sqs_client(endpoint), f"{endpoint}/000000000000/q")
    with pytest.raises(TransientError, match="The queue q did not accept the message"):
        sender.send("x")


def test_an_sqs_queue_that_does_not_exist_yet_is_a_transient_error(endpoint: str) -> None:
    sender = SqsSender(sqs_client(endpoint), f"{endpoint}/000000000000/none")
    with pytest.raises(TransientError, match="none"):
        sender.send("x")
