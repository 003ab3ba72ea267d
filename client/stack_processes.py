"""The operating system's processes of a stack that `faceq up` started: what they are, and how to end them."""

import contextlib
from dataclasses import dataclass
from typing import Final

import psutil

#: Part of the stack by the module that its process runs.
_PARTS: Final = {
    "local.queue_server": "queue-server",
    "local.event_source_mapping": "event-source-mapping",
}
_FUNCTION_MODULES: Final = "adapters.lambda_entry."


@dataclass(frozen=True)
class StackProcess:
    """One process of a stack.

    Parameters
    ----------
    part : str
        `faceq` for the supervisor, `face-detection`, `face-recognition`, `queue-server`, `event-source-mapping`, or `?`
        for a process that ended before we could read its command line.
    pid : int
    resident_mb : int
        Resident memory, MiB.

    """

    part: str
    pid: int
    resident_mb: int


def stack_processes(supervisor_pid: int) -> list[StackProcess]:
    """Return the supervisor and its children, without those that end while we look."""
    found: list[StackProcess] = []
    for process in _supervisor_and_children(supervisor_pid):
        with contextlib.suppress(psutil.Error):  # the process of an execution environment may end at any time
            resident = process.memory_info().rss
            found.append(StackProcess(_part(process), process.pid, round(resident / 2**20)))
    return found


def stop_stack(supervisor_pid: int, timeout_seconds: float) -> int:
    """Ask the supervisor to end, and kill the processes of the stack that are left after the timeout.

    Returns
    -------
    int
        How many processes were killed.

    """
    processes = _supervisor_and_children(supervisor_pid)
    for supervisor in processes[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended by itself
            supervisor.terminate()
    _, alive = psutil.wait_procs(processes, timeout=timeout_seconds)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=timeout_seconds)
    return len(alive)


def _supervisor_and_children(supervisor_pid: int) -> list[psutil.Process]:
    try:
        supervisor = psutil.Process(supervisor_pid)
        return [supervisor, *supervisor.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _part(process: psutil.Process) -> str:
    """Return the part of the stack that a process is, from its command line."""
    try:
        arguments = process.cmdline()
    except psutil.Error:
        return "?"
    for argument in arguments:
        if argument.startswith(_FUNCTION_MODULES):
            return argument.split(".")[2].replace("_", "-")
        if argument in _PARTS:
            return _PARTS[argument]
    return "faceq"
