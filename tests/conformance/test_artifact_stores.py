"""What every `ArtifactStore` promises. A new store is one more name in `STORES`."""

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.artifacts_directory import DirectoryStore
from adapters.artifacts_s3 import S3Store
from pipeline.ports import ArtifactStore
from tests.aws_server import create_bucket, running_aws_server, s3_client
from tests.fakes import MemoryStore

STORES = ("memory", "directory", "s3")


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with running_aws_server() as endpoint:
        create_bucket(endpoint, "bucket")
        yield endpoint


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """An empty store."""
    if request.param == "memory":
        return MemoryStore()
    if request.param == "directory":
        return DirectoryStore(tmp_path / "not" / "yet" / "there")
    return S3Store(s3_client(request.getfixturevalue("s3_endpoint")), "bucket", f"in/{uuid.uuid4()}")


@pytest.mark.parametrize("content", [b"", b"\0\xff\r\n", bytes(range(256)) * 8192], ids=["empty", "binary", "2 MiB"])
def test_what_was_written_is_read(store: ArtifactStore, content: bytes) -> None:
    store.write("a.json", content)
    assert store.read("a.json") == content


def test_a_second_write_replaces_the_first_and_leaves_the_others(store: ArtifactStore) -> None:
    store.write("a", b"long first content")
    store.write("b", b"other")
    store.write("a", b"short")
    assert (store.read("a"), store.read("b")) == (b"short", b"other")


def test_a_blob_that_is_not_there_is_said_to_be_not_there(store: ArtifactStore) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            store.read("a")
        assert store.version("a") is None
        assert list(store.names()) == []
        store.write("a", b"content")
        store.delete("a")
        store.delete("a")


def test_names_are_sorted_and_complete(store: ArtifactStore) -> None:
    for name in ("vectors-1.npy", "gallery.json", "A", "photo-0f"):
        store.write(name, b"")
    store.delete("A")
    assert list(store.names()) == ["gallery.json", "photo-0f", "vectors-1.npy"]


def test_the_version_changes_with_every_write_also_of_the_same_content(store: ArtifactStore) -> None:
    versions = []
    for _ in range(50):
        store.write("a", b"content")
        versions.append(store.version("a"))
        assert store.version("a") == versions[-1], "reading the version changes nothing"
    store.write("b", b"other")
    assert store.version("a") == versions[-1]
    assert len(set(versions)) == 50


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/a", "a/b", "a\\b", "a\0b", ".hidden"])
def test_a_path_is_no_name(store: ArtifactStore, name: str) -> None:
    for use in (store.read, store.delete, store.version, lambda name: store.write(name, b"")):
        with pytest.raises(ValueError, match="plain file name"):
            use(name)


def test_a_reader_sees_one_content_or_the_other_while_a_writer_is_at_work(store: ArtifactStore) -> None:
    contents = [letter * 300_000 for letter in (b"a", b"b")]
    store.write("a", contents[0])
    done = threading.Event()

    def rewrite() -> None:
        try:
            for turn in range(60):
                store.write("a", contents[turn % 2])
        finally:
            done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    reads = 0
    while not done.is_set() or reads == 0:
        assert store.read("a") in contents
        reads += 1
    writer.join()
