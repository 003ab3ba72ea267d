"""The shapes in which AWS Lambda hands over HTTP requests and queue messages, read and written without AWS.

Sources: AWS Lambda Developer Guide, "Invoking Lambda function URLs" (payload format 2.0), "Using Lambda with Amazon
SQS" (event shape) and "Handling errors for an SQS event source in Lambda" (partial batch responses).
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import BadInput, FaceqError
from pipeline.messages import Json


@dataclass(frozen=True)
class SqsRecord:
    """One queue message of an invocation.

    Parameters
    ----------
    message_id : str
        What a partial batch response names.
    body : str
        The message, not yet parsed.
    receive_count : int
        How often the message was handed out, this time included; at least 1.

    """

    message_id: str
    body: str
    receive_count: int


def posted_body(event: Mapping[str, Json]) -> bytes:
    """Return the body of a function URL event. Raises BadInput if it is no POST or has no readable body."""
    context = event.get("requestContext")
    http = context.get("http") if isinstance(context, dict) else None
    method = http.get("method") if isinstance(http, dict) else None
    if method != "POST":
        raise BadInput("method_not_allowed", "Send the frame as an HTTP POST to the function URL.", status=405)
    body = event.get("body")
    if not isinstance(body, str) or not body:
        raise BadInput("empty_body", "The request has no body. Send a JSON object {content, request_id, filename}.")
    if event.get("isBase64Encoded") is not True:
        return body.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:  # binascii.Error, or characters beyond ASCII
        raise BadInput(
            "not_base64", "The request's body cannot be decoded. Send JSON with a JSON content type."
        ) from None


def accepted() -> dict[str, Json]:
    """Return the answer to an accepted frame, as the contract has it."""
    return {"statusCode": 200, "body": "Face detection completed"}


def refusal(status: int, error: FaceqError) -> dict[str, Json]:
    """Return an answer that says what is wrong and how to mend it: `{"error": code, "message": sentence}`."""
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps({"error": error.code, "message": error.message}),
    }


def sqs_records(event: Mapping[str, Json]) -> list[SqsRecord]:
    """Return the messages of an SQS event in their order."""
    rows = event["Records"]
    if not isinstance(rows, list):
        raise TypeError("an SQS event holds a list of Records")
    return [_sqs_record(row) for row in rows]


def batch_item_failures(message_ids: Sequence[str]) -> dict[str, Json]:
    """Return the response that keeps just these messages on the queue; with none of them all are deleted."""
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in message_ids]}


def _sqs_record(row: Json) -> SqsRecord:
    if not isinstance(row, dict):
        raise TypeError("an SQS record is an object")
    attributes = row.get("attributes")
    count = attributes.get("ApproximateReceiveCount") if isinstance(attributes, dict) else None
    return SqsRecord(str(row["messageId"]), str(row["body"]), int(count) if isinstance(count, str) else 1)
