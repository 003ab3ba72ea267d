"""Find the stack that runs on this machine: the record that its supervisor writes, or the containers' gateway.

The supervisor of a stack of processes locks `stack.lock` for as long as it lives and writes `stack.json` when the stack
is ready. The operating system releases the lock even when the supervisor is killed. A process id with its start time
would not be enough: the system reuses ids, and start times shift when the clock is set.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from adapters import atomic_file, file_lock
from adapters.file_lock import FileLock, LockHeldError
from adapters.private_files import FILE_MODE, make_private_folder
from adapters.settings import FACEQ_API_PORT, Paths, port
from client.service_addresses import ServiceAddresses

#: Files in the state folder: the record of the running stack, the lock that its supervisor holds, and the folder of the
#: log files, one for each part of the stack.
FILE: Final = "stack.json"
LOCK: Final = "stack.lock"
LOGS: Final = "logs"

PROCESSES: Final = "processes"
CONTAINERS: Final = "containers"
#: The path on the gateway, beside its Lambda API, that answers with a `ContainerStack` as JSON.
STACK_PATH: Final = "/faceq/stack"
#: How long we wait for the gateway's answer, seconds.
_GATEWAY_SECONDS: Final = 2.0

#: How long we try to take the lock, which `is_locked` in another process may hold for a moment, seconds.
_LOCK_SECONDS: Final = 0.2


@dataclass(frozen=True)
class RunningStack(ServiceAddresses):
    """A running stack: where clients reach it, and what it runs.

    Parameters
    ----------
    pid : int
        The supervisor's process id; 0 for containers.
    sqs_endpoint, lambda_endpoint : str
        What clients use instead of the AWS endpoints.
    model, engine, gallery : str
        Model id, engine, folder of the gallery.
    logs : str
        Folder of the log files; for containers, the command that shows their logs.
    runtime : str
        What runs the functions: `PROCESSES` of this machine, or `CONTAINERS`, whose processes are not ours to see.

    """

    pid: int
    sqs_endpoint: str
    lambda_endpoint: str
    model: str
    engine: str
    gallery: str
    logs: str
    runtime: str = PROCESSES

    def exports(self) -> dict[str, str]:
        """Return the environment variables that point a client written for AWS at this stack, endpoints included."""
        return {
            **super().exports(),
            "AWS_ENDPOINT_URL_SQS": self.sqs_endpoint,
            "AWS_ENDPOINT_URL_LAMBDA": self.lambda_endpoint,
        }


@dataclass(frozen=True)
class ContainerStack:
    """A stack of containers, as its gateway describes it.

    Parameters
    ----------
    ready : bool
        Whether the stack would answer a frame now.
    stack : RunningStack
    replicas : sequence of Mapping
        The functions' containers, each with `function`, `container`, `state`, `answered` and `error`.

    """

    ready: bool
    stack: RunningStack
    replicas: Sequence[Mapping[str, object]]


def local_stack(environ: Mapping[str, str]) -> RunningStack | None:
    """Return the ready stack of this machine, None if there is none. Processes take precedence over containers."""
    if (stack := process_stack(Paths.from_environment(environ).state)) is not None:
        return stack
    containers = container_stack(environ)
    return containers.stack if containers is not None and containers.ready else None


def process_stack(folder: Path | None = None) -> RunningStack | None:
    """Return the ready stack that runs as processes, None if there is none.

    Remove the record if the stack that wrote it has died. `folder` defaults to the state folder of our environment.
    """
    folder = folder or Paths.from_environment(os.environ).state
    file = folder / FILE
    if not is_locked(folder):
        file.unlink(missing_ok=True)
        return None
    try:
        return RunningStack(**json.loads(file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def container_stack(environ: Mapping[str, str]) -> ContainerStack | None:
    """Return the stack that runs in containers of this machine, None if no gateway answers on its port."""
    connection = HTTPConnection("127.0.0.1", port(environ, FACEQ_API_PORT, 8001), timeout=_GATEWAY_SECONDS)
    try:
        connection.request("GET", STACK_PATH)
        answer = json.loads(connection.getresponse().read())
        return ContainerStack(answer["ready"], RunningStack(**answer["stack"]), answer["replicas"])
    except (OSError, HTTPException, ValueError, TypeError, LookupError):
        return None
    finally:
        connection.close()


def acquire_lock(folder: Path) -> FileLock | None:
    """Take the lock of the stack that is about to start in this state folder.

    Returns
    -------
    FileLock or None
        Held until it is released or this process ends; None if another stack holds it.

    """
    make_private_folder(folder)
    try:
        return file_lock.acquire(folder / LOCK, wait_seconds=_LOCK_SECONDS, mode=0o600)
    except LockHeldError:
        return None


def is_locked(folder: Path) -> bool:
    """Tell whether a stack of processes is starting, running or stopping in this state folder."""
    return file_lock.is_held(folder / LOCK)


def write_record(stack: RunningStack, folder: Path) -> None:
    """Record `stack` as the one that runs. Only the supervisor that holds the lock calls this, when it is ready."""
    atomic_file.write(folder / FILE, json.dumps(asdict(stack), indent=2).encode(), mode=FILE_MODE)


def remove_record(folder: Path) -> None:
    """Remove the record of the running stack, if there is one."""
    (folder / FILE).unlink(missing_ok=True)
