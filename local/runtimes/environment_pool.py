"""One function's execution environments: starts them on demand, hands them out, replaces them when they end."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

from local.runtimes.environment_spec import EnvironmentSpec
from local.runtimes.execution_environment import ExecutionEnvironment, Request
from local.runtimes.function_log import FunctionLog
from local.runtimes.function_runtime import FunctionInitError, Invocation, TooManyRequests
from local.runtimes.invocation_tasks import retrieve_exception
from local.runtimes.platform_failure import InitFailed

_FIRST_RESTART_DELAY_SECONDS: Final = 0.1
_LONGEST_RESTART_DELAY_SECONDS: Final = 5.0


def restart_delay(failures: int) -> float:
    """Return how long to wait before the next start, seconds: 0.1, 0.2, 0.4, ... 5.

    Parameters
    ----------
    failures : int
        How many environments in a row ended without serving a request, at least 1.

    """
    return min(_LONGEST_RESTART_DELAY_SECONDS, _FIRST_RESTART_DELAY_SECONDS * 2.0 ** min(failures - 1, 10))


class EnvironmentPool:
    """One function's environments, and the requests that wait for one.

    Parameters
    ----------
    spec : EnvironmentSpec
        What they run.
    log : FunctionLog
        Where they log.
    limit : int
        Most environments at once.
    initial : int
        How many `start` inits, and how many are kept when one dies.
    restart_delay : callable
        Takes how many environments in a row ended without serving, returns how long to wait before the next start,
        seconds.

    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        log: FunctionLog,
        limit: int,
        initial: int,
        restart_delay: Callable[[int], float] = restart_delay,
    ) -> None:
        self.limit = limit
        self._spec = spec
        self._log = log
        self._initial = min(initial, limit)
        self._restart_delay = restart_delay
        self._environments: set[ExecutionEnvironment] = set()
        self._idle: list[ExecutionEnvironment] = []  # the most recently used last: its memory is the warmest
        self._busy: set[ExecutionEnvironment] = set()  # those that have a request, replaced ones too
        self._starting: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[ExecutionEnvironment]] = deque()
        self._last_number = 0
        self._ending: set[asyncio.Task[None]] = set()  # tasks that must be over when the pool has stopped
        self._failures = 0  # environments in a row that ended by themselves without having served
        self._skip_delay = asyncio.Event()  # set when delayed starts must wait no longer
        self._is_stopping = False

    def processes(self) -> list[int]:
        """Return the process ids of the environments."""
        return [environment.pid for environment in self._all() if environment.pid is not None]

    def _all(self) -> set[ExecutionEnvironment]:
        return self._environments | self._busy

    # Start, replacement and end

    async def start(self) -> None:
        """Init the first environments in parallel. Raises FunctionInitError."""
        try:
            await asyncio.gather(*[self._begin() for _ in range(self._initial)])
        except InitFailed as error:
            raise self._init_error(error) from None

    async def replace(self) -> None:
        """End the environments, busy ones after their request, and init new ones. Raises FunctionInitError."""
        if self._is_stopping:
            return
        old, self._environments = self._environments, set()
        self._idle.clear()
        for environment in old:
            environment.is_replaced = True
            if environment not in self._busy:
                self._stop_environment(environment)
        for task in self._starting:
            self._end_before_stop(task)
        self._starting.clear()
        self._failures = 0
        self._skip_delay.set()
        self._skip_delay = asyncio.Event()
        self._scale(keep=self._initial)
        new = set(self._starting)
        if not new:
            return
        await asyncio.wait(new)
        for task in new:
            if isinstance(error := task.exception(), InitFailed):
                raise self._init_error(error)

    def _init_error(self, error: InitFailed) -> FunctionInitError:
        failure = error.failure
        return FunctionInitError(self._spec.function.name, failure.reason(), failure.place(self._spec.task_root))

    def _stop_environment(self, environment: ExecutionEnvironment) -> None:
        self._end_before_stop(asyncio.create_task(environment.stop()))

    def _end_before_stop(self, task: "asyncio.Task[None]") -> None:
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def stop(self) -> None:
        """End all environments and refuse the requests that wait."""
        self._is_stopping = True
        self._skip_delay.set()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(TooManyRequests(f"{self._spec.function.name} is being stopped."))
        await asyncio.gather(*(environment.stop() for environment in self._all()))
        while unfinished := self._starting | self._ending:
            await asyncio.wait(unfinished)
        self._log.close()

    # Requests

    async def invoke(self, request: Request, wait_seconds: float) -> Invocation:
        """Run one request in an environment. Raises TooManyRequests if none becomes free within `wait_seconds`."""
        try:
            environment = await self._acquire(wait_seconds)
            while environment.has_ended:  # since it became idle
                environment = await self._acquire(wait_seconds)
        except InitFailed as error:
            return Invocation(request.id, error.failure.payload(request.id), "Unhandled", b"", 0.0)
        return await environment.invoke(request)

    async def _acquire(self, wait_seconds: float) -> ExecutionEnvironment:
        if self._is_stopping:
            raise TooManyRequests(f"{self._spec.function.name} is being stopped.")
        if self._idle and len(self._busy) < self.limit:
            return self._take_idle()
        waiting: asyncio.Future[ExecutionEnvironment] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            if len(self._waiting) <= self._idle_soon():
                await asyncio.wait([waiting], timeout=self._spec.next_event_seconds)
            self._scale()
            await asyncio.wait([waiting], timeout=wait_seconds)
            # A request for which an environment is starting is not throttled: it will get that environment.
            while not waiting.done() and self._waiting.index(waiting) < len(self._starting):
                await _first_of(waiting, *self._starting)
            if waiting.done():
                return waiting.result()
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiting)
        raise TooManyRequests(
            f"All {self.limit} environments of {self._spec.function.name} stayed busy for {wait_seconds:g} s."
        )

    def _take_idle(self) -> ExecutionEnvironment:
        environment = self._idle.pop()
        self._busy.add(environment)
        return environment

    def _idle_soon(self) -> int:
        return sum(environment.is_idle_soon for environment in self._environments)

    def _hand_out(self) -> None:
        """Give idle environments to waiting requests."""
        while self._waiting and self._idle and len(self._busy) < self.limit:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(self._take_idle())

    # Environments that start, become idle and end

    def _scale(self, keep: int = 0) -> None:
        """Start environments for waiting requests that none is starting for, and up to `keep`; never over the limit."""
        while not self._is_stopping and (
            len(self._environments) < keep
            or (len(self._all()) < self.limit and len(self._starting) + self._idle_soon() < len(self._waiting))
        ):
            self._begin()

    def _begin(self) -> "asyncio.Task[None]":
        self._last_number += 1
        environment = ExecutionEnvironment(self._spec, self._last_number, self._log, self._on_idle, self._on_end)
        self._environments.add(environment)
        task = asyncio.create_task(self._init(environment))
        self._starting.add(task)
        task.add_done_callback(self._on_started)
        return task

    async def _init(self, environment: ExecutionEnvironment) -> None:
        if self._failures:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._skip_delay.wait(), self._restart_delay(self._failures))
        if self._is_stopping or environment not in self._environments:  # replaced during the delay
            self._environments.discard(environment)
            return
        try:
            await environment.start()
        except InitFailed as error:
            if environment.is_replaced:
                return  # we ended it, and a new one is starting for the request that waits
            while self._waiting:
                waiting = self._waiting.popleft()
                if not waiting.done():
                    waiting.set_exception(error)
                    break
            raise

    def _on_started(self, task: "asyncio.Task[None]") -> None:
        self._starting.discard(task)
        retrieve_exception(task)  # a request that waited for this environment has got the exception already
        self._scale()

    def _on_idle(self, environment: ExecutionEnvironment) -> None:
        self._busy.discard(environment)
        if environment.is_replaced:
            self._stop_environment(environment)
        else:
            if environment.has_served:
                self._failures = 0
            if environment not in self._idle:
                self._idle.append(environment)
        self._hand_out()

    def _on_end(self, environment: ExecutionEnvironment) -> None:
        self._environments.discard(environment)
        self._busy.discard(environment)
        if environment in self._idle:
            self._idle.remove(environment)
        if not (environment.was_working or environment.has_served or environment.is_replaced):
            self._failures += 1
        if environment.watcher is not None:
            self._end_before_stop(environment.watcher)
        self._hand_out()
        self._scale(keep=self._initial if environment.was_ready and not environment.is_replaced else 0)


async def _first_of(*futures: "asyncio.Future[ExecutionEnvironment] | asyncio.Task[None]") -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
