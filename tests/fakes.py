"""Fakes of the outside world for tests. Each fake of a port passes the conformance suite of that port."""

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TransientError
from pipeline.messages import FrameRequest
from pipeline.metrics import COUNT, MILLISECONDS, Metric
from pipeline.ports import ArtifactStore, Face, FaceDetector, FaceEmbedder, Image, MetricsRecorder
from tests.memory_queue import MemoryQueue


class MemoryStore(ArtifactStore):
    """A store in a dictionary."""

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[int, bytes]] = {}
        self._writes = 0

    def read(self, name: str) -> bytes:
        if _plain(name) not in self._blobs:
            raise FileNotFoundError(name)
        return self._blobs[name][1]

    def write(self, name: str, content: bytes) -> None:
        self._writes += 1
        self._blobs[_plain(name)] = (self._writes, content)

    def delete(self, name: str) -> None:
        self._blobs.pop(_plain(name), None)

    def names(self) -> Sequence[str]:
        return sorted(self._blobs)

    def version(self, name: str) -> str | None:
        return str(self._blobs[name][0]) if _plain(name) in self._blobs else None


class PatchDetector(FaceDetector):
    """Detects each bright patch on a dark background as a face."""

    def detect(self, image: Image) -> list[Face]:
        bright = (image.max(axis=2) > 127).astype(np.uint8)
        _, _, stats, centres = cv2.connectedComponentsWithStats(bright)
        faces = [
            Face(np.array([x, y, x + width, y + height], np.float32), 1.0, np.tile(centre, (5, 1)).astype(np.float32))
            for (x, y, width, height, _), centre in zip(stats[1:].tolist(), centres[1:], strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)


class ColourEmbedder(FaceEmbedder):
    """Recognises faces by their colour: the vector is the mean of red, green and blue, scaled to length 1."""

    def __init__(self, model: str = "stand-in", preprocessing: str = "facenet-160") -> None:
        self.model = model
        self.preprocessing = preprocessing
        self.dimensions = 3
        self.threshold = 0.3

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        colours = crops.mean(axis=(1, 2), dtype=np.float64) + 1e-6
        unit: NDArray[np.float32] = (colours / np.linalg.norm(colours, axis=1, keepdims=True)).astype(np.float32)
        return unit


class MemoryMetrics(MetricsRecorder):
    """Keeps what each flush reported: the values of each metric."""

    def __init__(self) -> None:
        self.flushed: list[dict[Metric, list[float]]] = []
        self._current: dict[Metric, list[float]] = {}

    def count(self, metric: Metric, number: int = 1) -> None:
        if metric.unit != COUNT or number < 0:
            raise ValueError(f"{metric} by {number}")
        if number:
            self._current[metric] = [sum(self._current.get(metric, [])) + number]

    def milliseconds(self, metric: Metric, value: float) -> None:
        if metric.unit != MILLISECONDS or not 0 <= value < math.inf:
            raise ValueError(f"{metric} of {value} ms")
        self._current.setdefault(metric, []).append(value)

    def flush(self) -> None:
        if self._current:
            self.flushed.append(self._current)
            self._current = {}


class UnreliableQueue(MemoryQueue):
    """A queue in memory that cannot be reached while it is `down`."""

    down = False

    def send(self, body: str) -> None:
        if self.down:
            raise TransientError("queue_unavailable", "The queue cannot be reached.")
        super().send(body)


class MemorySqs:
    """A queue in memory with the methods of boto3's SQS client, long polls included. It ignores the queue URL."""

    def __init__(self, queue: MemoryQueue) -> None:
        self._queue = queue

    def receive_message(self, *, QueueUrl: str, MaxNumberOfMessages: int, WaitTimeSeconds: int) -> dict:
        deadline = time.monotonic() + WaitTimeSeconds
        while not (received := self._queue.receive(MaxNumberOfMessages)) and time.monotonic() < deadline:
            time.sleep(0.005)
        # boto3 omits the key if there are no messages
        return {"Messages": [{"Body": m.body, "ReceiptHandle": m.receipt} for m in received]} if received else {}

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> None:
        self._queue.delete(ReceiptHandle)

    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> None:
        self._queue.hide(ReceiptHandle, VisibilityTimeout)


@contextmanager
def function_url(react: Callable[[FrameRequest], tuple[int, str]]) -> Iterator[str]:
    """Serve a function URL on a free port; its response to a frame is the status and body that `react` returns."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, text = react(FrameRequest.from_json(body))
            content = text.encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def stepping_clock() -> Callable[[], float]:
    """A clock that advances by one millisecond at each reading."""
    return itertools.count(step=0.001).__next__


def _plain(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a plain file name")
    return name
