"""Operations on the queues of a running service: how full they are, which messages wait, purge, redrive.

They work with every SQS endpoint (the laptop's, ElasticMQ, AWS) through a boto3 client that the caller made.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.errors import BadInput
from template.lambda_facts import SQS_BATCH

if TYPE_CHECKING:
    from botocore.client import BaseClient

#: How long one receive call may wait for messages, seconds. A call that waits queries all of SQS's servers. One that
#: does not wait queries a sample of them and may find nothing. (SQS developer guide, "Amazon SQS short and long
#: polling")
RECEIVE_SECONDS: Final = 1

#: How long a peeked message stays hidden if we die before we make it visible again, seconds.
PEEK_HIDDEN_SECONDS: Final = 5

#: How long a message that is being redriven stays hidden on the dead-letter queue, seconds.
REDRIVE_HIDDEN_SECONDS: Final = 30


class QueueError(BadInput):
    """The operation does not apply to this queue: the queue does not exist, or its state forbids it."""

    def __init__(self, message: str) -> None:
        super().__init__("queue", message)


@dataclass(frozen=True)
class Depth:
    """How many messages are on a queue. SQS calls these numbers approximate; locally they are exact.

    Parameters
    ----------
    name : str
        The queue.
    visible : int
        Messages that wait to be received.
    in_flight : int
        Messages that were received and are not deleted yet.
    delayed : int
        Messages that cannot be received yet.
    dead_letter_queue : str or None
        Name of the queue that takes messages which failed too often; None if this queue has none.

    """

    name: str
    visible: int
    in_flight: int
    delayed: int
    dead_letter_queue: str | None


@dataclass(frozen=True)
class PeekedMessage:
    """A message that `peek` read.

    Parameters
    ----------
    message_id, body : str
    receive_count : int
        How often the message has been received, including this peek.
    sent_ms : int
        When the message was sent, milliseconds since the epoch.

    """

    message_id: str
    body: str
    receive_count: int
    sent_ms: int


def depths(client: "BaseClient", urls: Iterable[str] | None = None) -> list[Depth]:
    """Return the depths of these queues, or of all queues of the endpoint, sorted by name."""
    if urls is None:
        pages = client.get_paginator("list_queues").paginate()
        urls = [url for page in pages for url in page.get("QueueUrls", [])]
    return sorted((_depth(client, url) for url in urls), key=lambda depth: depth.name)


def peek(client: "BaseClient", name: str, most: int = SQS_BATCH) -> list[PeekedMessage]:
    """Return up to `most` messages that wait on queue `name`, and leave them there.

    SQS can only show a message by delivering it, so each peek adds one to the message's receive count. A queue with a
    dead-letter queue moves a message there after its `maxReceiveCount`, so peek at one only a few times. Other
    receivers do not see the messages while we read them. Raises QueueError if the queue does not exist.
    """
    url = _url(client, name)
    seen: dict[str, PeekedMessage] = {}
    receipts: list[str] = []
    try:
        while len(seen) < most:
            messages = client.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=min(SQS_BATCH, most - len(seen)),
                WaitTimeSeconds=RECEIVE_SECONDS,
                VisibilityTimeout=PEEK_HIDDEN_SECONDS,
                AttributeNames=["All"],
            ).get("Messages", [])
            receipts += [message["ReceiptHandle"] for message in messages]
            if all(
                message["MessageId"] in seen for message in messages
            ):  # none are left, or SQS delivers the first again
                break
            for message in messages:
                attributes = message["Attributes"]
                seen[message["MessageId"]] = PeekedMessage(
                    message_id=message["MessageId"],
                    body=message["Body"],
                    receive_count=int(attributes["ApproximateReceiveCount"]),
                    sent_ms=int(attributes["SentTimestamp"]),
                )
    finally:
        for chunk in chunks(receipts):
            entries = [
                {"Id": str(index), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                for index, receipt in enumerate(chunk)
            ]
            client.change_message_visibility_batch(QueueUrl=url, Entries=entries)
    return list(seen.values())


def purge(client: "BaseClient", name: str) -> None:
    """Delete every message of queue `name`, including those in flight.

    AWS takes up to 60 s to do so and refuses a second purge within that time. (SQS API reference, PurgeQueue)

    Raises
    ------
    QueueError
        The queue does not exist, or it was purged less than 60 s ago.

    """
    url = _url(client, name)
    try:
        client.purge_queue(QueueUrl=url)
    except client.exceptions.PurgeQueueInProgress:
        raise QueueError(f"The queue {name} was purged less than 60 s ago. Wait a minute and purge again.") from None


def redrive(client: "BaseClient", name: str, most: int | None = None, urls: Iterable[str] | None = None) -> int:
    """Move messages from the dead-letter queue `name` back to the queue where they failed; return how many.

    Where dead-letter queues form a chain, that is the queue at its beginning.

    Each message is sent before it is deleted, so an interrupted redrive can repeat a message but never loses one.
    Messages that arrive during the redrive are left for the next one; otherwise a message that fails again would
    circulate without end. We do not use SQS's own StartMessageMoveTask, because moto does not have it and one way that
    works everywhere is enough.

    Parameters
    ----------
    most : int or None
        Move at most this many messages; None moves all that wait now.
    urls : iterable of str or None
        The queues among which we look for the source; None for all queues of the endpoint.

    Raises
    ------
    QueueError
        The queue does not exist, or it is not the dead-letter queue of exactly one queue.

    """
    url = _url(client, name)
    # We read each queue's redrive policy, because ElasticMQ 1.7.1's ListDeadLetterSourceQueues knows only the policy
    # that a queue was created with, not one that was set later (measured).
    dead_letter_queues = {depth.name: depth.dead_letter_queue for depth in depths(client, urls)}
    sources = [queue for queue, dead_letter_queue in dead_letter_queues.items() if dead_letter_queue == name]
    if not sources:
        raise QueueError(f"The queue {name} is not a dead-letter queue. Find those with: faceq queues list")
    if len(sources) > 1:
        raise QueueError(
            f"The queue {name} is the dead-letter queue of {len(sources)} queues; redrive needs exactly one."
        )
    source = _url(client, _first_source(sources[0], dead_letter_queues))
    count = _depth(client, url).visible if most is None else most
    moved = 0
    while moved < count:
        messages = client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=min(SQS_BATCH, count - moved),
            WaitTimeSeconds=RECEIVE_SECONDS,
            VisibilityTimeout=REDRIVE_HIDDEN_SECONDS,
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        if not messages:
            break
        for message in messages:
            client.send_message(
                QueueUrl=source,
                MessageBody=message["Body"],
                MessageAttributes=message.get("MessageAttributes", {}),
            )
            client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            moved += 1
    return moved


def _first_source(name: str, dead_letter_queues: Mapping[str, str | None]) -> str:
    """Return the queue where messages enter a chain of dead-letter queues that passes through queue `name`."""
    passed = {name}
    while len(sources := [queue for queue, target in dead_letter_queues.items() if target == name]) == 1:
        if sources[0] in passed:
            break
        name = sources[0]
        passed.add(name)
    return name


def chunks(items: list[str]) -> Iterable[list[str]]:
    """Split `items` into lists of at most ten, the most that one SQS call accepts."""
    return (items[start : start + SQS_BATCH] for start in range(0, len(items), SQS_BATCH))


def queue_name(url: str) -> str:
    """Return the name of a queue, the last part of its URL."""
    return url.rsplit("/", 1)[-1]


def _url(client: "BaseClient", name: str) -> str:
    try:
        return str(client.get_queue_url(QueueName=name)["QueueUrl"])
    except client.exceptions.QueueDoesNotExist:
        names = ", ".join(depth.name for depth in depths(client)) or "none"
        raise QueueError(f"The queue {name} does not exist. Existing queues: {names}.") from None


def _attributes(client: "BaseClient", url: str, *names: str) -> dict[str, str]:
    return dict(client.get_queue_attributes(QueueUrl=url, AttributeNames=list(names)).get("Attributes", {}))


def _depth(client: "BaseClient", url: str) -> Depth:
    attributes = _attributes(client, url, "All")
    policy = attributes.get("RedrivePolicy")
    return Depth(
        name=queue_name(url),
        visible=int(attributes["ApproximateNumberOfMessages"]),
        in_flight=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
        delayed=int(attributes["ApproximateNumberOfMessagesDelayed"]),
        dead_letter_queue=json.loads(policy)["deadLetterTargetArn"].rsplit(":", 1)[-1] if policy else None,
    )
