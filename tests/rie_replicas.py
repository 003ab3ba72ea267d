"""Plays compose for the tests of the RIE driver: real RIE processes on this machine, started again when they end.

A replica is RIE with the function under it, on an address that it keeps. All its processes are of one session, so that
nothing of it outlives it, as in a container.
"""

import asyncio
import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path

import psutil

from adapters.models.fetch import package_files
from adapters.models.published import RIE
from adapters.settings import Paths
from local.free_ports import free_ports
from local.runtimes.function_runtime import FunctionRuntime, Invocation
from local.runtimes.replica import Replica
from local.runtimes.rie import RieRuntime
from local.runtimes.rie_protocol import rie_timeout
from local.runtimes.rie_request import Address
from template.model import Function
from tests.polling import eventually

ROOT = Path(__file__).parents[1]


@cache
def rie_file() -> Path:
    """Return RIE's binary for this machine, fetched once into the cache."""
    names = {"x86_64": "aws-lambda-rie-x86_64", "aarch64": "aws-lambda-rie-arm64"}
    files = package_files(RIE, Paths.from_environment(os.environ).models)
    return next(file for file in files if file.name == names[platform.machine()])


class Process:
    """One RIE, started again a moment after it ends, unless it was told to stay away."""

    def __init__(
        self, command: list[str], address: Address, variables: Mapping[str, str], cwd: Path, log: Path
    ) -> None:
        self.address = address
        self._command = command
        self._variables = variables
        self._cwd = cwd
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = asyncio.create_task(self._keep())

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def functions(self) -> list[int]:
        """Return the process ids of the functions under it."""
        return [process.pid for process in self._all() if process.pid != self.pid and process.ppid() == self.pid]

    def kill(self) -> None:
        """End it with all its processes at once, as `docker kill` does."""
        everything = self._all()
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        eventually(lambda: not any(is_alive(process) for process in everything))
        # Of a process whose first thread has ended others may still be ending, with the port.
        eventually(lambda: not is_listening(self.address))

    async def stop(self) -> None:
        """End it for good."""
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        if self._process is not None:
            self.kill()
            self._process.wait()

    async def _keep(self) -> None:
        while True:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: ASYNC220 - a cancelled start must not lose it
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    cwd=self._cwd, env=self._variables, start_new_session=True,
                )  # fmt: skip
            while self._process.poll() is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            self.kill()
            await asyncio.sleep(0.1)

    def _all(self) -> list[psutil.Process]:
        """Return it and its processes: those of its session, and those that left it, as long as it lives."""
        if self._process is None:
            return []
        found = set()
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(psutil.Process(self.pid).children(recursive=True))
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(process.pid) == self.pid:
                    found.add(process)
        return list(found)


class Replicas:
    """The replicas of some functions; a function has as many as it has reserved concurrency, or one."""

    def __init__(
        self,
        functions: Iterable[Function],
        *,
        task_root: Path,
        logs: Path,
        environment: Mapping[str, str],
        client: str = "local.runtimes.rie_client",
    ) -> None:
        self.by_function: dict[str, list[Process]] = {function.name: [] for function in functions}
        self._functions = {function.name: function for function in functions}
        self._task_root = task_root
        self._logs = logs
        self._environment = environment
        self._client = client

    async def find(self, function: str) -> Collection[Address]:
        return [process.address for process in self.by_function[function]]

    def start(self) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        for name, function in self._functions.items():
            for _ in range(function.reserved_concurrency or 1):
                self.add(name)

    def add(self, name: str) -> Process:
        # A file of the cache may not be run; its copy may.
        rie = self._logs / "aws-lambda-rie"
        if not rie.exists():
            shutil.copy(rie_file(), rie)
            rie.chmod(0o755)
        port, api = free_ports(2)
        address = ("127.0.0.1", port)
        function = self._functions[name]
        process = Process(
            [
                str(rie), "--log-level", "warn", "--runtime-interface-emulator-address", f"127.0.0.1:{address[1]}",
                "--runtime-api-address", f"127.0.0.1:{api}", sys.executable, "-m", self._client, function.handler,
            ],
            address,
            {
                "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
                "PYTHONPATH": str(ROOT),
                "LANG": "en_US.UTF-8",
                "AWS_REGION": "eu-west-1",
                "AWS_LAMBDA_FUNCTION_NAME": name,
                "AWS_LAMBDA_FUNCTION_TIMEOUT": str(rie_timeout(function.timeout_seconds)),
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
                **self._environment,
                **function.environment,
            },
            self._task_root,
            self._logs / f"{name}.log",
        )  # fmt: skip
        self.by_function[name].append(process)
        return process

    async def remove(self, name: str, process: Process) -> None:
        self.by_function[name].remove(process)
        await process.stop()

    async def stop(self) -> None:
        await asyncio.gather(*(process.stop() for processes in self.by_function.values() for process in processes))


class RieWithReplicas(FunctionRuntime):
    """The driver and its containers as one: what a started project is."""

    def __init__(
        self, functions: list[Function], *, task_root: Path, logs: Path, environment: Mapping[str, str]
    ) -> None:
        self.containers = Replicas(functions, task_root=task_root, logs=logs, environment=environment)
        self.messages: list[str] = []
        self.driver = RieRuntime(
            functions, find=self.containers.find, wait_ready_seconds=20, notify=self.messages.append
        )

    async def start(self) -> None:
        self.containers.start()
        try:
            await self.driver.start()
        except BaseException:
            await self.stop()
            raise

    def concurrency(self, function: str) -> int:
        return self.driver.concurrency(function)

    def processes(self) -> dict[str, list[int]]:
        """Return the process ids of each function, as `EmbeddedRuntime` does."""
        return {
            name: [pid for process in processes for pid in process.functions()]
            for name, processes in self.containers.by_function.items()
        }

    def replicas(self, function: str) -> list[Replica]:
        return self.driver.replicas()[function]

    async def invoke(
        self,
        function: str,
        payload: bytes,
        wait_seconds: float = 0.0,
        client_context: bytes | None = None,
        trace_id: str | None = None,
    ) -> Invocation:
        return await self.driver.invoke(function, payload, wait_seconds, client_context, trace_id)

    async def stop(self) -> None:
        await self.driver.stop()
        await self.containers.stop()


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_listening(address: Address) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0
