"""Connections to a stack on this machine or on AWS: a client that sends frames, the queues, the gallery's store.

boto3 and requests take a third of a second to import, so each function imports them when it is called: `faceq up` and
`faceq env` use this module without them.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.aws_errors import translated_aws_errors
from adapters.settings import FACEQ_GALLERY_DIR, FACEQ_NAME, stack_name
from client import stack_state
from client.deployed_stack import Deployed
from client.stack_state import RunningStack
from pipeline.errors import BadInput, TransientError

if TYPE_CHECKING:
    import boto3
    from botocore.client import BaseClient

    from client.enrolment import GalleryStore
    from client.service_client import ServiceClient


@dataclass(frozen=True)
class StackQueues:
    """The queues of a stack.

    Parameters
    ----------
    sqs : botocore client
        For SQS.
    urls : sequence of str or None
        The stack's queues. None if they are all the queues that the client reaches, as on this machine.

    """

    sqs: "BaseClient"
    urls: Sequence[str] | None


def stack_on_this_machine(environ: Mapping[str, str]) -> RunningStack:
    """Return the ready stack of this machine, which runs in processes or in containers.

    Raises
    ------
    BadInput
        No stack is running, or its containers are still starting.

    """
    if (stack := stack_state.local_stack(environ)) is not None:
        return stack
    others = stack_state.others_running(environ)
    if name := stack_name(environ):
        raise BadInput(
            "not_running", f"No stack named {name} is running. Start it with: faceq up --name {name}.{others}"
        )
    containers = stack_state.container_stack(environ)
    if containers is None:
        start = "Start one with `faceq up` or `docker compose up`."
        raise BadInput("not_running", f"No stack is running. {start}{others}")
    waiting = sorted({str(row["function"]) for row in containers.replicas if row["state"] in {"starting", "failed"}})
    reason = f", waiting for {' and '.join(waiting)}" if waiting else ""
    raise BadInput(
        "starting", f"The containers are still starting{reason}. See their logs with: docker compose logs gateway"
    )


def unread_gallery(environ: Mapping[str, str], gallery: Path) -> str | None:
    """Return what the user should know before a command uses a gallery that no running stack reads, else None.

    The containers' gallery is compared only if it is an absolute path: docker compose hands on a relative path as it
    is, and it is relative to a folder that we do not know.
    """
    stack = stack_state.local_stack(environ)
    if stack is None:
        others = [other for other in stack_state.running_stacks(environ) if _is_other(gallery, other)]
        if not others or len(others) < len(stack_state.running_stacks(environ)):
            return None
        names = " or ".join(f"--name {other.name}" if other.name else f"{FACEQ_NAME}=" for other in others)
        return f"No running stack reads the gallery {gallery}, which this command uses. To use that of a stack: {names}"
    if not _is_other(gallery, stack):
        return None
    use = f"export {FACEQ_GALLERY_DIR}={shlex.quote(stack.gallery)}"
    return (
        f"The running stack reads the gallery {stack.gallery}; this command uses {gallery}. To use that of the stack, "
        f"run: {use}"
    )


def _is_other(gallery: Path, stack: RunningStack) -> bool:
    return Path(stack.gallery).is_absolute() and Path(stack.gallery).resolve() != gallery.resolve()


def client_of_running_stack(stack: RunningStack) -> "ServiceClient":
    """Return a client that sends frames to a stack on this machine."""
    from adapters.queue_sqs import sqs_client
    from client.service_client import ServiceClient

    return ServiceClient(stack.function_url, stack.response_queue_url, sqs_client(stack.region, stack.sqs_endpoint))


def client_of_deployed_stack(session: "boto3.Session", deployed: Deployed) -> "ServiceClient":
    """Return a client that sends frames to a deployed stack. It signs its posts if the function URL requires that."""
    from client.service_client import ServiceClient
    from client.signing import SigV4

    auth = SigV4(session) if deployed.auth_type == "AWS_IAM" else None
    return ServiceClient(deployed.function_url, deployed.response_queue_url, session.client("sqs"), auth)


@contextmanager
def queues_of_running_stack(stack: RunningStack) -> Iterator[StackQueues]:
    """Give the queues of a stack on this machine. Raises TransientError if a call inside the block fails."""
    from botocore.exceptions import BotoCoreError, ClientError

    from adapters.queue_sqs import sqs_client

    try:
        yield StackQueues(sqs_client(stack.region, stack.sqs_endpoint), None)
    except (BotoCoreError, ClientError) as error:
        raise TransientError("queue_unavailable", f"The queues cannot be reached: {error}. See `faceq logs`.") from None


@contextmanager
def queues_of_deployed_stack(
    session: "boto3.Session", deployed: Deployed, name: str | None = None
) -> Iterator[StackQueues]:
    """Give the queues of a deployed stack, and no other queues of the account.

    Parameters
    ----------
    name : str or None
        The queue that the caller is going to use, if it is one.

    Raises
    ------
    QueueError
        The stack has no queue `name`.
    FaceqError
        A call inside the block fails; see adapters.aws_errors.

    """
    from client.queue_operations import QueueError, queue_name

    urls = [
        deployed.request_queue_url,
        deployed.response_queue_url,
        *([deployed.exhausted_queue_url] if deployed.exhausted_queue_url else []),
        deployed.dead_letter_queue_url,
    ]
    names = [queue_name(url) for url in urls]
    if name is not None and name not in names:
        raise QueueError(f"The stack {deployed.stack} has no queue {name}. It has: {', '.join(names)}.")
    with translated_aws_errors():
        yield StackQueues(session.client("sqs"), urls)


def gallery_of_deployed_stack(session: "boto3.Session", deployed: Deployed) -> "GalleryStore":
    """Return the store of a deployed stack's gallery. Raises BadInput if the stack has none."""
    from adapters.artifacts_s3 import PREFIX, S3Store, s3_client

    if not deployed.gallery:
        raise BadInput(
            "no_gallery_bucket", f"The stack {deployed.stack} has no bucket for a gallery. Run: faceq deploy"
        )
    return S3Store(s3_client(session), deployed.gallery, PREFIX)
