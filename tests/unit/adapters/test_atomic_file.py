"""Replacing a file as a whole. What happens to a writer that is killed is in test_artifacts_directory.py."""

import os
import stat
from pathlib import Path

import pytest

from adapters import atomic_file


def test_a_reader_who_opened_the_old_file_goes_on_reading_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with file.open("rb") as reader:
        atomic_file.write(file, b"new one")
        assert reader.read() == b"old"
    assert file.read_bytes() == b"new one"
    assert list(tmp_path.iterdir()) == [file]


def test_missing_folders_are_created(tmp_path: Path) -> None:
    file = tmp_path / "not" / "yet" / "file"
    atomic_file.write(file, b"content")
    assert file.read_bytes() == b"content"


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o640), (0o644, 0o644), (0o600, 0o600)])
def test_the_umask_counts_only_where_no_mode_is_given(tmp_path: Path, mode: int | None, expected: int) -> None:
    umask = os.umask(0o027)
    try:
        atomic_file.write(tmp_path / "file", b"", mode=mode)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == expected


def test_the_time_of_modification_is_kept_to_the_nanosecond(tmp_path: Path) -> None:
    atomic_file.write(tmp_path / "file", b"", modified_ns=1_700_000_000_123_456_789)
    assert (tmp_path / "file").stat().st_mtime_ns == 1_700_000_000_123_456_789


def test_a_failed_write_leaves_nothing_beside_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        atomic_file.write(tmp_path / "folder", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_complete_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file.part").write_bytes(b"complete")
    atomic_file.publish(tmp_path / "file.part", tmp_path / "file")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"complete"}


def test_what_dead_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".file.0123.tmp", "file.tmp", ".lock", "file"):
        (tmp_path / name).write_bytes(b"")
    atomic_file.remove_temporary_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "file", "file.tmp"]
    atomic_file.remove_temporary_files(tmp_path / "missing")
