"""The function `face-detection`: a posted frame in, its faces on the request queue.

A frame without a face is answered straight on the response queue, so that its client does not wait for nothing.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline import aws_events
from pipeline.embed import Preprocessing, cut
from pipeline.errors import BadInput, TransientError
from pipeline.images import decode, encode_jpeg
from pipeline.messages import (
    NO_FACE,
    FaceCrop,
    FacesMessage,
    FrameRequest,
    Json,
    RecognitionResult,
    request_id_of,
)
from pipeline.ports import MAX_MESSAGE_BYTES, Face, FaceDetector, Image, MessageSender

#: JPEG qualities of a crop, best first. A face costs about 20 kB at 95 and 8 kB at 75, base64 included.
CROP_QUALITIES = (95, 75)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collaborators:
    """What the function works with.

    Parameters
    ----------
    clock : callable
        Returns seconds; only differences are used.
    max_pixels : int
        Largest frame, width times height, that is decoded.

    """

    detector: FaceDetector
    preprocessing: Preprocessing
    requests: MessageSender
    responses: MessageSender
    clock: Callable[[], float]
    max_pixels: int


def handle(event: Mapping[str, Json], with_: Collaborators) -> dict[str, Json]:
    """Take one function URL event and return its HTTP response.

    200 once the frame is on a queue; 4xx with a reason if it never can be processed; 503 if the queue is out of
    reach, in which case the client sends the frame again. Nothing is queued unless the answer is 200.
    """
    body = b""
    try:
        body = aws_events.posted_body(event)
        request = FrameRequest.from_json(body)
    except BadInput as error:
        log.warning("refused", extra={"request_id": request_id_of(body), "error": error.code})
        return aws_events.refusal(error.status, error)
    try:
        line = _process(request, with_)
    except BadInput as error:
        log.warning("refused", extra={"request_id": request.request_id, "error": error.code})
        return aws_events.refusal(error.status, error)
    except TransientError as error:
        log.error("not queued", extra={"request_id": request.request_id, "error": error.code, "reason": error.message})
        return aws_events.refusal(503, error)
    log.info("detected", extra={"request_id": request.request_id, **line})
    return aws_events.accepted()


def _process(request: FrameRequest, with_: Collaborators) -> dict[str, Json]:
    clock = with_.clock
    started = clock()
    image = decode(request.content, with_.max_pixels)
    decoded = clock()
    faces = with_.detector.detect(image)
    detected = clock()
    timings = {"decode": (decoded - started) * 1e3, "detect": (detected - decoded) * 1e3}
    if not faces:
        answer = RecognitionResult(request.request_id, NO_FACE, request.filename, timings=timings)
        with_.responses.send(answer.to_json())
        return {"faces": 0, "timings": {**timings, "send": (clock() - detected) * 1e3}}
    body, sent = _faces_message(request, image, faces, with_, timings, lambda: (clock() - detected) * 1e3)
    cropped = clock()
    with_.requests.send(body)
    timings |= {"crop": (cropped - detected) * 1e3, "send": (clock() - cropped) * 1e3}
    return {"faces": len(faces), "faces_sent": sent, "bytes": len(body), "timings": {**timings}}


def _faces_message(
    request: FrameRequest,
    image: Image,
    faces: Sequence[Face],
    with_: Collaborators,
    timings: Mapping[str, float],
    crop_ms: Callable[[], float],
) -> tuple[str, int]:
    """Return the largest message that the queue takes and how many faces it holds.

    All faces in good quality if they fit, else all in lower quality, else the largest of them, marked `truncated`.
    """
    crops = [cut(image, face, with_.preprocessing) for face in faces]

    def message(count: int, quality: int) -> str:
        kept = tuple(
            FaceCrop(face, encode_jpeg(crop, quality)) for face, crop in zip(faces[:count], crops[:count], strict=True)
        )
        return FacesMessage(
            request.request_id,
            request.filename,
            with_.preprocessing.id,
            kept,
            truncated=count < len(faces),
            timings={**timings, "crop": crop_ms()},
        ).to_json()

    for quality in CROP_QUALITIES:
        body = message(len(faces), quality)
        if len(body) <= MAX_MESSAGE_BYTES:  # to_json writes ASCII: characters are bytes
            return body, len(faces)
    count = len(faces)
    while len(body) > MAX_MESSAGE_BYTES and count > 1:
        count = max(1, min(count - 1, count * MAX_MESSAGE_BYTES // len(body)))
        body = message(count, CROP_QUALITIES[-1])
    return body, count
