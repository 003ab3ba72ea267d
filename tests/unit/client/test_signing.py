"""The signature of a post, compared with one that we compute from AWS's documentation, without botocore."""

import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta

import boto3
import pytest
import requests
from botocore.credentials import RefreshableCredentials

from client.signing import SigV4
from pipeline.errors import SetupError

URL = "https://abc123.lambda-url.eu-central-1.on.aws/"
HOST = "abc123.lambda-url.eu-central-1.on.aws"


def session(token: str | None = None) -> boto3.Session:
    return boto3.Session("testing", "testing", token, region_name="eu-central-1")


def posted(auth: SigV4, body: bytes = b'{"content": "eA=="}', url: str = URL) -> requests.PreparedRequest:
    """Return a post as it is sent."""
    return requests.Session().prepare_request(
        requests.Request("POST", url, data=body, headers={"content-type": "application/json"}, auth=auth)
    )


def expected(request: requests.PreparedRequest, body: bytes, secret: str = "testing") -> str:
    """Return the signature that "Create a signed AWS API request" (IAM user guide) prescribes."""
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=testing/(\d{8})/(\S+)/lambda/aws4_request, "
        r"SignedHeaders=(\S+), Signature=[0-9a-f]{64}",
        request.headers["Authorization"],
    )
    assert found
    day, region, names = found.groups()
    values = {name.lower(): value for name, value in request.headers.items()} | {"host": HOST}
    headers = "".join(f"{name}:{values[name]}\n" for name in names.split(";"))
    canonical = f"POST\n/\n\n{headers}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{day}/{region}/lambda/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{request.headers['X-Amz-Date']}\n{scope}\n{digest}"
    key = f"AWS4{secret}".encode()
    for part in (day, region, "lambda", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def signature(request: requests.PreparedRequest) -> str:
    return str(request.headers["Authorization"]).rsplit("=", 1)[-1]


def test_the_signature_is_the_documented_one() -> None:
    body = b'{"content": "eA==", "request_id": "1"}'
    request = posted(SigV4(session()), body)
    assert signature(request) == expected(request, body)
    assert "eu-central-1/lambda/" in request.headers["Authorization"]


def test_the_signature_depends_on_the_body_and_the_secret() -> None:
    request = posted(SigV4(session()), b"what was sent")
    assert signature(request) != expected(request, b"a changed body")
    assert signature(request) != expected(request, b"what was sent", secret="another")


def test_only_headers_that_no_proxy_changes_are_signed() -> None:
    names = re.search(r"SignedHeaders=([^,]+)", str(posted(SigV4(session())).headers["Authorization"]))
    assert names
    assert names[1] == "content-type;host;x-amz-date"


def test_a_session_token_is_sent_and_signed() -> None:
    request = posted(SigV4(session("token-for-testing")))
    assert request.headers["X-Amz-Security-Token"] == "token-for-testing"
    assert "x-amz-security-token" in str(request.headers["Authorization"])
    assert signature(request) == expected(request, b'{"content": "eA=="}')


def test_expiring_credentials_are_refreshed_before_the_next_post() -> None:
    tokens = iter(("first", "second", "third"))

    def fresh() -> dict[str, str]:
        soon = datetime.now(UTC) + timedelta(minutes=1)  # botocore refreshes what has less than 10 minutes left
        token = next(tokens)
        return {"access_key": "testing", "secret_key": "testing", "token": token, "expiry_time": soon.isoformat()}

    class SessionWithExpiringCredentials(boto3.Session):
        credentials = RefreshableCredentials.create_from_metadata(fresh(), fresh, "test")

        def get_credentials(self) -> RefreshableCredentials:
            return self.credentials

    auth = SigV4(SessionWithExpiringCredentials(region_name="eu-central-1"))
    assert [posted(auth).headers["X-Amz-Security-Token"] for _ in range(2)] == ["second", "third"]


def test_without_credentials_there_is_no_post(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, f"{tmp_path}/none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SetupError, match="aws configure"):
        posted(SigV4(boto3.Session(region_name="eu-central-1")))
