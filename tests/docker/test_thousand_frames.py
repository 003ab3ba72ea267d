"""No frame is lost while containers are killed again and again: `make test-faults`.

FACEQ_FAULT_FRAMES sets the number of frames (1,000 by default).
"""

import base64
import io
import itertools
import json
import os
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from PIL import Image

from adapters.queue_sqs import sqs_client
from client.frames import Frame
from client.queue_operations import depths
from tests.conftest import COLLINS, HOPPER
from tests.functional.targets import Containers, containers, docker
from tests.polling import eventually

pytestmark = [pytest.mark.docker, pytest.mark.faults, pytest.mark.timeout(1500)]

FRAMES = int(os.environ.get("FACEQ_FAULT_FRAMES", "1000"))
KILL_EVERY_SECONDS = 5.0
PARTS = ("face-detection", "face-recognition", "gateway")
#: How long a client keeps posting one frame, and how long all answers may take after the last post, seconds.
POST_SECONDS, ANSWER_SECONDS = 120.0, 300.0


@pytest.fixture(scope="module")
def quick(photos: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """Two containers of each function; an unfinished frame is tried again after 10 s, up to 50 times."""
    options = ("RecognitionTimeout=8", "RequestVisibilityTimeout=10", "MaxReceiveCount=50")
    scale = {"face-detection": 2, "face-recognition": 2}
    folder = tmp_path_factory.mktemp("faults")
    with containers(folder, *options, people={COLLINS: photos[COLLINS]}, scale=scale) as started:
        yield started


@pytest.fixture(scope="module")
def pictures(photos: Mapping[str, Path]) -> Mapping[str, bytes]:
    """Small frames, by the answer that they must get."""

    def jpeg(image: Image.Image) -> bytes:
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "JPEG")
        return stream.getvalue()

    def small(name: str) -> bytes:
        image = Image.open(photos[name])
        image.thumbnail((320, 320))
        return jpeg(image)

    return {COLLINS: small(COLLINS), "Unknown": small(HOPPER), "No-Face": jpeg(Image.new("RGB", (320, 240), "grey"))}


class Answers:
    """Collects every message of the response queue, by request id."""

    def __init__(self, service: Containers) -> None:
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._receive)
        self.received: dict[str, list[dict[str, object]]] = defaultdict(list)

    def __enter__(self) -> "Answers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _receive(self) -> None:
        stack = self._service.stack
        sqs = sqs_client(stack.region, stack.sqs_endpoint)
        while not self._stop.is_set():
            messages = sqs.receive_message(QueueUrl=stack.response_queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            for message in messages.get("Messages", []):
                answer = json.loads(message["Body"])
                self.received[answer["request_id"]].append(answer)
                sqs.delete_message(QueueUrl=stack.response_queue_url, ReceiptHandle=message["ReceiptHandle"])


class Killer:
    """Ends one container every few seconds: with SIGKILL to its process where allowed, otherwise with `docker kill`."""

    def __init__(self, service: Containers) -> None:
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._kill)
        self._choice = random.Random(6)
        self.killed: list[str] = []
        self.failure: BaseException | None = None

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _kill(self) -> None:
        for number in itertools.count():
            if self._stop.wait(KILL_EVERY_SECONDS):
                return
            try:
                container = self._choice.choice(self._service.containers(PARTS[number % len(PARTS)]))
                self._end(container, by_signal=number % 2 == 0)
                self.killed.append(container)
            except BaseException as error:  # noqa: BLE001 - the test, in another thread, reports it
                self.failure = error
                return

    def _end(self, container: str, by_signal: bool) -> None:
        pid = int(docker("inspect", "--format", "{{.State.Pid}}", container))
        if by_signal and pid:
            try:
                os.kill(pid, 9)  # Docker's restart policy starts it again
                return
            except (PermissionError, ProcessLookupError):  # not root, or the engine runs in another (virtual) machine
                pass
        if pid:
            docker("kill", container)
        docker("start", container)


def post(service: Containers, frame: Frame, request_id: str) -> int:
    """Post a frame until it is accepted, as a camera does; return the number of posts."""
    body = {
        "content": base64.b64encode(frame.content).decode(),
        "request_id": request_id,
        "filename": frame.filename,
    }
    deadline = time.monotonic() + POST_SECONDS
    for attempt in itertools.count(1):
        try:
            answer = requests.post(service.stack.function_url, json=body, timeout=40)
            if answer.status_code == 200:
                return attempt
            assert answer.status_code in {429, 502, 503}, answer.text
        except requests.RequestException:
            pass
        assert time.monotonic() < deadline, f"{frame.filename} was never accepted"
        time.sleep(0.2)  # a client waits between two tries
    raise AssertionError


def post_all(service: Containers, pictures: Mapping[str, bytes], expected: Mapping[str, str], concurrency: int) -> int:
    """Post a frame with the expected result for each id; return the number of posts."""

    def post_item(item: tuple[str, str]) -> int:
        request_id, result = item
        return post(service, Frame(f"{request_id}.jpg", pictures[result]), request_id)

    with ThreadPoolExecutor(concurrency) as pool:
        return sum(pool.map(post_item, expected.items()))


def content(answer: Mapping[str, object]) -> str:
    """Return the part of an answer that a client uses: everything but the timings."""
    return json.dumps({key: value for key, value in answer.items() if key != "timings"}, sort_keys=True)


def empty(service: Containers) -> bool:
    return all(
        depth.visible + depth.in_flight == 0
        for depth in depths(sqs_client(service.stack.region, service.stack.sqs_endpoint))
    )


def test_every_frame_is_answered_while_containers_are_killed(
    quick: Containers, pictures: Mapping[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """No frame is lost or answered twice with different content, and no message is left in the queues."""
    expected = {str(uuid4()): result for result in itertools.islice(itertools.cycle(pictures), FRAMES)}
    began = time.monotonic()
    with Answers(quick) as answers:
        with Killer(quick) as killer:
            posts = post_all(quick, pictures, expected, concurrency=6)
        assert killer.failure is None
        eventually(lambda: expected.keys() <= answers.received.keys(), ANSWER_SECONDS)
        eventually(lambda: empty(quick), 60)
    seconds = time.monotonic() - began
    twice = sum(len(received) > 1 for received in answers.received.values())
    with capsys.disabled():
        sys.stdout.write(
            f"\n{FRAMES} frames in {seconds:.0f} s, {len(killer.killed)} containers killed, {posts - FRAMES} posts "
            f"repeated, {len(answers.received)} frames answered, {twice} of them more than once\n"
        )
    assert answers.received.keys() == expected.keys()
    assert {key: received[0]["result"] for key, received in answers.received.items()} == expected
    assert [each for each in answers.received.values() if len(set(map(content, each))) > 1] == []
    assert len(killer.killed) >= min(5, seconds // (2 * KILL_EVERY_SECONDS))


def test_fifty_parallel_posts_are_all_answered(quick: Containers, pictures: Mapping[str, bytes]) -> None:
    expected = {str(uuid4()): result for result in itertools.islice(itertools.cycle(pictures), 50)}
    with Answers(quick) as answers:
        post_all(quick, pictures, expected, concurrency=50)
        eventually(lambda: expected.keys() <= answers.received.keys(), 100)
    assert {key: received[0]["result"] for key, received in answers.received.items()} == expected
