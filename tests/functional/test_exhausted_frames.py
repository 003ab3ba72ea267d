"""A frame whose function dies on every attempt: its client gets an answer, and the operator can send it again."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapters.queue_sqs import sqs_client
from client.frames import Frame
from client.queue_operations import depths
from tests.conftest import COLLINS, Start
from tests.functional.targets import Service
from tests.polling import eventually

if TYPE_CHECKING:
    from client.service_client import Outcome

MAX_RECEIVE_COUNT = 2


@pytest.fixture(scope="module")
def quick(service: Start, photos: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that tries a frame twice, 6 s apart: longer than a process takes to start."""
    parameters = ("RecognitionTimeout=1", "RequestVisibilityTimeout=6", f"MaxReceiveCount={MAX_RECEIVE_COUNT}")
    options = [word for parameter in parameters for word in ("--parameter", parameter)]
    with service(tmp_path_factory.mktemp("service"), *options, people={COLLINS: photos[COLLINS]}) as started:
        yield started


def waiting(service: Service, *urls: str) -> int:
    """Return how many messages the queues have, visible or in flight."""
    sqs = sqs_client(service.stack.region, service.stack.sqs_endpoint)
    return sum(depth.visible + depth.in_flight for depth in depths(sqs, urls))


@pytest.mark.timeout(300)
def test_a_frame_whose_function_is_killed_on_every_attempt_is_answered_and_can_be_sent_again(
    quick: Service, frame: Callable[[str], Frame]
) -> None:
    stack, photo = quick.stack, frame(COLLINS)
    exhausted = stack.request_queue_url.replace("-req-queue", "-req-exhausted")
    outcomes: list[Outcome] = []
    sending = threading.Thread(
        target=lambda: outcomes.extend(quick.client().send([photo], concurrency=1, timeout_seconds=200))
    )
    sending.start()
    # No process lives long enough to load its model, so none can answer.
    while not waiting(quick, exhausted, stack.dead_letter_queue_url):
        with suppress(KeyError, ProcessLookupError):  # there is none at the moment
            quick.kill_later("face-recognition")()
        assert not outcomes, outcomes
    sending.join(200)

    (outcome,) = outcomes
    assert outcome.result == "Error"
    assert outcome.answer is not None
    assert outcome.answer["error"]["code"] == "retries_exhausted"
    assert f"delivered {MAX_RECEIVE_COUNT} times" in outcome.answer["error"]["message"]
    eventually(lambda: waiting(quick, stack.request_queue_url, exhausted) == 0, 30)
    (peeked,) = json.loads(quick.home.faceq("queues", "peek", "faceq-req-dlq", "--json").stdout)
    assert json.loads(peeked["body"])["request_id"] == outcome.request_id

    redriven = quick.home.faceq("queues", "redrive", "faceq-req-dlq")
    assert redriven.returncode == 0, redriven.stderr
    assert "Sent 1 message back" in redriven.stdout
    answers: list[dict[str, object]] = []

    def answered() -> bool:
        sqs = sqs_client(stack.region, stack.sqs_endpoint)
        received = sqs.receive_message(QueueUrl=stack.response_queue_url, WaitTimeSeconds=1)
        answers.extend(json.loads(message["Body"]) for message in received.get("Messages", []))
        return bool(answers)

    eventually(answered, 60)
    assert [(answer["request_id"], answer["result"]) for answer in answers] == [(outcome.request_id, COLLINS)]
    assert waiting(quick, stack.dead_letter_queue_url) == 0
