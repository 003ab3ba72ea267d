"""Replicas for the tests of the RIE driver: RIE processes on this machine, restarted when they end, as Compose does.

A replica is a RIE process and the function's process that it starts, on an address that does not change. All its
processes belong to one session, so none of them outlives it, as in a container.
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
from local.runtimes.replica_pool import ReplicaTiming
from local.runtimes.rie import RieRuntime
from local.runtimes.rie_protocol import rie_timeout
from local.runtimes.rie_request import Address
from template.model import Function
from tests.polling import eventually

ROOT = Path(__file__).parents[1]

#: Shorter intervals than those that users get, so that the tests need not wait for long.
QUICK_TIMING = ReplicaTiming(
    refresh_seconds=0.1, first_retry_seconds=0.02, longest_retry_seconds=0.5, longest_retry_if_refused_seconds=0.1
)


@cache
def rie_file() -> Path:
    """Return RIE's binary for this machine. It is downloaded once, into the cache."""
    names = {"x86_64": "aws-lambda-rie-x86_64", "aarch64": "aws-lambda-rie-arm64"}
    files = package_files(RIE, Paths.from_environment(os.environ).models)
    return next(file for file in files if file.name == names[platform.machine()])


class RestartingProcess:
    """One RIE. It is started again a moment after it ends, until `stop` is called."""

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
        """Kill it and all its processes, as `docker kill` does."""
        processes = self._all()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        eventually(lambda: not any(is_alive(process) for process in processes))
        # A process whose first thread has ended may have other threads that still keep the port open.
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
        """Return it and its processes: those in its session and, while it lives, those that have left the session."""
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
    """The replicas of some functions: one for each unit of a function's reserved concurrency, else one."""

    def __init__(
        self,
        functions: Iterable[Function],
        *,
        task_root: Path,
        logs: Path,
        environment: Mapping[str, str],
        client: str = "local.runtimes.rie_client",
    ) -> None:
        self.by_function: dict[str, list[RestartingProcess]] = {function.name: [] for function in functions}
        self._processes: list[RestartingProcess] = []
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

    def add(self, name: str) -> RestartingProcess:
        # The file in the cache is not executable; its copy is.
        rie = self._logs / "aws-lambda-rie"
        if not rie.exists():
            shutil.copy(rie_file(), rie)
            rie.chmod(0o755)
        port, api = free_ports(2)
        address = ("127.0.0.1", port)
        function = self._functions[name]
        process = RestartingProcess(
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
        self._processes.append(process)
        return process

    def hide(self, name: str) -> None:
        """Let the function's first replica run on, but make it impossible to find."""
        self.by_function[name].pop(0)

    async def remove(self, name: str, process: RestartingProcess) -> None:
        self.by_function[name].remove(process)
        await process.stop()

    async def stop(self) -> None:
        await asyncio.gather(*(process.stop() for process in self._processes))


class RieWithReplicas(FunctionRuntime):
    """The driver and its replicas, as a started Compose project has them."""

    def __init__(
        self,
        functions: list[Function],
        *,
        task_root: Path,
        logs: Path,
        environment: Mapping[str, str],
        timing: ReplicaTiming = QUICK_TIMING,
    ) -> None:
        self.containers = Replicas(functions, task_root=task_root, logs=logs, environment=environment)
        self.messages: list[str] = []
        self.driver = RieRuntime(
            functions,
            find=self.containers.find,
            wait_ready_seconds=20,
            notify=self.messages.append,
            timing=timing,
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
