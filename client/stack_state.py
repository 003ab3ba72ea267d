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
from adapters.settings import DEFAULT_API_PORT, FACEQ_API_PORT, FACEQ_NAME, STACKS, Paths, port, stack_name
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
    name : str
        What the user called the stack with `faceq up --name`; empty for containers and for a stack without a name.

    """

    pid: int
    sqs_endpoint: str
    lambda_endpoint: str
    model: str
    engine: str
    gallery: str
    logs: str
    runtime: str = PROCESSES
    name: str = ""

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
    """Return the ready stack with the name that `environ` gives, None if there is none.

    Processes take precedence over containers, which have no name.
    """
    if (stack := process_stack(Paths.from_environment(environ).state)) is not None or stack_name(environ):
        return stack
    containers = container_stack(environ)
    return containers.stack if containers is not None and containers.ready else None


def process_stack(folder: Path | None = None) -> RunningStack | None:
    """Return the ready stack that runs as processes, None if there is none.

    The record of a stack that has died does not count; the next stack removes it. `folder` defaults to the state folder
    of our environment. This function writes nothing.
    """
    folder = folder or Paths.from_environment(os.environ).state
    if not is_locked(folder):
        return None
    try:
        return RunningStack(**json.loads((folder / FILE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def running_stacks(environ: Mapping[str, str]) -> list[RunningStack]:
    """Return the ready stacks of this machine that run as processes: the one without a name first, then by name."""
    folder = Paths.from_environment({**environ, FACEQ_NAME: ""}).state
    folders = [folder, *sorted(path for path in (folder / STACKS).glob("*") if path.is_dir())]
    return [stack for stack in map(process_stack, folders) if stack is not None]


def others_running(environ: Mapping[str, str]) -> str:
    """Return a sentence, with a blank before it, that names the stacks of other names; empty if none is running."""
    name = stack_name(environ)
    others = [stack.name for stack in running_stacks(environ) if stack.name != name]
    named = [f"--name {other}" for other in others if other]
    ways = [*(["without --name and FACEQ_NAME"] if "" in others else []), *named]
    return f" Other stacks are running; commands use them {', '.join(ways)}." if ways else ""


def already_running(stack: RunningStack) -> str:
    """Return the sentence that refuses a second stack of the same name."""
    option = f" --name {stack.name}" if stack.name else ""
    return (
        f"A stack{f' named {stack.name}' if stack.name else ''} is already running: process {stack.pid}, "
        f"{stack.function_url}, gallery {stack.gallery}. See `faceq status{option}`; stop it with "
        f"`faceq down{option}`, or start another one beside it with `faceq up --name NAME`."
    )


def container_stack(environ: Mapping[str, str]) -> ContainerStack | None:
    """Return the stack that runs in containers of this machine, None if no gateway answers on its port."""
    api_port = port(environ, FACEQ_API_PORT, DEFAULT_API_PORT, 0)
    if api_port == 0:  # `faceq up` took a free port
        return None
    connection = HTTPConnection("127.0.0.1", api_port, timeout=_GATEWAY_SECONDS)
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
    if (folder / FILE).exists():  # on a read-only file system, a missing file cannot be removed either
        (folder / FILE).unlink(missing_ok=True)
