"""What only the directory promises: no kill and no full disk leaves a part of a gallery."""

import itertools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import BinaryIO

import numpy as np
import pytest

from adapters import artifacts_directory, atomic_file, file_lock
from adapters.artifacts_directory import DirectoryStore
from pipeline import gallery_storage
from pipeline.errors import TransientError
from pipeline.gallery import Gallery, Photo
from tests.scripts import start_script


def some_gallery(people: int) -> Gallery:
    photos = [Photo(f"person {number}", "a.jpg", f"{number:064x}") for number in range(people)]
    vectors = np.random.default_rng(people).normal(size=(people, 512)).astype(np.float32)
    return Gallery.empty("vggface2", "facenet-160", 0.9, 512).add(photos, vectors)


def _die_at_line(number: int) -> None:
    """Make this process kill itself when the code that saves a gallery begins its `number`-th line."""
    files = {module.__file__ for module in (gallery_storage, artifacts_directory, atomic_file, file_lock)}
    lines = 0

    def trace(frame: FrameType, event: str, _argument: object) -> object:
        nonlocal lines
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            lines += 1
            if lines == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder in memory if the system has one: a kill does the same there, and syncing takes no time."""
    with TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


def test_a_writer_killed_at_any_line_of_a_save_leaves_the_old_gallery_or_the_new_one(memory_folder: Path) -> None:
    old, new = some_gallery(2), some_gallery(3)
    seen = []
    for line in range(1, 10_000):
        folder = memory_folder / str(line)
        store = DirectoryStore(folder)
        gallery_storage.save(store, old)
        child = os.fork()
        if child == 0:
            _die_at_line(line)
            gallery_storage.save(store, new)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        left = gallery_storage.load(store)
        assert left is not None
        seen.append(left.version)
        gallery_storage.save(store, new)
        assert sorted(path.name for path in folder.iterdir()) == [".lock", *store.names()]
        assert len(store.names()) == 2
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    assert seen == sorted(seen, key=[old.version, new.version].index), "old up to one line, new from there on"
    assert set(seen) == {old.version, new.version}


def _save_until_killed(store: DirectoryStore, galleries: Sequence[Gallery], saved: BinaryIO) -> None:
    for current in itertools.cycle(galleries):
        gallery_storage.save(store, current)
        saved.write(b"saved\n")
        saved.flush()


def test_readers_beside_a_writer_that_is_killed_again_and_again_see_complete_galleries_only(
    memory_folder: Path,
) -> None:
    store = DirectoryStore(memory_folder)
    galleries = [some_gallery(300), some_gallery(500)]
    versions = {current.version for current in galleries}
    for kill in range(12):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                _save_until_killed(store, galleries, os.fdopen(writing, "wb"))
            os._exit(1)
        os.close(writing)
        with os.fdopen(reading, "rb") as saved:
            try:
                for _ in range(2 + kill):  # each round kills the writer elsewhere in its work
                    assert saved.readline() == b"saved\n"
                    left = gallery_storage.load(store)
                    assert left is not None
                    assert left.version in versions
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        left = gallery_storage.load(store)
        assert left is not None
        assert left.version in versions
    gallery_storage.save(store, some_gallery(300))
    assert len(list(memory_folder.iterdir())) == 3, "lock, manifest and vectors; nothing of the dead is left"


@pytest.mark.parametrize("length", [0, 1, 5])
def test_what_a_dead_writer_left_is_no_blob_and_the_next_write_removes_it(tmp_path: Path, length: int) -> None:
    store = DirectoryStore(tmp_path)
    store.write("a", b"whole")
    (tmp_path / ".a.0123.tmp").write_bytes(b"whole"[:length])
    assert list(store.names()) == ["a"]
    store.write("b", b"")
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "a", "b"}


_WRITE_TOO_MUCH = """
import resource, sys
from pathlib import Path
from adapters.artifacts_directory import DirectoryStore
from pipeline.errors import TransientError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    DirectoryStore(Path(sys.argv[1])).write("a", bytes(100_000))
except TransientError as error:
    print(error.message)
"""


def test_a_write_that_runs_out_of_room_is_an_error_of_one_line_and_leaves_the_old_content(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.write("a", b"old")
    message, failed = start_script(_WRITE_TOO_MUCH, str(tmp_path)).communicate()
    assert failed == ""
    assert message == f"Cannot write {tmp_path / 'a'}: File too large. Solve this problem and try again.\n"
    assert store.read("a") == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "a"}


def test_a_folder_in_the_place_of_a_blob_is_a_transient_error(tmp_path: Path) -> None:
    (tmp_path / "blob").mkdir()
    with pytest.raises(TransientError, match="Is a directory"):
        DirectoryStore(tmp_path).read("blob")
    with pytest.raises(TransientError):
        DirectoryStore(tmp_path).write("blob", b"")


def test_removing_a_blob_that_does_not_exist_creates_no_directory(tmp_path: Path) -> None:
    DirectoryStore(tmp_path / "gallery").delete("a")
    assert list(tmp_path.iterdir()) == []
