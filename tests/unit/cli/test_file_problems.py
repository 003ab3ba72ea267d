"""A file that cannot be written: the sentence names the cause and what to do."""

import errno
import os
from pathlib import Path

import pytest

from adapters import atomic_file
from cli.main import problem_of_file


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (errno.ENOSPC, "The disk is full, so /state/stack.json"),
        (errno.EDQUOT, "The disk is full, so /state/stack.json"),
        (errno.EROFS, "/state/stack.json is on a read-only file system. Choose other folders with FACEQ_STATE_DIR"),
        (errno.EACCES, "This user has no permission for /state/stack.json"),
        (errno.ENOTDIR, "/state/stack.json: Not a directory"),
    ],
)
def test_the_sentence_names_cause_and_file(code: int, cause: str) -> None:
    sentence = problem_of_file(OSError(code, os.strerror(code), "/state/stack.json"))
    assert sentence.startswith(cause)
    assert "\n" not in sentence


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, which is always full")
def test_a_failed_write_without_a_file_name_is_explained_too() -> None:
    with pytest.raises(OSError, match="No space left") as failed, Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")
    assert problem_of_file(failed.value).startswith("The disk is full")


def test_a_failed_replacement_names_the_file_that_the_user_knows(tmp_path: Path) -> None:
    (tmp_path / "stack.json").mkdir()
    with pytest.raises(IsADirectoryError) as failed:
        atomic_file.write(tmp_path / "stack.json", b"{}")
    assert failed.value.filename == str(tmp_path / "stack.json")
