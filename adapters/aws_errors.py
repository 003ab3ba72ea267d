"""Translate errors of AWS into ours: one line with AWS's own message and the command that solves the problem."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pipeline.errors import BadInput, FaceqError, SetupError, TransientError

#: AWS's error codes, grouped by what the user has to do. (Each service's API reference, "Common errors")
_BAD_CREDENTIALS: Final = frozenset(
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


@contextmanager
def translated_aws_errors() -> Iterator[None]:
    """Raise errors of boto3 in the block as the FaceqError that `to_faceq_error` returns."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError) as error:
        raise to_faceq_error(error) from error


def to_faceq_error(error: Exception) -> FaceqError:
    """Translate an error of boto3.

    Returns
    -------
    FaceqError
        Its message is one line that says what to do. SetupError if the user must change something, BadInput if the
        region does not exist, TransientError if the same call may succeed later.

    """
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        code = str(error.response["Error"].get("Code", ""))
        message = str(error.response["Error"].get("Message", "")) or code
        if code in _EXPIRED:
            return SetupError("expired", f"The credentials have expired ({message}). Sign in again: aws sso login")
        if code in _BAD_CREDENTIALS:
            return SetupError(
                "not_known",
                f"AWS rejects the credentials ({code}: {message}). See which ones are used: aws configure list",
            )
        if code in _FORBIDDEN:
            return SetupError(
                "forbidden",
                f"{error.operation_name} is not allowed ({message}). Ask the administrator of the account; "
                "docs/operations.md lists the actions that faceq deploy needs.",
            )
        if code in _BUSY or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            return TransientError("aws_busy", f"AWS is busy ({code}: {message}). Run the same command again.")
        return SetupError("aws", f"{error.operation_name}: {' '.join(message.split())} ({code})")
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return SetupError("no_credentials", "There are no AWS credentials. Sign in: aws sso login, or: aws configure")
    if isinstance(error, exceptions.InvalidRegionError):
        return BadInput("no_region", f"{error}. Choose an existing region, for example: --region us-east-1")
    if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectionError | exceptions.HTTPClientError):
        return TransientError(
            "aws_unreachable", f"AWS cannot be reached ({error}). Check the network and the region, and try again."
        )
    if isinstance(error, exceptions.TokenRetrievalError | exceptions.SSOError | exceptions.UnauthorizedSSOTokenError):
        return SetupError("expired", f"The sign-in has expired ({error}). Sign in again: aws sso login")
    return SetupError("aws", " ".join(str(error).split()))
