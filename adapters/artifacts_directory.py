"""Artifacts in a directory: `ArtifactStore` on a local disk or a mounted volume.

A blob is replaced as `atomic_file` does it. Writers, also those of other processes, take turns on a lock file, which
the system frees when its holder dies. So the writer of any temporary file that a holder of the lock finds is dead, and
the holder removes the file.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adapters import atomic_file, file_lock
from adapters.artifact_names import check_blob_name, is_blob_name
from adapters.private_files import FILE_MODE
from pipeline.errors import TransientError
from pipeline.gallery_storage import PHOTO_PREFIX

_LOCK = ".lock"


class DirectoryStore:
    """Blobs as files of one directory, which the first write creates. Safe to share between threads.

    Parameters
    ----------
    path : Path
    wait_seconds : float
        How long a writer waits for another writer before it raises TransientError.

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
        """Replace `name` by `content` in one step, which survives a power cut once this method has returned."""
        path = self._file(name)
        with self.exclusive():
            try:
                # Photos are for their owner only. The other blobs are read by the user of docker-compose.yml, too.
                mode = FILE_MODE if name.startswith(PHOTO_PREFIX) else None
                # The system reuses inode numbers and its clock ticks coarsely, so a later version gets a later time.
                atomic_file.write(path, content, mode=mode, modified_ns=max(time.time_ns(), _modified_ns(path) + 1))
            except OSError as error:
                raise _unavailable("write", path, error) from error

    def delete(self, name: str) -> None:
        """Remove `name`, if it exists."""
        path = self._file(name)
        if self.version(name) is None:
            return
        with self.exclusive():
            try:
                path.unlink(missing_ok=True)
                atomic_file.sync_folder(self._path)
            except OSError as error:
                raise _unavailable("remove", path, error) from error

    def names(self) -> Sequence[str]:
        """Return the names of all blobs, sorted."""
        try:
            return sorted(path.name for path in self._path.iterdir() if is_blob_name(path.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unavailable("list", self._path, error) from error

    def version(self, name: str) -> str | None:
        """Return a token of the file's time, size and inode number, None if it does not exist."""
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
        """Keep all other writers out, in this process and in others, until the block ends. May be nested.

        Use it around a read, a change and a write that belong together. If another writer works for longer than
        `wait_seconds`, it raises TransientError that names that writer.
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
            with self._lock(deadline):
                self._depth = 1
                try:
                    atomic_file.remove_temporary_files(self._path)
                    yield
                finally:
                    self._depth = 0
        finally:
            self._mutex.release()

    def _lock(self, deadline: float) -> file_lock.FileLock:
        path = self._path / _LOCK
        try:
            return file_lock.acquire(path, wait_seconds=deadline - time.monotonic())
        except file_lock.LockHeldError as error:
            raise _busy(self._path, error.description) from None
        except OSError as error:
            raise _unavailable("write", path, error) from error

    def _file(self, name: str) -> Path:
        check_blob_name(name)
        return self._path / name


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _unavailable(verb: str, path: Path, error: OSError) -> TransientError:
    reason = error.strerror or type(error).__name__
    return TransientError("store_unavailable", f"Cannot {verb} {path}: {reason}. Solve this problem and try again.")


def _busy(path: Path, holder: str) -> TransientError:
    return TransientError(
        "store_busy", f"{holder[:1].upper()}{holder[1:]} is writing to {path}. Try again when it has finished."
    )
