"""Run functions as processes of this machine, through a Lambda Runtime API of our own.

An invocation goes through these steps:

1. `EmbeddedRuntime.invoke` checks it.
2. The function's `EnvironmentPool` finds an idle environment, starts one, or lets the request wait.
3. The `ExecutionEnvironment` gives the event to its process, which has an open `GET /invocation/next`. The outcome is
   the first of: the answer that the process POSTs, the timeout, the memory limit, the end of the process.
4. The next `GET` of the process makes the environment idle again.
"""

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from local.runtimes.environment_pool import EnvironmentPool, restart_delay
from local.runtimes.environment_spec import EnvironmentSpec
from local.runtimes.execution_environment import Request, remove_abandoned_scratch
from local.runtimes.function_log import FunctionLog
from local.runtimes.function_runtime import (
    FunctionNotFound,
    FunctionRuntime,
    Invocation,
    check_payload,
    new_trace_id,
)
from local.runtimes.invocation_tasks import InvocationTasks
from template.model import Function


def default_client() -> str:
    """Return the module that runs handlers on this machine: awslambdaric where it has wheels, else our own."""
    return "awslambdaric" if sys.platform == "linux" else "local.runtimes.runtime_client"


class EmbeddedRuntime(FunctionRuntime):
    """Runs functions in processes on this machine, one request at a time in each.

    Parameters
    ----------
    functions : iterable of Function
        The functions that can be invoked.
    task_root : Path
        Where the functions' code is: their working directory.
    logs : Path
        Folder of the log files, one for each function, `<name>.log`. Lines are appended, each as
        `<UTC time> <name>/<environment> <request id or -> <text>`.
    region, account : str
        For the functions' ARNs.
    environment : Mapping of str to str
        Variables that every function gets beside Lambda's and its own. Functions see no other variable of the caller.
    concurrency : int
        Most environments of a function for which the template reserves no concurrency; at least 1.
    initial : int
        How many environments of each function `start` inits.
    client : str or None
        Module that runs a handler: `awslambdaric` or `local.runtimes.runtime_client`; None for `default_client`.
    restart_delay : callable
        Takes how many environments of a function in a row ended without serving a request, at least 1; returns how
        long to wait before the next start, seconds.
    next_event_seconds : float
        How long to wait for a process to ask for its next event before starting another environment. Most ask within
        1 ms of their answer.
    on_line : callable
        Takes each line of the functions' logs when it is written, without time, environment and request id.

    """

    def __init__(
        self,
        functions: Iterable[Function],
        *,
        task_root: Path,
        logs: Path,
        region: str,
        account: str,
        environment: Mapping[str, str] = MappingProxyType({}),
        concurrency: int = 10,
        initial: int = 1,
        client: str | None = None,
        restart_delay: Callable[[int], float] = restart_delay,
        next_event_seconds: float = 0.05,
        on_line: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._logs = logs
        self._pools = {
            function.name: EnvironmentPool(
                EnvironmentSpec(
                    function=function,
                    arn=f"arn:aws:lambda:{region}:{account}:function:{function.name}",
                    region=region,
                    task_root=task_root,
                    environment={**environment, **function.environment},
                    client=client or default_client(),
                    next_event_seconds=next_event_seconds,
                ),
                FunctionLog(logs / f"{function.name}.log", on_line=on_line),
                limit=concurrency if function.reserved_concurrency is None else function.reserved_concurrency,
                initial=initial,
                restart_delay=restart_delay,
            )
            for function in functions
        }
        self._invocations = InvocationTasks()

    def concurrency(self, function: str) -> int:  # noqa: D102 - documented in the Protocol
        return self._pool(function).limit

    def processes(self) -> dict[str, list[int]]:
        """Return the process ids of each function's environments."""
        return {name: pool.processes() for name, pool in self._pools.items()}

    async def start(self) -> None:  # noqa: D102
        self._logs.mkdir(parents=True, exist_ok=True)
        for name in self._pools:  # `faceq logs -f` needs the files before their first lines
            (self._logs / f"{name}.log").touch(0o600)
        remove_abandoned_scratch()
        results = await asyncio.gather(*(pool.start() for pool in self._pools.values()), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            await self.stop()
            raise failures[0]

    async def invoke(  # noqa: D102
        self,
        function: str,
        payload: bytes,
        wait_seconds: float = 0.0,
        client_context: bytes | None = None,
        trace_id: str | None = None,
    ) -> Invocation:
        pool = self._pool(function)
        check_payload(payload)
        request = Request(payload, client_context, trace_id or new_trace_id())
        return await self._invocations.run(pool.invoke(request, wait_seconds))

    async def replace(self) -> None:
        """Start to use changed code: init new environments, and end those that were started before.

        An idle environment ends immediately, a busy one after its request. Until then there may be more environments
        than `concurrency` allows, but never more requests at the same time. A request that comes after this call gets
        a new environment. Returns when the first new environment of each function is ready, or when a later call has
        replaced it.

        Raises
        ------
        FunctionInitError
            A function cannot init. Until it is replaced again, its invocations return this error, as on Lambda.

        """
        results = await asyncio.gather(*(pool.replace() for pool in self._pools.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def stop(self) -> None:  # noqa: D102
        await asyncio.gather(*(pool.stop() for pool in self._pools.values()))
        await self._invocations.wait()

    def _pool(self, function: str) -> EnvironmentPool:
        try:
            return self._pools[function]
        except KeyError:
            raise FunctionNotFound(function, self._pools) from None
