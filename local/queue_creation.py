"""Create the template's queues on an SQS endpoint."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from botocore.client import BaseClient

    from template.model import Queue


def create_queues(client: "BaseClient", queues: "Mapping[str, Queue]") -> None:
    """Create the template's queues, dead-letter queues first. An existing queue gets the template's attributes."""
    arns: dict[str, str] = {}
    for queue in sorted(queues.values(), key=has_redrive):
        # Two calls, because CreateQueue with attributes fails if the queue exists with other attributes.
        url = client.create_queue(QueueName=queue.name)["QueueUrl"]
        arn = arns[queue.redrive.dead_letter_queue] if queue.redrive is not None else ""
        client.set_queue_attributes(QueueUrl=url, Attributes=queue_attributes(queue, arn))
        arns[queue.name] = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]


def has_redrive(queue: "Queue") -> bool:
    """Tell whether the queue has a dead-letter queue. As a sort key it puts dead-letter queues first."""
    return queue.redrive is not None


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
