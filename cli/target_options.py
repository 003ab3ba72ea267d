"""Where a command works: on this machine, or on the stack that `faceq deploy` made."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import boto3

    from client.deployed_stack import Deployed


class Where(StrEnum):
    """The two places."""

    LOCAL = "local"
    AWS = "aws"


Target = Annotated[Where, typer.Option("--target", help="Work on this machine's stack, or on the one on AWS.")]
StackName = Annotated[str, typer.Option("--stack", metavar="NAME", help="The CloudFormation stack on AWS.")]
Region = Annotated[
    str | None, typer.Option("--region", metavar="REGION", help="AWS region.  [default: AWS_REGION, or the profile's]")
]
Profile = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="Profile of ~/.aws/config.  [default: AWS_PROFILE]")
]


def aws(stack: str, region: str | None, profile: str | None) -> "tuple[boto3.Session, Deployed]":
    """Return a session of a person's credentials and what the stack of this name offers.

    Raises FaceqError as adapters.aws_errors does: no credentials, no region, no such stack.
    """
    from client.deployed_stack import deployed, session  # boto3 takes a third of a second to import

    made = session(region, profile)
    return made, deployed(made, stack)
