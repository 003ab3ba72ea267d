"""The runtimes that the conformance tests run, what each of them cannot do, and how the tests call functions."""

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from local.runtimes.embedded import EmbeddedRuntime
from local.runtimes.environment_pool import restart_delay
from local.runtimes.function_runtime import FunctionRuntime, Invocation
from template.model import Function
from tests.polling import until
from tests.rie_replicas import RieWithReplicas

ROOT = Path(__file__).parents[2]
NAME = "sample"
HANDLER = "tests.conformance.sample_functions.handler"


class Driver(Protocol):
    """Creates a runtime that is not started yet."""

    def __call__(self, functions: list[Function], *, task_root: Path, logs: Path) -> FunctionRuntime: ...


#: Forty times what users get, so that the tests do not depend on how quickly a process of a busy machine goes on.
NEXT_EVENT_SECONDS = 2.0


def short_delay(failures: int) -> float:
    """Return a tenth of the delays that users get, so that tests of failures need not wait for long."""
    return restart_delay(failures) / 10


def embedded(client: str, restart_delay: Callable[[int], float] = short_delay) -> Driver:
    """Return a driver that runs functions with this client, and with these delays before it restarts them."""

    def create(functions: list[Function], *, task_root: Path, logs: Path) -> EmbeddedRuntime:
        return EmbeddedRuntime(
            functions, task_root=task_root, logs=logs, region="eu-west-1", account="123456789012",
            environment={"SHARED": "by all"}, client=client, restart_delay=restart_delay,
            next_event_seconds=NEXT_EVENT_SECONDS,
        )  # fmt: skip

    return create


def _rie(functions: list[Function], *, task_root: Path, logs: Path) -> FunctionRuntime:
    return RieWithReplicas(functions, task_root=task_root, logs=logs, environment={"SHARED": "by all"})


#: The modules that run handlers in the embedded runtime, by the names that the tests give them.
CLIENTS: dict[str, str] = {"awslambdaric": "awslambdaric", "our client": "local.runtimes.runtime_client"}

DRIVERS: dict[str, Driver] = {**{name: embedded(client) for name, client in CLIENTS.items()}, "RIE": _rie}

#: What a driver cannot do, by the names that the tests give it, and why; docs/emulation.md contains the same sentences.
LACKS: dict[str, dict[str, str]] = {
    "RIE": {
        "environments on demand": "Compose decides the number of replicas",
        "processes of its own": "The containers belong to Compose, not to the driver",
        "replacement while idle": "The end of a function is noticed only with the next request",
        "memory limit": "The memory limit is the container's",
        "reasons of exits in init": "If a process ends during its init, the answer does not say how",
        "identity": "The ARN and the log stream are fixed",
        "Lambda's environment": "The variables are the container's",
        "runtime API out of turn": "The Runtime API is RIE's own",
        "REPORT line": "RIE's REPORT line is not passed on, because its durations and its memory are not measured",
        "log file": "The log is the container's",
    }
}


def sample(
    name: str = NAME,
    handler: str = HANDLER,
    timeout_seconds: int = 20,
    memory_mb: int = 512,
    environment: dict[str, str] | None = None,
    concurrency: int | None = 1,
) -> Function:
    """Return the sample function, or one whose code the test writes."""
    return Function(name, name, handler, timeout_seconds, memory_mb, environment or {}, concurrency)


class Running:
    """The runtimes that one test started, and what their functions logged."""

    def __init__(self, driver: str, folder: Path) -> None:
        if driver == "awslambdaric" and importlib.util.find_spec("runtime_client") is None:
            pytest.skip("awslambdaric has wheels for Linux only")
        if driver == "RIE" and sys.platform != "linux":
            pytest.skip("RIE is a Linux program")
        self.name = driver
        self.folder = folder
        self.logs = folder / "logs"
        self._lacks = LACKS.get(driver, {})
        self._runtimes: list[FunctionRuntime] = []

    async def start(
        self, *functions: Function, task_root: Path = ROOT, driver: Driver | None = None
    ) -> FunctionRuntime:
        """Start a runtime; `driver` replaces the test's own driver by one with other arguments."""
        runtime = (driver or DRIVERS[self.name])(list(functions), task_root=task_root, logs=self.logs)
        self._runtimes.append(runtime)
        await runtime.start()
        return runtime

    async def stop(self) -> None:
        for runtime in self._runtimes:
            await runtime.stop()

    def has(self, ability: str) -> bool:
        """Return whether the driver has this ability, which other drivers lack."""
        return ability not in self._lacks

    def needs(self, ability: str) -> None:
        """Skip the test for a driver without the ability that the test is about."""
        if not self.has(ability):
            pytest.skip(self._lacks[ability])

    def log(self, name: str = NAME) -> str:
        return (self.logs / f"{name}.log").read_text()


async def call(runtime: FunctionRuntime, wait_seconds: float = 20.0, **event: object) -> Invocation:
    """Invoke the sample function with this event."""
    return await runtime.invoke(NAME, json.dumps(event).encode(), wait_seconds)


def result(invocation: Invocation) -> object:
    """Return the function's result; fail if it did not succeed."""
    assert invocation.function_error is None, invocation.payload
    return json.loads(invocation.payload)


def calls(invocation: Invocation) -> object:
    """Return how many requests the process had handled after this one, a "context" request of the sample function."""
    context = result(invocation)
    assert isinstance(context, dict)
    return context["calls"]


def failure(invocation: Invocation) -> dict[str, object]:
    """Return the report of a function that failed; fail if it succeeded."""
    assert invocation.function_error == "Unhandled"
    report = json.loads(invocation.payload)
    assert isinstance(report, dict)
    return report


class HeldRequests:
    """Requests that keep their environments busy until `release`."""

    def __init__(self, runtime: FunctionRuntime, folder: Path) -> None:
        self._runtime = runtime
        self._folder = folder
        self._released = folder / "released"
        self._number = 0

    async def send(self, number: int = 1) -> "list[asyncio.Task[Invocation]]":
        """Send this many requests in parallel, and wait until the function works on all of them."""
        began = [self._folder / f"began{self._number + index}" for index in range(number)]
        self._number += number
        tasks = [
            asyncio.create_task(call(self._runtime, do="wait", began=str(file), until=str(self._released)))
            for file in began
        ]
        await until(lambda: all(file.exists() for file in began))
        return tasks

    def release(self) -> None:
        """Let the function answer all of them."""
        self._released.touch()


def children() -> list[psutil.Process]:
    """Return all running processes that this one started, directly or not."""
    return [child for child in psutil.Process().children(recursive=True) if alive(child.pid)]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
