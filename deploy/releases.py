"""The record of releases in the base stack's bucket: everything that is needed to deploy a release again."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from botocore.client import BaseClient
from botocore.exceptions import ClientError

from adapters.aws_errors import translated_aws_errors
from pipeline.errors import BadInput

_PREFIX: Final = "releases/"

#: Outcomes of a release.
STARTED: Final = "started"
DEPLOYED: Final = "deployed"
FAILED: Final = "failed"


@dataclass(frozen=True)
class Release:
    """One deploy of the main stack.

    Parameters
    ----------
    number : int
        Counts from 1, in the order of deploys.
    id : str
        Value of the template's parameter `Release`, a hash of image, template and parameters.
    began : str
        UTC, ISO 8601.
    by : str
        ARN of the user or role that deployed.
    image : str
        `repository@sha256:...`.
    image_id : str
        The image's id in a Docker engine.
    revision : str
        The commit that the image was built from.
    model : str
        The id of the image's model.
    parameters : Mapping of str to str
        Every parameter that the stack was given.
    template : str
        The template's text.
    outcome, reason : str
        `started`, `deployed` or `failed`; and why, if it failed.
    again : int or None
        For a rollback: the number of the earlier release that it deployed again.

    """

    number: int
    id: str
    began: str
    by: str
    image: str
    image_id: str
    revision: str
    model: str
    parameters: Mapping[str, str]
    template: str
    outcome: str = STARTED
    reason: str = ""
    again: int | None = None


class Releases:
    """The releases recorded in one bucket.

    Parameters
    ----------
    client : botocore client
        For S3.
    bucket : str

    """

    def __init__(self, client: BaseClient, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def all(self) -> list[Release]:
        """Return every release, oldest first; an empty list if the bucket does not exist yet. Raises FaceqError."""
        return [*self.newest_first()][::-1]

    def newest_first(self) -> Iterator[Release]:
        """Yield the releases, newest first; each is read only when it is needed. Raises FaceqError."""
        for number in reversed(self._numbers()):
            with translated_aws_errors():
                release = self._read(_name(number))
            yield release

    def get(self, number: int) -> Release:
        """Return one release. Raises BadInput if there is none."""
        with translated_aws_errors():
            try:
                return self._read(_name(number))
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("NoSuchKey", "NoSuchBucket"):
                    raise
        raise BadInput("no_release", f"There is no release {number}. See the list with: faceq deploy history")

    def start(self, release: Release) -> Release:
        """Record a release under the next free number, which two simultaneous deploys never share.

        Returns the release with its number. Raises FaceqError.
        """
        number = max(self._numbers(), default=0)
        while True:
            number += 1
            numbered = replace(release, number=number)
            with translated_aws_errors():
                try:
                    self._put(numbered, IfNoneMatch="*")  # S3 API reference, PutObject, conditional writes
                except ClientError as error:
                    if error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalRequestConflict"):
                        raise
                    continue
            return numbered

    def finish(self, release: Release, outcome: str, reason: str = "") -> Release:
        """Record the outcome of a release; return the release with it. Raises FaceqError."""
        finished = replace(release, outcome=outcome, reason=reason)
        with translated_aws_errors():
            self._put(finished)
        return finished

    def _numbers(self) -> list[int]:
        with translated_aws_errors():
            try:
                pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=_PREFIX)
                return sorted(int(Path(one["Key"]).stem) for page in pages for one in page.get("Contents", ()))
            except ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchBucket":
                    return []
                raise

    def _put(self, release: Release, **condition: str) -> None:
        self._client.put_object(
            Bucket=self._bucket,
            Key=_name(release.number),
            Body=json.dumps(asdict(release), indent=2).encode(),
            ContentType="application/json",
            **condition,
        )

    def _read(self, name: str) -> Release:
        return Release(**json.loads(self._client.get_object(Bucket=self._bucket, Key=name)["Body"].read()))


def _name(number: int) -> str:
    return f"{_PREFIX}{number:06}.json"
