"""A frame whose function never finished is answered in the end, once, and is put on the dead-letter queue."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import TransientError
from pipeline.gallery import Gallery
from pipeline.handlers import recognise_faces
from pipeline.handlers.recognise_faces import RESERVE_SECONDS, Collaborators
from pipeline.log_events import LogPrivacy
from pipeline.pace import Pace
from tests.builders import BLUE, GREEN, RED, changed, faces_message, gallery_of, sqs_event
from tests.fakes import ColourEmbedder, MemoryMetrics, UnreliableQueue, stepping_clock
from tests.memory_queue import MemoryQueue, ReceivedMessage

EXHAUSTED = "faceq-req-exhausted"
MAX_RECEIVE_COUNT = 5
ADA = faces_message(RED, request_id="ada")
BO = faces_message(GREEN, request_id="bo")


class KilledError(BaseException):
    """Stands for the end of the process: no code of the function runs after it."""


class DeadlyEmbedder(ColourEmbedder):
    """Ends the process at a blue face; raises `problem` at any other while it is set."""

    problem: Exception | None = None

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.problem is not None:
            raise self.problem
        if np.abs(np.median(crops[0], axis=(0, 1)) - BLUE).max() < 10:
            raise KilledError
        return super().embed(crops)


class UndeletableQueue(MemoryQueue):
    """A queue that deletes nothing."""

    def delete(self, receipt: str) -> None:
        raise TransientError("queue_unavailable", "The queue cannot be reached.")


@dataclass
class Service:
    """The function and its queues. Messages move as SQS and Lambda move them."""

    requests: MemoryQueue = field(default_factory=lambda: MemoryQueue(visibility_timeout=0.0))
    exhausted: MemoryQueue = field(default_factory=lambda: MemoryQueue(visibility_timeout=0.0))
    responses: UnreliableQueue = field(default_factory=UnreliableQueue)
    dead_letters: UnreliableQueue = field(default_factory=UnreliableQueue)
    embedder: DeadlyEmbedder = field(default_factory=DeadlyEmbedder)
    gallery: Gallery = field(default_factory=lambda: gallery_of({"Ada": RED, "Bo": GREEN}))
    seconds_left: Callable[[], float] = lambda: 1e6

    @property
    def collaborators(self) -> Collaborators:
        return Collaborators(
            self.embedder,
            lambda: self.gallery,
            self.responses,
            self.requests,
            self.dead_letters,
            EXHAUSTED,
            stepping_clock(),
            MAX_RECEIVE_COUNT,
            Pace(),
            MemoryMetrics(),
            LogPrivacy(log_names=True),
        )

    def call(self) -> None:
        """Deliver a batch of the request queue, after moving what was delivered too often to the exhausted queue."""
        batch = self.requests.receive()
        for message in list(batch):
            if message.receive_count > MAX_RECEIVE_COUNT:
                self.exhausted.send(message.body)
                self.requests.delete(message.receipt)
                batch.remove(message)
        self._deliver(batch, self.requests, "faceq-req-queue")

    def call_exhausted(self) -> list[str]:
        """Deliver a batch of the exhausted queue; return the ids of the messages that stay."""
        return self._deliver(self.exhausted.receive(), self.exhausted, EXHAUSTED)

    def _deliver(self, batch: list[ReceivedMessage], queue: MemoryQueue, name: str) -> list[str]:
        event: dict[str, Any] = {
            "Records": [
                {
                    "messageId": message.message_id,
                    "receiptHandle": message.receipt,
                    "body": message.body,
                    "attributes": {"ApproximateReceiveCount": str(message.receive_count)},
                    "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{name}",
                }
                for message in batch
            ]
        }
        try:
            response: Any = recognise_faces.handle(event, self.collaborators, self.seconds_left)
        except KilledError:
            return [message.message_id for message in batch]
        kept = [row["itemIdentifier"] for row in response["batchItemFailures"]]
        for message in batch:
            if message.message_id not in kept:
                queue.delete(message.receipt)
        return kept

    def run(self) -> None:
        """Deliver until both queues are empty."""
        while len(self.requests):
            self.call()
        while len(self.exhausted):
            assert self.call_exhausted() == []

    def answers(self) -> dict[str, list[dict[str, Any]]]:
        """The answers so far, by request id."""
        taken: dict[str, list[dict[str, Any]]] = {}
        for body in bodies(self.responses):
            answer = json.loads(body)
            taken.setdefault(answer["request_id"], []).append(answer)
        return taken


def bodies(queue: MemoryQueue) -> list[str]:
    """Take all messages off a queue."""
    taken: list[str] = []
    while received := queue.receive():
        for message in received:
            taken.append(message.body)
            queue.delete(message.receipt)
    return taken


def exhausted(*messages: str) -> Service:
    service = Service()
    for body in messages:
        service.exhausted.send(body)
    return service


def test_a_frame_whose_function_never_finished_is_answered_and_dead_lettered_unchanged() -> None:
    service = exhausted(ADA, BO)
    assert service.call_exhausted() == []
    answers = service.answers()
    assert sorted(answers) == ["ada", "bo"]
    (answer,) = answers["ada"]
    assert (answer["result"], answer["error"]["code"]) == ("Error", "retries_exhausted")
    assert answer["filename"] == json.loads(ADA)["filename"]
    assert "delivered 5 times" in answer["error"]["message"]
    assert "faceq logs --request-id ada" in answer["error"]["message"]
    assert sorted(bodies(service.dead_letters)) == sorted([ADA, BO])


def test_a_frame_that_kills_the_function_is_not_tried_again_by_the_exhausted_queue() -> None:
    service = exhausted(faces_message(BLUE, request_id="deadly"))
    assert service.call_exhausted() == []
    assert [answer["result"] for answer in service.answers()["deadly"]] == ["Error"]


@pytest.mark.parametrize("body", ["garbage", "{}", changed(ADA, request_id=7)], ids=["no JSON", "no id", "a number"])
def test_a_message_without_a_request_id_is_dead_lettered_without_an_answer(body: str) -> None:
    service = exhausted(body, ADA)
    assert service.call_exhausted() == []
    assert list(service.answers()) == ["ada"]
    assert sorted(bodies(service.dead_letters)) == sorted([body, ADA])


def test_an_unreadable_message_with_a_request_id_is_answered() -> None:
    service = exhausted(changed(ADA, faces=[]))
    assert service.call_exhausted() == []
    assert [answer["error"]["code"] for answer in service.answers()["ada"]] == ["retries_exhausted"]


def test_nothing_is_answered_while_the_dead_letter_queue_is_down() -> None:
    service = exhausted(ADA, "garbage")
    service.dead_letters.down = True
    assert len(service.call_exhausted()) == 2
    assert len(service.exhausted) == 2
    assert service.answers() == {}
    service.dead_letters.down = False
    assert service.call_exhausted() == []
    assert [len(answers) for answers in service.answers().values()] == [1]
    assert sorted(bodies(service.dead_letters)) == sorted([ADA, "garbage"])


def test_a_message_stays_while_the_response_queue_is_down_and_is_then_answered_once() -> None:
    service = exhausted(ADA, BO)
    service.responses.down = True
    assert len(service.call_exhausted()) == 2
    service.responses.down = False
    assert service.call_exhausted() == []
    assert {name: len(answers) for name, answers in service.answers().items()} == {"ada": 1, "bo": 1}


def test_what_there_is_no_time_for_stays_on_the_exhausted_queue() -> None:
    service = exhausted(ADA, BO, faces_message(RED, request_id="c"))
    service.seconds_left = lambda: RESERVE_SECONDS / 2
    assert len(service.call_exhausted()) == 2
    assert len(service.answers()) == 1
    service.seconds_left = lambda: 1e6
    assert service.call_exhausted() == []
    assert len(service.answers()) == 2


# The last attempt


def test_a_frame_that_fails_on_its_last_attempt_is_answered_there_with_the_reason() -> None:
    service = Service()
    service.embedder.problem = RuntimeError("out of order")
    service.requests.send(ADA)
    for _ in range(MAX_RECEIVE_COUNT):
        assert service.answers() == {}
        service.call()
    (answer,) = service.answers()["ada"]
    assert answer["error"] == {"code": "retries_exhausted", "message": "The frame failed 5 times: out of order"}
    assert bodies(service.dead_letters) == [ADA]
    assert len(service.requests) == len(service.exhausted) == 0


@pytest.mark.parametrize("queue", ["responses", "dead_letters"])
def test_if_a_queue_is_down_on_the_last_attempt_the_exhausted_queue_answers(queue: str) -> None:
    service = Service()
    service.embedder.problem = RuntimeError("out of order")
    service.requests.send(ADA)
    getattr(service, queue).down = True
    for _ in range(MAX_RECEIVE_COUNT):
        service.call()
    assert service.answers() == {}
    getattr(service, queue).down = False
    service.run()
    assert [answer["error"]["code"] for answer in service.answers()["ada"]] == ["retries_exhausted"]
    assert set(bodies(service.dead_letters)) == {ADA}


def test_a_bad_frame_whose_answer_cannot_be_sent_on_any_attempt_is_answered_in_the_end() -> None:
    service = Service()
    service.requests.send(changed(ADA, faces=[]))
    service.responses.down = True
    for _ in range(MAX_RECEIVE_COUNT):
        service.call()
    service.responses.down = False
    service.run()
    assert [answer["error"]["code"] for answer in service.answers()["ada"]] == ["retries_exhausted"]


# A frame that kills the function


@pytest.mark.parametrize("position", range(4))
def test_a_frame_that_kills_the_function_does_not_take_the_others_of_its_batch_with_it(position: int) -> None:
    service = Service()
    messages = [faces_message(RED, request_id=f"frame-{number}") for number in range(3)]
    messages.insert(position, faces_message(BLUE, request_id="deadly"))
    for body in messages:
        service.requests.send(body)
    service.run()
    answers = service.answers()
    assert [answer["error"]["code"] for answer in answers.pop("deadly")] == ["retries_exhausted"]
    assert {name: [answer["result"] for answer in found] for name, found in answers.items()} == {
        f"frame-{number}": ["Ada"] for number in range(3)
    }
    assert [json.loads(body)["request_id"] for body in bodies(service.dead_letters)] == ["deadly"]


def test_an_answered_frame_is_deleted_before_the_next_one_is_begun() -> None:
    service = Service()
    service.requests.send(ADA)
    service.requests.send(faces_message(BLUE, request_id="deadly"))
    service.call()
    assert len(service.requests) == 1
    assert [answer["result"] for answer in service.answers()["ada"]] == ["Ada"]


def test_a_message_that_cannot_be_deleted_yet_is_left_to_lambda() -> None:
    service = Service()
    collaborators = replace(service.collaborators, requests=UndeletableQueue())
    response = recognise_faces.handle(sqs_event(ADA, BO), collaborators, lambda: 1e6)
    assert response == {"batchItemFailures": []}
    assert sorted(service.answers()) == ["ada", "bo"]


def test_a_message_that_stays_on_the_queue_is_not_deleted() -> None:
    service = Service()
    service.embedder.problem = RuntimeError("out of order")
    for body in (ADA, BO):
        service.requests.send(body)
    service.call()
    assert len(service.requests) == 2
