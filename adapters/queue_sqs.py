"""Send to an SQS queue: AWS, ElasticMQ or the local server, as the client's endpoint says."""

import re
from typing import TYPE_CHECKING, Final

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.errors import TransientError
from pipeline.ports import MAX_MESSAGE_BYTES, MessageSender

if TYPE_CHECKING:
    from botocore.client import BaseClient

#: What SQS refuses in a message (SQS API reference, SendMessage). The local server takes it, so it is checked here.
_NO_SQS_CHARACTER: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def client(region: str, endpoint: str | None = None) -> "BaseClient":
    """Return an SQS client.

    Parameters
    ----------
    region : str
    endpoint : str or None
        A local server's address, which takes any credentials and is sent none of the user's. None for AWS, or for
        what `AWS_ENDPOINT_URL_SQS` names.

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
        # A person waits at the other end: one that hangs is said to hang after one try.
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
        """Put `body` on the queue; return when the queue has it. Raises as the port says."""
        check_body(body)
        try:
            self._client.send_message(QueueUrl=self._queue_url, MessageBody=body)
        except (BotoCoreError, ClientError) as error:
            name = self._queue_url.rsplit("/", 1)[-1]
            raise TransientError("queue_unavailable", f"The queue {name} did not take the message: {error}") from error


def check_body(body: str) -> None:
    """Raise ValueError if SQS can never take `body`: empty, too long, or with a character that is none for it."""
    if not body:
        raise ValueError("a message must not be empty")
    if found := _NO_SQS_CHARACTER.search(body):
        raise ValueError(f"a message must not hold the character U+{ord(found[0]):04X}")
    # A character takes at most 4 bytes, so most bodies need no second copy to be found short enough.
    size = len(body.encode()) if len(body) * 4 > MAX_MESSAGE_BYTES else 0
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {size} bytes is longer than the {MAX_MESSAGE_BYTES} that SQS takes")
