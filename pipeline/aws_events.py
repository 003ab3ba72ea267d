"""The shape of the events that AWS Lambda passes to a function, and of the responses that it expects.

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
        The id that a partial batch response names.
    body : str
        The message, not yet parsed.
    receive_count : int
        How often the queue has delivered the message, including this time; at least 1.
    receipt : str
        The receipt handle, with which the queue identifies this delivery.
    queue : str
        Name of the queue that delivered it.

    """

    message_id: str
    body: str
    receive_count: int
    receipt: str = ""
    queue: str = ""


def posted_body(event: Mapping[str, Json]) -> bytes:
    """Return the body of a function URL event.

    Raises BadInput if the event is not a POST (status 405), or if it has no body or an unreadable one (status 400).
    """
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
    """Return the HTTP response for an accepted frame. Its body is part of the public contract."""
    return {"statusCode": 200, "body": "Face detection completed"}


def refusal(status: int, error: FaceqError) -> dict[str, Json]:
    """Return the HTTP response for a refused frame, with the body `{"error": code, "message": sentence}`."""
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps({"error": error.code, "message": error.message}),
    }


def sqs_records(event: Mapping[str, Json]) -> list[SqsRecord]:
    """Return the messages of an SQS event in their order. Raises TypeError or KeyError if it is not one."""
    rows = event["Records"]
    if not isinstance(rows, list):
        raise TypeError("the Records of an SQS event must be a list")
    return [_sqs_record(row) for row in rows]


def batch_item_failures(message_ids: Sequence[str]) -> dict[str, Json]:
    """Return the partial batch response that keeps these messages on the queue; the others are deleted from it."""
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in message_ids]}


def _sqs_record(row: Json) -> SqsRecord:
    if not isinstance(row, dict):
        raise TypeError("an SQS record must be an object")
    attributes = row.get("attributes")
    count = attributes.get("ApproximateReceiveCount") if isinstance(attributes, dict) else None
    return SqsRecord(
        message_id=str(row["messageId"]),
        body=str(row["body"]),
        receive_count=int(count) if isinstance(count, str) else 1,
        receipt=str(row.get("receiptHandle", "")),
        queue=str(row.get("eventSourceARN", "")).rsplit(":", 1)[-1],
    )
