"""Every implementation of DeliveredMessages keeps the contract of its port."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from adapters.queue_sqs import SqsDeliveredMessages
from pipeline.errors import TransientError
from pipeline.ports import DeliveredMessages
from tests.conftest import StartQueueServer
from tests.memory_queue import MemoryQueue
from tests.sqs_servers import sqs_client


@dataclass
class Queue:
    """A queue of twelve messages whose visibility timeout is longer than any test."""

    delivered: DeliveredMessages
    #: Receives up to ten messages; returns body, receipt handle and receive count of each.
    receive: Callable[[], list[tuple[str, str, int]]]

    def receive_all(self) -> list[tuple[str, str, int]]:
        received: list[tuple[str, str, int]] = []
        while more := self.receive():
            received += more
        return sorted(received)


BODIES = [f"message {number:02}" for number in range(12)]


@pytest.fixture(params=["memory", "sqs"])
def queue(request: pytest.FixtureRequest) -> Queue:
    if request.param == "memory":
        memory = MemoryQueue(visibility_timeout=600)
        for body in BODIES:
            memory.send(body)
        return Queue(memory, lambda: [(m.body, m.receipt, m.receive_count) for m in memory.receive()])
    client = sqs_client(request.getfixturevalue("endpoint"))
    url = client.create_queue(QueueName=f"q{abs(hash(request.node.name))}", Attributes={"VisibilityTimeout": "600"})[
        "QueueUrl"
    ]
    for body in BODIES:
        client.send_message(QueueUrl=url, MessageBody=body)

    def receive() -> list[tuple[str, str, int]]:
        answer = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"])
        return [
            (m["Body"], m["ReceiptHandle"], int(m["Attributes"]["ApproximateReceiveCount"]))
            for m in answer.get("Messages", [])
        ]

    return Queue(SqsDeliveredMessages(client, url), receive)


def receipts(messages: Sequence[tuple[str, str, int]]) -> list[str]:
    return [receipt for _, receipt, _ in messages]


def test_released_messages_are_delivered_again_at_once_and_count_that_delivery(queue: Queue) -> None:
    received = queue.receive_all()
    assert [body for body, _, _ in received] == BODIES
    queue.delivered.release(receipts(received))  # more than one batch call of SQS takes
    assert [(body, count) for body, _, count in queue.receive_all()] == [(body, 2) for body in BODIES]


def test_the_others_stay_hidden(queue: Queue) -> None:
    received = queue.receive_all()
    queue.delivered.release(receipts(received[:3]))
    assert [body for body, _, _ in queue.receive_all()] == BODIES[:3]


def test_releasing_nothing_does_nothing(queue: Queue) -> None:
    queue.delivered.release([])
    assert [count for _, _, count in queue.receive_all()] == [1] * len(BODIES)


def test_the_receipt_of_a_deleted_message_is_ignored(queue: Queue) -> None:
    received = queue.receive_all()
    queue.delivered.delete(received[0][1])
    queue.delivered.release(receipts(received[:2]))
    assert [body for body, _, _ in queue.receive_all()] == [BODIES[1]]


def test_a_deleted_message_is_not_delivered_again(queue: Queue) -> None:
    received = queue.receive_all()
    queue.delivered.delete(received[3][1])
    queue.delivered.release(receipts(received))
    assert [body for body, _, _ in queue.receive_all()] == BODIES[:3] + BODIES[4:]


def test_deleting_a_message_twice_or_with_an_invalid_receipt_does_nothing(queue: Queue) -> None:
    received = queue.receive_all()
    for receipt in (received[0][1], received[0][1], "no such receipt"):
        queue.delivered.delete(receipt)
    queue.delivered.release(receipts(received))
    assert [body for body, _, _ in queue.receive_all()] == BODIES[1:]


def test_a_queue_that_cannot_be_reached_is_a_transient_error(queue_server: StartQueueServer) -> None:
    with queue_server() as endpoint:
        client = sqs_client(endpoint)
        url = client.create_queue(QueueName="gone")["QueueUrl"]
    delivered = SqsDeliveredMessages(client, url)
    with pytest.raises(TransientError, match="The queue gone did not take messages back") as raised:
        delivered.release(["receipt"])
    assert raised.value.code == "queue_unavailable"
    with pytest.raises(TransientError, match="The queue gone did not delete a message") as raised:
        delivered.delete("receipt")
    assert raised.value.code == "queue_unavailable"
