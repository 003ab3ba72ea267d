"""The function `face-recognition` answers what its time allows, and gives the rest of the batch back."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import TransientError
from pipeline.handlers import recognise_faces
from pipeline.handlers.recognise_faces import FACES_IN_A_CALL, RESERVE_SECONDS, Collaborators
from pipeline.log_events import LogPrivacy
from pipeline.pace import Pace
from tests.builders import BLUE, RED, faces_message, gallery_of, sqs_event
from tests.fakes import ColourEmbedder, MemoryMetrics
from tests.memory_queue import MemoryQueue

MAX_RECEIVE_COUNT = 5


@dataclass
class Clock:
    """A clock that only the work of the test moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class SlowEmbedder(ColourEmbedder):
    """An embedder whose faces take time on a clock."""

    clock: Clock
    seconds_per_face: float = 1.0

    def __post_init__(self) -> None:
        super().__init__()

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.clock.now += len(crops) * self.seconds_per_face
        return super().embed(crops)


class UnreachableQueue(MemoryQueue):
    """A queue that takes nothing back."""

    def release(self, receipts: Any) -> None:
        raise TransientError("queue_unavailable", "The queue cannot be reached.")


@dataclass
class Service:
    """The function with its queues: each call gets what a receive of the request queue delivers."""

    timeout_seconds: float
    seconds_per_face: float = 1.0
    clock: Clock = field(default_factory=Clock)
    calls: int = 0

    def __post_init__(self) -> None:
        self.requests = MemoryQueue(visibility_timeout=1e6, clock=self.clock)
        self.responses = MemoryQueue(clock=self.clock)
        self.embedder = SlowEmbedder(self.clock, self.seconds_per_face)
        gallery = gallery_of({"Ada": RED})
        self.collaborators = Collaborators(
            self.embedder,
            lambda: gallery,
            self.responses,
            self.requests,
            MemoryQueue(),
            "exhausted",
            self.clock,
            MAX_RECEIVE_COUNT,
            Pace(),
            MemoryMetrics(),
            LogPrivacy(log_names=True),
        )

    def seconds_left(self) -> Callable[[], float]:
        end = self.clock.now + self.timeout_seconds
        return lambda: end - self.clock.now

    def call(self) -> list[str]:
        """Deliver a batch, delete what succeeded as Lambda does; return the ids of the messages that stay."""
        received = self.requests.receive()
        event = {
            "Records": [
                {
                    "messageId": message.message_id,
                    "receiptHandle": message.receipt,
                    "body": message.body,
                    "attributes": attributes(message.receive_count),
                }
                for message in received
            ]
        }
        assert all(message.receive_count <= MAX_RECEIVE_COUNT for message in received), "a frame was dead-lettered"
        began = self.clock.now
        response = recognise_faces.handle(event, self.collaborators, self.seconds_left())
        assert self.clock.now - began <= self.timeout_seconds, "the function worked past its deadline"
        kept = [row["itemIdentifier"] for row in response["batchItemFailures"]]
        for message in received:
            if message.message_id not in kept:
                self.requests.delete(message.receipt)
        self.calls += 1
        return kept

    def answers(self) -> list[dict[str, Any]]:
        taken: list[dict[str, Any]] = []
        while received := self.responses.receive():
            taken += [json.loads(message.body) for message in received]
            for message in received:
                self.responses.delete(message.receipt)
        return taken


def attributes(receive_count: int) -> dict[str, str]:
    return {"ApproximateReceiveCount": str(receive_count)}


def frames(number: int, faces: int) -> list[str]:
    return [faces_message(*[RED] * faces, request_id=f"frame-{index}") for index in range(number)]


def test_each_answer_is_sent_before_the_next_frame_is_begun() -> None:
    service = Service(timeout_seconds=100)
    sent_after: list[float] = []
    send = service.responses.send

    class Watched(MemoryQueue):
        def send(self, body: str) -> None:
            sent_after.append(service.clock.now)
            send(body)

    collaborators = Collaborators(
        service.embedder,
        service.collaborators.gallery,
        Watched(),
        service.requests,
        MemoryQueue(),
        "exhausted",
        service.clock,
        MAX_RECEIVE_COUNT,
        Pace(),
        MemoryMetrics(),
        LogPrivacy(log_names=True),
    )
    recognise_faces.handle(sqs_event(*frames(3, faces=2)), collaborators, lambda: 1e6)
    assert sent_after == [2, 4, 6]


def test_what_does_not_fit_is_given_back_and_answered_by_the_next_call() -> None:
    service = Service(timeout_seconds=10)
    for body in frames(3, faces=4):
        service.requests.send(body)
    assert len(service.call()) == 2  # 4 s for the first; 6 s with the margin and the reserve do not fit again
    assert len(service.answers()) == 1
    service.call()
    service.call()
    assert sorted(answer["request_id"] for answer in service.answers()) == ["frame-1", "frame-2"]
    assert len(service.requests) == 0


def test_ten_frames_of_sixty_faces_are_all_answered_within_a_tenth_of_the_time_they_need() -> None:
    """With dlib's 96 ms a face and a timeout of 10 s, as measured when nine of them reached the dead-letter queue."""
    service = Service(timeout_seconds=10, seconds_per_face=0.096)
    for body in frames(10, faces=60):
        service.requests.send(body)
    while len(service.requests):
        service.call()
    answers = service.answers()
    assert sorted(answer["request_id"] for answer in answers) == sorted(f"frame-{index}" for index in range(10))
    assert {answer["result"] for answer in answers} == {"Ada"}
    # A whole frame takes 5.8 s, so four calls answer one each. The fifth delivers the other six for the last time.
    assert sum(answer.get("truncated", False) for answer in answers) == 6
    assert service.calls == MAX_RECEIVE_COUNT


def test_no_backlog_of_slow_frames_is_dead_lettered() -> None:
    """Whatever the order of deliveries: a hundred frames, of which a call can finish one."""
    service = Service(timeout_seconds=10, seconds_per_face=0.5)
    for body in frames(100, faces=12):
        service.requests.send(body)
    while len(service.requests):
        service.call()
    assert len(service.answers()) == 100


def test_one_frame_that_needs_longer_than_the_timeout_is_answered_with_its_largest_faces() -> None:
    service = Service(timeout_seconds=10)
    service.requests.send(faces_message(*[RED] * 3, *[BLUE] * 37, request_id="crowd"))
    assert service.call() == []
    (answer,) = service.answers()
    assert (answer["result"], answer["truncated"]) == ("Ada", True)
    assert FACES_IN_A_CALL <= len(answer["faces"]) < 40
    assert answer["faces"][0]["name"] == "Ada"


def test_a_whole_answer_is_not_truncated() -> None:
    service = Service(timeout_seconds=100)
    service.requests.send(faces_message(*[RED] * 20))
    service.call()
    (answer,) = service.answers()
    assert len(answer["faces"]) == 20
    assert "truncated" not in answer


def test_the_messages_that_were_delivered_most_often_come_first() -> None:
    service = Service(timeout_seconds=100)
    event = {
        "Records": [
            {
                "messageId": name,
                "body": faces_message(RED, request_id=name),
                "attributes": attributes(count),
            }
            for name, count in (("new", 1), ("old", 4), ("newer", 1), ("older", 5))
        ]
    }
    recognise_faces.handle(event, service.collaborators, lambda: 1e6)
    assert [answer["request_id"] for answer in service.answers()] == ["older", "old", "new", "newer"]


def test_frames_on_their_last_attempt_share_the_time() -> None:
    service = Service(timeout_seconds=21)
    service.collaborators.pace.add(1, 1.0)
    bodies = frames(4, faces=30)
    response = recognise_faces.handle(
        sqs_event(*bodies, receive_count=MAX_RECEIVE_COUNT), service.collaborators, service.seconds_left()
    )
    assert response == {"batchItemFailures": []}
    counts = [len(answer["faces"]) for answer in service.answers()]
    assert len(counts) == 4
    assert min(counts) >= 2
    assert sum(counts) <= 21 - RESERVE_SECONDS


def test_messages_come_back_after_their_visibility_timeout_if_the_queue_cannot_take_them_back() -> None:
    service = Service(timeout_seconds=1)
    unreachable = UnreachableQueue()
    collaborators = Collaborators(
        service.embedder,
        service.collaborators.gallery,
        service.responses,
        unreachable,
        MemoryQueue(),
        "exhausted",
        service.clock,
        MAX_RECEIVE_COUNT,
        Pace(),
        MemoryMetrics(),
        LogPrivacy(log_names=True),
    )
    response = recognise_faces.handle(sqs_event(*frames(2, faces=1)), collaborators, lambda: 0.0)
    assert response == {"batchItemFailures": [{"itemIdentifier": "m1"}]}
    assert len(service.answers()) == 1


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_call_without_any_time_answers_one_frame(seconds: float) -> None:
    service = Service(timeout_seconds=1)
    response = recognise_faces.handle(sqs_event(*frames(3, faces=2)), service.collaborators, lambda: seconds)
    assert response == {"batchItemFailures": [{"itemIdentifier": "m1"}, {"itemIdentifier": "m2"}]}
    (answer,) = service.answers()
    assert (answer["request_id"], len(answer["faces"]), answer["truncated"]) == ("frame-0", 1, True)


def test_the_pace_is_that_of_the_slowest_recent_call_with_a_margin() -> None:
    pace = Pace()
    assert pace.seconds_for(100) == 0
    pace.add(10, 1.0)
    pace.add(1, 0.5)
    assert pace.seconds_for(2) == pytest.approx(2 * 0.5 * 1.5)
    assert pace.faces_in(3.0) == 4
    for _ in range(20):
        pace.add(10, 1.0)
    assert pace.seconds_for(2) == pytest.approx(2 * 0.1 * 1.5)
    assert pace.faces_in(0) == pace.faces_in(-1) == 0
