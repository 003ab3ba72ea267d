"""Batches with more faces than the function has time for: every frame is answered, once, and none is dead-lettered."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from adapters.queue_sqs import sqs_client
from adapters.settings import ModelSettings
from adapters.wiring import embedder_preprocessing
from client.queue_operations import depths
from pipeline.embed import cut
from pipeline.images import decode, encode_jpeg
from pipeline.messages import FaceCrop, FacesMessage
from pipeline.ports import Face
from tests.conftest import COLLINS, Start
from tests.functional.targets import Service
from tests.polling import eventually

FRAMES, FACES, TIMEOUT_SECONDS = 10, 60, 10
#: Small enough for sixty crops in one message.
QUALITY = 75


@pytest.fixture(scope="module")
def service(service: Start, photos: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    parameters = (f"RecognitionTimeout={TIMEOUT_SECONDS}", f"RequestVisibilityTimeout={6 * TIMEOUT_SECONDS}")
    options = [word for parameter in parameters for word in ("--parameter", parameter)]
    with service(tmp_path_factory.mktemp("faces"), *options, people={COLLINS: photos[COLLINS]}) as started:
        yield started


@pytest.fixture(scope="module")
def crowd(photos: Mapping[str, Path]) -> tuple[FaceCrop, ...]:
    """Sixty times the face of Eileen Collins in the photograph of scikit-image."""
    image = decode(photos[COLLINS].read_bytes())
    face = Face(np.array([177, 68, 273, 192], np.float32), 1.0, np.full((5, 2), 150, np.float32))
    preprocessing = embedder_preprocessing(ModelSettings.from_environment({}))
    crop = FaceCrop(face, encode_jpeg(cut(image, face, preprocessing), QUALITY))
    return (crop,) * FACES


@pytest.mark.timeout(300)
def test_every_frame_is_answered_once_and_none_is_dead_lettered(service: Service, crowd: tuple[FaceCrop, ...]) -> None:
    """dlib needs about 96 ms a face, so a batch needs six times the function's timeout.

    The test takes as long as the calls compute: four of them finish a frame each, and the fifth, which is the last
    attempt of the others, uses its whole time.
    """
    stack = service.stack
    sqs = sqs_client(stack.region, stack.sqs_endpoint)
    preprocessing = embedder_preprocessing(ModelSettings.from_environment({})).id
    for number in range(FRAMES):
        body = FacesMessage(f"crowd-{number}", f"crowd-{number}.jpg", preprocessing, crowd).to_json()
        sqs.send_message(QueueUrl=stack.request_queue_url, MessageBody=body)

    def is_empty() -> bool:
        (depth,) = depths(sqs, [stack.request_queue_url])
        return depth.visible == depth.in_flight == 0

    eventually(is_empty, 240)
    answers = []
    while received := sqs.receive_message(
        QueueUrl=stack.response_queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1, VisibilityTimeout=60
    ).get("Messages", []):
        answers += [json.loads(message["Body"]) for message in received]
    assert sorted(answer["request_id"] for answer in answers) == sorted(f"crowd-{number}" for number in range(FRAMES))
    assert {answer["result"] for answer in answers} == {COLLINS}
    (dead,) = depths(sqs, [stack.dead_letter_queue_url])
    assert (dead.visible, dead.in_flight) == (0, 0)
    assert "Task timed out" not in service.log_text()
