"""The rules of an event source mapping, without a queue or a function."""

import json

import pytest

from local.event_source_mapping_rules import (
    MAX_PAYLOAD_BYTES,
    Message,
    batch_length,
    failed_message_ids,
    pollers_wanted,
    to_record,
)

ALL = {"a", "b", "c"}


@pytest.mark.parametrize(
    ("response", "failed"),
    [
        # Complete success
        (b"", set()),
        (b"  ", set()),
        (b"null", set()),
        (b"{}", set()),
        (b'{"batchItemFailures": null}', set()),
        (b'{"batchItemFailures": []}', set()),
        (b'{"other": 1}', set()),
        # Partial failure
        (b'{"batchItemFailures": [{"itemIdentifier": "b"}]}', {"b"}),
        (b'{"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "b"}]}', {"b"}),
        (b'{"batchItemFailures": [{"itemIdentifier": "a", "other": 1}, {"itemIdentifier": "c"}]}', {"a", "c"}),
        (b'{"batchItemFailures": [{"itemIdentifier": "a"}], "other": 1}', {"a"}),
        # Complete failure
        (b"not json", ALL),
        (b'{"batchItemFailures": [', ALL),
        (b"\xff", ALL),
        (b"[" * 100_000, ALL),
        (b'{"batchItemFailures": [{"itemIdentifier": ""}]}', ALL),
        (b'{"batchItemFailures": [{"itemIdentifier": null}]}', ALL),
        (b'{"batchItemFailures": [{"foo": "notvalid"}]}', ALL),
        (b'{"batchItemFailures": [{"itemIdentifier": "unknown"}]}', ALL),
        (b'{"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "unknown"}]}', ALL),
        (b'{"batchItemFailures": [{}]}', ALL),
        # Not documented; treated as complete failure, which loses nothing
        (b'{"batchItemFailures": ["a"]}', ALL),
        (b'{"batchItemFailures": [{"itemIdentifier": ["a"]}]}', ALL),
        (b'{"batchItemFailures": [{"itemIdentifier": 1}]}', ALL),
        (b'{"batchItemFailures": {"itemIdentifier": "a"}}', ALL),
        (b'{"batchItemFailures": "a"}', ALL),
        (b'{"batchItemFailures": false}', ALL),
        (b"[]", ALL),
        (b'"done"', ALL),
        (b"true", ALL),
    ],
)
def test_the_response_decides_which_messages_failed(response: bytes, failed: set[str]) -> None:
    assert failed_message_ids(response, ["a", "b", "c"]) == failed


def test_a_record_has_the_shape_that_aws_sends() -> None:
    message: Message = {
        "MessageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
        "ReceiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
        "Body": "Test message.",
        "MD5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
        "Attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1545082649183",
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": "1545082649185",
        },
        "MessageAttributes": {
            "Author": {"StringValue": "x", "DataType": "String"},
            "Data": {"BinaryValue": b"\x00\xff", "DataType": "Binary"},
        },
        "MD5OfMessageAttributes": "b8e0...",
    }
    record = to_record(message, "arn:aws:sqs:us-east-1:000000000000:q", "us-east-1")
    assert json.loads(json.dumps(record)) == {
        "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
        "body": "Test message.",
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1545082649183",
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": "1545082649185",
        },
        "messageAttributes": {
            "Author": {"stringValue": "x", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
            "Data": {"binaryValue": "AP8=", "stringListValues": [], "binaryListValues": [], "dataType": "Binary"},
        },
        "md5OfMessageAttributes": "b8e0...",
        "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:q",
        "awsRegion": "us-east-1",
    }


def test_a_message_without_attributes_has_no_checksum_of_attributes() -> None:
    record = to_record({"MessageId": "1", "ReceiptHandle": "r", "Body": "b", "MD5OfBody": "m"}, "arn", "us-east-1")
    assert record["messageAttributes"] == {}
    assert "md5OfMessageAttributes" not in record


@pytest.mark.parametrize(
    ("sizes", "batch_size", "length"),
    [
        ([], 10, 0),
        ([1], 10, 1),
        ([1] * 25, 10, 10),
        ([1] * 10, 10, 10),
        ([1] * 3, 1, 1),
        ([1_000_000] * 10, 10, 6),
        ([MAX_PAYLOAD_BYTES - 15], 10, 1),
        ([MAX_PAYLOAD_BYTES - 17, 1], 10, 2),
        ([MAX_PAYLOAD_BYTES - 16, 1], 10, 1),
        ([MAX_PAYLOAD_BYTES * 2, 1], 10, 1),
    ],
)
def test_a_batch_ends_at_its_size_or_at_6_mb_and_is_never_empty(sizes: list[int], batch_size: int, length: int) -> None:
    assert batch_length(sizes, batch_size) == length


def test_a_batch_of_the_longest_length_is_within_6_mb() -> None:
    records = [b"x" * 1000 for _ in range(10_000)]
    length = batch_length([len(record) for record in records], 10_000)
    assert len(b'{"Records":[' + b",".join(records[:length]) + b"]}") <= MAX_PAYLOAD_BYTES
    assert len(b'{"Records":[' + b",".join(records[: length + 1]) + b"]}") > MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    ("pollers", "busy", "limit", "wanted"),
    [
        (0, 0, 1, 1),  # one environment: one poller
        (0, 0, 3, 3),
        (0, 0, 1000, 5),  # five to start with
        (5, 5, 1000, 10),  # 300 a minute while all are busy
        (5, 4, 1000, 5),
        (998, 998, 1000, 1000),
        (1250, 1250, 100_000, 1250),
        (10, 4, 1000, 9),  # down, one by one
        (5, 0, 1000, 5),  # not below five
        (3, 0, 3, 3),
        (2, 2, 2, 2),
    ],
)
def test_pollers_increase_while_all_are_busy_and_decrease_when_idle_within_the_limit(
    pollers: int, busy: int, limit: int, wanted: int
) -> None:
    assert pollers_wanted(pollers, busy, limit) == wanted
