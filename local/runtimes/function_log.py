"""A function's log: the lines that its processes write, and the file that keeps them."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

#: Longest log file, bytes. A camera that posts a frame a second fills it in a week.
MAX_LOG_BYTES: Final = 256 * 1024 * 1024

#: Longest line, bytes: CloudWatch's longest event. A line that never ends must not fill the memory.
_MAX_LINE_BYTES: Final = 262_144


def timestamp() -> str:
    """Return the current time as Lambda writes it in log lines, `2026-11-25T01:02:03.004Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class FunctionLog:
    """One function's log file, opened at its first line. A full file becomes `<name>.log.1`, and a new one begins.

    Parameters
    ----------
    path : Path
        The file, `<name>.log`.
    max_bytes : int
        Size at which a new file begins, bytes.
    on_line : callable
        Takes each line once, without what the file has before it.

    """

    def __init__(
        self, path: Path, max_bytes: int = MAX_LOG_BYTES, on_line: Callable[[str], None] = lambda _: None
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._on_line = on_line
        self._file: int | None = None
        self._size = 0

    def write(self, stream: str, request_id: str, lines: Sequence[str]) -> None:
        """Append the lines in one write. A full disk loses lines, but fails no request.

        Parameters
        ----------
        stream : str
            The environment that wrote them, `<name>/<number>`.
        request_id : str
            The request during which it wrote them; empty outside of any.
        lines : sequence of str
            The lines without their ends.

        """
        prefix = f"{timestamp()} {stream} {request_id or '-'} "
        with contextlib.suppress(OSError):
            if self._file is not None and self._size > self._max_bytes:
                self.close()
                self._path.replace(self._path.with_suffix(".log.1"))
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                self._size = os.fstat(self._file).st_size
            self._size += os.write(self._file, "".join(f"{prefix}{line}\n" for line in lines).encode())
        for line in lines:
            self._on_line(line)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class ProcessOutput:
    """A process's standard output and standard error, through one pipe, so that their lines keep their order.

    The pipe can be read at any time without blocking, so when an answer arrives, everything that its request wrote
    before can be read too.

    Parameters
    ----------
    on_line : callable
        Takes each line.

    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        reader, self.writer = os.pipe()
        os.set_blocking(reader, False)
        asyncio.get_running_loop().add_reader(reader, self._read, reader)
        self._reader: int | None = reader

    def drain(self) -> None:
        """Read what the pipe contains now, at most 1 MiB: a process that never pauses must not block the event loop."""
        for _ in range(16):
            if self._reader is None or not self._read(self._reader):
                break
        if self._rest:
            self._on_line(_text(self._rest))
            self._rest = b""

    def close(self) -> None:
        """Read the rest and close the reading end."""
        self.drain()
        if self._reader is not None:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = None

    def _read(self, reader: int) -> bool:
        try:
            content = os.read(reader, 65_536)
        except BlockingIOError:
            return False
        if not content:
            asyncio.get_running_loop().remove_reader(reader)
            return False
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            self._on_line(_text(line))
        if len(self._rest) > _MAX_LINE_BYTES:
            self._on_line(_text(self._rest))
            self._rest = b""
        return True


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")
