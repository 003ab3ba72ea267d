"""Create the template's queues on an SQS endpoint."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from botocore.client import BaseClient

    from template.model import Queue


def create_queues(client: "BaseClient", queues: "Mapping[str, Queue]") -> None:
    """Create the template's queues, dead-letter queues first. An existing queue gets the template's attributes."""
    arns: dict[str, str] = {}
    for queue in dead_letter_queues_first(queues.values()):
        # Two calls, because CreateQueue with attributes fails if the queue exists with other attributes.
        url = client.create_queue(QueueName=queue.name)["QueueUrl"]
        arn = arns[queue.redrive.dead_letter_queue] if queue.redrive is not None else ""
        client.set_queue_attributes(QueueUrl=url, Attributes=queue_attributes(queue, arn))
        arns[queue.name] = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]


def dead_letter_queues_first(queues: "Iterable[Queue]") -> "list[Queue]":
    """Return the queues so that each comes after its dead-letter queue, which must exist before it."""
    remaining = {queue.name: queue for queue in queues}
    ordered: list[Queue] = []
    while remaining:
        ready = [
            queue
            for queue in remaining.values()
            if queue.redrive is None or queue.redrive.dead_letter_queue not in remaining
        ]
        # Queues whose dead-letter queues form a circle keep their order. SQS then reports that one does not exist.
        ready = ready or list(remaining.values())
        ordered += ready
        for queue in ready:
            del remaining[queue.name]
    return ordered


def queue_attributes(queue: "Queue", dead_letter_arn: str) -> dict[str, str]:
    """Return the queue's attributes in the form of SQS's CreateQueue and SetQueueAttributes."""
    attributes = {
        "VisibilityTimeout": str(queue.visibility_timeout),
        "ReceiveMessageWaitTimeSeconds": str(queue.receive_wait),
        "DelaySeconds": str(queue.delay),
    }
    if queue.redrive is not None:
        policy = {"deadLetterTargetArn": dead_letter_arn, "maxReceiveCount": queue.redrive.max_receive_count}
        attributes["RedrivePolicy"] = json.dumps(policy)
    return attributes
