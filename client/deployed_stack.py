"""AWS as a person's credentials reach it: who they are, and what a deployed stack offers.

boto3 finds credentials, region and profile as it does for every other tool.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from adapters.aws_errors import translated_aws_errors
from client.service_addresses import ServiceAddresses
from pipeline.errors import BadInput

if TYPE_CHECKING:
    import boto3

#: The stack that the commands mean unless told otherwise.
STACK: Final = "faceq"


@dataclass(frozen=True)
class Account:
    """Who calls, and where: what `sts get-caller-identity` says, and the region."""

    id: str
    arn: str
    region: str


@dataclass(frozen=True)
class Deployed(ServiceAddresses):
    """What a deployed stack offers, from its outputs.

    Parameters
    ----------
    stack : str
        Its name in CloudFormation.
    gallery : str
        The bucket that holds the gallery; empty if the stack has none.
    auth_type : str
        `AWS_IAM`: posts to the function URL must be signed; `NONE`: anybody may post.

    """

    stack: str
    gallery: str
    auth_type: str


def session(region: str | None = None, profile: str | None = None) -> "boto3.Session":
    """Return a boto3 session for AWS itself.

    Raises
    ------
    BadInput
        No region is set, there is no such profile, or a variable of a local stack would lead the calls astray.

    """
    import boto3
    from botocore.exceptions import ProfileNotFound

    for name in sorted(os.environ):
        if name.startswith("AWS_ENDPOINT_URL_"):
            raise BadInput(
                "local_endpoint", f"{name} is {os.environ[name]}, so the calls would not reach AWS. unset {name}"
            )
    try:
        # boto3 itself reads AWS_DEFAULT_REGION only; AWS's other SDKs and the functions read AWS_REGION.
        made = boto3.Session(region_name=region or os.environ.get("AWS_REGION") or None, profile_name=profile)
    except ProfileNotFound as error:
        raise BadInput("no_profile", f"{error}. `aws configure list-profiles` shows what there is.") from None
    if made.region_name is None:
        raise BadInput(
            "no_region", "No region is set. Give one with --region us-east-1, or: export AWS_REGION=us-east-1"
        )
    return made


def account(session: "boto3.Session") -> Account:
    """Ask AWS who calls. Raises FaceqError as `aws_errors.to_faceq_error` returns it."""
    with translated_aws_errors():
        identity = session.client("sts").get_caller_identity()
    return Account(identity["Account"], identity["Arn"], str(session.region_name))


def deployed(session: "boto3.Session", stack: str = STACK) -> Deployed:
    """Return what the stack of this name offers. Raises BadInput if there is none, FaceqError if AWS refuses."""
    from botocore.exceptions import ClientError

    with translated_aws_errors():
        try:
            found = session.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            raise BadInput(
                "not_deployed",
                f"There is no stack {stack} in {session.region_name}. Deploy it with: faceq deploy, or name another "
                "with --stack or --region.",
            ) from None
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", ())}
    parameters = {parameter["ParameterKey"]: parameter.get("ParameterValue", "") for parameter in found["Parameters"]}
    try:
        return Deployed(
            stack=stack,
            function_url=outputs["FunctionUrl"],
            request_queue_url=outputs["RequestQueueUrl"],
            response_queue_url=outputs["ResponseQueueUrl"],
            dead_letter_queue_url=outputs["DeadLetterQueueUrl"],
            region=str(session.region_name),
            gallery=parameters.get("Gallery", ""),
            auth_type=parameters.get("UrlAuthType", "AWS_IAM"),
        )
    except KeyError as error:
        raise BadInput(
            "not_deployed",
            f"The stack {stack} is {found['StackStatus']} and has no output {error}. See: faceq deploy status",
        ) from None
