"""The pollers of an event source mapping: threads that move messages from a queue into a function.

A poller repeats these steps:

1. Receive: long polls until a message comes, then more of them until the batch is full or its window closes.
2. Cut: a batch has at most `batch_size` records and 6 MB. The rest waits for the next batch.
3. Invoke the function once. A call that times out is not repeated, because the function may have run.
4. Find the messages that failed, by the rules of partial batch responses.
5. Delete the other messages, ten at a time, and retry failed deletes. A receipt that is no longer valid is not retried:
   the function has deleted that message itself, which AWS's queues accept without an error.

A message that failed is simply not deleted. It becomes visible again when its visibility timeout lapses, and the queue
itself moves it to the dead-letter queue after its last attempt. We change a visibility timeout in one case only: at
shutdown, messages that were received but not handed to the function become visible again.

The number of pollers is the concurrency, so a limit cannot be exceeded. The price: a poller receives nothing while its
function runs. AWS separates the two. On a laptop this costs nothing, because a busy function could not take more work.

Rules that AWS documents carry the page of its Lambda developer guide; [local] marks decisions of our own.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from client.queue_operations import chunks
from local.backoff import Backoff
from local.event_source_mapping_rules import (
    MAX_PAYLOAD_BYTES,
    MOST_POLLERS,
    batch_length,
    failed_message_ids,
    payload_of,
    pollers_wanted,
    to_record,
)
from template.lambda_facts import SQS_BATCH
from template.model import EventSourceMapping

if TYPE_CHECKING:
    from botocore.client import BaseClient

#: Length of one long poll, seconds. AWS uses 20. [local] A long poll cannot be cancelled: if we exit during one, a
#: queue server that does not notice may send a message to the closed connection. Polls of 1 s end before we do.
POLL_SECONDS: Final = 1
#: An empty poll that ends this early, in seconds, shows that the queue does not wait. We then pause, so as not to flood
#: it with calls.
_SHORT_POLL_SECONDS: Final = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _ReceivedMessage:
    """A message that was received and is not yet deleted; it stays invisible until `visible_at` (monotonic seconds)."""

    message_id: str
    receipt_handle: str
    record: bytes
    visible_at: float


class MappingPollers:
    """The pollers of one mapping.

    Parameters
    ----------
    mapping : EventSourceMapping
    sqs, functions : botocore client
        For SQS and for Lambda; all pollers share them.
    stopping : threading.Event
        Makes the pollers end when it is set.
    environments : int
        How many calls of the function can run at once now. More pollers would hold messages that no environment can
        take.

    """

    def __init__(
        self,
        mapping: EventSourceMapping,
        sqs: "BaseClient",
        functions: "BaseClient",
        stopping: threading.Event,
        environments: int,
    ) -> None:
        self.environments = environments
        self.function = mapping.function
        self._mapping = mapping
        self._sqs = sqs
        self._functions = functions
        self._stopping = stopping
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._pollers = self._busy = self._wanted = 0
        self._outage = False
        self._outage_changed = 0.0  # when `_outage` last changed, monotonic seconds

    def scale(self) -> None:
        """Start or retire pollers. To be called once a second."""
        with self._lock:
            # Count the living threads, so that a poller that a defect of ours has ended is replaced.
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._pollers = len(self._threads)
            limit = max(1, min(self._mapping.maximum_concurrency or MOST_POLLERS, self.environments))
            self._wanted = pollers_wanted(self._pollers, self._busy, limit)
            for _ in range(self._wanted - self._pollers):
                thread = threading.Thread(target=self._poll, daemon=True)
                self._threads.append(thread)
                self._pollers += 1
                thread.start()

    def join(self, deadline: float) -> None:
        """Wait until the pollers have ended, or until `deadline` (monotonic seconds)."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        running = sum(thread.is_alive() for thread in self._threads)
        if running:
            self._log(logging.WARNING, "Stopped while functions still run. Their messages come back.", running=running)

    def _poll(self) -> None:
        waiting: list[_ReceivedMessage] = []
        errors, empty_polls = Backoff(0.1, 2.0), Backoff(0.1, 1.0)
        while not self._retires(bool(waiting)):
            if not waiting:
                waiting = self._collect(errors, empty_polls)
            if not waiting:
                continue
            with self._lock:
                self._busy += 1
            try:
                size = batch_length([len(message.record) for message in waiting], self._mapping.batch_size)
                if self._stopping.is_set() or not self._process(waiting[:size], errors):
                    break
                del waiting[:size]
            finally:
                with self._lock:
                    self._busy -= 1
        self._make_visible(waiting)

    def _retires(self, has_messages: bool) -> bool:
        if self._stopping.is_set():
            return True
        with self._lock:
            if has_messages or self._pollers <= self._wanted:
                return False
            self._pollers -= 1
            return True

    # Receive

    def _collect(self, errors: Backoff, empty_polls: Backoff) -> list[_ReceivedMessage]:
        """Return the messages for the next batch, or an empty list if none came within one poll."""
        began = time.monotonic()
        received = self._receive(self._mapping.batch_size, POLL_SECONDS, errors)
        if not received:
            if received is not None and time.monotonic() - began < _SHORT_POLL_SECONDS:
                self._stopping.wait(empty_polls.next())
            return []
        empty_polls.reset()
        # The window opens with the first message. ("Polling and batching streams", batching behavior)
        window_end = time.monotonic() + self._mapping.window_seconds
        while (left := window_end - time.monotonic()) > 0 and not self._stopping.is_set():
            room = self._mapping.batch_size - len(received)
            if room <= 0 or sum(len(message.record) for message in received) >= MAX_PAYLOAD_BYTES:
                break
            poll_seconds = min(POLL_SECONDS, int(left))
            if poll_seconds == 0:  # a poll lasts whole seconds, so we wait for the rest of the window here
                self._stopping.wait(left)
            received += self._receive(room, poll_seconds, errors) or []
        return received

    def _receive(self, most: int, poll_seconds: int, errors: Backoff) -> list[_ReceivedMessage] | None:
        """Return the messages of one call. If the queue cannot be read, pause and return None."""
        mapping = self._mapping
        began = time.monotonic()
        try:
            answer = self._sqs.receive_message(
                QueueUrl=mapping.queue_url,
                MaxNumberOfMessages=min(SQS_BATCH, most),
                WaitTimeSeconds=poll_seconds,
                AttributeNames=["All"],  # the older name of MessageSystemAttributeNames, which every endpoint knows
                MessageAttributeNames=["All"],
            )
        except (BotoCoreError, ClientError) as error:
            self._log_outage(began, error)
            self._stopping.wait(errors.next())
            return None
        self._log_outage(began, None)
        errors.reset()
        visible_at = time.monotonic() + mapping.visibility_timeout
        return [
            _ReceivedMessage(
                message_id=message["MessageId"],
                receipt_handle=message["ReceiptHandle"],
                record=_to_json(to_record(message, mapping.queue_arn, mapping.region)),
                visible_at=visible_at,
            )
            for message in answer.get("Messages", [])
        ]

    def _log_outage(self, began: float, error: Exception | None) -> None:
        """Log once, for all pollers, that the queue cannot be read, or that it can be read again.

        A call that began before the last such change is about the same outage, so it changes nothing.
        """
        with self._lock:
            if began < self._outage_changed or self._outage == (error is not None):
                return
            self._outage, self._outage_changed = error is not None, time.monotonic()
        if error is not None:
            self._log(logging.WARNING, "The queue cannot be read. Retrying until it can.", reason=str(error))
        else:
            self._log(logging.INFO, "The queue can be read again.")

    # Invoke

    def _process(self, batch: list[_ReceivedMessage], errors: Backoff) -> bool:
        """Invoke the function and delete the messages that it processed; False if a stop came before the invocation."""
        throttles = Backoff(0.05, 1.0)
        message_ids = [message.message_id for message in batch]
        payload = payload_of([message.record for message in batch])
        visible_at = min(message.visible_at for message in batch)
        while True:
            try:
                answer = self._functions.invoke(FunctionName=self._mapping.function, Payload=payload)
                response = answer["Payload"].read()
                break
            except (self._functions.exceptions.TooManyRequestsException, EndpointConnectionError) as error:
                # The function did not run: the call was throttled, or no server listens. Retry until the messages
                # would be visible again. ("Handling errors for an SQS event source")
                pause = throttles.next()
                if time.monotonic() + pause >= visible_at:
                    self._log(
                        logging.WARNING,
                        "The function did not take the batch in time. Its messages come back.",
                        reason=str(error),
                        message_ids=message_ids,
                    )
                    return True
                if self._stopping.wait(pause):
                    return False
            except (BotoCoreError, ClientError) as error:
                self._log(
                    logging.ERROR,
                    "The call of the function failed. The messages of its batch come back.",
                    reason=str(error),
                    message_ids=message_ids,
                )
                self._stopping.wait(errors.next())
                return True
        failed: set[str] = set()
        if "FunctionError" in answer:
            failed = set(message_ids)
            self._log(
                logging.ERROR,
                "The function failed. The messages of its batch come back.",
                reason=response[:1000].decode("utf-8", "replace"),
                message_ids=message_ids,
            )
            # AWS slows down on failures, unless the mapping has partial batch responses.
            # ("Handling errors for an SQS event source", backoff strategy)
            if not self._mapping.report_batch_item_failures:
                self._stopping.wait(errors.next())
        elif self._mapping.report_batch_item_failures:
            failed = failed_message_ids(response, message_ids)
        self._delete([message for message in batch if message.message_id not in failed])
        return True

    def _delete(self, batch: list[_ReceivedMessage]) -> None:
        """Delete the messages; retry failed deletes until the messages would be visible again anyway."""
        retries = Backoff(0.1, 2.0)
        receipt_handles = [message.receipt_handle for message in batch]
        visible_at = min((message.visible_at for message in batch), default=0.0)
        while receipt_handles:
            reason = ""
            left: list[str] = []
            for chunk in chunks(receipt_handles):
                entries = [{"Id": number, "ReceiptHandle": handle} for number, handle in _numbered(chunk)]
                try:
                    answer = self._sqs.delete_message_batch(QueueUrl=self._mapping.queue_url, Entries=entries)
                except (BotoCoreError, ClientError) as error:
                    left += chunk
                    reason = str(error)
                else:
                    # SenderFault: no retry helps. (SQS API reference, BatchResultErrorEntry) ElasticMQ reports it for a
                    # message that is already deleted.
                    for failure in (failure for failure in answer.get("Failed", []) if not failure.get("SenderFault")):
                        left.append(chunk[int(failure["Id"])])
                        reason = str(failure.get("Message", failure.get("Code")))
            pause = retries.next()
            if left and (time.monotonic() + pause >= visible_at or self._stopping.wait(pause)):
                self._log(
                    logging.WARNING,
                    "Processed messages could not be deleted. They will be processed again.",
                    count=len(left),
                    reason=reason,
                )
                return
            receipt_handles = left

    def _make_visible(self, waiting: list[_ReceivedMessage]) -> None:
        """Make received messages that the function did not get visible again, so that a stop delays no frame."""
        for chunk in chunks([message.receipt_handle for message in waiting]):
            entries = [
                {"Id": number, "ReceiptHandle": handle, "VisibilityTimeout": 0} for number, handle in _numbered(chunk)
            ]
            try:
                self._sqs.change_message_visibility_batch(QueueUrl=self._mapping.queue_url, Entries=entries)
            except (BotoCoreError, ClientError) as error:
                self._log(
                    logging.WARNING,
                    "Messages could not be made visible. They come back after their visibility timeout.",
                    count=len(chunk),
                    reason=str(error),
                )

    def _log(self, level: int, message: str, **fields: object) -> None:
        extra = {"function": self._mapping.function, "queue": self._mapping.queue, **fields}
        _log.log(level, message, extra=extra, stacklevel=2)


def _numbered(items: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each item with the id that it has within one batch call."""
    return ((str(number), item) for number, item in enumerate(items))


def _to_json(record: dict[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
