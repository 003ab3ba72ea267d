"""An AWS for tests: moto over HTTP on a free port of loopback.

The fixture `aws_server` (tests/conftest.py) starts one a session and empties it for each test. The tests of `faceq
deploy` run one with their own layer around moto, in a process of its own (`around`, tests/deploy).
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

#: The account that moto emulates, and the region that tests use.
ACCOUNT, REGION = "123456789012", "us-east-1"
ACCESS_KEY, SECRET_KEY = "testing", "testing"

#: Everything in the environment that could lead a call elsewhere.
_MISLEADING_PREFIXES = ("AWS_", "FACEQ_FUNCTION", "FUNCTION_URL", "REQUEST_QUEUE_URL", "RESPONSE_QUEUE_URL")

#: A WSGI application, as moto's server is one.
Application = Callable[[dict[str, Any], Callable[..., Any]], Any]


@dataclass(frozen=True)
class AwsServer:
    """A running server.

    Parameters
    ----------
    endpoint : str
        Where every service answers.

    """

    endpoint: str

    @property
    def variables(self) -> dict[str, str]:
        """The variables that a user of this account has set; with them no call leaves this machine."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment of such a user, for a subprocess."""
        return {**{name: value for name, value in os.environ.items() if name not in misleading()}, **self.variables}

    def client(self, service: str) -> Any:
        """Return a boto3 client that reaches this server whatever the environment says, and tries once."""
        return aws_client(service, self.endpoint)

    def create_bucket(self, name: str) -> None:
        """Create a bucket that keeps older versions, as deploy/base.yaml does."""
        client = self.client("s3")
        client.create_bucket(Bucket=name)
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def reset(self) -> None:
        """Empty the account."""
        connection = HTTPConnection(self.endpoint.removeprefix("http://"), timeout=30)
        try:
            connection.request("POST", "/moto-api/reset")
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
        finally:
            connection.close()


def aws_client(service: str, endpoint: str) -> Any:
    """Return a boto3 client for a server's endpoint. For scripts that run in processes of their own."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10, proxies={}),
    )


def misleading(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the variables that could lead a call elsewhere."""
    return [name for name in environ if name.startswith(_MISLEADING_PREFIXES)]


@contextmanager
def running_aws_server(
    around: Callable[[Application], Application] | None = None, threaded: bool = False
) -> Iterator[AwsServer]:
    """Start a server in a thread of this process, whose only account it keeps; stop it in the end.

    Parameters
    ----------
    around : callable, optional
        Gets moto's application and returns the one to serve, for example one that records the calls.
    threaded : bool
        By default the server takes one request at a time, because moto checks the condition of a conditional write and
        writes the object in two steps, S3 in one.

    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    moto: Application = DomainDispatcherApplication(create_backend_app)
    server = make_server(
        "127.0.0.1",
        0,
        moto if around is None else around(moto),
        threaded=threaded,
        request_handler=MotoRequestHandler,
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield AwsServer(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
