"""Play AWS::Lambda::EventSourceMapping: move messages from a queue into a function.

`python -m local.event_source_mapping` plays every mapping of the template. Each has pollers, threads that do one
thing after the other:

1. receive: long polls, until there is something; then more, up to the batch size or the window;
2. cut: a batch of at most `batch_size` records and 6 MB, what is over starts the next batch;
3. invoke, once: a call that times out is not repeated, since the function may have run;
4. sort: which messages stay (the rules of partial batch responses);
5. delete the others, ten at a time, until it is done.

A message that stays is simply not deleted: it comes back when its visibility timeout lapses, and the queue itself
moves it to the dead-letter queue. Visibility is never changed, with one exception: what was received and not yet
invoked at shutdown is given back.

Concurrency is the number of pollers, so a limit cannot be exceeded. The price: a poller does not receive while its
function runs. AWS separates the two; on a laptop, the pollers of a busy function have nothing to receive for.

The rules are pure functions on top; the threads and boto3 are below. What AWS documents is marked with the page of
its Lambda developer guide, what was recorded there with [recorded], what is ours with [local].
"""

import argparse
import base64
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NotRequired, TypedDict

from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from client.queue_operations import BATCH, chunks
from template.model import EventSourceMapping

if TYPE_CHECKING:
    from botocore.client import BaseClient

#: Most bytes of one invocation's payload. ("Lambda quotas": synchronous invocation)
MAX_PAYLOAD_BYTES: Final = 6 * 1024 * 1024
#: What `{"Records":[]}` takes of it.
_ENVELOPE_BYTES: Final = len('{"Records":[]}')

#: Pollers of an active mapping, how many more a second while messages are left, and the most there are.
#: ("Configuring scaling behavior for SQS event source mappings": 5, 300 a minute, 1,250)
FIRST_POLLERS: Final = 5
POLLERS_PER_SECOND: Final = 5
MOST_POLLERS: Final = 1_250

#: Length of one long poll, seconds. AWS uses 20. [local] A poll cannot be called back, and a queue server that does
#: not notice that its reader has gone hands it a message all the same: short polls end before the process does.
POLL_SECONDS: Final = 1
#: How long a stop waits for running functions before it leaves their messages to the visibility timeout, seconds.
STOP_SECONDS: Final = 1.5
#: An empty poll this much shorter than asked comes from a queue that does not wait: do not hammer it. Seconds.
_SHORT_POLL_SECONDS: Final = 0.5


# Rules


class MessageAttribute(TypedDict):
    """A message attribute as boto3 receives it; one of the two values is there."""

    DataType: str
    StringValue: NotRequired[str]
    BinaryValue: NotRequired[bytes]


class Message(TypedDict):
    """A message as boto3 receives it."""

    MessageId: str
    ReceiptHandle: str
    Body: str
    MD5OfBody: str
    Attributes: NotRequired[dict[str, str]]
    MessageAttributes: NotRequired[dict[str, MessageAttribute]]
    MD5OfMessageAttributes: NotRequired[str]


def to_record(message: Message, queue_arn: str, region: str) -> dict[str, object]:
    """Return a message as the record that a function sees, JSON types only [recorded]."""
    record: dict[str, object] = {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes", {}),
        "messageAttributes": {
            name: _to_attribute(value) for name, value in message.get("MessageAttributes", {}).items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": region,
    }
    if "MD5OfMessageAttributes" in message:
        record["md5OfMessageAttributes"] = message["MD5OfMessageAttributes"]
    return record


def _to_attribute(value: MessageAttribute) -> dict[str, object]:
    attribute: dict[str, object] = {"stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]}
    if "StringValue" in value:
        attribute["stringValue"] = value["StringValue"]
    if "BinaryValue" in value:
        attribute["binaryValue"] = base64.b64encode(value["BinaryValue"]).decode("ascii")
    return attribute


def batch_length(record_bytes: Sequence[int], batch_size: int) -> int:
    """Return how many of the waiting records, in order, make the next batch.

    Parameters
    ----------
    record_bytes : sequence of int
        Length of each record as JSON, UTF-8 bytes.
    batch_size : int
        The mapping's limit.

    Returns
    -------
    int
        0 where nothing waits, else at least 1. A single record stays below 6 MB: a message holds at most 1 MiB, of
        which JSON escapes make twice as much at worst.

    """
    total = _ENVELOPE_BYTES
    for length, size in enumerate(record_bytes):
        total += size + 1  # the comma
        if length == batch_size or (length and total > MAX_PAYLOAD_BYTES):
            return length
    return len(record_bytes)


def failed_items(response: bytes, sent: Sequence[str]) -> set[str]:
    """Return which of the message ids in `sent` stay on the queue, from the answer of a function that did not fail.

    "Handling errors for an SQS event source", partial batch responses: an empty answer, null, or one with no or empty
    or null `batchItemFailures` is complete success. Complete failure is an answer that is no JSON, or an
    `itemIdentifier` that is empty, null, under another key or unknown [recorded: `{"foo": "notvalid"}`]. An answer
    or a list of another type is not documented; it is taken as failure, which loses nothing [local]. An id that is
    listed twice counts once.
    """
    everything = set(sent)
    try:
        answer = json.loads(response) if response.strip() else None
    except (ValueError, RecursionError):
        return everything
    if answer is None:
        return set()
    if not isinstance(answer, dict):
        return everything
    failures = answer.get("batchItemFailures")
    if failures is None:
        return set()
    if not isinstance(failures, list):
        return everything
    stays: set[str] = set()
    for item in failures:
        identifier = item.get("itemIdentifier") if isinstance(item, dict) else None
        if not isinstance(identifier, str) or identifier not in everything:
            return everything
        stays.add(identifier)
    return stays


def pollers_wanted(pollers: int, busy: int, limit: int) -> int:
    """Return how many pollers there should be a second from now.

    All busy: messages may be left, so `POLLERS_PER_SECOND` more. Less than half busy: one less, down to
    `FIRST_POLLERS`. Never more than `limit`, the smaller of MaximumConcurrency and the function's environments.
    """
    least, most = min(FIRST_POLLERS, limit), min(MOST_POLLERS, limit)
    if busy >= pollers:
        return max(least, min(most, pollers + POLLERS_PER_SECOND))
    return max(least, min(most, pollers - 1 if busy * 2 < pollers else pollers))


@dataclass
class Backoff:
    """Waits that double from `first` to `most` seconds until `reset`."""

    first: float
    most: float
    _next: float = field(init=False, default=0.0)

    def next(self) -> float:
        """Return the wait to take now."""
        self._next = min(self.most, self._next * 2 or self.first)
        return self._next

    def reset(self) -> None:
        """Start over: it worked."""
        self._next = 0.0


# The loop


@dataclass(frozen=True)
class _Waiting:
    """A message between its receive and its invocation."""

    message_id: str
    receipt: str
    record: bytes
    lapses: float


class _Player:
    """Plays one mapping with pollers of its own."""

    def __init__(
        self,
        mapping: EventSourceMapping,
        sqs: "BaseClient",
        functions: "BaseClient",
        stopping: threading.Event,
        environments: int,
    ) -> None:
        #: How many calls of the function can run at once now. More pollers would hold messages that nobody works on.
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
        self._changed = 0.0  # when `_outage` last changed

    def scale(self) -> None:
        """Start or retire pollers; called once a second."""
        with self._lock:
            # Counted anew: a poller that a defect of ours has ended is replaced.
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
        """Wait for the pollers to end, until `deadline` at most (monotonic seconds)."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        left = sum(thread.is_alive() for thread in self._threads)
        if left:
            self._log("WARNING", "stopped while functions run; their messages come back", running=left)

    def _poll(self) -> None:
        waiting: list[_Waiting] = []
        errors, empties = Backoff(0.1, 2.0), Backoff(0.1, 1.0)
        while not self._retires(bool(waiting)):
            if not waiting:
                waiting = self._collect(errors, empties)
            if not waiting:
                continue
            with self._lock:
                self._busy += 1
            try:
                size = batch_length([len(item.record) for item in waiting], self._mapping.batch_size)
                if self._stopping.is_set() or not self._process(waiting[:size], errors):
                    break
                del waiting[:size]
            finally:
                with self._lock:
                    self._busy -= 1
        self._give_back(waiting)

    def _retires(self, has_messages: bool) -> bool:
        if self._stopping.is_set():
            return True
        with self._lock:
            if has_messages or self._pollers <= self._wanted:
                return False
            self._pollers -= 1
            return True

    # Receive

    def _collect(self, errors: Backoff, empties: Backoff) -> list[_Waiting]:
        """Return what the next batch is made of; empty if nothing came within one poll."""
        began = time.monotonic()
        received = self._receive(self._mapping.batch_size, POLL_SECONDS, errors)
        if not received:
            if received is not None and time.monotonic() - began < _SHORT_POLL_SECONDS:
                self._stopping.wait(empties.next())
            return []
        empties.reset()
        waiting = received
        # The window opens with the first message. ("Polling and batching streams", batching behavior)
        closes = time.monotonic() + self._mapping.window_seconds
        while (left := closes - time.monotonic()) > 0 and not self._stopping.is_set():
            room = self._mapping.batch_size - len(waiting)
            if room <= 0 or sum(len(item.record) for item in waiting) >= MAX_PAYLOAD_BYTES:
                break
            wait = min(POLL_SECONDS, int(left))
            if wait == 0:  # the queue counts whole seconds; the rest is waited here
                self._stopping.wait(left)
            waiting += self._receive(room, wait, errors) or []
        return waiting

    def _receive(self, most: int, wait: int, errors: Backoff) -> list[_Waiting] | None:
        """Return what one call gives; None, after a wait, if the queue cannot be read."""
        mapping = self._mapping
        began = time.monotonic()
        try:
            answer = self._sqs.receive_message(
                QueueUrl=mapping.queue_url,
                MaxNumberOfMessages=min(BATCH, most),
                WaitTimeSeconds=wait,
                AttributeNames=["All"],  # the older name of MessageSystemAttributeNames: every endpoint knows it
                MessageAttributeNames=["All"],
            )
        except (BotoCoreError, ClientError) as error:
            self._tell(began, error)
            self._stopping.wait(errors.next())
            return None
        self._tell(began, None)
        errors.reset()
        lapses = time.monotonic() + mapping.visibility_timeout
        return [
            _Waiting(
                message_id=message["MessageId"],
                receipt=message["ReceiptHandle"],
                record=_dump(to_record(message, mapping.queue_arn, mapping.region)),
                lapses=lapses,
            )
            for message in answer.get("Messages", [])
        ]

    def _tell(self, began: float, error: Exception | None) -> None:
        """Log that the queue cannot be read, or can again, once for all pollers.

        What began before the last change says nothing new: pollers answer to the same outage one after the other.
        """
        with self._lock:
            if began < self._changed or self._outage == (error is not None):
                return
            self._outage, self._changed = error is not None, time.monotonic()
        if error is not None:
            self._log("WARNING", "the queue cannot be read; will go on trying", reason=str(error))
        else:
            self._log("INFO", "the queue can be read again")

    # Invoke

    def _process(self, batch: list[_Waiting], errors: Backoff) -> bool:
        """Invoke the function and delete what it did; False if it was not called because of a stop."""
        throttles = Backoff(0.05, 1.0)
        payload = b'{"Records":[' + b",".join(item.record for item in batch) + b"]}"
        lapses = min(item.lapses for item in batch)
        while True:
            try:
                answer = self._functions.invoke(FunctionName=self._mapping.function, Payload=payload)
                response = answer["Payload"].read()
                break
            except (self._functions.exceptions.TooManyRequestsException, EndpointConnectionError) as error:
                # Throttled, or nobody listens: it did not run. Retried until the messages would be visible again.
                # ("Handling errors for an SQS event source")
                wait = throttles.next()
                if time.monotonic() + wait >= lapses:
                    self._log("WARNING", "not taken in time; the messages come back", reason=str(error), **_ids(batch))
                    return True
                if self._stopping.wait(wait):
                    return False
            except (BotoCoreError, ClientError) as error:
                self._log("ERROR", "the call failed; the messages come back", reason=str(error), **_ids(batch))
                self._stopping.wait(errors.next())
                return True
        sent = [item.message_id for item in batch]
        if "FunctionError" in answer:
            stays = set(sent)
            self._log(
                "ERROR",
                "the function failed; the messages come back",
                reason=response[:1000].decode("utf-8", "replace"),
                **_ids(batch),
            )
            # With partial batch responses on, AWS does not slow down on failures; without, it does.
            # ("Handling errors for an SQS event source", backoff strategy)
            if not self._mapping.report_batch_item_failures:
                self._stopping.wait(errors.next())
        elif self._mapping.report_batch_item_failures:
            stays = failed_items(response, sent)
        else:
            stays = set()
        self._delete([item for item in batch if item.message_id not in stays])
        return True

    def _delete(self, batch: list[_Waiting]) -> None:
        """Delete the messages, again where it fails, until they are gone or would be visible anyway."""
        retries = Backoff(0.1, 2.0)
        receipts = [item.receipt for item in batch]
        lapses = min((item.lapses for item in batch), default=0.0)
        while receipts:
            reason = ""
            left: list[str] = []
            for chunk in chunks(receipts):
                entries = [{"Id": str(index), "ReceiptHandle": receipt} for index, receipt in enumerate(chunk)]
                try:
                    answer = self._sqs.delete_message_batch(QueueUrl=self._mapping.queue_url, Entries=entries)
                except (BotoCoreError, ClientError) as error:
                    left += chunk
                    reason = str(error)
                else:
                    for failure in answer.get("Failed", []):
                        left.append(chunk[int(failure["Id"])])
                        reason = str(failure.get("Message", failure.get("Code")))
            wait = retries.next()
            if left and (time.monotonic() + wait >= lapses or self._stopping.wait(wait)):
                self._log("WARNING", "done but not deleted; will be processed again", count=len(left), reason=reason)
                return
            receipts = left

    def _give_back(self, waiting: list[_Waiting]) -> None:
        """Make messages that were received and not invoked visible at once, so that a stop delays nobody."""
        for chunk in chunks([item.receipt for item in waiting]):
            entries = [
                {"Id": str(index), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                for index, receipt in enumerate(chunk)
            ]
            try:
                self._sqs.change_message_visibility_batch(QueueUrl=self._mapping.queue_url, Entries=entries)
            except (BotoCoreError, ClientError) as error:
                self._log("WARNING", "not given back; comes back by itself", count=len(chunk), reason=str(error))

    def _log(self, level: str, message: str, **fields: object) -> None:
        line = {
            "level": level,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "service": "event-source-mapping",
            "function": self._mapping.function,
            "queue": self._mapping.queue,
            "message": message,
            **fields,
        }
        sys.stderr.write(json.dumps(line) + "\n")
        sys.stderr.flush()


def _ids(batch: list[_Waiting]) -> dict[str, object]:
    return {"message_ids": [item.message_id for item in batch]}


def _dump(record: dict[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


# The process


def command(mappings: Sequence[EventSourceMapping], concurrency: Mapping[str, int]) -> list[str]:
    """Return the arguments that start the process; it lives as long as the pipe that is its standard input.

    Parameters
    ----------
    mappings : sequence of EventSourceMapping
        The template's; those that are not enabled are left out.
    concurrency : Mapping of str to int
        How many environments each function has; a mapping calls no more at once. A line with another such JSON object
        on the standard input takes this one's place.

    """
    arguments = [sys.executable, "-m", "local.event_source_mapping", "--concurrency", json.dumps(dict(concurrency))]
    for mapping in mappings:
        if mapping.enabled:
            arguments += ["--mapping", json.dumps(asdict(mapping))]
    return arguments


def _client(service: str, region: str, connections: int, read_timeout: int) -> "BaseClient":
    # Here, since the supervisor imports this module for `command` and must not wait for boto3 first.
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        region_name=region,
        # The endpoints are this machine's and take anything; nobody's real key is ever sent to them.
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106
        config=Config(
            # botocore's own retries are off: a call that timed out may have run, and a stop must not wait for them.
            retries={"total_max_attempts": 1},
            max_pool_connections=connections,
            connect_timeout=2,
            read_timeout=read_timeout,
            proxies={},
        ),
    )


def main() -> int:
    """Play the mappings until standard input closes or SIGTERM comes."""
    parser = argparse.ArgumentParser(prog="python -m local.event_source_mapping", description=__doc__.splitlines()[0])
    parser.add_argument("--mapping", action="append", default=[], help="an EventSourceMapping as JSON")
    parser.add_argument("--concurrency", default="{}", help="how many environments functions have, JSON")
    given = parser.parse_args()
    mappings = [EventSourceMapping(**json.loads(text)) for text in given.mapping]
    concurrency = json.loads(given.concurrency)
    for variable in ("AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_LAMBDA"):
        if variable not in os.environ:
            sys.stderr.write(f"Set {variable}: mappings are played on local endpoints only.\n")
            return 1

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    players: list[_Player] = []
    for mapping in mappings:
        environments = concurrency.get(mapping.function, MOST_POLLERS)
        connections = 2 * (mapping.maximum_concurrency or environments)
        sqs = _client("sqs", mapping.region, connections, read_timeout=POLL_SECONDS + 10)
        # Longer than any function may run (900 s), so that the runtime decides what a timeout is.
        functions = _client("lambda", mapping.region, connections, read_timeout=930)
        players.append(_Player(mapping, sqs, functions, stopping, environments))
    for player in players:
        player.scale()
    threading.Thread(target=_heed_parent, args=[players, stopping], daemon=True).start()
    sys.stdout.write(json.dumps({"ready": True}) + "\n")
    sys.stdout.flush()
    while not stopping.wait(1.0):
        for player in players:
            player.scale()
    deadline = time.monotonic() + STOP_SECONDS
    for player in players:
        player.join(deadline)
    return 0


def _heed_parent(players: Sequence[_Player], stopping: threading.Event) -> None:
    """Take new concurrencies from standard input; stop when it ends."""
    rest = b""
    # os.read, not sys.stdin: a thread that holds the buffer's lock would make the interpreter's exit fail.
    while content := os.read(0, 4096):
        *lines, rest = (rest + content).split(b"\n")
        for line in lines:
            concurrency = json.loads(line)
            for player in players:
                player.environments = concurrency.get(player.function, player.environments)
    stopping.set()


if __name__ == "__main__":
    sys.exit(main())
