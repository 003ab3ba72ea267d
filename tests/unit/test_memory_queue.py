"""The queue in memory treats receivers as SQS does. What it promises to senders is in the conformance suite."""

import pytest

from tests.memory_queue import MemoryQueue


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_received_message_is_hidden_for_the_visibility_timeout_and_counts_its_receives() -> None:
    clock = Clock()
    queue = MemoryQueue(visibility_timeout=10, clock=clock)
    queue.send("a")
    first = queue.receive()
    assert [message.receive_count for message in first] == [1]
    clock.seconds = 9.9
    assert queue.receive() == []
    clock.seconds = 10
    (second,) = queue.receive()
    assert (second.message_id, second.body, second.receive_count) == (first[0].message_id, "a", 2)
    assert second.receipt != first[0].receipt


def test_a_deleted_message_does_not_come_back() -> None:
    clock = Clock()
    queue = MemoryQueue(clock=clock)
    queue.send("a")
    queue.delete(queue.receive()[0].receipt)
    clock.seconds = 1000
    assert queue.receive() == []
    assert len(queue) == 0


def test_an_old_receipt_deletes_nothing() -> None:
    clock = Clock()
    queue = MemoryQueue(visibility_timeout=1, clock=clock)
    queue.send("a")
    queue.send("never received")
    old = queue.receive(1)[0].receipt
    clock.seconds = 1
    new = queue.receive(1)[0].receipt
    queue.delete(old)
    assert len(queue) == 2
    queue.delete(new)
    queue.delete(new)
    assert len(queue) == 1


def test_a_receive_returns_at_most_the_requested_number_oldest_first() -> None:
    queue = MemoryQueue()
    for number in range(12):
        queue.send(str(number))
    assert [message.body for message in queue.receive(3)] == ["0", "1", "2"]
    assert len(queue.receive()) == 9


@pytest.mark.parametrize("most", [0, 11])
def test_a_receive_of_fewer_than_1_or_more_than_10_messages_is_refused(most: int) -> None:
    with pytest.raises(ValueError, match="1 to 10"):
        MemoryQueue().receive(most)
