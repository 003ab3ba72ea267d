"""Which stack runs on this machine: a file that the stack writes when it is ready and removes when it stops."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from adapters.settings import Paths

FILE = "stack.json"


@dataclass(frozen=True)
class RunningStack:
    """Where a running stack is reached and what it runs.

    Parameters
    ----------
    pid, process_started : int, float
        The supervisor and its start in seconds since the epoch; both, since the system uses process ids again.
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
    process_started: float
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
    """Return the stack that runs, None if none does. A file left by a stack that died is removed."""
    file = (folder or Paths.from_environment(os.environ).state) / FILE
    try:
        stack = RunningStack(**json.loads(file.read_text()))
        running = started(stack.pid) == stack.process_started
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        file.unlink(missing_ok=True)
        return None
    if not running:
        file.unlink(missing_ok=True)
        return None
    return stack


def write(stack: RunningStack, folder: Path) -> None:
    """Make `stack` the one that runs."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(stack), indent=2))
    temporary.replace(folder / FILE)


def remove(folder: Path) -> None:
    """Say that no stack runs any more."""
    (folder / FILE).unlink(missing_ok=True)


def started(pid: int) -> float | None:
    """Return when the process started, in seconds since the epoch; None if there is no such process."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
