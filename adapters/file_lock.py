"""A lock between processes that ends with its holder, however the holder ends.

It is the system's `flock` on a file that is never removed (Linux manual, flock(2)). The lock belongs to the open file,
so the system releases it when the holder exits or is killed. The file contains the holder's process id, which is only
used in messages. A forked child shares the lock; a program that the holder starts does not.

We do not use the package `filelock` (version 4.3.1) for four reasons. Its `is_locked` only knows the caller's own
lock, so it cannot find out whether another process has one without taking it. Where `flock` is missing, it uses a
marker file that outlives a killed holder. It does not name the holder. And importing it takes three to four times as
long as importing Powertools (160 and 40 ms on one machine), which would lengthen the cold start of each function.
"""

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from pipeline.errors import TransientError

#: Pause between two attempts to take the lock, in seconds: short compared with the protected work, long compared with a
#: system call.
_POLL_SECONDS: Final = 0.01


class LockHeldError(TransientError):
    """Another process, or another lock object of this process, holds the lock.

    Parameters
    ----------
    path : Path
        The lock file.
    holder : int or None
        The process that holds the lock, None if it did not write its id.

    """

    def __init__(self, path: Path, holder: int | None) -> None:
        self.holder = holder
        super().__init__("lock_held", f"{self.description[:1].upper()}{self.description[1:]} holds the lock {path}.")

    @property
    def description(self) -> str:
        """The holder, as words for the middle of a sentence: `process 12` or `another process`."""
        return "another process" if self.holder is None else f"process {self.holder}"


class FileLock:
    """A lock that this process holds until `release`, the end of a `with` block, or its own end.

    The lock stays held if the object is no longer referenced.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let others take the lock. The second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.release()


def acquire(
    path: Path, *, wait_seconds: float = 0, on_wait: Callable[[], None] | None = None, mode: int = 0o666
) -> FileLock:
    """Take the exclusive lock of a file; the file and its folders are created if they are missing.

    Parameters
    ----------
    path : Path
    wait_seconds : float
        How long to wait for another holder; `math.inf` waits until the lock is free. Wait at least 0.2 s if others call
        `is_held` for this lock, because that takes a shared lock for a moment.
    on_wait : callable, optional
        Called once, before the first wait.
    mode : int
        Permissions of a new lock file, less the process's umask.

    Raises
    ------
    LockHeldError
        Another holder kept the lock for longer than `wait_seconds`.
    OSError
        The lock file cannot be opened.

    """
    deadline = time.monotonic() + wait_seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, writable = _open(path, mode)
    try:
        waiting = False
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise LockHeldError(path, _holder(descriptor))
            if not waiting and on_wait is not None:
                on_wait()
            waiting = True
            time.sleep(_POLL_SECONDS)
        if writable:
            with suppress(OSError):  # a full disk; the id is for messages only
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return FileLock(descriptor)


def is_held(path: Path) -> bool:
    """Return whether any process holds the exclusive lock of a file. A missing file has no holder.

    This takes a shared lock for a moment, which affects neither the holder's lock nor other calls of this function.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _open(path: Path, mode: int) -> tuple[int, bool]:
    """Return a descriptor of the lock file and whether it can be written."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode), True
    except PermissionError:  # the file belongs to another user; `flock` needs no permission to write
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> int | None:
    with suppress(OSError, ValueError):
        return int(os.pread(descriptor, 100, 0))
    return None
