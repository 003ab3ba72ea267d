"""One function's replicas: finds them, warms them up, hands them out, and notices when they end.

A replica is known by its address, which the pool looks up again and again. It is used only after a warm-up: a request
that inits the function and is answered without the handler. From then on an idle connection stays open, whose end shows
that RIE has ended. Each request has a connection of its own. If it cannot be opened, the function has not run and
the request goes to another replica. Once it is open, the function may have run, so the request is never repeated.
"""

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final, TypeAlias

from local.runtimes.function_log import timestamp
from local.runtimes.function_runtime import FunctionInitError, Invocation, TooManyRequests
from local.runtimes.platform_failure import EXIT_ERROR, InitFailed, PlatformFailure, timed_out
from local.runtimes.replica import Replica, ReplicaRecord, watch
from local.runtimes.rie_protocol import Order, rie_timeout
from local.runtimes.rie_request import BROKEN, NO_EVENT, Address, Answer, RieSession
from template.model import Function

#: Looks up where a function's replicas are now. An OSError says that they cannot be looked up; the pool then keeps
#: those that it knows.
Find: TypeAlias = Callable[[str], Awaitable[Collection[Address]]]

#: Time between two look-ups of the replicas, seconds.
REFRESH_SECONDS: Final = 1.0

#: How long the answer of a replica that has ended may still take to arrive, seconds.
_LAST_ANSWER_SECONDS: Final = 0.5


@dataclass(frozen=True)
class ReplicaTiming:
    """How often a pool looks for its replicas, and how patient it is with them.

    Parameters
    ----------
    refresh_seconds : float
        Time between two look-ups of the replicas.
    margin_seconds : float
        How long RIE may take to answer after the function's timeout before the pool regards it as hanging. RIE needs
        0.1 s to end a function that is over its time. (measured)
    first_retry_seconds : float
        Delay before a replica that could not be warmed up is tried again. Each further delay is twice as long.
    longest_retry_seconds : float
        The longest such delay.
    longest_retry_if_refused_seconds : float
        The longest delay for a replica that cannot be reached. It is probably starting, so it is tried more often.

    """

    refresh_seconds: float = REFRESH_SECONDS
    margin_seconds: float = 2.0
    first_retry_seconds: float = 0.1
    longest_retry_seconds: float = 5.0
    longest_retry_if_refused_seconds: float = 1.0


DEFAULT_TIMING: Final = ReplicaTiming()


@dataclass(eq=False)
class _Waiter:
    """A request that waits for a replica."""

    replica: "asyncio.Future[ReplicaRecord]"
    is_expired: bool = False


class ReplicaPool:
    """One function's replicas, and the requests that wait for one.

    Parameters
    ----------
    function : Function
        The function.
    find : Find
        Looks up its replicas.
    notify : callable
        Takes messages about replicas that are ready, gone or failed.
    timing : ReplicaTiming
        How often it looks for them, and how patient it is.

    """

    def __init__(self, function: Function, find: Find, notify: Callable[[str], None], timing: ReplicaTiming) -> None:
        self._function = function
        self._find = find
        self._notify = notify
        self._timing = timing
        self._replicas: dict[Address, ReplicaRecord] = {}
        self._idle: deque[ReplicaRecord] = deque()  # the one that has been idle longest first, so that all are used
        self._waiting: deque[_Waiter] = deque()
        self._refresh_now = asyncio.Event()
        self._changed = asyncio.Event()
        self._is_stopping = False
        self._refresher: asyncio.Task[None] | None = None
        self._session: RieSession | None = None

    def replicas(self) -> list[Replica]:
        """Return the replicas' present states, in the order of their addresses."""
        return [replica.snapshot() for _, replica in sorted(self._replicas.items())]

    # Start and end

    async def start(self, seconds: float) -> None:
        """Wait until one replica is ready. Raises FunctionInitError if none is after `seconds`, or all fail."""
        self._session = RieSession()
        self._refresher = asyncio.create_task(self._refresh())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self._is_any_ready() or self._are_all_failed() or self._is_stopping):
                    self._changed.clear()
                    await self._changed.wait()
        if self._is_stopping:
            raise FunctionInitError(self._function.name, "it is being stopped")
        if not self._is_any_ready():
            raise FunctionInitError(self._function.name, self._why_none_is_ready(seconds))

    def _is_any_ready(self) -> bool:
        return any(replica.is_ready for replica in self._replicas.values())

    def _are_all_failed(self) -> bool:
        return bool(self._replicas) and all(replica.state == "failed" for replica in self._replicas.values())

    def _why_none_is_ready(self, seconds: float) -> str:
        replicas = self._replicas.values()
        for error in (replica.error for replica in replicas if replica.error):
            return error
        for replica in replicas:
            reason = replica.obstacle or "its init has not ended"
            return f"the container {replica} is not ready after {seconds:g} s: {reason}"
        return f"no container of the name {self._function.name} was found within {seconds:g} s. See: docker compose ps"

    async def stop(self) -> None:
        """Stop to use the replicas, refuse the requests that wait and give up those that run."""
        self._is_stopping = True
        self._changed.set()
        for waiter in self._waiting:
            if not waiter.replica.done():
                waiter.replica.set_exception(TooManyRequests(f"{self._function.name} is being stopped."))
        ending: list[asyncio.Task[None] | asyncio.Task[Answer | None] | None] = [self._refresher]
        for replica in self._replicas.values():
            ending += [replica.life, replica.in_flight]
        tasks = [task for task in ending if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    # Which replicas exist

    async def _refresh(self) -> None:
        while True:
            self._refresh_now.clear()
            with contextlib.suppress(OSError):
                self._update(set(await self._find(self._function.name)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    self._timing.refresh_seconds
                ):  # Python 3.11's wait_for may lose a cancellation
                    await self._refresh_now.wait()

    def _update(self, addresses: set[Address]) -> None:
        for address, replica in list(self._replicas.items()):
            replica.is_listed = address in addresses
            self._drop_if_unlisted(replica)
        for address in sorted(addresses - self._replicas.keys()):
            replica = self._replicas[address] = ReplicaRecord(address)
            replica.life = asyncio.create_task(self._keep_warm(replica))

    def _drop_if_unlisted(self, replica: ReplicaRecord) -> bool:
        """Drop a replica whose address is no longer found, once its request is answered; return whether it is gone."""
        if replica.is_listed or self._replicas.get(replica.address) is not replica:
            return False
        if (replica.state == "busy" or replica.is_in_flight) and not replica.is_overdue:
            return False
        del self._replicas[replica.address]
        self._withdraw(replica)
        for task in (replica.life, replica.in_flight):
            if task is not None:
                task.cancel()
        self._notify(f"{self._function.name}: the container {replica} is gone")
        return True

    def _withdraw(self, replica: ReplicaRecord) -> None:
        """Stop to hand this replica out."""
        replica.is_ready = False
        if replica in self._idle:
            self._idle.remove(replica)

    # One replica

    async def _keep_warm(self, replica: ReplicaRecord) -> None:
        """Warm a replica up, and again after each failure and each end."""
        timing = self._timing
        delay = timing.first_retry_seconds
        while True:
            replica.state = "starting"
            try:
                reader, writer = await watch(replica.address)
            except OSError as error:
                replica.obstacle = f"it cannot be reached: {error or type(error).__name__}"
            else:
                ended = asyncio.create_task(reader.read(1))
                try:
                    if await self._warm_up(replica, ended):
                        delay = timing.first_retry_seconds
                        await self._until_lost(replica, ended)
                        continue
                finally:
                    ended.cancel()
                    writer.close()
            longest = timing.longest_retry_if_refused_seconds if replica.obstacle else timing.longest_retry_seconds
            await asyncio.sleep(min(delay, longest))
            delay *= 2

    @property
    def _init_seconds(self) -> int:
        """How long an init may take before RIE ends it, seconds."""
        return rie_timeout(self._function.timeout_seconds)

    async def _warm_up(self, replica: ReplicaRecord, ended: "asyncio.Task[bytes]") -> bool:
        """Have the function init; return whether it did. RIE inits it only with its first request (measured)."""
        order = Order(str(uuid.uuid4()), self._function.name, warm_up=True)
        task = replica.in_flight = asyncio.create_task(self._post(replica, order, NO_EVENT))
        try:
            longest = self._init_seconds + self._timing.margin_seconds
            await asyncio.wait({task, ended}, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=_LAST_ANSWER_SECONDS)
        finally:
            task.cancel()
        answer = task.result() if task.done() else BROKEN
        if answer is None or answer.is_broken:
            replica.obstacle = "another function runs there" if answer is None else "it ended, or hung, during its init"
        elif answer.failure is None:
            self._on_warm(replica)
        else:
            self._on_init_failure(replica, answer.failure)
        self._changed.set()
        self._refuse_expired()
        return replica.is_ready

    def _on_warm(self, replica: ReplicaRecord) -> None:
        if self._drop_if_unlisted(replica):
            return
        replica.lost.clear()
        replica.failure, replica.obstacle, replica.is_ready = None, "", True
        if not replica.is_announced:
            self._notify(f"{self._function.name}: the container {replica} is ready")
        replica.is_announced = True
        self._release(replica)

    def _on_init_failure(self, replica: ReplicaRecord, failure: PlatformFailure) -> None:
        if failure.error_type == "Runtime.UnmarshalError":  # plain awslambdaric's answer to `NO_EVENT`
            failure = PlatformFailure(EXIT_ERROR, "its container does not run local.runtimes.rie_client")
        if failure.is_timeout:
            failure = PlatformFailure(failure.error_type, f"its init took longer than {self._init_seconds} s")
        if failure != replica.failure:
            self._notify(f"{self._function.name}: the container {replica} cannot start: {failure.reason()}")
        replica.failure, replica.obstacle, replica.state, replica.is_announced = failure, "", "failed", False
        if not any(other.is_ready or other.is_warming_up for other in self._replicas.values()):
            for waiter in self._waiting:
                if not waiter.replica.done():
                    waiter.replica.set_exception(InitFailed(failure))

    async def _until_lost(self, replica: ReplicaRecord, ended: "asyncio.Task[bytes]") -> None:
        """Wait until the replica's RIE or its function has ended, and until its request, if it has one, is over."""
        lost = asyncio.create_task(replica.lost.wait())
        try:
            await asyncio.wait({ended, lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        self._withdraw(replica)
        if ended.done():
            replica.is_announced = False
            self._notify(
                f"{self._function.name}: the container {replica} has ended; it is used again after its restart"
            )
        if replica.in_flight is not None and replica.is_in_flight:
            await asyncio.wait({replica.in_flight}, timeout=_LAST_ANSWER_SECONDS if ended.done() else None)
            replica.in_flight.cancel()
            await asyncio.wait({replica.in_flight})
        self._refresh_now.set()

    # One request

    @property
    def timeout_seconds(self) -> float:
        """The function's timeout, seconds."""
        return self._function.timeout_seconds

    async def invoke(self, order: Order, payload: bytes, wait_seconds: float) -> Invocation:
        """Run one request in a replica. Raises TooManyRequests if none becomes free within `wait_seconds`."""
        deadline = asyncio.get_running_loop().time() + wait_seconds
        is_first = False
        while True:
            try:
                replica = await self._acquire(deadline, is_first)
            except InitFailed as error:
                return Invocation(order.request_id, error.failure.payload(order.request_id), "Unhandled", b"", 0.0)
            started = time.monotonic()
            answer = await self._exchange(replica, order, payload)
            if answer is not None:
                if answer.failure is not None:  # RIE's own log has other ids
                    self._notify(f"{self._function.name}: request {order.request_id} failed: {answer.failure.message}")
                return _invocation(order.request_id, answer, (time.monotonic() - started) * 1000)
            is_first = True  # it has waited its turn already

    async def _exchange(self, replica: ReplicaRecord, order: Order, payload: bytes) -> Answer | None:
        task = replica.in_flight = asyncio.create_task(self._post(replica, order, payload))
        task.add_done_callback(lambda task: self._on_answer(replica, task))
        await asyncio.wait({task}, timeout=self.timeout_seconds + self._timing.margin_seconds)
        if not task.done():  # RIE hangs. The replica stays busy until it answers, ends, or its address disappears.
            replica.is_overdue = True
            return Answer(failure=timed_out(self.timeout_seconds))
        return BROKEN if task.cancelled() else task.result()

    def _on_answer(self, replica: ReplicaRecord, task: "asyncio.Task[Answer | None]") -> None:
        answer = None if task.cancelled() else task.result()
        is_usable = answer is not None and answer.failure is None and replica.is_ready and not replica.is_overdue
        replica.answered += answer is not None and not answer.is_broken
        replica.is_overdue = False
        replica.state = "idle" if is_usable else "starting"
        if self._drop_if_unlisted(replica):
            return
        if is_usable:
            self._release(replica)
        else:
            replica.lost.set()

    async def _post(self, replica: ReplicaRecord, order: Order, payload: bytes) -> Answer | None:
        if self._session is None:
            return None
        return await self._session.post(replica.address, order, payload, self.timeout_seconds)

    # Which request gets which replica

    async def _acquire(self, deadline: float, is_first: bool) -> ReplicaRecord:
        if self._is_stopping:
            raise TooManyRequests(f"{self._function.name} is being stopped.")
        if self._idle:
            replica = self._idle.popleft()
            replica.state = "busy"
            return replica
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future())
        if is_first:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        timer = loop.call_at(deadline, self._expire, waiter)
        try:
            return await waiter.replica
        finally:
            timer.cancel()
            self._waiting.remove(waiter)

    def _release(self, replica: ReplicaRecord) -> None:
        """Give the replica to the first request that waits, or keep it idle."""
        for waiter in self._waiting:
            if not waiter.replica.done():
                replica.state = "busy"
                waiter.replica.set_result(replica)
                return
        replica.state = "idle"
        self._idle.append(replica)

    def _expire(self, waiter: _Waiter) -> None:
        waiter.is_expired = True
        self._refuse_expired()

    def _refuse_expired(self) -> None:
        """Refuse the requests that have waited long enough, except those for which a replica is warming up."""
        warming_up = sum(replica.is_warming_up for replica in self._replicas.values())
        pending = [waiter for waiter in self._waiting if not waiter.replica.done()]
        for waiter in pending[warming_up:]:
            if waiter.is_expired:
                waiter.replica.set_exception(self._refusal())

    def _refusal(self) -> Exception:
        failures = [replica.failure for replica in self._replicas.values() if replica.failure]
        if failures and not self._is_any_ready():
            return InitFailed(failures[0])
        if not self._replicas:
            return TooManyRequests(f"No container of {self._function.name} is running.")
        return TooManyRequests(
            f"None of the {len(self._replicas)} containers of {self._function.name} became free in time."
        )


def _invocation(request_id: str, answer: Answer, duration_ms: float) -> Invocation:
    if answer.failure is None:
        function_error = "Unhandled" if answer.is_error else None
        return Invocation(request_id, answer.body, function_error, answer.log_tail, duration_ms)
    # What the function wrote is in its container's log. The tail that we would have got ended with the process.
    lines = [f"START RequestId: {request_id} Version: $LATEST", f"END RequestId: {request_id}"]
    if answer.failure.is_timeout:
        lines.insert(1, f"{timestamp()} {request_id} {answer.failure.message}")
    tail = "".join(f"{line}\n" for line in lines).encode()
    return Invocation(request_id, answer.failure.payload(request_id), "Unhandled", tail, duration_ms)
