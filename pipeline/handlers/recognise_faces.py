"""The function `face-recognition`: takes a batch of queue messages and puts one answer per frame on the response queue.

If a retry cannot help, the client immediately gets the answer `Error`. If it may help, a partial batch response keeps
the message on the queue; on the last attempt the client gets `Error` before the message goes to the dead-letter queue.

Three decisions have one function each: `choose_result` (which of several faces names the frame), `_embed_batch` (how
the faces of a batch share one call of the network) and `_keep_on_queue` (what happens to a frame that failed).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import aws_events
from pipeline.aws_events import SqsRecord
from pipeline.embed import PREPROCESSINGS
from pipeline.errors import BadInput, FaceqError, SetupError, TransientError
from pipeline.gallery import Gallery, Match
from pipeline.images import decode
from pipeline.messages import (
    ERROR,
    UNKNOWN,
    FacesMessage,
    Json,
    RecognisedFace,
    RecognitionResult,
    read_filename,
    read_request_id,
)
from pipeline.ports import FaceEmbedder, MessageSender

#: Longest text of an unexpected error that an answer quotes, in characters.
MAX_REASON_CHARS = 300

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collaborators:
    """What the function needs from outside.

    Parameters
    ----------
    embedder : FaceEmbedder
    gallery : callable
        Returns the current gallery, or None if there is none. Raises SetupError if it does not fit the embedder,
        TransientError if it cannot be read at the moment.
    responses : MessageSender
        The response queue.
    clock : callable
        Returns seconds. Only differences between two calls are used.
    max_receive_count : int
        How often the queue delivers a message before it moves it to the dead-letter queue.

    """

    embedder: FaceEmbedder
    gallery: Callable[[], Gallery | None]
    responses: MessageSender
    clock: Callable[[], float]
    max_receive_count: int


@dataclass(frozen=True)
class _Frame:
    """A message that was read: its crops are (n, S, S, 3) uint8 RGB, n at least 1."""

    record: SqsRecord
    message: FacesMessage
    crops: NDArray[np.uint8]
    decode_ms: float


def handle(event: Mapping[str, Json], collaborators: Collaborators) -> dict[str, Json]:
    """Answer every frame of one SQS event; return the partial batch response.

    A frame that fails is answered with `Error` or stays on the queue, and does not affect the others.
    """
    failed: list[str] = []
    frames: list[_Frame] = []
    for record in aws_events.sqs_records(event):
        try:
            frames.append(_read(record, collaborators))
        except BadInput as error:
            if not _answer_error(record, error, collaborators):
                failed.append(record.message_id)
        except Exception as error:  # noqa: BLE001 - such as too little memory; the frames must not be lost
            failed += _keep_on_queue([record], error, collaborators)
    if frames:
        failed += _recognise(frames, collaborators)
    return aws_events.batch_item_failures(failed)


def _read(record: SqsRecord, collaborators: Collaborators) -> _Frame:
    """Parse a message and decode its crops. Raises BadInput if that is impossible."""
    started = collaborators.clock()
    message = FacesMessage.from_json(record.body)
    if message.preprocessing != collaborators.embedder.preprocessing:
        raise BadInput(
            "other_preprocessing",
            f"The faces were cut for '{message.preprocessing}', but model '{collaborators.embedder.model}' needs "
            f"'{collaborators.embedder.preprocessing}'. Run both functions with the same model.",
        )
    size = PREPROCESSINGS[collaborators.embedder.preprocessing].size
    crops = [decode(face.jpeg, size * size) for face in message.faces]
    if any(crop.shape != (size, size, 3) for crop in crops):
        raise BadInput("wrong_crop", f"A face crop is not {size} x {size} pixels.")
    return _Frame(record, message, np.stack(crops), (collaborators.clock() - started) * 1e3)


def _recognise(frames: Sequence[_Frame], collaborators: Collaborators) -> list[str]:
    """Name the faces of `frames` and send the answers; return the ids of the messages that must stay on the queue."""
    started = collaborators.clock()
    try:
        gallery = collaborators.gallery()
        vectors_of_frames = _embed_batch(frames, collaborators.embedder)
    except SetupError as error:
        return [frame.record.message_id for frame in frames if not _answer_error(frame.record, error, collaborators)]
    except Exception as error:  # noqa: BLE001 - no error, whatever it is, may lose the frames
        return _keep_on_queue([frame.record for frame in frames], error, collaborators)
    embed_ms = (collaborators.clock() - started) * 1e3
    failed = []
    for frame, vectors in zip(frames, vectors_of_frames, strict=True):
        try:
            answer = _answer(frame, vectors, gallery, embed_ms, collaborators)
            answered = collaborators.clock()
            collaborators.responses.send(answer.to_json())
        except Exception as error:  # noqa: BLE001 - a failure of one frame must not affect the others
            failed += _keep_on_queue([frame.record], error, collaborators)
            continue
        log.info(
            "recognised",
            extra={
                "request_id": answer.request_id,
                "result": answer.result,
                "faces": len(vectors),
                "gallery": answer.gallery,
                "timings": {**answer.timings, "send": (collaborators.clock() - answered) * 1e3},
            },
        )
    return failed


def _embed_batch(frames: Sequence[_Frame], embedder: FaceEmbedder) -> list[NDArray[np.float32]]:
    """Embed the crops of all frames in one call; return the vectors of each frame, (faces, dimensions) float32."""
    vectors = embedder.embed(np.concatenate([frame.crops for frame in frames]))
    return np.split(vectors, np.cumsum([len(frame.crops) for frame in frames])[:-1])


def choose_result(faces: Sequence[RecognisedFace]) -> str:
    """Return the `result` of a frame with these faces, largest first: the name of the largest one that was recognised.

    `Unknown` if none was.
    """
    return next((face.name for face in faces if face.name != UNKNOWN), UNKNOWN)


def _answer(
    frame: _Frame, vectors: NDArray[np.float32], gallery: Gallery | None, embed_ms: float, collaborators: Collaborators
) -> RecognitionResult:
    started = collaborators.clock()
    matches = gallery.nearest(vectors) if gallery is not None else [Match(None, None)] * len(vectors)
    faces = tuple(
        RecognisedFace(crop.face, match.name or UNKNOWN, match.distance)
        for crop, match in zip(frame.message.faces, matches, strict=True)
    )
    return RecognitionResult(
        frame.message.request_id,
        choose_result(faces),
        frame.message.filename,
        faces,
        model=collaborators.embedder.model,
        gallery=gallery.version if gallery is not None else None,
        timings={
            **frame.message.timings,
            "read": frame.decode_ms,
            "embed": embed_ms,
            "match": (collaborators.clock() - started) * 1e3,
        },
        truncated=frame.message.truncated,
    )


def _answer_error(record: SqsRecord, error: FaceqError, collaborators: Collaborators) -> bool:
    """Send the answer `Error` with its reason, and log it.

    Returns False if the answer was not sent: the queue failed, or the message has no readable request id.
    """
    request_id = read_request_id(record.body)
    log_fields = {
        "request_id": request_id,
        "message_id": record.message_id,
        "receive_count": record.receive_count,
        "error": error.code,
        "reason": error.message,
    }
    if request_id is None:
        log.error("message without a readable request id, left for the dead-letter queue", extra=log_fields)
        return False
    answer = RecognitionResult(
        request_id,
        ERROR,
        read_filename(record.body),
        model=collaborators.embedder.model,
        error={"code": error.code, "message": error.message},
    )
    try:
        collaborators.responses.send(answer.to_json())
    except TransientError as failure:
        log.error("not answered", extra={**log_fields, "reason": f"{error.message} And: {failure.message}"})
        return False
    log.warning("answered Error", extra=log_fields)
    return True


def _keep_on_queue(records: Sequence[SqsRecord], error: Exception, collaborators: Collaborators) -> list[str]:
    """Return the ids of the messages, so that they stay on the queue. On the last attempt, answer `Error` first."""
    for record in records:
        reason = " ".join(str(error).split())[:MAX_REASON_CHARS] or type(error).__name__
        if record.receive_count >= collaborators.max_receive_count:
            final = FaceqError("retries_exhausted", f"The frame failed {record.receive_count} times: {reason}")
            _answer_error(record, final, collaborators)
        else:
            log.error(
                "failed; the queue will deliver the message again",
                exc_info=error,
                extra={"request_id": read_request_id(record.body), "receive_count": record.receive_count},
            )
    return [record.message_id for record in records]
