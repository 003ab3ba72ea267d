"""The function `face-recognition`: takes a batch of queue messages and puts one answer per frame on the response queue.

It works frame by frame and sends each answer as soon as it is known. When the time that is left is less than the next
frame is likely to need, it gives the rest of the batch back to the queue, which delivers those messages again:

- A batch always finishes its first frame. If that frame alone needs more time than there is, its largest faces are
  recognised, and the answer says `truncated`.
- A message on its last attempt is never given back: the messages on their last attempt share the time that is left,
  and each is answered, `truncated` if its share is too short. So running out of time cannot move a message to the
  dead-letter queue.
- Messages that were delivered most often come first.

If a retry cannot help, the client immediately gets the answer `Error`. If it may help, a partial batch response keeps
the message on the queue. On the last attempt the function sends the message to the dead-letter queue, where operators
find what failed, and answers `Error`.

A function that crashes, is killed or cannot be called answers nothing. The queue then moves the message, after its last
attempt, to the exhausted queue, which calls the same function: it does not try the frame again, but sends the message
to the dead-letter queue and answers `Error`. So no client waits for an answer that never comes.

A frame that kills the function does not take the others of its batch with it. A message is deleted as soon as its frame
is answered, and retries go through a batch in alternate directions, so each frame comes before the deadly one soon.

Four decisions have one function each: `choose_result` (which of several faces names the frame), `_in_order` (which
frame of a batch comes first), `_is_time_for` (whether another one is begun) and `_keep_on_queue` (what happens to a
frame that failed).
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
from pipeline.log_events import ANSWERED_ERROR, RECOGNISED, LogPrivacy
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
from pipeline.metrics import Metric
from pipeline.pace import Pace
from pipeline.ports import DeliveredMessages, FaceEmbedder, MessageSender, MetricsRecorder

#: Longest text of an unexpected error that an answer quotes, in characters.
MAX_REASON_CHARS = 300
#: Most faces that are embedded in one call. Between two calls the function looks at the time that is left.
FACES_IN_A_CALL = 8
#: Kept free at the end of an invocation for sending the answer and giving messages back, in seconds.
RESERVE_SECONDS = 0.5

#: The steps of this function in an answer's `timings` that compute.
READ, EMBED, MATCH = COMPUTE_STEPS = ("read", "embed", "match")

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
    requests : DeliveredMessages
        Those of the request queue, to which messages are given back when time runs out.
    dead_letters : MessageSender or None
        The dead-letter queue, for frames that failed on every attempt. If it is None, the request queue itself moves
        them there.
    exhausted_queue : str or None
        Name of the queue with messages that were delivered `max_receive_count` times without a result, if there is one.
    clock : callable
        Returns seconds. Only differences between two calls are used.
    max_receive_count : int
        How often the request queue delivers a message before it moves it to the exhausted queue.
    pace : Pace
        What faces took in this process so far.
    metrics : MetricsRecorder
        Flushed at the end of each invocation.
    privacy : LogPrivacy
        What the log lines say about people.

    """

    embedder: FaceEmbedder
    gallery: Callable[[], Gallery | None]
    responses: MessageSender
    requests: DeliveredMessages
    dead_letters: MessageSender | None
    exhausted_queue: str | None
    clock: Callable[[], float]
    max_receive_count: int
    pace: Pace
    metrics: MetricsRecorder
    privacy: LogPrivacy


@dataclass(frozen=True)
class _Frame:
    """A message that was read: its crops are (n, S, S, 3) uint8 RGB, n at least 1."""

    record: SqsRecord
    message: FacesMessage
    crops: NDArray[np.uint8]
    decode_ms: float


def handle(
    event: Mapping[str, Json], collaborators: Collaborators, seconds_left: Callable[[], float]
) -> dict[str, Json]:
    """Answer the frames of one SQS event; return the partial batch response.

    A frame that fails is answered with `Error` or stays on the queue, and does not affect the others.

    Parameters
    ----------
    event : Mapping
        As Lambda passes it.
    collaborators : Collaborators
    seconds_left : callable
        Returns the seconds until Lambda ends this invocation.

    """
    records = aws_events.sqs_records(event)
    try:
        if records and records[0].queue == collaborators.exhausted_queue:  # all records of an event are of one queue
            return aws_events.batch_item_failures(_answer_exhausted(records, collaborators, seconds_left))
        return aws_events.batch_item_failures(_Batch(records, collaborators, seconds_left).answer())
    finally:
        collaborators.metrics.flush()


def _in_order(records: Sequence[SqsRecord]) -> list[SqsRecord]:
    """Return the messages of a batch in the order in which they are answered.

    Those that were delivered most often come first, because they have the fewest attempts left. First deliveries keep
    the queue's order. Retries are in the order of their ids, and in the opposite order on every other attempt: if one
    frame kills the function, the frames on both sides of it are answered.
    """
    ordered: list[SqsRecord] = []
    for count in sorted({record.receive_count for record in records}, reverse=True):
        equals = [record for record in records if record.receive_count == count]
        if count > 1:
            equals.sort(key=lambda record: record.message_id, reverse=count % 2 == 1)
        ordered += equals
    return ordered


class _Batch:
    """The messages of one invocation by the request queue, and the time that it has for them."""

    def __init__(
        self, records: Sequence[SqsRecord], collaborators: Collaborators, seconds_left: Callable[[], float]
    ) -> None:
        self._records = _in_order(records)
        self._collaborators = collaborators
        self._seconds_left = seconds_left
        self._any_finished = False
        self._gallery: Gallery | None = None
        self._gallery_was_read = False

    def answer(self) -> list[str]:
        """Answer what the time allows; return the ids of the messages that must stay on the queue."""
        kept: list[str] = []
        for position, record in enumerate(self._records):
            others = self._records[position + 1 :]
            keep = False
            try:
                if not self._answer_in_time(record, others):
                    return [*kept, *self._give_back([record, *others])]
            except (BadInput, SetupError) as error:
                keep = not _answer_error(record, error, self._collaborators)
            except Exception as error:  # noqa: BLE001 - no error, whatever it is, may lose a frame
                keep = _keep_on_queue(record, error, self._collaborators)
            self._any_finished = True
            if keep:
                kept.append(record.message_id)
            elif others:  # Lambda deletes the last one immediately
                self._delete(record)
        return kept

    def _answer_in_time(self, record: SqsRecord, others: Sequence[SqsRecord]) -> bool:
        """Answer one frame; return False if there is not enough time for it in this invocation.

        Raises whatever its message, the gallery, the network or the response queue raises.
        """
        started = self._collaborators.clock()
        message = _parse(record, self._collaborators.embedder)
        if not self._is_time_for(record, len(message.faces)):
            return False
        frame = _Frame(record, message, _crops(message), (self._collaborators.clock() - started) * 1e3)
        gallery = self._current_gallery()
        vectors, embed_seconds = self._embed(frame.crops, self._seconds_to_keep(others))
        if len(vectors) < len(frame.crops) and not self._must_finish(record):
            return False
        answer = _answer(frame, vectors, gallery, embed_seconds * 1e3, self._collaborators)
        answered = self._collaborators.clock()
        self._collaborators.responses.send(answer.to_json())
        self._count(answer)
        privacy = self._collaborators.privacy
        log.info(
            RECOGNISED,
            extra={
                "request_id": answer.request_id,
                **privacy.filename(answer.filename),
                "result": privacy.result(answer.result),
                "faces": len(vectors),
                "gallery": answer.gallery,
                "timings": {**answer.timings, "send": (self._collaborators.clock() - answered) * 1e3},
            },
        )
        return True

    def _count(self, answer: RecognitionResult) -> None:
        metrics = self._collaborators.metrics
        metrics.count(Metric.ANSWERED_UNKNOWN if answer.result == UNKNOWN else Metric.ANSWERED_NAME)
        metrics.count(Metric.FACES, len(answer.faces))
        metrics.milliseconds(Metric.COMPUTE_MILLISECONDS, sum(answer.timings[step] for step in COMPUTE_STEPS))

    def _is_time_for(self, record: SqsRecord, faces: int) -> bool:
        """Tell whether a frame with so many faces is begun in this invocation."""
        needed = RESERVE_SECONDS + self._collaborators.pace.seconds_for(faces)
        return self._must_finish(record) or self._seconds_left() >= needed

    def _must_finish(self, record: SqsRecord) -> bool:
        """Tell whether a frame is answered now, however few of its faces the time allows."""
        return not self._any_finished or record.receive_count >= self._collaborators.max_receive_count

    def _seconds_to_keep(self, others: Sequence[SqsRecord]) -> float:
        """Return how much time must be left after this frame: the shares of others that must be answered too."""
        limit = self._collaborators.max_receive_count
        waiting = sum(other.receive_count >= limit for other in others)
        spare = max(0.0, self._seconds_left() - RESERVE_SECONDS)
        return RESERVE_SECONDS + spare * waiting / (waiting + 1)

    def _current_gallery(self) -> Gallery | None:
        """Return the gallery, the same one for the whole batch."""
        if not self._gallery_was_read:
            self._gallery = self._collaborators.gallery()
            self._gallery_was_read = True
        return self._gallery

    def _embed(self, crops: NDArray[np.uint8], seconds_to_keep: float) -> tuple[NDArray[np.float32], float]:
        """Embed crops, largest face first, until the time is used up.

        Returns the vectors of at least one crop, and the seconds that the network took.
        """
        pace, clock = self._collaborators.pace, self._collaborators.clock
        vectors: list[NDArray[np.float32]] = []
        done, total = 0, 0.0
        while done < len(crops):
            spare = self._seconds_left() - seconds_to_keep
            count = min(FACES_IN_A_CALL, len(crops) - done, max(pace.faces_in(spare), 0 if done else 1))
            if count == 0:
                break
            started = clock()
            vectors.append(self._collaborators.embedder.embed(crops[done : done + count]))
            seconds = clock() - started
            pace.add(count, seconds)
            total += seconds
            done += count
        return np.concatenate(vectors), total

    def _delete(self, record: SqsRecord) -> None:
        """Delete a message that is done with before the next frame is begun, in case that one kills the function."""
        try:
            self._collaborators.requests.delete(record.receipt)
        except TransientError as error:  # then Lambda deletes it after the whole batch
            log.warning("not deleted yet", extra={"message_id": record.message_id, "reason": error.message})

    def _give_back(self, records: Sequence[SqsRecord]) -> list[str]:
        """Let the queue deliver messages again immediately; return their ids."""
        self._collaborators.metrics.count(Metric.BATCHES_CUT_BY_TIME)
        log.info("out of time; the queue will deliver the rest again", extra={"frames": len(records)})
        try:
            self._collaborators.requests.release([record.receipt for record in records])
        except TransientError as error:  # then they come back after their visibility timeout
            log.warning("not given back", extra={"frames": len(records), "reason": error.message})
        return [record.message_id for record in records]


def _parse(record: SqsRecord, embedder: FaceEmbedder) -> FacesMessage:
    """Parse a message. Raises BadInput if it is not valid or was made for another embedder."""
    message = FacesMessage.from_json(record.body)
    if message.preprocessing != embedder.preprocessing:
        raise BadInput(
            "other_preprocessing",
            f"The faces were cut for '{message.preprocessing}', but model '{embedder.model}' needs "
            f"'{embedder.preprocessing}'. Run both functions with the same model.",
        )
    return message


def _crops(message: FacesMessage) -> NDArray[np.uint8]:
    """Decode the crops of a message, (n, S, S, 3) uint8 RGB. Raises BadInput if that is impossible."""
    size = PREPROCESSINGS[message.preprocessing].size
    crops = [decode(face.jpeg, size * size) for face in message.faces]
    if any(crop.shape != (size, size, 3) for crop in crops):
        raise BadInput("wrong_crop", f"A face crop is not {size} x {size} pixels.")
    return np.stack(crops)


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
        for crop, match in zip(frame.message.faces, matches, strict=False)  # fewer vectors than faces if time ran out
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
            READ: frame.decode_ms,
            EMBED: embed_ms,
            MATCH: (collaborators.clock() - started) * 1e3,
        },
        truncated=frame.message.truncated or len(vectors) < len(frame.message.faces),
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
    filename = read_filename(record.body)
    answer = RecognitionResult(
        request_id,
        ERROR,
        filename,
        model=collaborators.embedder.model,
        error={"code": error.code, "message": error.message},
    )
    try:
        collaborators.responses.send(answer.to_json())
    except TransientError as failure:
        log.error("not answered", extra={**log_fields, "reason": f"{error.message} And: {failure.message}"})
        return False
    collaborators.metrics.count(Metric.ANSWERED_ERROR)
    log.warning(ANSWERED_ERROR, extra={**log_fields, **collaborators.privacy.filename(filename)})
    return True


def _answer_exhausted(
    records: Sequence[SqsRecord], collaborators: Collaborators, seconds_left: Callable[[], float]
) -> list[str]:
    """Give up the messages of the exhausted queue; return the ids of those that must stay on it for another attempt."""
    kept: list[str] = []
    for position, record in enumerate(records):
        if position and seconds_left() < RESERVE_SECONDS:
            return [*kept, *(left.message_id for left in records[position:])]
        try:
            _give_up(record, _no_answer_error(record, collaborators), collaborators)
        except Exception as error:
            log.error("kept on the exhausted queue", exc_info=error, extra={"message_id": record.message_id})
            kept.append(record.message_id)
    return kept


def _no_answer_error(record: SqsRecord, collaborators: Collaborators) -> FaceqError:
    """Return why a message on the exhausted queue has no answer, as far as the function can know."""
    return FaceqError(
        "retries_exhausted",
        f"The frame was delivered {collaborators.max_receive_count} times, and face-recognition did not answer: it "
        f"crashed, was killed, or could not run. See: faceq logs --request-id {read_request_id(record.body)} (on AWS: "
        f"faceq deploy logs)",
    )


def _give_up(record: SqsRecord, error: FaceqError, collaborators: Collaborators) -> None:
    """Send a message to the dead-letter queue, then answer `Error`.

    In this order a failure in between leaves a second copy for the operator, and not a second answer for the client.
    A message without a readable request id gets no answer.

    Raises
    ------
    TransientError
        One of the two queues failed. The message must stay where it is.
    ValueError
        The dead-letter queue can never accept the message, and it cannot be answered either. It must stay, too.

    """
    readable = read_request_id(record.body) is not None
    if collaborators.dead_letters is not None:
        try:
            collaborators.dead_letters.send(record.body)
        except ValueError:  # no queue of AWS delivers such a message, but our own server does
            if not readable:
                raise
            log.exception("not sent to the dead-letter queue", extra={"message_id": record.message_id})
    if not _answer_error(record, error, collaborators) and readable:
        raise TransientError("not_answered", "The response queue failed.")


def _keep_on_queue(record: SqsRecord, error: Exception, collaborators: Collaborators) -> bool:
    """Tell whether a message that failed stays on the queue. After its last attempt the function gives it up."""
    fields = {"request_id": read_request_id(record.body), "receive_count": record.receive_count}
    if record.receive_count < collaborators.max_receive_count:
        log.error("failed; the queue will deliver the message again", exc_info=error, extra=fields)
        return True
    log.error("failed on its last attempt", exc_info=error, extra=fields)
    reason = " ".join(str(error).split())[:MAX_REASON_CHARS] or type(error).__name__
    final = FaceqError("retries_exhausted", f"The frame failed {record.receive_count} times: {reason}")
    try:
        _give_up(record, final, collaborators)
    except Exception as failure:
        log.error("kept; the queue will move the message on", exc_info=failure, extra=fields)
        return True
    return collaborators.dead_letters is None
