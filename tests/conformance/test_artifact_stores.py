"""What every `ArtifactStore` promises, and what a store promises besides if its writers keep each other out.

A new store is one more entry in `PLACES`. What only one store promises is in tests/unit/adapters.
"""

import os
import signal
import socket
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from adapters.artifacts_directory import DirectoryStore
from adapters.artifacts_s3 import S3Store
from client.enrolment import GalleryStore
from pipeline import gallery_storage
from pipeline.errors import TransientError
from pipeline.ports import ArtifactStore
from tests.aws_server import AwsServer, aws_client
from tests.fakes import MemoryStore
from tests.scripts import start_script


class Place(Protocol):
    """Where the stores of one test keep their blobs."""

    #: Part of the message of a store that cannot be reached.
    unreachable_reason: str

    @property
    def name(self) -> str:
        """What messages call the place."""

    @property
    def expression(self) -> str:
        """What opens a store here in another process, after `SCRIPT_IMPORTS`."""

    def open(self, wait_seconds: float = 30, lifetime_seconds: float = 20) -> GalleryStore:
        """Return a store; it takes over the turn of a dead writer after `lifetime_seconds` at the latest."""

    def unreachable(self) -> GalleryStore:
        """Return a store whose place cannot be reached."""

    def leftovers(self) -> list[str]:
        """Return what is kept here besides blobs while no writer is at work."""


SCRIPT_IMPORTS = """
import os, signal, sys
from pathlib import Path
import numpy as np
from adapters.artifacts_directory import DirectoryStore
from adapters.artifacts_s3 import S3Store
from pipeline import gallery_storage
from pipeline.gallery import Gallery, Photo
from tests.aws_server import aws_client
"""


@dataclass(frozen=True)
class Directory:
    folder: Path
    unreachable_reason = "Not a directory"

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def expression(self) -> str:
        return f"DirectoryStore(Path({str(self.folder)!r}), wait_seconds=60)"

    def open(self, wait_seconds: float = 30, lifetime_seconds: float = 20) -> GalleryStore:
        return DirectoryStore(self.folder, wait_seconds)

    def unreachable(self) -> GalleryStore:
        file = self.folder.with_name("file")
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
        return DirectoryStore(file / "gallery")

    def leftovers(self) -> list[str]:
        """Return the hidden files, except the lock file, which stays after the lock is released."""
        return [path.name for path in self.folder.glob(".*") if path.name != ".lock"]


@dataclass(frozen=True)
class Bucket:
    server: AwsServer
    prefix: str
    unreachable_reason = "cannot be reached"

    @property
    def name(self) -> str:
        return f"s3://bucket/{self.prefix}"

    @property
    def expression(self) -> str:
        return f"S3Store(aws_client('s3', {self.server.endpoint!r}), 'bucket', {self.prefix!r})"

    def open(self, wait_seconds: float = 30, lifetime_seconds: float = 20) -> GalleryStore:
        return S3Store(self.server.client("s3"), "bucket", self.prefix, wait_seconds, lifetime_seconds)

    def unreachable(self) -> GalleryStore:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        return S3Store(aws_client("s3", f"http://127.0.0.1:{port}"), "bucket", self.prefix)

    def leftovers(self) -> list[str]:
        hidden = self.server.client("s3").list_objects_v2(Bucket="bucket", Prefix=f"{self.prefix}/.")
        return [entry["Key"].removeprefix(f"{self.prefix}/") for entry in hidden.get("Contents", [])]


def directory(request: pytest.FixtureRequest) -> Place:
    return Directory(request.getfixturevalue("tmp_path") / "not" / "yet" / "there")


def bucket(request: pytest.FixtureRequest) -> Place:
    server = request.getfixturevalue("aws_server")
    server.create_bucket("bucket")
    return Bucket(server, f"in/{uuid.uuid4()}")


#: The stores whose writers keep each other out.
PLACES = {"directory": directory, "s3": bucket}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    """An empty place."""
    return PLACES[request.param](request)


@pytest.fixture(params=["memory", *PLACES])
def store(request: pytest.FixtureRequest) -> ArtifactStore:
    """An empty store."""
    return MemoryStore() if request.param == "memory" else PLACES[request.param](request).open()


@pytest.mark.parametrize("content", [b"", b"\0\xff\r\n", bytes(range(256)) * 8192], ids=["empty", "binary", "2 MiB"])
def test_what_was_written_is_read(store: ArtifactStore, content: bytes) -> None:
    store.write("a.json", content)
    assert store.read("a.json") == content


def test_a_second_write_replaces_the_first_and_leaves_the_others(store: ArtifactStore) -> None:
    store.write("a", b"long first content")
    store.write("b", b"other")
    store.write("a", b"short")
    assert (store.read("a"), store.read("b")) == (b"short", b"other")


def test_a_missing_blob_has_no_content_no_version_and_no_name(store: ArtifactStore) -> None:
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


def test_the_version_changes_with_every_write_even_of_the_same_content(store: ArtifactStore) -> None:
    versions = []
    for _ in range(50):
        store.write("a", b"content")
        versions.append(store.version("a"))
        assert store.version("a") == versions[-1], "reading the version changes nothing"
    store.write("b", b"other")
    assert store.version("a") == versions[-1]
    assert len(set(versions)) == 50


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/a", "a/b", "a\\b", "a\0b", ".hidden"])
def test_a_name_with_a_path_is_refused(store: ArtifactStore, name: str) -> None:
    for use in (store.read, store.delete, store.version, lambda name: store.write(name, b"")):
        with pytest.raises(ValueError, match="plain file name"):
            use(name)


def test_a_reader_beside_a_writer_sees_one_content_or_the_other(store: ArtifactStore) -> None:
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


# Stores whose writers keep each other out

_ADD_ONE_BY_ONE = """
first = int(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + 15):
    with store.exclusive():
        current = gallery_storage.load(store) or Gallery.empty("m", "p", 1, 4)
        photo, vector = [Photo("Ada", "a", f"{number:064x}")], np.full((1, 4), number, np.float32)
        gallery_storage.save(store, current.add(photo, vector))
"""


def test_two_processes_that_write_together_lose_no_change(place: Place) -> None:
    script = f"{SCRIPT_IMPORTS}store = {place.expression}\n{_ADD_ONE_BY_ONE}"
    writers = [start_script(script, first) for first in ("0", "100")]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0), ("", 0)]
    both = gallery_storage.load(place.open())
    assert both is not None
    assert sorted(both.vectors[:, 0].tolist()) == [*range(15), *range(100, 115)]
    assert place.leftovers() == []


def test_the_turn_of_a_killed_writer_ends(place: Place) -> None:
    script = f"{SCRIPT_IMPORTS}with {place.expression}.exclusive(): os.kill(os.getpid(), signal.SIGKILL)"
    writer = start_script(script)
    assert writer.communicate() == ("", "")
    assert writer.returncode == -signal.SIGKILL
    store = place.open(lifetime_seconds=0.6)
    store.write("a", b"content")
    assert list(store.names()) == ["a"]
    assert place.leftovers() == []


def test_a_writer_that_waits_too_long_learns_who_is_writing(place: Place) -> None:
    holder, waiting = place.open(), place.open(wait_seconds=0)
    process = rf"Process {os.getpid()}( on {socket.gethostname()})? is writing to {place.name}\."
    with holder.exclusive(), holder.exclusive():
        holder.write("a", b"mine")
        with pytest.raises(TransientError, match=process):
            waiting.write("a", b"theirs")
        with pytest.raises(TransientError, match=process):
            waiting.delete("a")
        assert waiting.read("a") == b"mine", "readers need no turn"
    waiting.write("a", b"theirs")
    assert holder.read("a") == b"theirs"


def test_threads_that_share_a_store_take_turns(place: Place) -> None:
    store = place.open(wait_seconds=0.05)
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


def test_an_error_inside_a_turn_ends_the_turn(place: Place) -> None:
    store = place.open(wait_seconds=0)
    with pytest.raises(RuntimeError), store.exclusive(), store.exclusive():
        raise RuntimeError
    assert place.leftovers() == []
    place.open(wait_seconds=0).write("a", b"")
    store.write("a", b"")


def test_a_place_out_of_reach_is_a_transient_error_of_one_line(place: Place) -> None:
    store = place.unreachable()
    for use in (
        lambda: store.read("a"),
        lambda: store.version("a"),
        lambda: store.write("a", b""),
        lambda: store.delete("a"),
        store.names,
    ):
        with pytest.raises(TransientError, match=place.unreachable_reason) as failed:
            use()
        assert "\n" not in failed.value.message
