"""Pictures that cameras and browsers send, and that are complete but unusual, get the right answer."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from adapters.queue_sqs import sqs_client
from adapters.settings import FACEQ_TRY_ROTATIONS
from client.frames import Frame
from tests.conftest import COLLINS, Start
from tests.functional.targets import ROOT, Service
from tests.polling import eventually

ODD = ROOT.parent / "shared" / "fixtures" / "odd"
needs_fixtures = pytest.mark.skipif(not ODD.is_dir(), reason="needs the pictures in ../shared/fixtures/odd")

PICTURES = [
    "bmp32-v4-alpha0.bmp",
    "grey-12bit-in-16.png",
    "leading-crlf.jpg",
    "no-eoi.jpg",
    "png-text-1.5mb.png",
    "rot90-noexif.jpg",
]


@pytest.fixture(scope="module")
def started(service: Start, photos: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that tries rotations and knows one person; the tests share it."""
    folder = tmp_path_factory.mktemp("odd")
    with service(folder, people={COLLINS: photos[COLLINS]}, variables={FACEQ_TRY_ROTATIONS: "true"}) as started:
        yield started


@pytest.mark.fixtures
@needs_fixtures
@pytest.mark.parametrize("name", PICTURES)
def test_a_complete_picture_names_its_person(started: Service, name: str) -> None:
    outcome = started.send(Frame(name, (ODD / name).read_bytes()))[name]
    assert outcome.result == COLLINS
    assert outcome.answer is not None
    (face,) = outcome.answer["faces"]
    x1, y1, x2, y2 = face["box"]
    assert 0 <= x1 < x2 <= 512
    assert 0 <= y1 < y2 <= 512
    assert all(x1 < x < x2 and y1 < y < y2 for x, y in face["landmarks"])
    eyes = face["landmarks"][:2]
    apart = [abs(first - second) for first, second in zip(*eyes, strict=True)]
    assert (apart[0] < apart[1]) == (name == "rot90-noexif.jpg")


@pytest.mark.fixtures
@needs_fixtures
@pytest.mark.parametrize("name", ["base64-data-url.json", "base64-urlsafe.json"])
def test_a_body_as_browsers_write_it_names_its_person(started: Service, name: str) -> None:
    body = json.loads((ODD / name).read_bytes())
    posted = requests.post(started.stack.function_url, json=body, timeout=30)
    assert posted.status_code == 200, posted.text
    assert answer_for(started, body["request_id"])["result"] == COLLINS


def test_an_avif_names_its_person(started: Service, photos: Mapping[str, Path]) -> None:
    stream = io.BytesIO()
    with Image.open(photos[COLLINS]) as photo:
        photo.convert("RGB").save(stream, "AVIF")
    assert started.send(Frame("door.avif", stream.getvalue()))["door.avif"].result == COLLINS


def test_a_jpeg_that_is_cut_is_refused_with_how_much_of_it_is_there(
    started: Service, photos: Mapping[str, Path]
) -> None:
    stream = io.BytesIO()
    with Image.open(photos[COLLINS]) as photo:
        photo.convert("RGB").save(stream, "JPEG")
    content = stream.getvalue()
    outcome = started.send(Frame("door.jpg", content[: len(content) // 2]))["door.jpg"]
    assert outcome.answer is None
    assert "400" in str(outcome.problem)
    assert "of its 512 rows" in str(outcome.problem)


def answer_for(started: Service, request_id: str) -> dict[str, Any]:
    """Take messages off the response queue until the answer with this request id is among them."""
    sqs, queue = sqs_client(started.stack.region, started.stack.sqs_endpoint), started.stack.response_queue_url
    answers: dict[str, dict[str, Any]] = {}

    def received() -> bool:
        for message in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages", []):
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            answer = json.loads(message["Body"])
            answers[answer["request_id"]] = answer
        return request_id in answers

    eventually(received)
    return answers[request_id]
