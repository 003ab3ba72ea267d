"""Only the owner can read private files and folders, whatever the umask."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.artifacts_directory import DirectoryStore
from adapters.private_files import make_private_file, make_private_folder
from client import stack_state
from tests.builders import stack_record


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_is_closed_even_if_it_existed_and_was_open_to_all(tmp_path: Path) -> None:
    (tmp_path / "old.log").write_text("old ")
    for name in ("old.log", "new.log"):
        make_private_file(tmp_path / name)
        with (tmp_path / name).open("a") as file:
            file.write("new")
        assert mode(tmp_path / name) == 0o600
    assert (tmp_path / "old.log").read_text() == "old new"


def test_a_private_folder_is_closed_and_one_that_exists_is_left_alone(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "new" / "state")
    assert (mode(tmp_path / "new" / "state"), mode(tmp_path / "new")) == (0o700, 0o777)
    (tmp_path / "shared").mkdir()
    make_private_folder(tmp_path / "shared")
    assert mode(tmp_path / "shared") == 0o777


def test_kept_photos_are_private_and_the_containers_can_read_the_other_blobs(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "gallery")
    store.write("photo-" + "0" * 64, b"photo")
    store.write("gallery.json", b"{}")
    assert mode(tmp_path / "gallery" / ("photo-" + "0" * 64)) == 0o600
    assert mode(tmp_path / "gallery" / "gallery.json") == 0o666


def test_the_state_of_a_stack_is_private(tmp_path: Path) -> None:
    lock = stack_state.acquire_lock(tmp_path / "state")
    assert lock is not None
    with lock:
        stack_state.write_record(stack_record(), tmp_path / "state")
        assert mode(tmp_path / "state") == 0o700
        assert {mode(file) for file in (tmp_path / "state").iterdir()} == {0o600}
