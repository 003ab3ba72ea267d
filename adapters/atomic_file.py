"""Files that are replaced as a whole: a reader sees the old content or the new one, never a part of either.

The new content goes into a hidden file beside the old one, reaches the disk, and is then renamed over the old one; last
the folder is synced, because POSIX promises nothing about a rename before that (Linux manual, fsync(2): "a fsync() on
the directory is also needed"). So a change survives a power cut once its function has returned. A writer that dies
leaves the old content and perhaps its hidden file.
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

    Two writers do not disturb each other: the one that ends last wins.

    Parameters
    ----------
    path : Path
    content : bytes
    mode : int, optional
        Permissions of the file, whatever the process's umask is. By default read and write for all, less the umask.
    modified_ns : int, optional
        The file's time of modification in nanoseconds since 1970. By default now.

    Raises
    ------
    OSError
        The file cannot be written; the old content stays, and nothing is left beside it.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            if modified_ns is not None:
                os.utime(file.fileno(), ns=(modified_ns, modified_ns))
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
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

    Call it only while no other writer can be at work there, which a lock ensures.
    """
    with suppress(OSError):
        for path in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make new, renamed and removed entries of a folder survive a power cut, where its file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # fsync(2): the file system does not sync folders
            raise
    finally:
        os.close(descriptor)
