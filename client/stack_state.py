"""Which stack runs on this machine.

A stack holds a lock on `stack.lock` for as long as its supervisor lives, however that ends, and writes `stack.json`
when it is ready. Process ids and start times would not do: ids are used again, and start times move with the clock.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from adapters.settings import FACEQ_API_PORT, Paths, port

FILE = "stack.json"
LOCK = "stack.lock"
#: The folder of the log files, one for each part.
LOGS = "logs"

PROCESSES: Final = "processes"
CONTAINERS: Final = "containers"
#: Where the containers' gateway, beside its Lambda API, says what runs.
STACK_PATH: Final = "/faceq/stack"
#: How long the gateway has to say so, seconds.
_ASK_SECONDS: Final = 2.0

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
    runtime : str
        What runs the functions: `PROCESSES` of this machine, or `CONTAINERS`, which have no process of ours here.

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
    runtime: str = PROCESSES

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


def containers(environ: Mapping[str, str]) -> "Containers | None":
    """Return what the gateway of this machine's containers says, None if there is none or it does not answer."""
    connection = HTTPConnection("127.0.0.1", port(environ, FACEQ_API_PORT, 8001), timeout=_ASK_SECONDS)
    try:
        connection.request("GET", STACK_PATH)
        said = json.loads(connection.getresponse().read())
        return Containers(said["ready"], RunningStack(**said["stack"]), said["replicas"])
    except (OSError, HTTPException, ValueError, TypeError, LookupError):
        return None
    finally:
        connection.close()


@dataclass(frozen=True)
class Containers:
    """A stack of containers.

    Parameters
    ----------
    ready : bool
        Whether a frame would be answered.
    stack : RunningStack
    replicas : sequence of Mapping
        The functions' containers: `function`, `container`, `state`, `answered`, `error`.

    """

    ready: bool
    stack: RunningStack
    replicas: Sequence[Mapping[str, object]]


def reachable_stack(environ: Mapping[str, str]) -> RunningStack | None:
    """Return the stack that runs as processes of this machine, else the one that runs in containers, else None."""
    if (running := running_stack(Paths.from_environment(environ).state)) is not None:
        return running
    found = containers(environ)
    return found.stack if found is not None and found.ready else None


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
