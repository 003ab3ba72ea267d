"""Queues are created after the dead-letter queues that they name."""

import itertools

import pytest

from local.queue_creation import dead_letter_queues_first
from template.model import Queue, Redrive


def queue(name: str, dead_letter_queue: str | None = None) -> Queue:
    return Queue(name, name, 30, 0, 0, Redrive(dead_letter_queue, 5) if dead_letter_queue is not None else None)


CHAIN = [queue("requests", "exhausted"), queue("exhausted", "dead"), queue("dead"), queue("responses")]


@pytest.mark.parametrize(
    "queues", list(itertools.permutations(CHAIN)), ids=lambda queues: "-".join(q.name for q in queues)
)
def test_each_queue_comes_after_its_dead_letter_queue(queues: tuple[Queue, ...]) -> None:
    names = [queue.name for queue in dead_letter_queues_first(queues)]
    assert sorted(names) == ["dead", "exhausted", "requests", "responses"]
    assert names.index("dead") < names.index("exhausted") < names.index("requests")


def test_a_dead_letter_queue_that_is_not_in_the_template_is_not_waited_for() -> None:
    assert dead_letter_queues_first([queue("requests", "elsewhere")]) == [queue("requests", "elsewhere")]


def test_queues_in_a_circle_are_left_to_sqs_to_refuse() -> None:
    queues = [queue("a", "b"), queue("b", "a"), queue("c", "c")]
    assert sorted(queue.name for queue in dead_letter_queues_first(queues)) == ["a", "b", "c"]
