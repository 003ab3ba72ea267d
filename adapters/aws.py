"""AWS as a person's credentials reach it: who they are, what a deployed stack offers, and what an error means.

boto3 finds credentials, region and profile as it does for every other tool. A failure becomes one line that says which
command mends it; AWS's own words stand in it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.errors import ArtifactError, BadInput, PipelineError, TransientError

if TYPE_CHECKING:
    import boto3

#: The stack that the commands mean unless told otherwise.
STACK: Final = "faceq"

#: Error codes of AWS by what a person has to do. (Each service's API reference, "Common errors")
_NOT_KNOWN: Final = frozenset(
    {"InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidAccessKeyId",
     "AuthFailure", "InvalidSignatureException", "IncompleteSignature", "MissingAuthenticationToken"}
)  # fmt: skip
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_FORBIDDEN: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "NotAuthorized", "403"}
)
_BUSY: Final = frozenset(
    {"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded", "ServiceUnavailable",
     "InternalFailure", "InternalError", "SlowDown"}
)  # fmt: skip


@dataclass(frozen=True)
class Account:
    """Who calls, and where: what `sts get-caller-identity` says, and the region."""

    id: str
    arn: str
    region: str


@dataclass(frozen=True)
class Deployed:
    """What a deployed stack offers, from its outputs.

    Parameters
    ----------
    function_url, request_queue_url, response_queue_url, dead_letter_queue_url, region : str
        What a client needs.
    gallery : str
        The bucket that holds the gallery; empty if the stack has none.
    auth_type : str
        `AWS_IAM`: posts to the function URL must be signed; `NONE`: anybody may post.

    """

    stack: str
    function_url: str
    request_queue_url: str
    response_queue_url: str
    dead_letter_queue_url: str
    region: str
    gallery: str
    auth_type: str

    def exports(self) -> dict[str, str]:
        """Return the variables with which a client reaches this stack: those of a laptop's, without endpoints."""
        return {
            "FUNCTION_URL": self.function_url,
            "REQUEST_QUEUE_URL": self.request_queue_url,
            "RESPONSE_QUEUE_URL": self.response_queue_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }


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
    """Ask AWS who calls. Raises PipelineError as `said` makes it."""
    with failing():
        identity = session.client("sts").get_caller_identity()
    return Account(identity["Account"], identity["Arn"], str(session.region_name))


def deployed(session: "boto3.Session", stack: str = STACK) -> Deployed:
    """Return what the stack of this name offers. Raises BadInput if there is none, PipelineError as `said` makes it."""
    from botocore.exceptions import ClientError

    with failing():
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


@contextmanager
def failing() -> Iterator[None]:
    """Turn what boto3 raises inside into a PipelineError of one line."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError) as error:
        raise said(error) from error


def said(error: Exception) -> PipelineError:
    """Return an error of boto3 in one line that says what to do."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        code = str(error.response["Error"].get("Code", ""))
        words = str(error.response["Error"].get("Message", "")) or code
        if code in _EXPIRED:
            return ArtifactError("expired", f"The credentials have expired ({words}). Sign in again: aws sso login")
        if code in _NOT_KNOWN:
            return ArtifactError(
                "not_known",
                f"AWS does not take the credentials ({code}: {words}). See which are used: aws configure list",
            )
        if code in _FORBIDDEN:
            return ArtifactError(
                "forbidden",
                f"{error.operation_name} is not allowed ({words}). Ask who administers the account; "
                "docs/operations.md lists the actions that faceq deploy needs.",
            )
        if code in _BUSY or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            return TransientError("aws_busy", f"AWS is busy ({code}: {words}). Run the same command again.")
        return ArtifactError("aws", f"{error.operation_name}: {' '.join(words.split())} ({code})")
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return ArtifactError(
            "no_credentials", "There are no AWS credentials. Sign in: aws sso login, or: aws configure"
        )
    if isinstance(error, exceptions.InvalidRegionError):
        return BadInput("no_region", f"{error}. Give one that there is: --region us-east-1")
    if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectionError | exceptions.HTTPClientError):
        return TransientError(
            "aws_unreachable", f"AWS cannot be reached ({error}). Check the network and the region, and try again."
        )
    if isinstance(error, exceptions.TokenRetrievalError | exceptions.SSOError | exceptions.UnauthorizedSSOTokenError):
        return ArtifactError("expired", f"The sign-in has expired ({error}). Sign in again: aws sso login")
    return ArtifactError("aws", " ".join(str(error).split()))
