"""Signatures for a function URL of auth type AWS_IAM."""

from typing import TYPE_CHECKING

import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from adapters.aws_errors import translated_aws_errors

if TYPE_CHECKING:
    import boto3


class SigV4(requests.auth.AuthBase):
    """Signs each request, its body's hash included, as the person whose session it is; for several threads at once.

    A request that is sent again is signed anew, with credentials that are refreshed when they are about to expire.
    (Lambda developer guide, "Invoking Lambda function URLs": Signature Version 4 for the service `lambda`)

    Parameters
    ----------
    session : boto3.Session
        Has a region, the function's.

    """

    def __init__(self, session: "boto3.Session") -> None:
        self._session = session

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the signature's headers. Raises FaceqError (see adapters.aws_errors) without valid credentials."""
        # Only what no proxy changes is signed: the content type, the host, the time and the body.
        headers = {name: value for name, value in request.headers.items() if name.lower() == "content-type"}
        signed = AWSRequest(method=request.method, url=request.url, data=request.body or b"", headers=headers)
        with translated_aws_errors():
            credentials = self._session.get_credentials()
            frozen = None if credentials is None else credentials.get_frozen_credentials()
            SigV4Auth(frozen, "lambda", self._session.region_name).add_auth(signed)
        request.headers.update(signed.headers)
        return request
