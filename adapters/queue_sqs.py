"""Send messages to an SQS queue, and delete received ones or give them back, on AWS, ElasticMQ or our own server.

The client's endpoint decides which.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.errors import TransientError
from pipeline.ports import MAX_MESSAGE_BYTES, DeliveredMessages, MessageSender
from template.lambda_facts import SQS_BATCH

if TYPE_CHECKING:
    from botocore.client import BaseClient

#: Characters that SQS refuses in a message (SQS API reference, SendMessage). Our own server accepts them, so we check
#: here.
_REFUSED_CHARACTER: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def sqs_client(region: str, endpoint: str | None = None) -> "BaseClient":
    """Return an SQS client.

    Parameters
    ----------
    region : str
    endpoint : str or None
        A local server's address. It accepts any credentials, and faceq does not send it the user's. None for AWS, or
        for the address in `AWS_ENDPOINT_URL_SQS`.

    """
    import boto3

    config = Config(connect_timeout=2, read_timeout=25, retries={"mode": "standard", "total_max_attempts": 3})
    if endpoint is None:
        return boto3.client("sqs", region_name=region, config=config)
    return boto3.client(
        "sqs",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106
        # The user is waiting for the command, so a server that hangs is an error after one attempt.
        config=config.merge(Config(proxies={}, retries={"total_max_attempts": 1})),
    )


class SqsSender(MessageSender):
    """Sends to one queue through a boto3 client.

    Parameters
    ----------
    client : botocore client
        For SQS. May be shared between threads; so may this object.
    queue_url : str
        The queue.

    """

    def __init__(self, client: "BaseClient", queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url

    def send(self, body: str) -> None:
        """Put `body` on the queue; return when the queue has it.

        Raises ValueError if no queue can accept `body`, and TransientError if the queue cannot be reached.
        """
        check_body(body)
        try:
            self._client.send_message(QueueUrl=self._queue_url, MessageBody=body)
        except (BotoCoreError, ClientError) as error:
            name = self._queue_url.rsplit("/", 1)[-1]
            raise TransientError(
                "queue_unavailable", f"The queue {name} did not accept the message: {error}"
            ) from error


class SqsDeliveredMessages(DeliveredMessages):
    """The messages that one queue has delivered, through a boto3 client.

    Parameters
    ----------
    client : botocore client
        For SQS. May be shared between threads; so may this object.
    queue_url : str
        The queue that delivered the messages.

    """

    def __init__(self, client: "BaseClient", queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url

    def delete(self, receipt: str) -> None:
        """Delete a message. Raises TransientError if the queue cannot be reached."""
        entries = [{"Id": "0", "ReceiptHandle": receipt}]
        try:
            # The call for several messages lists an invalid receipt in its response; the one for one message fails.
            self._client.delete_message_batch(QueueUrl=self._queue_url, Entries=entries)
        except (BotoCoreError, ClientError) as error:
            name = self._queue_url.rsplit("/", 1)[-1]
            raise TransientError("queue_unavailable", f"The queue {name} did not delete a message: {error}") from error

    def release(self, receipts: Sequence[str]) -> None:
        """Make messages visible again now. Raises TransientError if the queue cannot be reached."""
        for start in range(0, len(receipts), SQS_BATCH):
            entries = [
                {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                for number, receipt in enumerate(receipts[start : start + SQS_BATCH])
            ]
            try:
                # Receipts that are no longer valid are listed in the response, which needs no action.
                self._client.change_message_visibility_batch(QueueUrl=self._queue_url, Entries=entries)
            except (BotoCoreError, ClientError) as error:
                name = self._queue_url.rsplit("/", 1)[-1]
                raise TransientError(
                    "queue_unavailable", f"The queue {name} did not take messages back: {error}"
                ) from error


def check_body(body: str) -> None:
    """Raise ValueError if SQS can never accept `body`: it is empty, too long, or contains a refused character."""
    if not body:
        raise ValueError("a message must not be empty")
    if match := _REFUSED_CHARACTER.search(body):
        raise ValueError(f"a message must not contain the character U+{ord(match[0]):04X}")
    # A character takes at most 4 bytes, so most bodies are short enough without encoding a copy.
    size = len(body.encode()) if len(body) * 4 > MAX_MESSAGE_BYTES else 0
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {size} bytes is longer than the {MAX_MESSAGE_BYTES} that SQS accepts")
