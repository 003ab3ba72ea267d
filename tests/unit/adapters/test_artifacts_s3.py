"""What the bucket promises beyond its port: writers take turns, a dead one's turn ends, S3's words are told."""

import socket
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
from botocore.client import BaseClient

from adapters.artifacts_s3 import S3Store
from pipeline import gallery_storage
from pipeline.errors import TransientError
from tests.aws_server import create_bucket, running_aws_server, s3_client
from tests.unit.adapters.test_artifacts_directory import python

#: Long beside a request of these tests, short beside a test.
LIFETIME = 0.6

Make = Callable[..., S3Store]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with running_aws_server() as endpoint:
        create_bucket(endpoint, "bucket")
        yield endpoint


@pytest.fixture
def client(endpoint: str) -> BaseClient:
    return s3_client(endpoint)


@pytest.fixture
def make(client: BaseClient) -> Make:
    """Return how to make a store; all of one test's are on one prefix."""
    prefix = f"gallery-{uuid.uuid4()}"

    def store(wait_seconds: float = 30, lifetime_seconds: float = 20) -> S3Store:
        return S3Store(client, "bucket", prefix, wait_seconds, lifetime_seconds)

    return store


def keys(client: BaseClient, store: S3Store) -> list[str]:
    """What lies under the store's prefix, the lock too."""
    found = client.list_objects_v2(Bucket="bucket", Prefix=store._prefix).get("Contents", [])
    return [entry["Key"].removeprefix(f"{store._prefix}/") for entry in found]


_ADD_ONE_BY_ONE = """
import sys
import numpy as np
from adapters.artifacts_s3 import S3Store
from pipeline import gallery_storage
from pipeline.gallery import Gallery, Photo
from tests.aws_server import s3_client
store, first = S3Store(s3_client(sys.argv[1]), "bucket", sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + 6):
    with store.exclusive():
        current = gallery_storage.load(store) or Gallery.empty("m", "p", 1, 4)
        photo, vector = [Photo("Ada", "a", f"{number:064x}")], np.full((1, 4), number, np.float32)
        gallery_storage.save(store, current.add(photo, vector))
"""


def test_two_writers_at_once_lose_nothing_of_each_other(endpoint: str, client: BaseClient, make: Make) -> None:
    store = make()
    writers = [python(_ADD_ONE_BY_ONE, endpoint, store._prefix, first) for first in ("0", "100")]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0), ("", 0)]
    both = gallery_storage.load(store)
    assert both is not None
    assert sorted(both.vectors[:, 0].tolist()) == [*range(6), *range(100, 106)]
    assert keys(client, store) == list(store.names()), "no lock is left"


_DIE_IN_A_TURN = """
import os, signal, sys
from adapters.artifacts_s3 import S3Store
from tests.aws_server import s3_client
with S3Store(s3_client(sys.argv[1]), "bucket", sys.argv[2]).exclusive():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_turn_of_a_writer_that_died_in_it_ends_by_itself(endpoint: str, client: BaseClient, make: Make) -> None:
    store = make(lifetime_seconds=LIFETIME)
    python(_DIE_IN_A_TURN, endpoint, store._prefix).communicate()
    assert keys(client, store) == [".lock"]
    store.write("a", b"content")
    assert keys(client, store) == ["a"]


def test_a_writer_that_waits_too_long_is_told_who_holds_the_turn(make: Make) -> None:
    holder, waiting = make(), make(wait_seconds=0)
    with holder.exclusive(), holder.exclusive():
        holder.write("a", b"mine")
        with pytest.raises(TransientError, match=rf"Process \d+ on {socket.gethostname()} is writing to s3://bucket/"):
            waiting.write("a", b"theirs")
        with pytest.raises(TransientError):
            waiting.delete("a")
        assert waiting.read("a") == b"mine", "readers need no turn"
    waiting.write("a", b"theirs")
    assert holder.read("a") == b"theirs"


def test_a_turn_lasts_as_long_as_its_holder_works(make: Make) -> None:
    lifetime = 3 * LIFETIME
    holder, waiting = make(lifetime_seconds=lifetime), make(lifetime_seconds=lifetime)
    written = threading.Event()

    def write() -> None:
        waiting.write("a", b"theirs")
        written.set()

    other = threading.Thread(target=write)
    with holder.exclusive():
        holder.write("a", b"mine")
        other.start()
        until = holder._turn and holder._turn.until + 1.5 * lifetime
        while holder._turn and holder._turn.until < until:
            assert holder.read("a") == b"mine"
        assert not written.is_set()
    other.join()
    assert holder.read("a") == b"theirs"


def test_a_writer_that_stood_still_too_long_writes_nothing_more(client: BaseClient, make: Make) -> None:
    slow, quick = make(lifetime_seconds=LIFETIME), make(lifetime_seconds=LIFETIME)
    with slow.exclusive():
        quick.write("a", b"theirs")  # as if another process waited while this one was stopped
        with pytest.raises(TransientError, match="Another writer took the turn"):
            slow.write("a", b"mine")
    assert quick.read("a") == b"theirs"
    slow.write("a", b"mine, in a turn of its own")
    assert keys(client, quick) == ["a"]


def test_the_lock_of_the_writer_that_took_over_is_not_removed(make: Make) -> None:
    slow, quick, third = make(lifetime_seconds=LIFETIME), make(lifetime_seconds=LIFETIME), make(wait_seconds=0)
    with slow.exclusive():
        taken = quick.exclusive()
        taken.__enter__()
    with pytest.raises(TransientError, match="is writing"):
        third.write("a", b"")
    taken.__exit__(None, None, None)
    third.write("a", b"")


def test_threads_that_share_a_store_take_turns(make: Make) -> None:
    store = make(wait_seconds=0.05)
    refused: list[str] = []

    def write() -> None:
        try:
            store.write("a", b"theirs")
        except TransientError as error:
            refused.append(error.message)

    with store.exclusive():
        other = threading.Thread(target=write)
        other.start()
        other.join()
    assert len(refused) == 1
    assert "another thread" in refused[0].lower()


def test_an_error_inside_a_turn_ends_the_turn(client: BaseClient, make: Make) -> None:
    store = make(wait_seconds=0)
    with pytest.raises(RuntimeError), store.exclusive(), store.exclusive():
        raise RuntimeError
    assert keys(client, store) == []


def test_what_lies_deeper_or_beside_the_prefix_is_no_blob(client: BaseClient, make: Make) -> None:
    store = make()
    for key in (f"{store._prefix}/deep/a", f"{store._prefix}-other/a", f"{store._prefix}/.hidden"):
        client.put_object(Bucket="bucket", Key=key, Body=b"")
    assert list(store.names()) == []


def test_more_names_than_one_answer_holds_are_all_listed(
    client: BaseClient, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")  # S3's is 1,000
    store = make()
    names = [f"photo-{number}" for number in range(8)]
    for name in names:
        client.put_object(Bucket="bucket", Key=f"{store._prefix}/{name}", Body=b"")
    assert list(store.names()) == names


def test_a_missing_bucket_is_not_taken_for_a_missing_blob(client: BaseClient) -> None:
    store = S3Store(client, "no-such-bucket", "gallery")
    for use in (lambda: store.read("a"), lambda: store.version("a"), lambda: store.delete("a"), store.names):
        with pytest.raises(TransientError, match="bucket does not exist") as failed:
            use()
        assert "\n" not in failed.value.message
        assert "s3://no-such-bucket/gallery/" in failed.value.message


def test_a_server_out_of_reach_is_a_transient_error_of_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    store = S3Store(s3_client(f"http://127.0.0.1:{port}"), "bucket", "gallery")
    for use in (
        lambda: store.read("a"),
        lambda: store.version("a"),
        lambda: store.write("a", b""),
        lambda: store.delete("a"),
        store.names,
    ):
        with pytest.raises(TransientError, match="cannot be reached") as failed:
            use()
        assert "\n" not in failed.value.message
