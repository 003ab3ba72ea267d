"""The rules of AWS::Lambda::EventSourceMapping as pure functions: records, batches, partial failures, scaling.

The source stands beside each rule: a page of the Lambda developer guide by its title, [recorded] for what was recorded
on AWS, [local] for what we decided ourselves.
"""

import base64
import json
from collections.abc import Sequence
from typing import Final, NotRequired, TypedDict

#: Most bytes of one invocation's payload. ("Lambda quotas": synchronous invocation)
MAX_PAYLOAD_BYTES: Final = 6 * 1024 * 1024
#: Bytes that `{"Records":[]}` takes of the payload.
_ENVELOPE_BYTES: Final = len('{"Records":[]}')

#: Pollers of a new mapping, pollers added each second while messages are left, and most pollers.
#: ("Configuring scaling behavior for SQS event source mappings": 5, 300 a minute, 1,250)
FIRST_POLLERS: Final = 5
POLLERS_PER_SECOND: Final = 5
MOST_POLLERS: Final = 1_250


class MessageAttribute(TypedDict):
    """A message attribute as boto3 receives it, with one of the two values."""

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
    """Return the record of a message as the function receives it, JSON types only [recorded]."""
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


def payload_of(records: Sequence[bytes]) -> bytes:
    """Return the event of one invocation: JSON with these records, each of which is JSON already."""
    return b'{"Records":[' + b",".join(records) + b"]}"


def batch_length(record_bytes: Sequence[int], batch_size: int) -> int:
    """Return how many of the waiting records, in order, form the next batch.

    Parameters
    ----------
    record_bytes : sequence of int
        Length of each record as JSON, UTF-8 bytes.
    batch_size : int
        The mapping's limit.

    Returns
    -------
    int
        0 if no record waits, at least 1 otherwise. A single record always fits in 6 MB: a message has at most 1 MiB,
        and escapes make its JSON at most twice as long.

    """
    total = _ENVELOPE_BYTES
    for length, size in enumerate(record_bytes):
        total += size + 1  # the comma
        if length == batch_size or (length and total > MAX_PAYLOAD_BYTES):
            return length
    return len(record_bytes)


def failed_message_ids(response: bytes, batch: Sequence[str]) -> set[str]:
    """Return which messages of a batch stay on the queue, according to the function's response.

    Only for a mapping with ReportBatchItemFailures, and only if the function did not raise.

    "Handling errors for an SQS event source", partial batch responses: an empty response, null, or one with a missing,
    empty or null `batchItemFailures` is complete success. Complete failure is a response that is not JSON, or an
    `itemIdentifier` that is empty, null, unknown or under another key [recorded: `{"foo": "notvalid"}`]. A response
    or a list of another type is not documented; we treat it as complete failure, which loses nothing [local]. An id
    that is listed twice counts once.

    Parameters
    ----------
    response : bytes
        What the function returned.
    batch : sequence of str
        Message ids of the batch.

    """
    everything = set(batch)
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
    failed: set[str] = set()
    for item in failures:
        identifier = item.get("itemIdentifier") if isinstance(item, dict) else None
        if not isinstance(identifier, str) or identifier not in everything:
            return everything
        failed.add(identifier)
    return failed


def pollers_wanted(pollers: int, busy: int, limit: int) -> int:
    """Return how many pollers a mapping should have one second from now.

    While all pollers are busy, messages may be left: `POLLERS_PER_SECOND` more. While fewer than half are busy: one
    less, down to `FIRST_POLLERS`.

    Parameters
    ----------
    pollers, busy : int
        How many pollers exist now, and how many of them process a batch.
    limit : int
        The smaller of MaximumConcurrency and the function's execution environments.

    """
    least, most = min(FIRST_POLLERS, limit), min(MOST_POLLERS, limit)
    if busy >= pollers:
        return max(least, min(most, pollers + POLLERS_PER_SECOND))
    return max(least, min(most, pollers - 1 if busy * 2 < pollers else pollers))
