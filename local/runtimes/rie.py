"""Run functions in containers that contain AWS's Runtime Interface Emulator (RIE), one request at a time in each.

An invocation goes through these steps:

1. `RieRuntime.invoke` checks it.
2. The function's `ReplicaPool` hands out the replica that has been idle longest, or lets the request wait.
3. `RieSession.post` sends the event with an `Order` to RIE, and turns RIE's answer into Lambda's.
4. The replica is idle again. If its function has ended, it is warmed up first.

RIE hides much of what happens (docs/emulation.md); `rie_client.py`, which runs in the container, makes up for it.

The cost: only this process may send requests to the replicas. A second request in flight, from any sender, ends RIE
(measured). The container then starts again, and that replica's request is lost.
"""

import asyncio
import socket
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from local.runtimes.function_runtime import (
    FunctionNotFound,
    FunctionRuntime,
    Invocation,
    check_payload,
    new_trace_id,
)
from local.runtimes.invocation_tasks import InvocationTasks
from local.runtimes.replica import Replica
from local.runtimes.replica_pool import DEFAULT_TIMING, Find, ReplicaPool, ReplicaTiming
from local.runtimes.rie_protocol import Order
from local.runtimes.rie_request import Address
from template.model import Function

#: RIE's port in a container. (`--runtime-interface-emulator-address`, its default)
PORT: Final = 8080


async def by_name(function: str) -> Collection[Address]:
    """Return the addresses of the host that is named like the function: compose gives it one for each replica.

    Raises
    ------
    OSError
        The name server does not answer.

    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(function, PORT, type=socket.SOCK_STREAM)
    except UnicodeError:  # too long for a host's name
        return ()
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
            return ()
        raise
    return {(str(address[0]), PORT) for *_, address in found}


class RieRuntime(FunctionRuntime):
    """Runs functions in containers with RIE, which it finds by name.

    Parameters
    ----------
    functions : iterable of Function
        The functions that can be invoked.
    find : Find
        Looks up where a function's replicas are.
    wait_ready_seconds : float
        How long `start` waits for the first replica of each function.
    notify : callable
        Takes messages about replicas that are ready, gone or failed, one line each.
    timing : ReplicaTiming
        How often it looks for the replicas, and how patient it is with them.

    """

    def __init__(
        self,
        functions: Iterable[Function],
        *,
        find: Find = by_name,
        wait_ready_seconds: float = 60,
        notify: Callable[[str], None],
        timing: ReplicaTiming = DEFAULT_TIMING,
    ) -> None:
        self._pools = {function.name: ReplicaPool(function, find, notify, timing) for function in functions}
        self._wait_ready_seconds = wait_ready_seconds
        self._invocations = InvocationTasks()

    async def start(self) -> None:
        """Find the replicas of each function and wait until one of each is ready.

        Raises
        ------
        FunctionInitError
            All replicas of a function fail to init, or none is ready in time.

        """
        results = await asyncio.gather(
            *(pool.start(self._wait_ready_seconds) for pool in self._pools.values()), return_exceptions=True
        )
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            await self.stop()
            raise failures[0]

    def concurrency(self, function: str) -> int:
        """Return how many replicas the function has now, at least 1. Raises FunctionNotFound."""
        return max(1, len(self._pool(function).replicas()))

    def replicas(self) -> Mapping[str, list[Replica]]:
        """Return the present states of each function's replicas."""
        return {name: pool.replicas() for name, pool in self._pools.items()}

    async def invoke(  # noqa: D102 - documented in the Protocol
        self,
        function: str,
        payload: bytes,
        wait_seconds: float = 0.0,
        client_context: bytes | None = None,
        trace_id: str | None = None,
    ) -> Invocation:
        pool = self._pool(function)
        check_payload(payload)  # RIE would cut it at 6,291,556 bytes and report nothing (measured)
        order = Order(
            str(uuid.uuid4()),
            function,
            trace_id=trace_id or new_trace_id(),
            client_context=client_context.decode() if client_context else None,
            timeout_seconds=pool.timeout_seconds,
        )
        return await self._invocations.run(pool.invoke(order, payload, wait_seconds))

    async def stop(self) -> None:
        """Take no more requests and give up those that run. The containers are not ours, so they keep running."""
        await asyncio.gather(*(pool.stop() for pool in self._pools.values()))
        await self._invocations.wait()

    def _pool(self, function: str) -> ReplicaPool:
        try:
            return self._pools[function]
        except KeyError:
            raise FunctionNotFound(function, self._pools) from None
