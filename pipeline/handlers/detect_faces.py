"""The function `face-detection`: takes a posted frame and puts its faces on the request queue.

A frame without a face needs no recognition, so this function puts its answer on the response queue itself.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline import aws_events
from pipeline.embed import Preprocessing, cut
from pipeline.errors import BadInput, TransientError
from pipeline.images import OUT_OF_MEMORY, decode, encode_jpeg
from pipeline.log_events import DETECTED, LogPrivacy
from pipeline.messages import (
    NO_FACE,
    FaceCrop,
    FacesMessage,
    FrameRequest,
    Json,
    RecognitionResult,
    read_request_id,
)
from pipeline.metrics import Metric
from pipeline.ports import MAX_MESSAGE_BYTES, FaceDetector, MessageSender, MetricsRecorder
from pipeline.rotations import TurnedPicture, find_faces

#: JPEG qualities of a crop, best first. A face takes about 20 kB at 95 and 8 kB at 75, base64 included.
CROP_QUALITIES = (95, 75)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collaborators:
    """What the function needs from outside.

    Parameters
    ----------
    detector : FaceDetector
    preprocessing : Preprocessing
        How to cut the faces; the one that the embedder of `face-recognition` needs.
    requests, responses : MessageSender
        The request queue and the response queue.
    clock : callable
        Returns seconds. Only differences between two calls are used.
    max_pixels : int
        Width times height of the largest frame that is decoded.
    try_rotations : bool
        Whether to look for faces in the three other turns of a frame that shows none as it is.
    metrics : MetricsRecorder
        Flushed at the end of each invocation.
    privacy : LogPrivacy
        What the log lines say about people.

    """

    detector: FaceDetector
    preprocessing: Preprocessing
    requests: MessageSender
    responses: MessageSender
    clock: Callable[[], float]
    max_pixels: int
    metrics: MetricsRecorder
    privacy: LogPrivacy
    try_rotations: bool = False


def handle(event: Mapping[str, Json], collaborators: Collaborators) -> dict[str, Json]:
    """Process one function URL event and return its HTTP response.

    The status is 200 once the frame is on a queue, 4xx with the reason if it can never be processed, and 503 if the
    queue cannot be reached or the memory does not suffice; the client should then send the frame again. Only a response
    of 200 means that something was queued.
    """
    try:
        return _respond(event, collaborators)
    finally:
        collaborators.metrics.flush()


def _respond(event: Mapping[str, Json], collaborators: Collaborators) -> dict[str, Json]:
    metrics = collaborators.metrics
    body = b""
    request = None
    try:
        body = aws_events.posted_body(event)
        request = FrameRequest.from_json(body)
        log_fields = _process(request, collaborators)
    except BadInput as error:
        metrics.count(Metric.FRAMES_REFUSED)
        request_id = request.request_id if request is not None else read_request_id(body)
        log.warning("refused", extra={"request_id": request_id, "error": error.code})
        return aws_events.refusal(error.status, error)
    except (TransientError, MemoryError) as error:
        metrics.count(Metric.FRAMES_NOT_QUEUED)
        failure = error if isinstance(error, TransientError) else TransientError("out_of_memory", OUT_OF_MEMORY)
        request_id = request.request_id if request is not None else None
        log.error("not queued", extra={"request_id": request_id, "error": failure.code, "reason": failure.message})
        return aws_events.refusal(503, failure)
    metrics.count(Metric.FRAMES_ACCEPTED)
    log.info(
        DETECTED,
        extra={
            "request_id": request.request_id,
            **collaborators.privacy.filename(request.filename),
            **log_fields,
        },
    )
    return aws_events.accepted()


def _process(request: FrameRequest, collaborators: Collaborators) -> dict[str, Json]:
    """Queue the faces of a frame, or the answer if it shows none; return the fields of its log line.

    Raises BadInput if the content is not a picture, TransientError if the queue cannot be reached.
    """
    clock, metrics = collaborators.clock, collaborators.metrics
    started = clock()
    image = decode(request.content, collaborators.max_pixels)
    decoded = clock()
    upright = find_faces(image, collaborators.detector, collaborators.try_rotations)
    detected = clock()
    timings = {"decode": (decoded - started) * 1e3, "detect": (detected - decoded) * 1e3}
    if not upright.faces:
        answer = RecognitionResult(request.request_id, NO_FACE, request.filename, timings=timings)
        collaborators.responses.send(answer.to_json())
        metrics.count(Metric.ANSWERED_NO_FACE)
        metrics.milliseconds(Metric.COMPUTE_MILLISECONDS, (detected - started) * 1e3)
        return {"faces": 0, "timings": {**timings, "send": (clock() - detected) * 1e3}}
    body, sent = _faces_message(request, upright, collaborators, timings, lambda: (clock() - detected) * 1e3)
    cropped = clock()
    collaborators.requests.send(body)
    metrics.count(Metric.FACES, len(upright.faces))
    metrics.milliseconds(Metric.COMPUTE_MILLISECONDS, (cropped - started) * 1e3)
    timings |= {"crop": (cropped - detected) * 1e3, "send": (clock() - cropped) * 1e3}
    turned = {"turned": 90 * upright.quarter_turns} if upright.quarter_turns else {}
    return {"faces": len(upright.faces), "faces_sent": sent, "bytes": len(body), **turned, "timings": {**timings}}


def _faces_message(
    request: FrameRequest,
    upright: TurnedPicture,
    collaborators: Collaborators,
    timings: Mapping[str, float],
    crop_ms: Callable[[], float],
) -> tuple[str, int]:
    """Return the message for the request queue, and how many faces it contains.

    It contains all faces in the best quality that fits. If not even the lowest fits, it contains the largest faces, in
    the lowest quality, and is marked `truncated`.
    """
    crops = [cut(upright.image, face, collaborators.preprocessing) for face in upright.faces]
    faces = [upright.in_posted_picture(face) for face in upright.faces]

    def message(count: int, quality: int) -> str:
        kept = tuple(
            FaceCrop(face, encode_jpeg(crop, quality)) for face, crop in zip(faces[:count], crops[:count], strict=True)
        )
        return FacesMessage(
            request.request_id,
            request.filename,
            collaborators.preprocessing.id,
            kept,
            truncated=count < len(faces),
            timings={**timings, "crop": crop_ms()},
        ).to_json()

    for quality in CROP_QUALITIES:
        body = message(len(faces), quality)
        if len(body) <= MAX_MESSAGE_BYTES:  # to_json returns ASCII, one byte a character
            return body, len(faces)
    count = len(faces)
    while len(body) > MAX_MESSAGE_BYTES and count > 1:
        count = max(1, min(count - 1, count * MAX_MESSAGE_BYTES // len(body)))
        body = message(count, CROP_QUALITIES[-1])
    return body, count
