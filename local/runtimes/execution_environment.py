"""One execution environment: a process that runs a function, and the Lambda Runtime API that it talks to.

Every environment has a Runtime API of its own, on a port of its own, so the port identifies the process that calls.
The cost is one listener and one process (interpreter, imports and model) for each request in flight, as on AWS.

Sources: Lambda developer guide, "Using the Lambda runtime API for custom runtimes", "Understanding the Lambda execution
environment lifecycle", "Working with Lambda environment variables". The texts of errors and log lines are AWS's.

Differences from AWS: An init that takes longer than 10 s continues within the function's timeout, where AWS would start
it again. /tmp is neither emptied nor limited, but TMPDIR is private to the environment. A process is not frozen between
two requests. Memory is measured ten times a second, without the memory of processes that the function starts.
"""

import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import psutil
from aiohttp import web

from local.runtimes.environment_spec import EnvironmentSpec
from local.runtimes.function_log import FunctionLog, ProcessOutput, timestamp
from local.runtimes.function_runtime import Invocation
from local.runtimes.limits import INIT_SECONDS, LOG_TAIL_BYTES, MAX_RESPONSE_BYTES, response_too_large
from local.runtimes.platform_failure import EXIT_ERROR, KILLED, InitFailed, PlatformFailure, timed_out

#: Time between two measurements of a working process's memory, seconds.
MEMORY_SAMPLE_SECONDS: Final = 0.1

#: How long a process may take to end by itself after SIGTERM, and after it reported an init error, seconds.
GRACE_SECONDS: Final = 0.5

#: Longest time between an event and its answer on one connection, seconds: over the longest timeout, 900 s.
_KEEP_ALIVE_SECONDS: Final = 1000.0

#: awslambdaric sends an error's X-Ray report, up to 1 MiB, as a header.
_MAX_HEADER_BYTES: Final = 2 * 1024 * 1024

#: Name of the folders for temporary files; the supervisor's process id and a random part follow.
_SCRATCH: Final = "faceq-function-"

_API: Final = "/2018-06-01/runtime/"


@dataclass
class Request:
    """One event on its way through an environment.

    Parameters
    ----------
    payload : bytes
        The event.
    client_context : bytes or None
        JSON object, one line of ASCII.
    trace_id : str
        X-Ray trace header.
    id : str
        The request's id.
    started : float
        When an environment took it, by the monotonic clock, seconds.
    outcome : Future of Invocation
        What came of it.
    tail : bytearray
        The end of its log.

    """

    payload: bytes
    client_context: bytes | None
    trace_id: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started: float = 0.0
    outcome: "asyncio.Future[Invocation]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    tail: bytearray = field(default_factory=bytearray)


class ExecutionEnvironment:
    """One process with its Runtime API.

    Parameters
    ----------
    spec : EnvironmentSpec
        What it runs.
    number : int
        Its number in the log.
    log : FunctionLog
        Where its lines go.
    on_idle, on_end : callable
        Called with the environment when it can take a request, and when its process is gone.

    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        number: int,
        log: FunctionLog,
        on_idle: Callable[["ExecutionEnvironment"], None],
        on_end: Callable[["ExecutionEnvironment"], None],
    ) -> None:
        self._spec = spec
        self._stream = f"{spec.function.name}/{number}"
        self._log = log
        self._on_idle = on_idle
        self._on_end = on_end
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._events: asyncio.Queue[Request] = asyncio.Queue(1)
        self._current: Request | None = None
        self._last_id = ""
        self._init_report: bytes | None = None
        self._init_ms: float | None = None
        self._failure: PlatformFailure | None = None
        self._memory: psutil.Process | None = None
        self._peak_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sampler: asyncio.TimerHandle | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.watcher: asyncio.Task[None] | None = None  # ends when the process is gone and cleaned up after
        self._is_stopping = False
        self._answered_at = -math.inf
        self.has_served = False  # it answered at least once
        self.has_ended = False
        self.was_ready = False  # its process ended after it had asked for an event
        self.was_working = False  # its process ended during a request
        self.is_replaced = False  # it runs old code and takes no more requests

    @property
    def pid(self) -> int | None:
        """The process's id; None before it is started."""
        return None if self._process is None else self._process.pid

    @property
    def is_idle_soon(self) -> bool:
        """Whether it has just answered, so it is about to ask for its next event."""
        return not self.has_ended and time.monotonic() - self._answered_at < self._spec.next_event_seconds

    # Start and end

    async def start(self) -> None:
        """Start the process and wait until it asks for its first event. Raises InitFailed."""
        started = time.monotonic()
        try:
            await self._spawn()
        except OSError as error:  # no processes, files or memory left, or no such folder
            self.has_ended = True
            self._on_end(self)
            raise InitFailed(PlatformFailure(EXIT_ERROR, f"the process cannot be started: {error}")) from None
        if self._is_stopping:
            self.kill()
        self._sample_memory()
        timeout = self._spec.function.timeout_seconds
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), INIT_SECONDS)
        except TimeoutError:
            self._write(f"INIT_REPORT Init Duration: {INIT_SECONDS * 1000:.2f} ms\tPhase: init\tStatus: timeout")
            try:
                await asyncio.wait_for(asyncio.shield(self._ready), timeout)
            except TimeoutError:
                self.kill(timed_out(timeout))
                await self._ready
        self._init_ms = (time.monotonic() - started) * 1000

    async def _spawn(self) -> None:
        async with contextlib.AsyncExitStack() as undo:
            runner = web.ServerRunner(
                web.Server(
                    self._answer,
                    handler_cancellation=True,
                    keepalive_timeout=_KEEP_ALIVE_SECONDS,
                    max_field_size=_MAX_HEADER_BYTES,
                    access_log=None,
                ),
                shutdown_timeout=0.1,
            )
            undo.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            scratch = tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-")
            undo.callback(shutil.rmtree, scratch, ignore_errors=True)
            self._output = ProcessOutput(self._on_line)
            undo.callback(self._output.close)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "local.runtimes.exit_with_parent",
                    self._spec.client,
                    self._spec.function.handler,
                    stdin=subprocess.PIPE,  # we write nothing; the pipe's end tells the process that we are gone
                    stdout=self._output.writer,
                    stderr=subprocess.STDOUT,
                    cwd=self._spec.task_root,
                    env=self._spec.variables(self._stream, f"127.0.0.1:{runner.addresses[0][1]}", scratch),
                    start_new_session=True,  # Ctrl-C reaches only the supervisor, which then stops everything in order
                )
            finally:
                os.close(self._output.writer)
            self._undo = undo.pop_all()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._memory = psutil.Process(self._process.pid)
        self.watcher = asyncio.create_task(self._watch(self._process))

    def kill(self, failure: PlatformFailure | None = None) -> None:
        """Kill the process and what it started; `failure` becomes the outcome of its request or of its init."""
        self._failure = self._failure or failure
        self._signal(signal.SIGKILL)

    async def stop(self) -> None:
        """End the process, with SIGTERM first. A process that ignores it is killed after `GRACE_SECONDS`."""
        self._is_stopping = True
        if self.watcher is None:
            return
        self._signal(signal.SIGTERM)
        await asyncio.wait([self.watcher], timeout=GRACE_SECONDS)
        self._signal(signal.SIGKILL)
        await self.watcher

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            _signal_group(self._process.pid, number)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        self.has_ended = True
        self.was_ready, self.was_working = self._ready.done(), self._current is not None
        _signal_group(process.pid, signal.SIGKILL)  # the processes that it started and left behind
        for timer in (self._timer, self._sampler):
            if timer:
                timer.cancel()
        self._output.close()
        failure = self._failure or PlatformFailure(EXIT_ERROR, _exit_message(code))
        if self._current is not None:
            self._finish(failure.payload(self._current.id), failure)
        if not self._ready.done():
            self._ready.set_exception(InitFailed(replace(failure, report=self._init_report)))
            self._ready.exception()  # retrieved here, because it may be that no task waits for it any more
        self._on_end(self)
        await self._undo.aclose()

    # One request

    async def invoke(self, request: Request) -> Invocation:
        """Give the request to the process, which is waiting for one, and return its outcome."""
        self._current = request
        self._last_id = request.id
        request.started = time.monotonic()
        self._write(f"START RequestId: {request.id} Version: $LATEST")
        self._timer = asyncio.get_running_loop().call_later(self._spec.function.timeout_seconds, self._time_out)
        self._sample_memory_later()
        self._events.put_nowait(request)
        return await request.outcome

    def _time_out(self) -> None:
        failure = timed_out(self._spec.function.timeout_seconds)
        if self._current is not None:
            self._output.drain()
            self._write(f"{timestamp()} {self._current.id} {failure.message}")
        # If no request is current, the process answered in time but never asked for the next event.
        self.kill(failure)

    def _sample_memory(self) -> None:
        """Measure the process's memory repeatedly while it inits or works; kill it if it is over its limit."""
        used, limit = self._memory_used(), self._spec.function.memory_mb
        if used > limit << 20:
            self._write(f"Memory limit of {limit} MB exceeded: {_mb(used)} MB are in use; process killed")
            self.kill(KILLED)
        elif self._current is not None or not self._ready.done():
            self._sample_memory_later()

    def _sample_memory_later(self) -> None:
        if self._sampler:
            self._sampler.cancel()
        self._sampler = asyncio.get_running_loop().call_later(MEMORY_SAMPLE_SECONDS, self._sample_memory)

    def _memory_used(self) -> int:
        """Return the process's memory in bytes, 0 if it is gone; remember the largest."""
        used = 0
        if self._memory is not None:
            with contextlib.suppress(psutil.Error):
                used = self._memory.memory_info().rss
        self._peak_bytes = max(self._peak_bytes, used)
        return used

    def _finish(self, payload: bytes, failure: PlatformFailure | None = None, *, unhandled: bool = False) -> None:
        """End the current request: log its END and REPORT lines and return `payload` to its caller."""
        request = self._current
        if request is None:
            return
        duration_ms = (time.monotonic() - request.started) * 1000
        self._memory_used()
        self._output.drain()
        report = [
            f"REPORT RequestId: {request.id}",
            f"Duration: {duration_ms:.2f} ms",
            # Init is billed, for images too. (AWS Compute Blog, "AWS Lambda standardizes billing for INIT phase")
            f"Billed Duration: {math.ceil(duration_ms + (self._init_ms or 0))} ms",
            f"Memory Size: {self._spec.function.memory_mb} MB",
            f"Max Memory Used: {_mb(self._peak_bytes)} MB",
        ]
        if self._init_ms is not None:
            report.append(f"Init Duration: {self._init_ms:.2f} ms")
            self._init_ms = None
        if failure:
            report.append(
                "Status: timeout" if failure.is_timeout else f"Status: error\tError Type: {failure.error_type}"
            )
        self._write(f"END RequestId: {request.id}", "\t".join(report))
        self._current = None
        request.outcome.set_result(
            Invocation(
                request_id=request.id,
                payload=payload,
                function_error="Unhandled" if failure or unhandled else None,
                log_tail=bytes(request.tail),
                duration_ms=duration_ms,
            )
        )

    def _on_line(self, text: str) -> None:
        # awslambdaric separates the lines of an error by carriage returns.
        self._write(*text.rstrip("\r").split("\r"))

    def _write(self, *lines: str) -> None:
        if self._current is not None:
            tail = self._current.tail
            tail += "".join(f"{line}\n" for line in lines).encode()
            del tail[:-LOG_TAIL_BYTES]
        self._log.write(self._stream, self._last_id, lines)

    # The Runtime API

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if not request.path.startswith(_API):
            return _refusal(404, "NotFound", f"{request.path} is not part of the Runtime API")
        match (request.method, *request.path.removeprefix(_API).split("/")):
            case ("GET", "invocation", "next"):
                return await self._next()
            case ("POST", "invocation", request_id, "response" | "error" as kind):
                return await self._result(request, request_id, kind)
            case ("POST", "init", "error"):
                return await self._init_error(request)
        return _refusal(404, "NotFound", f"{request.method} {request.path} is not part of the Runtime API")

    async def _next(self) -> web.Response:
        if self._current is not None:
            return _refusal(403, "InvalidStateTransition", "The current invocation has no answer yet")
        if self._timer:
            self._timer.cancel()
        if not self._ready.done():
            self._ready.set_result(None)
        self._answered_at = -math.inf
        self._on_idle(self)
        request = await self._events.get()
        deadline = time.time() - (time.monotonic() - request.started) + self._spec.function.timeout_seconds
        headers = {
            "Lambda-Runtime-Aws-Request-Id": request.id,
            "Lambda-Runtime-Deadline-Ms": str(int(deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": self._spec.arn,
            "Lambda-Runtime-Trace-Id": request.trace_id,
            "Content-Type": "application/json",
        }
        if request.client_context:
            headers["Lambda-Runtime-Client-Context"] = request.client_context.decode()
        return web.Response(body=request.payload, headers=headers)

    async def _result(self, request: web.BaseRequest, request_id: str, kind: str) -> web.Response:
        body, size = await _read(request, MAX_RESPONSE_BYTES)
        if self._current is None or request_id != self._current.id:
            return _refusal(400, "InvalidRequestID", "Invalid request ID")
        self.has_served = True
        if body is None:
            report = response_too_large(size)
            payload = json.dumps(report).encode()
            self._finish(payload, PlatformFailure(report["errorType"], report["errorMessage"], payload))
            return _refusal(
                413, "RequestEntityTooLarge", f"Exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
            )
        self._answered_at = time.monotonic()
        self._finish(body, unhandled=kind == "error")
        return web.json_response({"status": "OK"}, status=202)

    async def _init_error(self, request: web.BaseRequest) -> web.Response:
        if self._ready.done():
            return _refusal(403, "InvalidStateTransition", "The init phase is over")
        self._init_report, _ = await _read(request, MAX_RESPONSE_BYTES)
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self.kill)  # if it does not end by itself
        return web.json_response({"status": "OK"}, status=202)


def remove_abandoned_scratch() -> None:
    """Remove the temporary files of supervisors that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        pid = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


async def _read(request: web.BaseRequest, limit: int) -> tuple[bytes | None, int]:
    """Return the body and its size. Read all of it, but keep nothing (None) if it is over `limit` bytes."""
    content = bytearray()
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size <= limit:
            content += chunk
    return (bytes(content) if size <= limit else None), size


def _refusal(status: int, error_type: str, message: str) -> web.Response:
    return web.json_response({"errorType": error_type, "errorMessage": message}, status=status)


def _signal_group(group: int, number: int) -> None:
    # macOS raises PermissionError for a group whose processes have all ended.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _exit_message(code: int) -> str:
    if code == 0:
        return "Runtime exited without providing a reason"
    if code > 0:
        return f"Runtime exited with error: exit status {code}"
    name = signal.strsignal(-code) or f"signal {-code}"  # "Killed", on macOS "Killed: 9"
    return f"Runtime exited with error: signal: {name.split(':')[0].lower()}"


def _mb(size: int) -> int:
    return math.ceil(size / (1 << 20))
