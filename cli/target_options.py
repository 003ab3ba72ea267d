"""The options that choose a command's stack: the one on this machine, or the one that `faceq deploy` created."""

import os
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from client.stack_connections import (
    StackQueues,
    client_of_deployed_stack,
    client_of_running_stack,
    gallery_of_deployed_stack,
    queues_of_deployed_stack,
    queues_of_running_stack,
    stack_on_this_machine,
)

if TYPE_CHECKING:
    import boto3

    from client.deployed_stack import Deployed
    from client.enrolment import GalleryStore
    from client.service_client import ServiceClient


class Where(StrEnum):
    """The values of `--target`."""

    LOCAL = "local"
    AWS = "aws"


Target = Annotated[Where, typer.Option("--target", help="Use the stack on this machine, or the one on AWS.")]
StackName = Annotated[str, typer.Option("--stack", metavar="NAME", help="Name of the CloudFormation stack on AWS.")]
Region = Annotated[
    str | None, typer.Option("--region", metavar="REGION", help="AWS region.  [default: AWS_REGION, or the profile's]")
]
Profile = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="Profile of ~/.aws/config.  [default: AWS_PROFILE]")
]


def deployed_stack(stack: str, region: str | None, profile: str | None) -> "tuple[boto3.Session, Deployed]":
    """Return a session with the user's credentials, and the deployed stack of this name.

    Raises FaceqError (see adapters.aws_errors) without credentials or region, and if the stack does not exist.
    """
    from client.deployed_stack import deployed, session

    aws = session(region, profile)
    return aws, deployed(aws, stack)


def service_client(target: Where, stack: str, region: str | None, profile: str | None) -> "ServiceClient":
    """Return a client that sends frames to the chosen stack. Raises FaceqError if that does not run."""
    if target is Where.LOCAL:
        return client_of_running_stack(stack_on_this_machine(os.environ))
    return client_of_deployed_stack(*deployed_stack(stack, region, profile))


def queues(
    target: Where, stack: str, region: str | None, profile: str | None, name: str | None = None
) -> AbstractContextManager[StackQueues]:
    """Give the queues of the chosen stack.

    Raises FaceqError if the stack does not run, if it is on AWS and has no queue `name`, and if a call inside fails.
    """
    if target is Where.LOCAL:
        return queues_of_running_stack(stack_on_this_machine(os.environ))
    return queues_of_deployed_stack(*deployed_stack(stack, region, profile), name)


def deployed_gallery(stack: str, region: str | None, profile: str | None) -> "GalleryStore":
    """Return the store of a deployed stack's gallery. Raises FaceqError if the stack or its bucket does not exist."""
    return gallery_of_deployed_stack(*deployed_stack(stack, region, profile))
