"""What people do with the queues of a running service: how full they are, what waits, purge, redrive.

Works on any SQS endpoint (the laptop's, ElasticMQ, AWS) through a boto3 client that the caller made.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from botocore.client import BaseClient

#: Most messages that SQS gives or takes in one call.
BATCH: Final = 10

#: How long a look for messages may take, in seconds. A call that waits asks all of SQS's servers, one that does not
#: asks a sample of them and may find nothing. (SQS developer guide, "Amazon SQS short and long polling")
LOOK_SECONDS: Final = 1

#: How long a peeked message stays hidden if the one who peeks dies before putting it back, in seconds.
PEEK_HIDDEN_SECONDS: Final = 5

#: How long a message that is being redriven stays hidden on the dead-letter queue, in seconds.
REDRIVE_HIDDEN_SECONDS: Final = 30


class QueueError(Exception):
    """A queue command that cannot be done, in one line for people."""


@dataclass(frozen=True)
class Depth:
    """How many messages a queue holds. SQS calls these numbers approximate; locally they are exact.

    Parameters
    ----------
    name : str
        The queue.
    visible, in_flight, delayed : int
        Waiting to be received; received and not yet deleted; not yet due.
    dead_letter_queue : str or None
        Name of the queue that takes what failed too often.

    """

    name: str
    visible: int
    in_flight: int
    delayed: int
    dead_letter_queue: str | None


@dataclass(frozen=True)
class PeekedMessage:
    """A message as `peek` found it.

    Parameters
    ----------
    message_id, body : str
        As sent.
    receive_count : int
        How often it has been received, this peek included.
    sent_ms : int
        When it was sent, epoch milliseconds.

    """

    message_id: str
    body: str
    receive_count: int
    sent_ms: int


def depths(client: "BaseClient", urls: Iterable[str] | None = None) -> list[Depth]:
    """Return the depth of these queues, or of every queue of the endpoint, sorted by name."""
    if urls is None:
        pages = client.get_paginator("list_queues").paginate()
        urls = [url for page in pages for url in page.get("QueueUrls", [])]
    return sorted((_depth(client, url) for url in urls), key=lambda depth: depth.name)


def peek(client: "BaseClient", name: str, most: int = BATCH) -> list[PeekedMessage]:
    """Return up to `most` messages that wait on queue `name`, and leave them there.

    SQS has no look without a receive: each peek adds one to a message's receive count, so a message of a queue with a
    dead-letter queue can be looked at only so often. The messages are hidden from others while they are read.
    Raises QueueError if there is no such queue.
    """
    url = _url(client, name)
    seen: dict[str, PeekedMessage] = {}
    receipts: list[str] = []
    try:
        while len(seen) < most:
            messages = client.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=min(BATCH, most - len(seen)),
                WaitTimeSeconds=LOOK_SECONDS,
                VisibilityTimeout=PEEK_HIDDEN_SECONDS,
                AttributeNames=["All"],
            ).get("Messages", [])
            receipts += [message["ReceiptHandle"] for message in messages]
            if all(message["MessageId"] in seen for message in messages):  # none, or the first ones come round again
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
    """Throw away every message of queue `name`, those in flight too. Raises QueueError if there is no such queue.

    AWS takes up to 60 s to do it and refuses a second purge within that time.
    """
    url = _url(client, name)
    try:
        client.purge_queue(QueueUrl=url)
    except client.exceptions.PurgeQueueInProgress:
        raise QueueError(f"The queue {name} was purged less than 60 s ago. Wait a minute and purge again.") from None


def redrive(client: "BaseClient", name: str, most: int | None = None, urls: Iterable[str] | None = None) -> int:
    """Send what lies on the dead-letter queue `name` back to its source; return how many messages went.

    The source is looked for among `urls`, or among all queues of the endpoint. Each message is sent before it is
    deleted, so a redrive that is cut off can repeat a message and never loses one. SQS's own StartMessageMoveTask is
    not used: moto has none, and one way that works everywhere is enough. What arrives meanwhile is left for the next
    redrive, so a message that fails again does not go round for ever.
    Raises QueueError if there is no such queue or it is not the dead-letter queue of exactly one queue.
    """
    url = _url(client, name)
    # Read from the queues themselves: ElasticMQ 1.7.1's ListDeadLetterSourceQueues knows only the policy that a queue
    # was created with, not one that was set later (measured).
    sources = [depth.name for depth in depths(client, urls) if depth.dead_letter_queue == name]
    if len(sources) != 1:
        raise QueueError(f"The queue {name} is the dead-letter queue of {len(sources)} queues; redrive needs one.")
    source = _url(client, sources[0])
    left = _depth(client, url).visible if most is None else most
    moved = 0
    while moved < left:
        messages = client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=min(BATCH, left - moved),
            WaitTimeSeconds=LOOK_SECONDS,
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


def chunks(items: list[str]) -> Iterable[list[str]]:
    """Cut `items` into lists of at most ten, what one SQS call takes."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _url(client: "BaseClient", name: str) -> str:
    try:
        return str(client.get_queue_url(QueueName=name)["QueueUrl"])
    except client.exceptions.QueueDoesNotExist:
        names = ", ".join(depth.name for depth in depths(client)) or "none"
        raise QueueError(f"There is no queue {name}. There are: {names}.") from None


def _attributes(client: "BaseClient", url: str, *names: str) -> dict[str, str]:
    return dict(client.get_queue_attributes(QueueUrl=url, AttributeNames=list(names)).get("Attributes", {}))


def _depth(client: "BaseClient", url: str) -> Depth:
    attributes = _attributes(client, url, "All")
    policy = attributes.get("RedrivePolicy")
    return Depth(
        name=url.rsplit("/", 1)[-1],
        visible=int(attributes["ApproximateNumberOfMessages"]),
        in_flight=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
        delayed=int(attributes["ApproximateNumberOfMessagesDelayed"]),
        dead_letter_queue=json.loads(policy)["deadLetterTargetArn"].rsplit(":", 1)[-1] if policy else None,
    )
