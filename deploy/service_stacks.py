"""The two stacks of one service in one account and region, with their bucket, repository and record of releases.

Nothing in this module changes anything on AWS: planning.py reads through it, and promotion.py changes what it names.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from adapters import artifacts_s3
from adapters.artifacts_s3 import S3Store
from adapters.aws_errors import translated_aws_errors
from client.deployed_stack import Deployed, account, deployed
from deploy.cloudformation import POLL_SECONDS, Stack, StackDescription
from deploy.releases import DEPLOYED, Release, Releases
from pipeline.errors import BadInput

if TYPE_CHECKING:
    import boto3

#: The template of the main stack: functions, queues, event source mapping.
TEMPLATE: Final = Path(__file__).with_name("template.yaml")
#: The template of the base stack: the image's repository, and the bucket for the gallery and the record of releases.
BASE_TEMPLATE: Final = Path(__file__).with_name("base.yaml")

#: What base.yaml allows for its parameter `Name`, from which it makes the names of the repository and the bucket.
_NAME: Final = "[a-z][a-z0-9-]{1,30}"


class ServiceStacks:
    """The stacks `NAME` and `NAME-base`.

    Parameters
    ----------
    session : boto3.Session
    name : str
        Name of the main stack, and prefix of all other names.
    poll_seconds : float
        Longest pause between two requests for a stack's state.

    Raises
    ------
    BadInput
        The name is not one that the base stack's repository and bucket can have.
    FaceqError
        AWS does not accept the credentials.

    """

    def __init__(self, session: "boto3.Session", name: str, poll_seconds: float = POLL_SECONDS) -> None:
        if not re.fullmatch(_NAME, name):
            raise BadInput(
                "bad_name", f"{name} cannot be the name of a stack. Give --stack a name of this form: {_NAME}"
            )
        self.session = session
        self.name = name
        self.account = account(session)
        cloudformation = session.client("cloudformation")
        self.base = Stack(cloudformation, f"{name}-base", poll_seconds)
        self.main = Stack(cloudformation, name, poll_seconds)
        self.ecr = session.client("ecr")
        self.s3 = session.client("s3")
        self.bucket = f"{name}-{self.account.id}-{self.account.region}"
        self.releases = Releases(self.s3, self.bucket)

    def deployed(self) -> Deployed:
        """Return what the main stack offers its clients. Raises FaceqError."""
        return deployed(self.session, self.name)

    def function_images(self) -> dict[str, str]:
        """Return the image of each deployed function, `repository@sha256:...`, as Lambda reports it.

        Raises FaceqError.
        """
        functions = [physical_id for _, kind, physical_id in self.main.resources() if kind == "AWS::Lambda::Function"]
        client = self.session.client("lambda")
        images: dict[str, str] = {}
        with translated_aws_errors():
            for function in functions:
                code = client.get_function(FunctionName=function, Qualifier="live")["Code"]
                images[function] = code.get("ResolvedImageUri") or code["ImageUri"]
        return images

    def running_release(self) -> Release | None:
        """Return the latest record of the release that runs now; None if none runs, or none was recorded."""
        description = self.main.describe()
        if description is None:
            return None
        running = description.parameters.get("Release")
        return next((release for release in self.releases.newest_first() if release.id == running), None)

    def proven_releases(self) -> Iterator[Release]:
        """Yield the releases that passed their smoke test, newest first. Raises FaceqError."""
        return (release for release in self.releases.newest_first() if release.outcome == DEPLOYED)

    def base_parameters(self, description: StackDescription | None) -> dict[str, str]:
        """Return the parameters of the base stack.

        Parameters
        ----------
        description : StackDescription or None
            The base stack as it is now, whose parameters then stay as they are.

        """
        if description is not None:
            return dict(description.parameters)
        return {"Name": self.name, "BucketIsThere": str(self.bucket_exists()).lower()}

    def bucket_exists(self) -> bool:
        """Return whether the bucket exists, for instance because an earlier stack left it.

        Raises
        ------
        BadInput
            The bucket belongs to another account.
        FaceqError
            AWS refuses the request.

        """
        with translated_aws_errors():
            try:
                self.s3.head_bucket(Bucket=self.bucket, ExpectedBucketOwner=self.account.id)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in ("404", "NoSuchBucket"):
                    return False
                if code == "403":
                    raise BadInput(
                        "other_owner",
                        f"The bucket {self.bucket} belongs to another account, or you may not see it. Choose another "
                        "name with --stack.",
                    ) from None
                raise
        return True

    def gallery_store(self) -> S3Store:
        """Return the store of the gallery in the bucket."""
        return S3Store(artifacts_s3.s3_client(self.session), self.bucket, artifacts_s3.PREFIX)
