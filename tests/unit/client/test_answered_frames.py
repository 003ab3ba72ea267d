"""Answers are read from the log lines that the functions really write."""

import io
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from adapters import json_log
from client.answered_frames import AnsweredFrame, AnsweredFrames
from pipeline.embed import PREPROCESSINGS
from pipeline.handlers import detect_faces, recognise_faces
from pipeline.log_events import LogPrivacy
from pipeline.pace import Pace
from tests.builders import GREEN, RED, WHITE, changed, frame, gallery_of, post, sqs_event
from tests.fakes import ColourEmbedder, MemoryMetrics, PatchDetector, UnreliableQueue, stepping_clock
from tests.memory_queue import MemoryQueue


class Service:
    """Both functions; it collects the lines of their logs."""

    def __init__(self, *, log_names: bool = True) -> None:
        self._stream = io.StringIO()
        json_log.set_up("a-function", self._stream)
        self.requests, self.responses = UnreliableQueue(), UnreliableQueue()
        privacy = LogPrivacy(log_names)
        self._detection = detect_faces.Collaborators(
            detector=PatchDetector(),
            preprocessing=PREPROCESSINGS["facenet-160"],
            requests=self.requests,
            responses=self.responses,
            clock=stepping_clock(),
            max_pixels=10**6,
            metrics=MemoryMetrics(),
            privacy=privacy,
        )
        gallery = gallery_of({"Ada": RED, "Bo": GREEN})
        self._recognition = recognise_faces.Collaborators(
            embedder=ColourEmbedder(),
            gallery=lambda: gallery,
            responses=self.responses,
            requests=MemoryQueue(),
            dead_letters=MemoryQueue(),
            exhausted_queue="exhausted",
            clock=stepping_clock(),
            max_receive_count=3,
            pace=Pace(),
            metrics=MemoryMetrics(),
            privacy=privacy,
        )

    def detect(self, body: bytes) -> list[str]:
        assert detect_faces.handle(post(body), self._detection)["statusCode"] == 200
        return self.lines()

    def recognise(self, *bodies: str) -> list[str]:
        recognise_faces.handle(sqs_event(*bodies), self._recognition, lambda: 1e6)
        return self.lines()

    def lines(self) -> list[str]:
        lines = self._stream.getvalue().splitlines()
        self._stream.truncate(0)
        self._stream.seek(0)
        return lines

    def queued(self) -> list[str]:
        return [message.body for message in self.requests.receive()]


@pytest.fixture
def service() -> Iterator[Callable[..., Service]]:
    logger = logging.getLogger("pipeline")
    before = logger.level, list(logger.handlers), logger.propagate
    yield Service
    logger.level, logger.handlers, logger.propagate = before


def at(line: str, seconds: float) -> str:
    """The line, written so many seconds after midnight."""
    time = datetime(2026, 11, 26, tzinfo=UTC).timestamp() + seconds
    written = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S,%f")
    return changed(line, timestamp=f"{written[:-3]}+0000")


def read(*lines: str) -> list[AnsweredFrame]:
    frames = AnsweredFrames()
    return [answer for line in lines if (answer := frames.read(line)) is not None]


def test_a_recognised_frame_is_one_answer_with_the_time_since_its_detection_began(
    service: Callable[..., Service],
) -> None:
    functions = service()
    (detected,) = functions.detect(frame(RED, WHITE, request_id="r-1", filename="door.jpg"))
    (recognised,) = functions.recognise(*functions.queued())
    (answer,) = read(at(detected, 60), at(recognised, 60.25))
    assert (answer.request_id, answer.filename, answer.result, answer.faces) == ("r-1", "door.jpg", "Ada", 2)
    assert answer.at == datetime(2026, 11, 26, 0, 1, 0, 250_000, UTC)
    of_detection = sum(json.loads(detected)["timings"].values())
    assert answer.milliseconds == pytest.approx(of_detection + 250)


def test_a_frame_without_a_face_is_answered_by_detection(service: Callable[..., Service]) -> None:
    (detected,) = service().detect(frame(request_id="r-1", filename="wall.jpg"))
    (answer,) = read(detected)
    assert (answer.filename, answer.result, answer.faces) == ("wall.jpg", "No-Face", 0)
    assert answer.milliseconds == pytest.approx(sum(json.loads(detected)["timings"].values()))


def test_an_error_has_its_code_and_the_faces_that_detection_found(service: Callable[..., Service]) -> None:
    functions = service()
    (detected,) = functions.detect(frame(RED, GREEN, request_id="r-1", filename="door.jpg"))
    (body,) = functions.queued()
    (failed,) = functions.recognise(changed(body, preprocessing="other"))
    (answer,) = read(detected, failed)
    assert (answer.filename, answer.result, answer.error, answer.faces) == (
        "door.jpg", "Error", "other_preprocessing", 2,
    )  # fmt: skip
    (alone,) = read(failed)
    assert alone.faces is None


def test_without_its_detection_the_time_of_a_frame_is_the_sum_of_its_steps(service: Callable[..., Service]) -> None:
    """Also if the lines of a very fast recognition come first."""
    functions = service()
    (detected,) = functions.detect(frame(RED))
    (recognised,) = functions.recognise(*functions.queued())
    (answer,) = read(recognised, detected)
    assert answer.milliseconds == pytest.approx(sum(json.loads(recognised)["timings"].values()))


def test_a_frame_that_the_queue_delivers_twice_is_two_answers(service: Callable[..., Service]) -> None:
    functions = service()
    (detected,) = functions.detect(frame(RED))
    (body,) = functions.queued()
    first, second = functions.recognise(body) + functions.recognise(body)
    one, two = read(at(detected, 0), at(first, 1), at(second, 3))
    assert two.milliseconds - one.milliseconds == pytest.approx(2000)


def test_names_that_are_not_logged_are_not_known(service: Callable[..., Service]) -> None:
    functions = service(log_names=False)
    (detected,) = functions.detect(frame(RED, request_id="r-1", filename="ada.jpg"))
    (answer,) = read(detected, *functions.recognise(*functions.queued()))
    assert (answer.request_id, answer.filename, answer.result) == ("r-1", "", "name")


@pytest.mark.parametrize(
    "line",
    [
        "START RequestId: 7 Version: $LATEST",
        "",
        "{",
        "[1]",
        '{"_aws":{}}',
        '{"message": ["detected"]}',
        '{"message": "detected"}',
        '{"message": "detected", "request_id": 1, "timestamp": "2026-11-26 00:00:00,000+0000"}',
        '{"message": "detected", "request_id": "r", "timestamp": "today"}',
        '{"message": "refused", "request_id": "r", "timestamp": "2026-11-26 00:00:00,000+0000"}',
        '{"a":' * 100_000,
    ],
)
def test_other_lines_are_no_answers(line: str) -> None:
    assert read(line) == []


def test_lines_with_other_fields_are_read_as_far_as_possible() -> None:
    (answer,) = read(
        '{"message": "detected", "request_id": "r", "timestamp": "2026-11-26 00:00:00,000+0000",'
        ' "faces": "many", "timings": [1], "file": 7}'
    )
    assert (answer.faces, answer.milliseconds, answer.filename) == (0, 0, "")


def test_memory_stays_bounded_when_frames_are_never_answered(service: Callable[..., Service]) -> None:
    functions = service()
    (detected,) = functions.detect(frame(RED))
    (recognised,) = functions.recognise(*functions.queued())
    frames = AnsweredFrames()
    lines = (changed(detected, request_id=f"r-{number}") for number in itertools.count())
    for line in itertools.islice(lines, 10_001):
        assert frames.read(at(line, 0)) is None
    newest, oldest = (frames.read(at(changed(recognised, request_id=f"r-{number}"), 60)) for number in (10_000, 0))
    assert newest is not None
    assert oldest is not None
    assert newest.milliseconds > 60_000
    assert oldest.milliseconds < 1_000
