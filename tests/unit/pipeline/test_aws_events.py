"""The events of AWS Lambda: those in its documentation, and those that a broken caller may send."""

import json
from typing import Any

import pytest

from pipeline import aws_events
from pipeline.aws_events import SqsRecord
from pipeline.errors import BadInput, TransientError
from tests.builders import post, sqs_event

#: AWS Lambda Developer Guide, "Using Lambda with Amazon SQS": the standard queue's message event, shortened.
DOCUMENTED_SQS_EVENT: dict[str, Any] = {
    "Records": [
        {
            "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
            "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
            "body": "Test message.",
            "attributes": {
                "ApproximateReceiveCount": "2",
                "SentTimestamp": "1545082649183",
                "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                "ApproximateFirstReceiveTimestamp": "1545082649185",
            },
            "messageAttributes": {},
            "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue",
            "awsRegion": "us-east-2",
        }
    ]
}


def test_a_documented_sqs_event_is_read() -> None:
    assert aws_events.sqs_records(DOCUMENTED_SQS_EVENT) == [
        SqsRecord(
            message_id="059f36b4-87a3-44ab-83d2-661975830a7d",
            body="Test message.",
            receive_count=2,
            receipt="AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
            queue="my-queue",
        )
    ]


def test_records_keep_their_order_and_a_missing_receive_count_means_one() -> None:
    event = sqs_event("a", "b", "c", receive_count=7)
    del event["Records"][1]["attributes"]
    records = aws_events.sqs_records(event)
    assert [(record.message_id, record.body, record.receive_count) for record in records] == [
        ("m0", "a", 7),
        ("m1", "b", 1),
        ("m2", "c", 7),
    ]


def test_a_partial_batch_response_names_the_failed_messages() -> None:
    assert aws_events.batch_item_failures(["a", "b"]) == {
        "batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "b"}]
    }
    assert aws_events.batch_item_failures([]) == {"batchItemFailures": []}


@pytest.mark.parametrize("body", [b'{"a": 1}', "ü € 😀".encode(), b"\xff\xd8\xff"], ids=["ASCII", "UTF-8", "bytes"])
def test_a_body_is_read_as_it_was_posted(body: bytes) -> None:
    assert aws_events.posted_body(post(body)) == body


@pytest.mark.parametrize(
    ("event", "status", "code"),
    [
        (post(b"x", "GET"), 405, "method_not_allowed"),
        ({}, 405, "method_not_allowed"),
        ({"requestContext": None}, 405, "method_not_allowed"),
        ({"requestContext": {"http": "POST"}}, 405, "method_not_allowed"),
        ({"body": "x", "isBase64Encoded": False}, 405, "method_not_allowed"),
        (post(b""), 400, "empty_body"),
        ({**post(b"x"), "body": None}, 400, "empty_body"),
        ({key: value for key, value in post(b"x").items() if key != "body"}, 400, "empty_body"),
        ({**post(b"x"), "body": "?", "isBase64Encoded": True}, 400, "not_base64"),
        ({**post(b"x"), "body": "é", "isBase64Encoded": True}, 400, "not_base64"),
    ],
)
def test_an_event_that_is_not_a_post_with_a_body_is_refused(event: dict[str, Any], status: int, code: str) -> None:
    with pytest.raises(BadInput) as refused:
        aws_events.posted_body(event)
    assert (refused.value.status, refused.value.code) == (status, code)


def test_a_refusal_is_json_and_has_the_content_type_of_json() -> None:
    response = aws_events.refusal(503, TransientError("queue_unavailable", 'Say "again" — later.'))
    assert (response["statusCode"], response["headers"]) == (503, {"content-type": "application/json"})
    assert json.loads(str(response["body"])) == {"error": "queue_unavailable", "message": 'Say "again" — later.'}


def test_the_response_to_an_accepted_frame_is_the_contract_word_for_word() -> None:
    assert aws_events.accepted() == {"statusCode": 200, "body": "Face detection completed"}
