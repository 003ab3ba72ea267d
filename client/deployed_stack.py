"""AWS with the user's credentials: which account they belong to, and what a deployed stack offers.

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

#: The default name of the stack on AWS.
STACK: Final = "faceq"
#: The alias of each function that clients and the queue call, as template.yaml defines it.
ALIAS: Final = "live"


@dataclass(frozen=True)
class Account:
    """The account and identity that AWS recognises the user's credentials as.

    Parameters
    ----------
    id : str
        Account number, 12 digits.
    arn : str
        The user or role.
    region : str

    """

    id: str
    arn: str
    region: str


@dataclass(frozen=True)
class Deployed(ServiceAddresses):
    """What a deployed stack offers, from its outputs and parameters.

    Parameters
    ----------
    stack : str
        Its name in CloudFormation.
    gallery : str
        Name of the bucket with the gallery; empty if the stack has none.
    auth_type : str
        `AWS_IAM`: posts to the function URL must be signed; `NONE`: anyone may post.
    exhausted_queue_url : str
        The queue between the request queue and the dead-letter queue; empty for a release that has none.

    """

    stack: str
    gallery: str
    auth_type: str
    exhausted_queue_url: str = ""


def session(region: str | None = None, profile: str | None = None) -> "boto3.Session":
    """Return a boto3 session for AWS itself.

    Raises
    ------
    BadInput
        No region is set, the profile does not exist, or an `AWS_ENDPOINT_URL_*` variable of a local stack would send
        the calls somewhere else.

    """
    import boto3
    from botocore.exceptions import ProfileNotFound

    for name in sorted(os.environ):
        if name.startswith("AWS_ENDPOINT_URL_"):
            raise BadInput(
                "local_endpoint", f"{name} is {os.environ[name]}, so the calls would not reach AWS. Run: unset {name}"
            )
    try:
        # boto3 itself reads AWS_DEFAULT_REGION only; AWS's other SDKs and the functions read AWS_REGION.
        aws = boto3.Session(region_name=region or os.environ.get("AWS_REGION") or None, profile_name=profile)
    except ProfileNotFound as error:
        raise BadInput("no_profile", f"{error}. List the profiles with: aws configure list-profiles") from None
    if aws.region_name is None:
        raise BadInput(
            "no_region", "No region is set. Name one, as in --region us-east-1 or export AWS_REGION=us-east-1"
        )
    return aws


def account(session: "boto3.Session") -> Account:
    """Ask AWS whose credentials we use. Raises FaceqError as `aws_errors.to_faceq_error` returns it."""
    with translated_aws_errors():
        identity = session.client("sts").get_caller_identity()
    return Account(identity["Account"], identity["Arn"], str(session.region_name))


def deployed(session: "boto3.Session", stack: str = STACK) -> Deployed:
    """Return what the stack of this name offers.

    Raises
    ------
    BadInput
        The stack does not exist, or is not complete.
    FaceqError
        AWS refuses the call; see adapters.aws_errors.

    """
    from botocore.exceptions import ClientError

    with translated_aws_errors():
        try:
            description = session.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            raise BadInput(
                "not_deployed",
                f"There is no stack {stack} in {session.region_name}. Deploy it with: faceq deploy, or name another "
                "one with --stack or --region.",
            ) from None
    outputs = {output["OutputKey"]: output["OutputValue"] for output in description.get("Outputs", ())}
    parameters = {
        parameter["ParameterKey"]: parameter.get("ParameterValue", "") for parameter in description["Parameters"]
    }
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
            exhausted_queue_url=outputs.get("ExhaustedQueueUrl", ""),
        )
    except KeyError as error:
        raise BadInput(
            "not_deployed",
            f"The stack {stack} is {description['StackStatus']} and has no output {error}. See: faceq deploy status",
        ) from None
