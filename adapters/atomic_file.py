"""Replace files atomically: a reader sees the old content or the new content, never a part of either.

The new content is written to a hidden file in the same folder, synced to the disk, and renamed over the old file. Then
the folder is synced too, without which the rename may be lost (Linux manual, fsync(2): an explicit fsync() on a file
descriptor for the directory is also needed). So a change survives a power cut once its function has returned. A writer
that dies leaves the old content and perhaps its hidden file.
"""

import errno
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

_TEMPORARY_SUFFIX: Final = ".tmp"


def write(path: Path, content: bytes, *, mode: int | None = None, modified_ns: int | None = None) -> None:
    """Replace a file by `content`, or create it; missing folders are created.

    Two writers do not disturb each other: the content of the one that finishes last stays.

    Parameters
    ----------
    path : Path
    content : bytes
    mode : int, optional
        Permissions of the file, regardless of the process's umask. By default read and write for all, less the umask.
    modified_ns : int, optional
        The file's time of modification in nanoseconds since 1970. By default now.

    Raises
    ------
    OSError
        The file cannot be written. The old content stays, and no temporary file is left.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}")
    try:
        # With a mode, no other user can read the file while it is written.
        created_mode = 0o666 if mode is None else 0o600
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, created_mode)) as file:
            file.write(content)
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            if modified_ns is not None:
                os.utime(file.fileno(), ns=(modified_ns, modified_ns))
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a failed write names no file, and the user does not know the hidden one
        raise


def publish(complete: Path, path: Path) -> None:
    """Rename a file that some other code has written completely to `path`, in the same file system.

    Raises OSError if that fails; `path` then stays as it was.
    """
    with complete.open("rb") as file:
        os.fsync(file.fileno())
    complete.replace(path)
    sync_folder(path.parent)


def remove_temporary_files(folder: Path) -> None:
    """Remove the hidden files that dead writers left in a folder.

    Call it only while a lock ensures that no other writer is at work there.
    """
    with suppress(OSError):
        for path in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make new, renamed and removed entries of a folder survive a power cut, if its file system supports that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # fsync(2): the file system does not sync folders
            raise
    finally:
        os.close(descriptor)
