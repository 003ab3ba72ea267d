"""Files and folders that only their owner can read: state and logs, which may contain names of people and files."""

import os
from pathlib import Path
from typing import Final

#: Read and write for the owner.
FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700


def make_private_file(path: Path) -> None:
    """Create an empty file that only its owner can read, or close an existing one to others, before it is written."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        os.fchmod(descriptor, FILE_MODE)
    finally:
        os.close(descriptor)


def make_private_folder(path: Path) -> None:
    """Create a folder that only its owner can enter, and its parents as usual. An existing folder stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=_FOLDER_MODE, exist_ok=True)
