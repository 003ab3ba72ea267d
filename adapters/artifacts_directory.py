"""Artifacts in a directory: `ArtifactStore` on a local disk or a mounted volume.

A blob is written to a hidden temporary file beside it, synced, renamed over the old one, and the directory is synced.
Writers, also those of other processes, take turns on a lock file, which the system frees when its holder dies; so any
temporary file that a holder of the lock finds is a dead writer's, and is removed.
"""

import fcntl
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import TransientError

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_LOCK = ".lock"
_TEMPORARY_SUFFIX = ".tmp"
#: Seconds between two tries to get the lock: short beside a save, long beside a system call.
_POLL_SECONDS = 0.02


class DirectoryStore:
    """Blobs as files of one directory, which is made by the first write. Safe to share between threads.

    Parameters
    ----------
    path : Path
    wait_seconds : float
        How long a writer waits for another one before it gives up with TransientError.

    """

    def __init__(self, path: Path, wait_seconds: float = 10) -> None:
        self._path = path
        self._wait_seconds = wait_seconds
        self._mutex = threading.RLock()
        self._depth = 0

    def read(self, name: str) -> bytes:
        """Return the content of `name`."""
        path = self._file(name)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unavailable("read", path, error) from error

    def write(self, name: str, content: bytes) -> None:
        """Replace `name` by `content` as one step that survives a power cut once it has returned."""
        path = self._file(name)
        temporary = self._path / f".{name}.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}"
        with self.exclusive():
            try:
                with temporary.open("xb") as file:
                    file.write(content)
                    file.flush()
                    # Inode numbers are used again and clocks tick coarsely: a later version gets a later time, always.
                    written = max(time.time_ns(), _modified_ns(path) + 1)
                    os.utime(temporary, ns=(written, written))
                    os.fsync(file.fileno())
                temporary.replace(path)
                self._sync()
            except OSError as error:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise _unavailable("write", path, error) from error

    def delete(self, name: str) -> None:
        """Remove `name`; nothing happens if there is none."""
        path = self._file(name)
        try:
            path.unlink()
            self._sync()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _unavailable("remove", path, error) from error

    def names(self) -> Sequence[str]:
        """Return the names that exist, sorted."""
        try:
            return sorted(path.name for path in self._path.iterdir() if PLAIN_NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unavailable("list", self._path, error) from error

    def version(self, name: str) -> str | None:
        """Return a token of the file's time, size and inode, None if there is none."""
        path = self._file(name)
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unavailable("read", path, error) from error
        return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other writer out, in this process and in others, until the block ends. May be nested.

        Take it around a read, a change and a write that belong together. Raises TransientError that says who holds
        the directory if that takes longer than `wait_seconds`.
        """
        deadline = time.monotonic() + self._wait_seconds
        if not self._mutex.acquire(timeout=max(self._wait_seconds, 0)):
            raise _busy(self._path, "another thread of this process")
        try:
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            descriptor = self._lock(deadline)
            self._depth = 1
            try:
                self._remove_temporaries()
                yield
            finally:
                self._depth = 0
                os.close(descriptor)
        finally:
            self._mutex.release()

    def _lock(self, deadline: float) -> int:
        path = self._path / _LOCK
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _unavailable("write", path, error) from error
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        holder = os.pread(descriptor, 100, 0).decode("ascii", "replace").strip()
                        raise _busy(self._path, f"process {holder}" if holder else "another process") from None
                    time.sleep(_POLL_SECONDS)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError as error:
            os.close(descriptor)
            raise _unavailable("write", path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _remove_temporaries(self) -> None:
        with suppress(OSError):
            for path in self._path.glob(f".*{_TEMPORARY_SUFFIX}"):
                path.unlink(missing_ok=True)

    def _sync(self) -> None:
        """Make the directory's entries last, as far as its file system can."""
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _file(self, name: str) -> Path:
        if not PLAIN_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a plain file name")
        return self._path / name


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _unavailable(verb: str, path: Path, error: OSError) -> TransientError:
    reason = error.strerror or type(error).__name__
    return TransientError("store_unavailable", f"Cannot {verb} {path}: {reason}. Mend that and try again.")


def _busy(path: Path, holder: str) -> TransientError:
    return TransientError(
        "store_busy", f"{holder[:1].upper()}{holder[1:]} is writing to {path}. Try again when it is done."
    )
