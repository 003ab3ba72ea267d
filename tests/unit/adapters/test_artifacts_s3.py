"""What only the bucket promises: turns that are renewed, and the errors and listings of S3."""

import threading
import time
from collections.abc import Callable

import pytest
from botocore.client import BaseClient

from adapters.artifacts_s3 import S3Store
from pipeline.errors import TransientError
from tests.aws_server import AwsServer

#: In seconds: long compared with a request, short compared with a test.
LIFETIME = 0.6

PREFIX = "gallery"


@pytest.fixture
def client(aws_server: AwsServer) -> BaseClient:
    aws_server.create_bucket("bucket")
    return aws_server.client("s3")


Open = Callable[..., S3Store]


@pytest.fixture
def open_store(client: BaseClient) -> Open:
    """Return how to open a store; all stores of a test share one prefix."""

    def store(wait_seconds: float = 30, lifetime_seconds: float = 20) -> S3Store:
        return S3Store(client, "bucket", PREFIX, wait_seconds, lifetime_seconds)

    return store


def keys(client: BaseClient) -> list[str]:
    """Return the keys under the prefix, the lock's included."""
    objects = client.list_objects_v2(Bucket="bucket", Prefix=PREFIX).get("Contents", [])
    return [entry["Key"].removeprefix(f"{PREFIX}/") for entry in objects]


def test_a_turn_lasts_as_long_as_its_holder_works(open_store: Open) -> None:
    lifetime = 3 * LIFETIME
    holder, waiting = open_store(lifetime_seconds=lifetime), open_store(lifetime_seconds=lifetime)
    written = threading.Event()

    def write() -> None:
        waiting.write("a", b"theirs")
        written.set()

    other = threading.Thread(target=write)
    with holder.exclusive():
        holder.write("a", b"mine")
        other.start()
        deadline = time.monotonic() + 2.5 * lifetime
        while time.monotonic() < deadline:
            assert holder.read("a") == b"mine"
        assert not written.is_set()
    other.join()
    assert holder.read("a") == b"theirs"


def test_a_writer_that_was_stopped_for_too_long_writes_nothing_more(client: BaseClient, open_store: Open) -> None:
    slow, quick = open_store(lifetime_seconds=LIFETIME), open_store(lifetime_seconds=LIFETIME)
    with slow.exclusive():
        quick.write("a", b"theirs")  # as if another process had waited while this one was stopped
        with pytest.raises(TransientError, match="Another writer took over"):
            slow.write("a", b"mine")
    assert quick.read("a") == b"theirs"
    slow.write("a", b"mine, in a turn of its own")
    assert keys(client) == ["a"]


def test_the_lock_of_the_writer_that_took_over_is_not_removed(open_store: Open) -> None:
    slow, quick, third = (
        open_store(lifetime_seconds=LIFETIME),
        open_store(lifetime_seconds=LIFETIME),
        open_store(wait_seconds=0),
    )
    with slow.exclusive():
        taken = quick.exclusive()
        taken.__enter__()
    with pytest.raises(TransientError, match="is writing"):
        third.write("a", b"")
    taken.__exit__(None, None, None)
    third.write("a", b"")


def test_keys_that_are_deeper_hidden_or_beside_the_prefix_are_no_blobs(client: BaseClient, open_store: Open) -> None:
    store = open_store()
    for key in (f"{PREFIX}/deep/a", f"{PREFIX}-other/a", f"{PREFIX}/.hidden"):
        client.put_object(Bucket="bucket", Key=key, Body=b"")
    assert list(store.names()) == []


def test_a_listing_of_several_pages_is_complete(
    client: BaseClient, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")  # S3's is 1,000
    store = open_store()
    names = [f"photo-{number}" for number in range(8)]
    for name in names:
        client.put_object(Bucket="bucket", Key=f"{PREFIX}/{name}", Body=b"")
    assert list(store.names()) == names


def test_a_missing_bucket_is_not_reported_as_a_missing_blob(client: BaseClient) -> None:
    store = S3Store(client, "no-such-bucket", "gallery")
    for use in (lambda: store.read("a"), lambda: store.version("a"), lambda: store.delete("a"), store.names):
        with pytest.raises(TransientError, match="bucket does not exist") as failed:
            use()
        assert "\n" not in failed.value.message
        assert "s3://no-such-bucket/gallery/" in failed.value.message
