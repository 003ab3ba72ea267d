"""Run functions in containers that hold AWS's Runtime Interface Emulator (RIE), one request at a time in each.

An invocation takes this way: `RieRuntime.invoke` checks it -> the function's `_Pool` hands out the replica that has
rested longest, or lets it wait -> `_Pool._exchange` sends it with an `Order` to RIE -> `_read` makes Lambda's result of
RIE's answer -> the replica is idle again, or, if its function ended, is warmed up anew.

A replica is known by its address, which `Find` looks up every second. It is used only after a warm-up, a request that
inits the function and is answered without the handler; a connection on which nothing is sent stays open from then on
and tells at once when RIE ends. Each request has a connection of its own: if that cannot be opened, the function has
not run and the request goes to another replica; once it is open, the function may have run and nothing is repeated.

What RIE does not do well was measured on the binary of aws-sam-cli 1.170.0 (docs/emulation.md); where it matters the
measured fact stands beside the code. `rie_client.py` runs in the container and makes up for what RIE hides.

The cost: only this process may talk to the replicas. A second request in flight, from anyone, ends RIE (measured); the
container starts again, and that replica's request is lost.
"""

import asyncio
import contextlib
import json
import re
import socket
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import aiohttp
from yarl import URL

from local.runtimes import (
    MAX_RESPONSE_BYTES,
    FunctionInitError,
    FunctionNotFound,
    FunctionRuntime,
    Invocation,
    TooManyRequests,
    check_payload,
    look_at,
    new_trace_id,
    timestamp,
)
from local.runtimes.rie_protocol import ERROR, OTHER, Order, fits_with_head, read_head, rie_timeout
from template.model import Function

#: Host and port.
Address: TypeAlias = tuple[str, int]

#: Looks up where a function's replicas are now. An OSError says that nobody knows; those of the last time are kept.
Find: TypeAlias = Callable[[str], Awaitable[Collection[Address]]]

State: TypeAlias = Literal["starting", "idle", "busy", "failed"]

#: RIE's port in a container. (`--runtime-interface-emulator-address`, its default)
PORT: Final = 8080

#: Time between two looks for replicas, seconds.
REFRESH_SECONDS: Final = 1.0

#: Longest wait for a connection, seconds: what has left the network does not refuse, it says nothing.
CONNECT_SECONDS: Final = 1.0

#: Time over the function's timeout after which RIE itself is taken to hang, seconds. It needs 0.1 s to end a function
#: that is over its time. (measured)
MARGIN_SECONDS: Final = 2.0

#: Waits before a replica is tried again, seconds: they double. One that refuses connections is starting.
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_LONGEST_REFUSED_PAUSE_SECONDS: Final = 1.0

#: Time in which the answer of a replica that has ended can still come in, seconds.
_LAST_WORDS_SECONDS: Final = 0.5

_PATH: Final = "/2015-03-31/functions/function/invocations"

#: An event that no handler sees, even where the container runs plain awslambdaric: it is not JSON.
_NO_EVENT: Final = b"{"

_TIMEOUT: Final = re.compile(rb"Task timed out after \d+\.\d\d seconds")
#: How RIE tells of a function that its client's timer has ended. (measured)
_OUT_OF_TIME: Final = "Runtime exited with error: signal: alarm clock"
_REQUEST_ID: Final = re.compile(r"RequestId: \S+ Error: ")


@dataclass(frozen=True)
class Replica:
    """One container of a function, for people to look at.

    Parameters
    ----------
    address : (str, int)
        Host and port of its RIE.
    state : str
        `starting` (it is not there yet, or inits), `idle`, `busy`, or `failed` (its init; it is tried again).
    answered : int
        Requests that it has answered.
    error : str
        Why its init failed the last time, in one line; empty if it did not.

    """

    address: Address
    state: State
    answered: int
    error: str


async def by_name(function: str) -> Collection[Address]:
    """Return the addresses that the network knows for the host named as the function: compose gives one a replica.

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
    """Containers with RIE, found by name.

    Parameters
    ----------
    functions : iterable of Function
        What can be invoked.
    find : Find
        Where a function's replicas are.
    wait_ready_seconds : float
        How long `start` waits for the first replica of each function.
    tell : callable
        Takes lines about replicas that come, go or fail, for people.

    """

    def __init__(
        self,
        functions: Iterable[Function],
        *,
        find: Find = by_name,
        wait_ready_seconds: float = 60,
        tell: Callable[[str], None],
    ) -> None:
        self._pools = {function.name: _Pool(function, find, tell) for function in functions}
        self._wait_ready_seconds = wait_ready_seconds
        self._running: set[asyncio.Task[Invocation]] = set()

    async def start(self) -> None:
        """Find the replicas of each function and wait until one of each is ready.

        Raises
        ------
        FunctionInitError
            All replicas of a function fail to init, or none is there in time.

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
        """Return each function's replicas as they are now."""
        return {name: pool.replicas() for name, pool in self._pools.items()}

    async def invoke(  # noqa: D102 - the Protocol says it
        self,
        function: str,
        payload: bytes,
        wait_seconds: float = 0.0,
        client_context: bytes | None = None,
        trace_id: str | None = None,
    ) -> Invocation:
        pool = self._pool(function)
        check_payload(payload)  # RIE would cut it without a word at 6,291,556 bytes (measured)
        order = Order(
            str(uuid.uuid4()),
            function,
            trace_id=trace_id or new_trace_id(),
            client_context=client_context.decode() if client_context else None,
            timeout_seconds=pool.timeout_seconds,
        )
        # A task of its own: the function runs to its end even if its caller goes.
        task = asyncio.create_task(pool.invoke(order, payload, wait_seconds))
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Take no request any more and give up those that run. The containers are not ours: they go on."""
        await asyncio.gather(*(pool.stop() for pool in self._pools.values()))
        await asyncio.gather(*self._running, return_exceptions=True)

    def _done(self, task: "asyncio.Task[Invocation]") -> None:
        self._running.discard(task)
        look_at(task)

    def _pool(self, function: str) -> "_Pool":
        if function not in self._pools:
            raise FunctionNotFound(f"There is no function {function}; there are: {', '.join(self._pools)}.")
        return self._pools[function]


@dataclass(frozen=True)
class _Failure:
    """What the platform, not the handler, found wrong."""

    error_type: str
    text: str
    report: bytes | None = None  # the process's own, where it made one

    def payload(self, request_id: str) -> bytes:
        if self.report is not None:
            return self.report
        message = f"RequestId: {request_id} Error: {self.text}"
        return json.dumps({"errorType": self.error_type, "errorMessage": message}).encode()

    def reason(self) -> str:
        """Return it in one line."""
        return " ".join((f"{self.error_type}: {self.text}" if self.report is not None else self.text).split())


@dataclass(frozen=True)
class _Answer:
    """What came back for a request: a result or an error of the handler, or a failure of the platform."""

    body: bytes = b""
    unhandled: bool = False
    log_tail: bytes = b""
    failure: _Failure | None = None


class _NotRun(Exception):  # noqa: N818 - no error: another replica takes the request
    """The replica did not get the request, or is another function's."""


class _InitFailed(Exception):  # noqa: N818 - a result, handed to the one who waits for a replica
    def __init__(self, failure: _Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


#: The function was ended by a timer, its client's or RIE's; after how long, its pool knows.
_TIMED_OUT: Final = _Failure("Sandbox.Timedout", "Task timed out")

#: The connection broke after the request was sent.
_BROKEN: Final = _Failure("Runtime.ExitError", "Runtime exited with error: signal: killed")


def _read(request_id: str, status: int, content: bytes) -> _Answer:
    """Make sense of what RIE answered. All that stands here about RIE was measured.

    200: the function's body, with the client's head; `Task timed out after N.NN seconds`. 502: an error that RIE
    knows, as JSON; nothing if the process ended during its init. Content type and X-Amz-Function-Error are lost.

    Raises
    ------
    _NotRun
        Another function lives at this address.

    """
    head = read_head(request_id, content)
    if head is not None:
        outcome, body, log_tail = head
        if outcome == OTHER:
            raise _NotRun
        return _Answer(body, unhandled=outcome == ERROR, log_tail=log_tail)
    if status == 200 and not fits_with_head(content):
        return _Answer(content)
    if _TIMEOUT.fullmatch(content):
        return _Answer(failure=_TIMED_OUT)
    if not content:
        return _Answer(failure=_Failure("Runtime.ExitError", "Runtime exited without providing a reason"))
    try:
        report = json.loads(content)
        error_type, message = str(report["errorType"]), str(report["errorMessage"])
    except (ValueError, TypeError, LookupError):
        return _Answer(failure=_Failure("Runtime.ExitError", f"RIE answered {status} {content[:200]!r}"))
    if message.endswith(_OUT_OF_TIME):
        return _Answer(failure=_TIMED_OUT)
    if _REQUEST_ID.match(message):
        return _Answer(failure=_Failure(error_type, _REQUEST_ID.sub("", message, count=1)))
    return _Answer(failure=_Failure(error_type, message, content))


@dataclass(eq=False)
class _Replica:
    """A replica's state. `_Pool._keep` has it from its first sight to its last."""

    address: Address
    state: State = "starting"
    answered: int = 0
    failure: _Failure | None = None  # of its last init
    obstacle: str = ""  # why it cannot be warmed up, other than by a failed init
    is_wanted: bool = True  # its address is still found
    is_ready: bool = False  # warmed up, and its RIE has not ended since
    is_told: bool = False  # people know that it is ready
    is_overdue: bool = False  # its request is over its time, and its caller has been told so
    lost: asyncio.Event = field(default_factory=asyncio.Event)  # it must be warmed up again
    life: "asyncio.Task[None] | None" = None
    in_flight: "asyncio.Task[_Answer | None] | None" = None  # the one request; a second ends RIE (measured)

    def __str__(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def error(self) -> str:
        return self.failure.reason() if self.failure else ""

    @property
    def is_in_flight(self) -> bool:
        return self.in_flight is not None and not self.in_flight.done()

    @property
    def is_warming(self) -> bool:
        return self.state == "starting" and self.is_in_flight


@dataclass(eq=False)
class _Waiter:
    replica: "asyncio.Future[_Replica]"
    is_expired: bool = False


class _Pool:
    """One function's replicas, and those who wait for one."""

    def __init__(self, function: Function, find: Find, tell: Callable[[str], None]) -> None:
        self._function = function
        self._find = find
        self._tell = tell
        self._replicas: dict[Address, _Replica] = {}
        self._idle: deque[_Replica] = deque()  # the one that has rested longest first, so that all are used
        self._waiting: deque[_Waiter] = deque()
        self._look = asyncio.Event()
        self._changed = asyncio.Event()
        self._is_stopping = False
        self._refresher: asyncio.Task[None] | None = None
        self._http: aiohttp.ClientSession | None = None

    def replicas(self) -> list[Replica]:
        return [
            Replica(replica.address, replica.state, replica.answered, replica.error)
            for _, replica in sorted(self._replicas.items())
        ]

    # Start and end

    async def start(self, seconds: float) -> None:
        """Wait until one replica is ready. Raises FunctionInitError."""
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )
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
            return f"{replica} is not ready after {seconds:g} s ({replica.obstacle or 'its init goes on'})"
        return f"no container of the name {self._function.name} was found within {seconds:g} s"

    async def stop(self) -> None:
        self._is_stopping = True
        self._changed.set()
        for waiter in self._waiting:
            if not waiter.replica.done():
                waiter.replica.set_exception(self._too_many("is being stopped"))
        ending: list[asyncio.Task[None] | asyncio.Task[_Answer | None] | None] = [self._refresher]
        for replica in self._replicas.values():
            ending += [replica.life, replica.in_flight]
        tasks = [task for task in ending if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    # Which replicas there are

    async def _refresh(self) -> None:
        while True:
            self._look.clear()
            with contextlib.suppress(OSError):
                self._take(set(await self._find(self._function.name)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS):  # Python 3.11's wait_for may lose a cancellation
                    await self._look.wait()

    def _take(self, found: set[Address]) -> None:
        for address, replica in list(self._replicas.items()):
            replica.is_wanted = address in found
            self._drop_unwanted(replica)
        for address in sorted(found - self._replicas.keys()):
            replica = self._replicas[address] = _Replica(address)
            replica.life = asyncio.create_task(self._keep(replica))

    def _drop_unwanted(self, replica: _Replica) -> bool:
        """Forget a replica whose address is not found any more, once its request is answered."""
        if replica.is_wanted or self._replicas.get(replica.address) is not replica:
            return False
        if (replica.state == "busy" or replica.is_in_flight) and not replica.is_overdue:
            return False
        del self._replicas[replica.address]
        self._rest_no_more(replica)
        for task in (replica.life, replica.in_flight):
            if task is not None:
                task.cancel()
        self._tell(f"{self._function.name}: {replica} has gone")
        return True

    def _rest_no_more(self, replica: _Replica) -> None:
        replica.is_ready = False
        if replica in self._idle:
            self._idle.remove(replica)

    # One replica

    async def _keep(self, replica: _Replica) -> None:
        """Warm a replica up, and again after each failure and each end."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            replica.state = "starting"
            try:
                reader, writer = await _watch(replica.address)
            except OSError as error:
                replica.obstacle = f"it does not take connections: {error or type(error).__name__}"
            else:
                ended = asyncio.create_task(reader.read(1))
                try:
                    if await self._warm_up(replica, ended):
                        pause = _FIRST_PAUSE_SECONDS
                        await self._until_lost(replica, ended)
                        continue
                finally:
                    ended.cancel()
                    writer.close()
            longest = _LONGEST_REFUSED_PAUSE_SECONDS if replica.obstacle else _LONGEST_PAUSE_SECONDS
            await asyncio.sleep(min(pause, longest))
            pause *= 2

    async def _warm_up(self, replica: _Replica, ended: "asyncio.Task[bytes]") -> bool:
        """Have the function init; return whether it did. RIE inits it with its first request only (measured)."""
        order = Order(str(uuid.uuid4()), self._function.name, warm_up=True)
        task = replica.in_flight = asyncio.create_task(self._post(replica, order, _NO_EVENT))
        try:
            longest = rie_timeout(self._function) + MARGIN_SECONDS
            await asyncio.wait({task, ended}, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=_LAST_WORDS_SECONDS)
        finally:
            task.cancel()
        answer = task.result() if task.done() else _Answer(failure=_BROKEN)
        if answer is None or answer.failure is _BROKEN:
            replica.obstacle = "it is another function's" if answer is None else "it ended, or hung, during its init"
        elif answer.failure is None:
            self._is_warm(replica)
        else:
            self._init_failed(replica, answer.failure)
        self._changed.set()
        self._settle()
        return replica.is_ready

    def _is_warm(self, replica: _Replica) -> None:
        if self._drop_unwanted(replica):
            return
        replica.lost.clear()
        replica.failure, replica.obstacle, replica.is_ready = None, "", True
        if not replica.is_told:
            self._tell(f"{self._function.name}: {replica} is ready")
        replica.is_told = True
        self._release(replica)

    def _init_failed(self, replica: _Replica, failure: _Failure) -> None:
        if failure.error_type == "Runtime.UnmarshalError":  # plain awslambdaric's answer to what is no event
            failure = _Failure("Runtime.ExitError", "its container does not run local.runtimes.rie_client")
        if failure is _TIMED_OUT:
            failure = _Failure("Sandbox.Timedout", f"its init took longer than {rie_timeout(self._function)} s")
        if failure != replica.failure:
            self._tell(f"{self._function.name}: {replica} cannot start: {failure.reason()}")
        replica.failure, replica.obstacle, replica.state, replica.is_told = failure, "", "failed", False
        if not any(other.is_ready or other.is_warming for other in self._replicas.values()):
            for waiter in self._waiting:
                if not waiter.replica.done():
                    waiter.replica.set_exception(_InitFailed(failure))

    async def _until_lost(self, replica: _Replica, ended: "asyncio.Task[bytes]") -> None:
        """Wait until the replica's RIE or its function has ended, and its request, if there is one, is over."""
        lost = asyncio.create_task(replica.lost.wait())
        try:
            await asyncio.wait({ended, lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        self._rest_no_more(replica)
        if ended.done():
            replica.is_told = False
            self._tell(f"{self._function.name}: {replica} has ended; it is used again once it is back")
        if replica.in_flight is not None and replica.is_in_flight:
            await asyncio.wait({replica.in_flight}, timeout=_LAST_WORDS_SECONDS if ended.done() else None)
            replica.in_flight.cancel()
            await asyncio.wait({replica.in_flight})
        self._look.set()

    # One request

    @property
    def timeout_seconds(self) -> float:
        return self._function.timeout_seconds

    async def invoke(self, order: Order, payload: bytes, wait_seconds: float) -> Invocation:
        deadline = asyncio.get_running_loop().time() + wait_seconds
        is_first = False
        while True:
            try:
                replica = await self._acquire(deadline, is_first)
            except _InitFailed as error:
                return Invocation(order.request_id, error.failure.payload(order.request_id), "Unhandled", b"", 0.0)
            began = time.monotonic()
            answer = await self._exchange(replica, order, payload)
            if answer is not None:
                if answer.failure is not None:  # RIE's own log has other ids
                    self._tell(f"{self._function.name}: {order.request_id} {answer.failure.text}")
                return self._invocation(order.request_id, answer, (time.monotonic() - began) * 1000)
            is_first = True  # it has waited its turn

    async def _exchange(self, replica: _Replica, order: Order, payload: bytes) -> _Answer | None:
        task = replica.in_flight = asyncio.create_task(self._post(replica, order, payload))
        task.add_done_callback(lambda task: self._answered(replica, task))
        await asyncio.wait({task}, timeout=self.timeout_seconds + MARGIN_SECONDS)
        if not task.done():  # RIE hangs. The replica stays busy until its answer or its end, or until its address goes.
            replica.is_overdue = True
            return _Answer(failure=self._timed_out)
        answer = _Answer(failure=_BROKEN) if task.cancelled() else task.result()
        return answer if answer is None or answer.failure is not _TIMED_OUT else _Answer(failure=self._timed_out)

    @property
    def _timed_out(self) -> _Failure:
        return _Failure("Sandbox.Timedout", f"Task timed out after {self.timeout_seconds:.2f} seconds")

    def _answered(self, replica: _Replica, task: "asyncio.Task[_Answer | None]") -> None:
        answer = None if task.cancelled() else task.result()
        is_well = answer is not None and answer.failure is None and replica.is_ready and not replica.is_overdue
        replica.answered += answer is not None and answer.failure is not _BROKEN
        replica.is_overdue = False
        replica.state = "idle" if is_well else "starting"
        if self._drop_unwanted(replica):
            return
        if is_well:
            self._release(replica)
        else:
            replica.lost.set()

    async def _post(self, replica: _Replica, order: Order, payload: bytes) -> _Answer | None:
        """Send one request; return the answer, None if the function has not run and will not."""
        if self._http is None:
            return None
        host, port = replica.address
        headers = {"X-Amz-Client-Context": order.header(), "Content-Type": "application/json"}
        url = URL.build(scheme="http", host=host, port=port, path=_PATH)
        try:
            async with self._http.post(url, data=payload, headers=headers) as response:
                return _read(order.request_id, response.status, await _content(response))
        except (_NotRun, aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return None
        except (aiohttp.ClientError, OSError):
            return _Answer(failure=_BROKEN)

    @staticmethod
    def _invocation(request_id: str, answer: _Answer, duration_ms: float) -> Invocation:
        if answer.failure is None:
            function_error = "Unhandled" if answer.unhandled else None
            return Invocation(request_id, answer.body, function_error, answer.log_tail, duration_ms)
        # What the function wrote is in its container's log; the end of it ended with the process.
        lines = [f"START RequestId: {request_id} Version: $LATEST", f"END RequestId: {request_id}"]
        if answer.failure.error_type == "Sandbox.Timedout":
            lines.insert(1, f"{timestamp()} {request_id} {answer.failure.text}")
        tail = "".join(f"{line}\n" for line in lines).encode()
        return Invocation(request_id, answer.failure.payload(request_id), "Unhandled", tail, duration_ms)

    # Who gets which replica when

    async def _acquire(self, deadline: float, is_first: bool) -> _Replica:
        if self._is_stopping:
            raise self._too_many("is being stopped")
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

    def _release(self, replica: _Replica) -> None:
        for waiter in self._waiting:
            if not waiter.replica.done():
                replica.state = "busy"
                waiter.replica.set_result(replica)
                return
        replica.state = "idle"
        self._idle.append(replica)

    def _expire(self, waiter: _Waiter) -> None:
        waiter.is_expired = True
        self._settle()

    def _settle(self) -> None:
        """Refuse those who have waited long enough; not those for whom a replica is being warmed up."""
        warming = sum(replica.is_warming for replica in self._replicas.values())
        pending = [waiter for waiter in self._waiting if not waiter.replica.done()]
        for waiter in pending[warming:]:
            if waiter.is_expired:
                waiter.replica.set_exception(self._refusal())

    def _refusal(self) -> Exception:
        failures = [replica.failure for replica in self._replicas.values() if replica.failure]
        if failures and not self._is_any_ready():
            return _InitFailed(failures[0])
        if not self._replicas:
            return self._too_many("has no container now")
        return self._too_many(f"has {len(self._replicas)} container(s), and none became free in time")

    def _too_many(self, why: str) -> TooManyRequests:
        return TooManyRequests(f"{self._function.name} {why}.")


async def _watch(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open the connection that tells when RIE ends. Nothing is sent, which RIE bears (measured)."""
    async with asyncio.timeout(CONNECT_SECONDS):
        reader, writer = await asyncio.open_connection(*address)
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # notices one that left without a word
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return reader, writer


async def _content(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, which is never longer than Lambda's limit."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_RESPONSE_BYTES:
            raise aiohttp.ClientPayloadError("more than RIE ever sends")
    return bytes(content)
