"""Which stack runs on this machine.

A stack holds a lock on `stack.lock` for as long as its supervisor lives, however that ends, and writes `stack.json`
when it is ready. Process ids and start times would not do: ids are used again, and start times move with the clock.
"""

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from adapters.settings import Paths

FILE = "stack.json"
LOCK = "stack.lock"
#: The folder of the log files, one for each part.
LOGS = "logs"

#: How often a lock is tried that somebody who looks may hold for a moment, and the wait between, seconds.
_TRIES = 20
_PAUSE_SECONDS = 0.01


@dataclass(frozen=True)
class RunningStack:
    """Where a running stack is reached and what it runs.

    Parameters
    ----------
    pid : int
        The supervisor.
    function_url, request_queue_url, response_queue_url, dead_letter_queue_url, region : str
        What a client needs.
    sqs_endpoint, lambda_endpoint : str
        What takes the place of the AWS endpoints.
    model, engine, gallery : str
        Model id, engine, folder of the gallery.
    logs : str
        Folder of the log files.

    """

    pid: int
    function_url: str
    request_queue_url: str
    response_queue_url: str
    dead_letter_queue_url: str
    region: str
    sqs_endpoint: str
    lambda_endpoint: str
    model: str
    engine: str
    gallery: str
    logs: str

    def exports(self) -> dict[str, str]:
        """Return the variables with which a client written for AWS reaches this stack."""
        return {
            "FUNCTION_URL": self.function_url,
            "REQUEST_QUEUE_URL": self.request_queue_url,
            "RESPONSE_QUEUE_URL": self.response_queue_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL_SQS": self.sqs_endpoint,
            "AWS_ENDPOINT_URL_LAMBDA": self.lambda_endpoint,
        }


def running_stack(folder: Path | None = None) -> RunningStack | None:
    """Return the stack that runs and is ready, None if none is. A file left by a stack that died is removed."""
    folder = folder or Paths.from_environment(os.environ).state
    file = folder / FILE
    if not is_held(folder):
        file.unlink(missing_ok=True)
        return None
    try:
        return RunningStack(**json.loads(file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def hold(folder: Path) -> int | None:
    """Say that a stack runs here from now on.

    Returns
    -------
    int or None
        A file descriptor: closed, or gone with its process, the stack runs no more. None if another stack runs.

    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        time.sleep(_PAUSE_SECONDS)  # whoever looks holds it for a moment
    os.close(descriptor)
    return None


def write(stack: RunningStack, folder: Path) -> None:
    """Make `stack` the one that runs."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(stack), indent=2))
    temporary.replace(folder / FILE)


def remove(folder: Path) -> None:
    """Say that no stack runs any more."""
    (folder / FILE).unlink(missing_ok=True)


def is_held(folder: Path) -> bool:
    """Tell whether a stack runs here, be it that it is still starting or stopping."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
