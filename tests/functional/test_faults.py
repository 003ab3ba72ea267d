"""What survives when a part of the service is killed while it processes frames."""

import io
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from adapters.queue_sqs import sqs_client
from client.frames import Frame
from client.service_client import Outcome
from pipeline.messages import FrameRequest
from tests.conftest import COLLINS, Start
from tests.functional.targets import Service
from tests.polling import eventually


@pytest.fixture(scope="module")
def quick(service: Start, photos: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that retries an unfinished frame after 4 s, not 180 s, and whose detection times out after 3 s."""
    options = (
        "--parameter",
        "DetectionTimeout=3",
        "--parameter",
        "RecognitionTimeout=3",
        "--parameter",
        "RequestVisibilityTimeout=4",
    )
    with service(tmp_path_factory.mktemp("service"), *options, people={COLLINS: photos[COLLINS]}) as started:
        yield started


def slow_picture() -> bytes:
    """A picture of 25 million pixels full of blobs: its detection takes over 10 s of processor time."""
    stream = io.BytesIO()
    Image.effect_noise((600, 410), 100).resize((6000, 4100)).save(stream, "JPEG")
    return stream.getvalue()


def send_in_background(started: Service, frames: list[Frame], outcomes: list[Outcome]) -> threading.Thread:
    def send() -> None:
        outcomes.extend(started.client().send(frames, concurrency=4, timeout_seconds=90))

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("part", ["face-recognition", "event-source-mapping"])
def test_a_killed_part_loses_no_accepted_frame(quick: Service, frame: Callable[[str], Frame], part: str) -> None:
    """After kill -9 in the middle of its work, each frame still gets its answer, and the part is replaced."""
    photo = frame(COLLINS)
    before, kill = quick.instances(part), quick.kill_later(part)
    outcomes: list[Outcome] = []
    sending = send_in_background(quick, [Frame(f"{n}.png", photo.content) for n in range(12)], outcomes)
    eventually(lambda: outcomes, 60)
    kill()
    sending.join(100)
    assert [outcome.result for outcome in outcomes] == [COLLINS] * 12
    eventually(lambda: quick.instances(part) - before, 20)


def test_the_client_learns_that_a_detection_was_killed(quick: Service, frame: Callable[[str], Frame]) -> None:
    """The frame in work gets a 502, as on AWS, so no accepted frame is lost. The next frame gets its answer."""
    photo = frame(COLLINS)
    kill = quick.kill_later("face-detection")
    outcomes: list[Outcome] = []
    sending = send_in_background(quick, [Frame(f"{n}.png", photo.content) for n in range(12)], outcomes)
    eventually(lambda: outcomes, 60)
    kill()
    sending.join(100)
    assert len(outcomes) == 12
    assert {outcome.result for outcome in outcomes} <= {COLLINS, None}
    assert all("502" in str(outcome.problem) for outcome in outcomes if outcome.result is None)
    assert quick.send(photo)[photo.filename].result == COLLINS


@pytest.mark.only("processes", "ElasticMQ keeps its messages, see tests/docker")
def test_a_killed_queue_server_is_restarted(quick: Service, frame: Callable[[str], Frame]) -> None:
    """Its messages in memory are lost, which the supervisor reports. Frames sent from then on get their answers."""
    photo = frame(COLLINS)
    before = quick.instances("queue-server")
    quick.kill_later("queue-server")()
    eventually(lambda: quick.instances("queue-server") - before, 20)
    outcome = quick.send(photo, timeout=60)[photo.filename]
    assert outcome.result == COLLINS
    reported = quick.supervisor_output()
    assert "queue-server died" in reported
    assert "in memory" in reported


def test_the_client_learns_of_a_timeout_and_the_next_frame_is_served(
    quick: Service, frame: Callable[[str], Frame]
) -> None:
    """As on AWS, the client gets a 502, the log has the reason, and the process is replaced."""
    large = Frame("large.jpg", slow_picture())
    outcome = quick.send(large)["large.jpg"]
    assert (outcome.result, "502" in str(outcome.problem)) == (None, True)
    eventually(lambda: "Task timed out after 3.00 seconds" in quick.log_text() + quick.supervisor_output(), 20)
    assert quick.send(frame(COLLINS))[frame(COLLINS).filename].result == COLLINS


def test_a_frame_whose_client_disconnects_is_not_lost(quick: Service, frame: Callable[[str], Frame]) -> None:
    """The frame is accepted nevertheless, and its answer waits on the response queue."""
    body = FrameRequest(frame(COLLINS).content, "gone", "a.png").to_json().encode()
    url = urlsplit(quick.stack.function_url)
    assert url.hostname
    with socket.create_connection((url.hostname, url.port or 80)) as connection:
        head = f"POST / HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
    sqs = sqs_client(quick.stack.region, quick.stack.sqs_endpoint)
    answers: list[str] = []

    def receive() -> bool:
        url = quick.stack.response_queue_url
        for message in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=2).get("Messages", []):
            answer = json.loads(message["Body"])
            if answer["request_id"] == "gone":  # a frame of another test may get two answers
                answers.append(answer["result"])
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return bool(answers)

    eventually(receive, 60)
    assert answers == [COLLINS]
