"""Signatures for a function URL of auth type AWS_IAM."""

from typing import TYPE_CHECKING

import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from adapters.aws_errors import translated_aws_errors

if TYPE_CHECKING:
    import boto3


class SigV4(requests.auth.AuthBase):
    """Signs requests with the credentials of a session. The signature covers the hash of the body.

    A request that is sent again gets a new signature. Credentials are refreshed when they are about to expire. Several
    threads may share an instance. (Lambda developer guide, "Invoking Lambda function URLs": Signature Version 4 for the
    service `lambda`)

    Parameters
    ----------
    session : boto3.Session
        With the function's region.

    """

    def __init__(self, session: "boto3.Session") -> None:
        self._session = session

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the headers of the signature. Raises FaceqError (see adapters.aws_errors) without valid credentials."""
        # We sign only what no proxy changes: the content type, the host, the time and the body.
        headers = {name: value for name, value in request.headers.items() if name.lower() == "content-type"}
        signed = AWSRequest(method=request.method, url=request.url, data=request.body or b"", headers=headers)
        with translated_aws_errors():
            credentials = self._session.get_credentials()
            frozen = None if credentials is None else credentials.get_frozen_credentials()
            SigV4Auth(frozen, "lambda", self._session.region_name).add_auth(signed)
        request.headers.update(signed.headers)
        return request
