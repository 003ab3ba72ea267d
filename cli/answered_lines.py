"""The line that `faceq up` prints for each answered frame."""

import queue
import threading
from contextlib import suppress
from typing import BinaryIO, Final

from cli.printable_text import printable
from client.answered_frames import AnsweredFrame

#: Most characters of a client's text in a line.
_MAX_CHARS: Final = 60


def answered_line(frame: AnsweredFrame) -> str:
    """Return the line for a frame: time of this machine, file name, who, faces, milliseconds.

    The request id replaces a file name that the functions do not log.
    """
    who = f"{frame.result} ({frame.error})" if frame.error else frame.result
    parts = [
        f"{frame.at.astimezone():%H:%M:%S}",
        printable(frame.filename or frame.request_id, _MAX_CHARS),
        printable(who, _MAX_CHARS),
    ]
    if frame.faces is not None:
        parts.append("1 face" if frame.faces == 1 else f"{frame.faces} faces")
    return "  ".join([*parts, f"{frame.milliseconds:.0f} ms"])


class LinePrinter:
    """Prints lines in a thread of its own: a terminal that is paused or slow must not hold up the service.

    Lines wait without limit, so none is lost; a closed terminal ends the printing.

    Parameters
    ----------
    stream : binary file
        Unbuffered, so that the interpreter need not wait for it when it ends.
    encoding : str
        Characters that it lacks are escaped.

    """

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._print_lines, name="line-printer", daemon=True)
        self._thread.start()

    def print(self, line: str) -> None:
        """Print a line, soon."""
        self._lines.put(line)

    def close(self, timeout_seconds: float) -> None:
        """Wait until everything is printed, at most so long."""
        self._lines.put(None)
        self._thread.join(timeout_seconds)

    def _print_lines(self) -> None:
        with suppress(OSError):
            while (line := self._lines.get()) is not None:
                self._stream.write(f"{line}\n".encode(self._encoding, "backslashreplace"))
