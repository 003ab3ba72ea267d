"""The function `face-recognition`: a batch of queue messages in, one answer a frame on the response queue.

What a retry cannot mend is answered with `Error` at once. What it may mend is left on the queue by a partial batch
response; on the last allowed attempt the client gets its `Error` before the message goes to the dead-letter queue.
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
from pipeline.gallery import Gallery
from pipeline.images import decode
from pipeline.messages import (
    ERROR,
    UNKNOWN,
    FacesMessage,
    Json,
    RecognisedFace,
    RecognitionResult,
    filename_of,
    request_id_of,
)
from pipeline.ports import FaceEmbedder, MessageSender

#: How much of an unexpected error's text a client is told, in one line.
MAX_REASON_CHARS = 300

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collaborators:
    """What the function works with.

    Parameters
    ----------
    gallery : callable
        Returns the gallery as it is now, None where nobody is enrolled. Raises SetupError if it does not fit the
        embedder, TransientError if it cannot be read for now.
    clock : callable
        Returns seconds; only differences are used.
    max_receive_count : int
        How often the queue hands a message out before it goes to the dead-letter queue.

    """

    embedder: FaceEmbedder
    gallery: Callable[[], Gallery | None]
    responses: MessageSender
    clock: Callable[[], float]
    max_receive_count: int


@dataclass(frozen=True)
class _Frame:
    record: SqsRecord
    message: FacesMessage
    crops: NDArray[np.uint8]
    decode_ms: float


def handle(event: Mapping[str, Json], with_: Collaborators) -> dict[str, Json]:
    """Answer every frame of one SQS event; return the partial batch response."""
    failed: list[str] = []
    frames: list[_Frame] = []
    for record in aws_events.sqs_records(event):
        try:
            frames.append(_read(record, with_))
        except BadInput as error:
            if not _answer_error(record, error, with_):
                failed.append(record.message_id)
    if frames:
        failed += _recognise(frames, with_)
    return aws_events.batch_item_failures(failed)


def _read(record: SqsRecord, with_: Collaborators) -> _Frame:
    started = with_.clock()
    message = FacesMessage.from_json(record.body)
    if message.preprocessing != with_.embedder.preprocessing:
        raise BadInput(
            "other_preprocessing",
            f"The faces were cut for '{message.preprocessing}', but model '{with_.embedder.model}' needs "
            f"'{with_.embedder.preprocessing}'. Run both functions with the same model.",
        )
    size = PREPROCESSINGS[with_.embedder.preprocessing].size
    crops = [decode(face.jpeg, size * size) for face in message.faces]
    if any(crop.shape != (size, size, 3) for crop in crops):
        raise BadInput("wrong_crop", f"A face crop is not {size} x {size} pixels.")
    return _Frame(record, message, np.stack(crops), (with_.clock() - started) * 1e3)


def _recognise(frames: Sequence[_Frame], with_: Collaborators) -> list[str]:
    """Answer frames whose crops are readable; return the ids of the messages to try again."""
    started = with_.clock()
    try:
        gallery = with_.gallery()
        vectors = with_.embedder.embed(np.concatenate([frame.crops for frame in frames]))
    except SetupError as error:
        return [frame.record.message_id for frame in frames if not _answer_error(frame.record, error, with_)]
    except Exception as error:  # noqa: BLE001 - whatever it is, the frames must not be lost
        return _retry([frame.record for frame in frames], error, with_)
    embed_ms = (with_.clock() - started) * 1e3
    failed = []
    offset = 0
    for frame in frames:
        count = len(frame.crops)
        rows = vectors[offset : offset + count]
        offset += count
        try:
            answer = _answer(frame, rows, gallery, embed_ms, with_)
            answered = with_.clock()
            with_.responses.send(answer.to_json())
        except Exception as error:  # noqa: BLE001 - what fails for one frame must not take the others with it
            failed += _retry([frame.record], error, with_)
            continue
        log.info(
            "recognised",
            extra={
                "request_id": answer.request_id,
                "result": answer.result,
                "faces": count,
                "gallery": answer.gallery,
                "timings": {**answer.timings, "send": (with_.clock() - answered) * 1e3},
            },
        )
    return failed


def _answer(
    frame: _Frame, vectors: NDArray[np.float32], gallery: Gallery | None, embed_ms: float, with_: Collaborators
) -> RecognitionResult:
    started = with_.clock()
    matches = gallery.nearest(vectors) if gallery is not None else None
    faces = tuple(
        RecognisedFace(
            crop.face,
            (matches[row].name if matches is not None else None) or UNKNOWN,
            matches[row].distance if matches is not None else None,
        )
        for row, crop in enumerate(frame.message.faces)
    )
    named = [face.name for face in faces if face.name != UNKNOWN]
    return RecognitionResult(
        frame.message.request_id,
        named[0] if named else UNKNOWN,
        frame.message.filename,
        faces,
        model=with_.embedder.model,
        gallery=gallery.version if gallery is not None else None,
        timings={
            **frame.message.timings,
            "read": frame.decode_ms,
            "embed": embed_ms,
            "match": (with_.clock() - started) * 1e3,
        },
        truncated=frame.message.truncated,
    )


def _answer_error(record: SqsRecord, error: FaceqError, with_: Collaborators) -> bool:
    """Tell the client why there is no name; False if that failed or if nobody can be told. Writes the frame's line."""
    request_id = request_id_of(record.body)
    line = {
        "request_id": request_id,
        "message_id": record.message_id,
        "receive_count": record.receive_count,
        "error": error.code,
        "reason": error.message,
    }
    if request_id is None:
        log.error("unreadable message, left for the dead-letter queue", extra=line)
        return False
    answer = RecognitionResult(
        request_id,
        ERROR,
        filename_of(record.body),
        model=with_.embedder.model,
        error={"code": error.code, "message": error.message},
    )
    try:
        with_.responses.send(answer.to_json())
    except TransientError as failure:
        log.error("not answered", extra={**line, "reason": f"{error.message} And: {failure.message}"})
        return False
    log.warning("answered Error", extra=line)
    return True


def _retry(records: Sequence[SqsRecord], error: Exception, with_: Collaborators) -> list[str]:
    """Leave messages on the queue, telling the clients of those that were handed out for the last time."""
    for record in records:
        reason = " ".join(str(error).split())[:MAX_REASON_CHARS] or type(error).__name__
        if record.receive_count >= with_.max_receive_count:
            final = FaceqError("retries_exhausted", f"The frame failed {record.receive_count} times: {reason}")
            _answer_error(record, final, with_)
        else:
            log.error(
                "failed, the queue hands it out again",
                exc_info=error,
                extra={"request_id": request_id_of(record.body), "receive_count": record.receive_count},
            )
    return [record.message_id for record in records]
