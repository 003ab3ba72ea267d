"""What the functions' log lines say about a frame that they have finished, and whether they name people.

`faceq up` reads these lines, so their messages and keys must not change without it.
"""

from dataclasses import dataclass
from typing import Final

from pipeline.messages import ERROR, NO_FACE, UNKNOWN, Json

#: The messages of the log lines.
DETECTED: Final = "detected"
RECOGNISED: Final = "recognised"
ANSWERED_ERROR: Final = "answered Error"

#: The key of a client's file name. (`filename` is a field of every `logging.LogRecord`)
FILE: Final = "file"
#: What a log line has in place of a person's name where names are not logged.
A_NAME: Final = "name"
#: Most characters of a file name that a log line contains: CloudWatch is paid by the byte.
MAX_FILENAME_CHARS: Final = 200


@dataclass(frozen=True)
class LogPrivacy:
    """What the log lines say about people.

    Parameters
    ----------
    log_names : bool
        Whether they contain the names of people, and the clients' file names, which often are names too.

    """

    log_names: bool

    def result(self, result: str) -> str:
        """Return `result` as a log line shows it: itself, or `A_NAME` in place of a person's name."""
        return result if self.log_names or result in {UNKNOWN, NO_FACE, ERROR} else A_NAME

    def filename(self, filename: str) -> dict[str, Json]:
        """Return the field of a log line for a client's file name, cut to `MAX_FILENAME_CHARS`; or no field."""
        return {FILE: filename[:MAX_FILENAME_CHARS]} if self.log_names and filename else {}
