"""Run functions as processes of this machine, through a Lambda Runtime API of our own.

An invocation takes this way: `EmbeddedRuntime.invoke` checks it -> the function's `_Pool` finds an idle environment,
starts one, or lets it wait -> the `_Environment` gives it to its process's open `GET /invocation/next`, and takes the
`POST`ed answer, the timeout, the memory limit or the process's end for the result, whichever comes first -> the next
`GET` makes the environment idle again.

Every environment has a Runtime API of its own, on a port of its own, so the port says which process is speaking.
The cost: one listener and one process (interpreter, imports and model) for each request in flight, as on AWS.

Sources: Lambda developer guide, "Using the Lambda runtime API for custom runtimes", "Understanding the Lambda execution
environment lifecycle", "Working with Lambda environment variables"; texts of errors and log lines as AWS sends them.
Unlike AWS: an init that overruns its 10 s goes on within the function's timeout where AWS would begin it again;
/tmp is not emptied or limited (TMPDIR is private to the environment); a process between two requests is not frozen;
memory is looked at ten times a second, and that of processes which the function starts is not counted.
"""

import asyncio
import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import psutil
from aiohttp import web

from local.runtimes import (
    INIT_SECONDS,
    LOG_TAIL_BYTES,
    MAX_RESPONSE_BYTES,
    FunctionInitError,
    FunctionNotFound,
    FunctionRuntime,
    Invocation,
    TooManyRequests,
    check_payload,
    look_at,
    new_trace_id,
    response_too_large,
    timestamp,
)
from template.model import Function

#: Longest log file, bytes. A camera that posts a frame a second writes that in a week.
MAX_LOG_BYTES: Final = 256 * 1024 * 1024

#: Time between two looks at a working process's memory, seconds.
MEMORY_SAMPLE_SECONDS: Final = 0.1

#: Time that a process has after SIGTERM, and after it reported an init error, to end by itself, seconds.
GRACE_SECONDS: Final = 0.5

#: Time from an answer until its process asks for the next event, mostly under 1 ms, that is waited before another
#: environment is started; seconds.
NEXT_SECONDS: Final = 0.05

#: Waits before another start while a function's environments end without serving, seconds.
_FIRST_BACKOFF_SECONDS: Final = 0.1
_LONGEST_BACKOFF_SECONDS: Final = 5.0

#: Longest time between an event and its answer on one connection: over the longest timeout, 900 s.
_KEEP_ALIVE_SECONDS: Final = 1000.0

#: awslambdaric sends an error's X-Ray report, up to 1 MiB, as a header.
_MAX_HEADER_BYTES: Final = 2 * 1024 * 1024

#: Folders for temporary files: this, the supervisor's process id, and more.
_SCRATCH: Final = "faceq-function-"

_API: Final = "/2018-06-01/runtime/"
_SOURCES: Final = Path(__file__).parents[2]


def default_client() -> str:
    """Return the module that runs handlers here: AWS's own where it has wheels, else ours."""
    return "awslambdaric" if sys.platform == "linux" else "local.runtimes.runtime_client"


class EmbeddedRuntime(FunctionRuntime):
    """Processes on this machine, one request at a time each.

    Parameters
    ----------
    functions : iterable of Function
        What can be invoked.
    task_root : Path
        Where the functions' code is: their working directory.
    logs : Path
        Folder of the log files, one a function, `<name>.log`, appended to. A line is
        `<UTC time> <name>/<environment> <request id or -> <text>`.
    region, account : str
        What the functions' ARNs say.
    environment : Mapping of str to str
        Variables that every function gets beside Lambda's and its own. Nothing else of the caller's is passed on.
    concurrency : int
        Most environments of a function for which the template reserves no concurrency; at least 1.
    initial : int
        Environments of each function that `start` inits.
    client : str or None
        Module that runs a handler: `awslambdaric` or `local.runtimes.runtime_client`; None for `default_client`.

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
    ) -> None:
        self._logs = logs
        self._pools = {
            function.name: _Pool(
                _Spec(
                    function=function,
                    arn=f"arn:aws:lambda:{region}:{account}:function:{function.name}",
                    region=region,
                    task_root=task_root,
                    environment={**environment, **function.environment},
                    client=client or default_client(),
                ),
                _Log(logs / f"{function.name}.log"),
                limit=concurrency if function.reserved_concurrency is None else function.reserved_concurrency,
                initial=initial,
            )
            for function in functions
        }
        self._running: set[asyncio.Task[Invocation]] = set()

    def concurrency(self, function: str) -> int:  # noqa: D102 - the Protocol says it
        return self._pool(function).limit

    def processes(self) -> dict[str, list[int]]:
        """Return the process ids of each function's environments."""
        return {name: pool.processes() for name, pool in self._pools.items()}

    async def start(self) -> None:  # noqa: D102
        self._logs.mkdir(parents=True, exist_ok=True)
        for name in self._pools:  # there for `faceq logs -f` before anything is in it
            (self._logs / f"{name}.log").touch(0o600)
        _remove_left_scratch()
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
        request = _Request(payload, client_context, trace_id or new_trace_id())
        # A task of its own: the function runs to its end even if its caller goes.
        task = asyncio.create_task(pool.invoke(request, wait_seconds))
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def replace(self) -> None:
        """Take changed code into use: init new environments, and let those go that were started before.

        An idle one ends at once, a busy one after its request; until then there may be more environments than
        `concurrency` says, but never more requests at once. A request that comes after the call gets a new one.
        Returns once the first new one of each function is ready, or a later call has replaced it.

        Raises
        ------
        FunctionInitError
            A function cannot init. Until it is replaced again, its invocations answer with its error, as on Lambda.

        """
        results = await asyncio.gather(*(pool.replace() for pool in self._pools.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _done(self, task: "asyncio.Task[Invocation]") -> None:
        self._running.discard(task)
        look_at(task)  # the caller may have gone

    def _pool(self, function: str) -> "_Pool":
        if function not in self._pools:
            raise FunctionNotFound(f"There is no function {function}; there are: {', '.join(self._pools)}.")
        return self._pools[function]

    async def stop(self) -> None:  # noqa: D102
        await asyncio.gather(*(pool.stop() for pool in self._pools.values()))
        await asyncio.gather(*self._running, return_exceptions=True)


@dataclass(frozen=True)
class _Spec:
    function: Function
    arn: str
    region: str
    task_root: Path
    environment: Mapping[str, str]
    client: str


@dataclass(frozen=True)
class _Failure:
    """What the platform, not the handler, found wrong."""

    error_type: str
    text: str

    def payload(self, request_id: str = "") -> bytes:
        message = f"RequestId: {request_id} Error: {self.text}" if request_id else self.text
        return json.dumps({"errorType": self.error_type, "errorMessage": message}).encode()


@dataclass
class _Request:
    payload: bytes
    client_context: bytes | None
    trace_id: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    began: float = 0.0
    invocation: "asyncio.Future[Invocation]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    tail: bytearray = field(default_factory=bytearray)


class _InitFailed(Exception):  # noqa: N818 - a result, handed to the one who waits for the environment
    def __init__(self, failure: _Failure, report: bytes | None) -> None:
        super().__init__(failure.text)
        self._failure = failure
        self._report = report

    def payload(self, request_id: str) -> bytes:
        return self._report or self._failure.payload(request_id)

    def reason(self) -> str:
        """Return the process's own words, in one line."""
        try:
            report = json.loads(self._report or b"")
            return " ".join(f"{report['errorType']}: {report['errorMessage']}".split())
        except (ValueError, TypeError, LookupError):
            return self._failure.text

    def place(self, task_root: Path) -> str:
        """Return the last of the function's own lines that its error's trace names, empty if there is none."""
        try:
            trace = "".join(json.loads(self._report or b"")["stackTrace"])
        except (ValueError, TypeError, LookupError):
            return ""
        root = task_root.resolve()
        lines = [(Path(file).resolve(), line) for file, line in re.findall(r'File "(.+)",? [Ll]ine (\d+)', trace)]
        own = [(file, line) for file, line in lines if file.is_relative_to(root)]
        # A virtual environment may be in the task root.
        own = [(file, line) for file, line in own if "site-packages" not in file.parts]
        return f"{own[-1][0].relative_to(root)}, line {own[-1][1]}" if own else ""


class _Log:
    """One function's log file, opened at its first line; at its longest it becomes `<name>.log.1` and begins anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._size = 0

    def write(self, stream: str, request_id: str, lines: Iterable[str]) -> None:
        """Append the lines in one write. A full disk loses lines, not requests."""
        prefix = f"{timestamp()} {stream} {request_id or '-'} "
        with contextlib.suppress(OSError):
            if self._file is not None and self._size > MAX_LOG_BYTES:
                self.close()
                self._path.replace(self._path.with_suffix(".log.1"))
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                self._size = os.fstat(self._file).st_size
            self._size += os.write(self._file, "".join(f"{prefix}{line}\n" for line in lines).encode())

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class _Output:
    """A process's standard output and error: one pipe, so that their lines keep their order.

    Read without blocking and at will, so that all that a request wrote is there when its answer is.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        reader, self.writer = os.pipe()
        os.set_blocking(reader, False)
        asyncio.get_running_loop().add_reader(reader, self._read, reader)
        self._reader: int | None = reader

    def drain(self) -> None:
        """Read what is there now, a pipe's content at most: a process that never pauses must not hold the loop."""
        for _ in range(16):
            if self._reader is None or not self._read(self._reader):
                break
        if self._rest:
            self._on_line(_text(self._rest))
            self._rest = b""

    def close(self) -> None:
        self.drain()
        if self._reader is not None:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = None

    def _read(self, reader: int) -> bool:
        try:
            content = os.read(reader, 65536)
        except BlockingIOError:
            return False
        if not content:
            asyncio.get_running_loop().remove_reader(reader)
            return False
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            self._on_line(_text(line))
        if len(self._rest) > 262_144:  # CloudWatch's longest event; a line without an end must not fill the memory
            self._on_line(_text(self._rest))
            self._rest = b""
        return True


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")


class _Environment:
    """One process with its Runtime API.

    Parameters
    ----------
    spec : _Spec
        What it runs.
    number : int
        Its name in the log.
    log : _Log
        Where its lines go.
    on_idle, on_end
        Called when it can take a request, and when its process is gone.

    """

    def __init__(
        self,
        spec: _Spec,
        number: int,
        log: _Log,
        on_idle: "Callable[[_Environment], None]",
        on_end: "Callable[[_Environment], None]",
    ) -> None:
        self._spec = spec
        self._stream = f"{spec.function.name}/{number}"
        self._log = log
        self._on_idle = on_idle
        self._on_end = on_end
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._work: asyncio.Queue[_Request] = asyncio.Queue(1)
        self._current: _Request | None = None
        self._last_id = ""
        self._init_report: bytes | None = None
        self._init_ms: float | None = None
        self._failure: _Failure | None = None
        self._memory: psutil.Process | None = None
        self._peak_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sampler: asyncio.TimerHandle | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.watcher: asyncio.Task[None] | None = None
        self._stopping = False
        self._answered = -NEXT_SECONDS
        self.served = False  # it answered at least once
        self.ended = False
        self.was_ready = False  # it ended after it had asked for an event
        self.was_working = False  # it ended with a request in its hands
        self.replaced = False  # its code is an old one: it takes no more requests

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def soon_idle(self) -> bool:
        """Whether it answered just now and will ask for the next event at once."""
        return not self.ended and time.monotonic() - self._answered < NEXT_SECONDS

    # Start and end

    async def start(self) -> None:
        """Start the process and wait until it asks for its first event. Raises _InitFailed."""
        began = time.monotonic()
        try:
            await self._spawn()
        except OSError as error:  # no processes, files or memory left, or no such folder
            self.ended = True
            self._on_end(self)
            raise _InitFailed(_Failure("Runtime.ExitError", f"the process cannot be started: {error}"), None) from None
        if self._stopping:
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
                self.kill(_Failure("Sandbox.Timedout", f"Task timed out after {timeout:.2f} seconds"))
                await self._ready
        self._init_ms = (time.monotonic() - began) * 1000

    async def _spawn(self) -> None:
        async with contextlib.AsyncExitStack() as undo:
            self._runner = web.ServerRunner(
                web.Server(
                    self._answer,
                    handler_cancellation=True,
                    keepalive_timeout=_KEEP_ALIVE_SECONDS,
                    max_field_size=_MAX_HEADER_BYTES,
                    access_log=None,
                ),
                shutdown_timeout=0.1,
            )
            undo.push_async_callback(self._runner.cleanup)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
            self._scratch = tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-")
            undo.callback(shutil.rmtree, self._scratch, ignore_errors=True)
            self._output = _Output(self._on_line)
            undo.callback(self._output.close)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "local.runtimes.child",
                    self._spec.client,
                    self._spec.function.handler,
                    stdin=subprocess.PIPE,  # never written to: its end tells the process that we are gone
                    stdout=self._output.writer,
                    stderr=subprocess.STDOUT,
                    cwd=self._spec.task_root,
                    env=self._variables(f"127.0.0.1:{self._runner.addresses[0][1]}"),
                    start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then stops in order
                )
            finally:
                os.close(self._output.writer)
            self._undo = undo.pop_all()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._memory = psutil.Process(self._process.pid)
        self.watcher = asyncio.create_task(self._watch(self._process))

    def kill(self, failure: _Failure | None = None) -> None:
        """End the process and what it started, at once; `failure` is what its request, or its init, is told."""
        self._failure = self._failure or failure
        self._signal(signal.SIGKILL)

    async def stop(self) -> None:
        """End the process, gently if it lets us."""
        self._stopping = True
        if self.watcher is None:
            return
        self._signal(signal.SIGTERM)
        await asyncio.wait([self.watcher], timeout=GRACE_SECONDS)
        self._signal(signal.SIGKILL)
        await self.watcher

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            # PermissionError: what macOS says of a group whose processes have all ended.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        self.ended = True
        self.was_ready, self.was_working = self._ready.done(), self._current is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started and left
        for timer in (self._timer, self._sampler):
            if timer:
                timer.cancel()
        self._output.close()
        failure = self._failure or _Failure("Runtime.ExitError", _exit_text(code))
        if self._current is not None:
            self._finish(failure.payload(self._current.id), failure)
        if not self._ready.done():
            self._ready.set_exception(_InitFailed(failure, self._init_report))
            self._ready.exception()  # looked at, even if nobody waits any more
        self._on_end(self)
        await self._undo.aclose()

    def _variables(self, address: str) -> dict[str, str]:
        function = self._spec.function
        return {
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            **self._spec.environment,
            "_HANDLER": function.handler,
            "AWS_REGION": self._spec.region,
            "AWS_DEFAULT_REGION": self._spec.region,
            "AWS_EXECUTION_ENV": "AWS_Lambda_Image",  # what functions from images see
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": self._stream,
            "AWS_LAMBDA_RUNTIME_API": address,
            # Placeholders: no local endpoint asks, and nobody's real key is ever handed to a function.
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_SESSION_TOKEN": "local",
            "LAMBDA_TASK_ROOT": str(self._spec.task_root),
            "LAMBDA_RUNTIME_DIR": str(_SOURCES),  # where the runtime client is found
            "PYTHONPATH": str(_SOURCES),
            "TMPDIR": self._scratch,
        }

    # One request

    async def invoke(self, request: _Request) -> Invocation:
        """Give the request to the process, which waits for it, and return what comes of it."""
        self._current = request
        self._last_id = request.id
        request.began = time.monotonic()
        self._write(f"START RequestId: {request.id} Version: $LATEST")
        self._timer = asyncio.get_running_loop().call_later(self._spec.function.timeout_seconds, self._time_out)
        self._sample_memory_later()
        self._work.put_nowait(request)
        return await request.invocation

    def _time_out(self) -> None:
        text = f"Task timed out after {self._spec.function.timeout_seconds:.2f} seconds"
        if self._current is not None:
            self._output.drain()
            self._write(f"{timestamp()} {self._current.id} {text}")
        # Without a request in hand it answered and never asked for the next one.
        self.kill(_Failure("Sandbox.Timedout", text))

    def _sample_memory(self) -> None:
        """Look at the process's memory again and again while it inits or works; kill it over its limit."""
        used, limit = self._memory_used(), self._spec.function.memory_mb
        if used > limit << 20:
            self._write(f"Memory limit of {limit} MB exceeded: {_mb(used)} MB are in use; process killed")
            self.kill(_Failure("Runtime.ExitError", "Runtime exited with error: signal: killed"))
        elif self._current is not None or not self._ready.done():
            self._sample_memory_later()

    def _sample_memory_later(self) -> None:
        if self._sampler:
            self._sampler.cancel()
        self._sampler = asyncio.get_running_loop().call_later(MEMORY_SAMPLE_SECONDS, self._sample_memory)

    def _memory_used(self) -> int:
        """Return the process's memory in bytes, 0 if it is gone; remember the most."""
        used = 0
        if self._memory is not None:
            with contextlib.suppress(psutil.Error):
                used = self._memory.memory_info().rss
        self._peak_bytes = max(self._peak_bytes, used)
        return used

    def _finish(self, payload: bytes, failure: _Failure | None = None, *, unhandled: bool = False) -> None:
        """Make `payload` the current request's result."""
        request = self._current
        if request is None:
            return
        duration_ms = (time.monotonic() - request.began) * 1000
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
            timed_out = failure.error_type == "Sandbox.Timedout"
            report.append("Status: timeout" if timed_out else f"Status: error\tError Type: {failure.error_type}")
        self._write(f"END RequestId: {request.id}", "\t".join(report))
        self._current = None
        request.invocation.set_result(
            Invocation(
                request_id=request.id,
                payload=payload,
                function_error="Unhandled" if failure or unhandled else None,
                log_tail=bytes(request.tail),
                duration_ms=duration_ms,
            )
        )

    def _on_line(self, text: str) -> None:
        # awslambdaric parts the lines of an error by carriage returns.
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
            return _refuse(404, "NotFound", f"{request.path} is not part of the Runtime API")
        match (request.method, *request.path.removeprefix(_API).split("/")):
            case ("GET", "invocation", "next"):
                return await self._next()
            case ("POST", "invocation", request_id, "response" | "error" as kind):
                return await self._result(request, request_id, kind)
            case ("POST", "init", "error"):
                return await self._init_error(request)
        return _refuse(404, "NotFound", f"{request.method} {request.path} is not part of the Runtime API")

    async def _next(self) -> web.Response:
        if self._current is not None:
            return _refuse(403, "InvalidStateTransition", "The current invocation has no answer yet")
        if self._timer:
            self._timer.cancel()
        if not self._ready.done():
            self._ready.set_result(None)
        self._answered = -NEXT_SECONDS
        self._on_idle(self)
        request = await self._work.get()
        deadline = time.time() - (time.monotonic() - request.began) + self._spec.function.timeout_seconds
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
            return _refuse(400, "InvalidRequestID", "Invalid request ID")
        self.served = True
        if body is None:
            failure = _Failure(*response_too_large(size))
            self._finish(failure.payload(), failure)
            return _refuse(
                413, "RequestEntityTooLarge", f"Exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
            )
        self._answered = time.monotonic()
        self._finish(body, unhandled=kind == "error")
        return web.json_response({"status": "OK"}, status=202)

    async def _init_error(self, request: web.BaseRequest) -> web.Response:
        if self._ready.done():
            return _refuse(403, "InvalidStateTransition", "The init phase is over")
        body, _ = await _read(request, MAX_RESPONSE_BYTES)
        self._init_report = body
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self.kill)  # if it does not end by itself
        return web.json_response({"status": "OK"}, status=202)


async def _read(request: web.BaseRequest, limit: int) -> tuple[bytes | None, int]:
    """Return the body, None if it is over `limit` bytes, and its size. Reads to the end, keeps no more than allowed."""
    content = bytearray()
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size <= limit:
            content += chunk
    return (bytes(content) if size <= limit else None), size


def _refuse(status: int, error_type: str, message: str) -> web.Response:
    return web.json_response({"errorType": error_type, "errorMessage": message}, status=status)


def _exit_text(code: int) -> str:
    if code == 0:
        return "Runtime exited without providing a reason"
    if code > 0:
        return f"Runtime exited with error: exit status {code}"
    name = signal.strsignal(-code) or f"signal {-code}"  # "Killed", on macOS "Killed: 9"
    return f"Runtime exited with error: signal: {name.split(':')[0].lower()}"


def _mb(size: int) -> int:
    return math.ceil(size / (1 << 20))


def _remove_left_scratch() -> None:
    """Remove the temporary files of supervisors that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        pid = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


async def _any(*futures: "asyncio.Future[_Environment] | asyncio.Future[None]") -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


class _Pool:
    """One function's environments, and those who wait for one.

    Parameters
    ----------
    spec : _Spec
        What they run.
    log : _Log
        Where they log.
    limit : int
        Most environments at once.
    initial : int
        How many `start` inits and how many are kept when one dies.

    """

    def __init__(self, spec: _Spec, log: _Log, limit: int, initial: int) -> None:
        self.limit = limit
        self._spec = spec
        self._log = log
        self._initial = min(initial, limit)
        self._environments: set[_Environment] = set()
        self._idle: list[_Environment] = []  # the most recently used last: it has the warmest memory
        self._busy: set[_Environment] = set()  # those that were given a request; replaced ones, too
        self._starting: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[_Environment]] = deque()
        self._numbers = 0
        self._ending: set[asyncio.Task[None]] = set()
        self._failures = 0  # environments in a row that ended by themselves without having served
        self._back_off = asyncio.Event()  # set when nobody is to wait any more before a start
        self._stopping = False

    def processes(self) -> list[int]:
        return [environment.pid for environment in self._all() if environment.pid is not None]

    def _all(self) -> set[_Environment]:
        return self._environments | self._busy

    async def start(self) -> None:
        """Init the first environments in parallel. Raises FunctionInitError."""
        try:
            await asyncio.gather(*[self._begin() for _ in range(self._initial)])
        except _InitFailed as error:
            raise self._init_error(error) from None

    async def replace(self) -> None:
        """Let the environments go, busy ones after their request, and init new ones. Raises FunctionInitError."""
        if self._stopping:
            return
        old, self._environments = self._environments, set()
        self._idle.clear()
        for environment in old:
            environment.replaced = True
            if environment not in self._busy:
                self._let_go(environment)
        for task in self._starting:
            self._end_with(task)
        self._starting.clear()
        self._failures = 0
        self._back_off.set()
        self._back_off = asyncio.Event()
        self._scale(keep=self._initial)
        new = set(self._starting)
        if not new:
            return
        await asyncio.wait(new)
        for task in new:
            if isinstance(error := task.exception(), _InitFailed):
                raise self._init_error(error)

    def _init_error(self, error: _InitFailed) -> FunctionInitError:
        return FunctionInitError(self._spec.function.name, error.reason(), error.place(self._spec.task_root))

    def _let_go(self, environment: _Environment) -> None:
        self._end_with(asyncio.create_task(environment.stop()))

    def _end_with(self, task: "asyncio.Task[None]") -> None:
        """Remember what is to be over when the pool has stopped."""
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def invoke(self, request: _Request, wait_seconds: float) -> Invocation:
        try:
            environment = await self._acquire(wait_seconds)
            while environment.ended:  # between becoming idle and now
                environment = await self._acquire(wait_seconds)
        except _InitFailed as error:
            return Invocation(request.id, error.payload(request.id), "Unhandled", b"", 0.0)
        return await environment.invoke(request)

    async def stop(self) -> None:
        self._stopping = True
        self._back_off.set()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(TooManyRequests(f"{self._spec.function.name} is being stopped."))
        await asyncio.gather(*(environment.stop() for environment in self._all()))
        while unfinished := self._starting | self._ending:
            await asyncio.wait(unfinished)
        self._log.close()

    async def _acquire(self, wait_seconds: float) -> _Environment:
        if self._stopping:
            raise TooManyRequests(f"{self._spec.function.name} is being stopped.")
        if self._idle and len(self._busy) < self.limit:
            return self._give()
        waiting: asyncio.Future[_Environment] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            if len(self._waiting) <= self._soon_idle():
                await asyncio.wait([waiting], timeout=NEXT_SECONDS)
            self._scale()
            await asyncio.wait([waiting], timeout=wait_seconds)
            # Those for whom an environment is being started are not throttled: they will have it.
            while not waiting.done() and self._waiting.index(waiting) < len(self._starting):
                await _any(waiting, *self._starting)
            if waiting.done():
                return waiting.result()
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiting)
        raise TooManyRequests(
            f"All {self.limit} environments of {self._spec.function.name} stayed busy for {wait_seconds:g} s."
        )

    def _give(self) -> _Environment:
        environment = self._idle.pop()
        self._busy.add(environment)
        return environment

    def _soon_idle(self) -> int:
        return sum(environment.soon_idle for environment in self._environments)

    def _scale(self, keep: int = 0) -> None:
        """Start environments for those who wait and have none coming, and up to `keep`; never over the limit."""
        while not self._stopping and (
            len(self._environments) < keep
            or (len(self._all()) < self.limit and len(self._starting) + self._soon_idle() < len(self._waiting))
        ):
            self._begin()

    def _begin(self) -> "asyncio.Task[None]":
        self._numbers += 1
        environment = _Environment(self._spec, self._numbers, self._log, self._release, self._ended)
        self._environments.add(environment)
        task = asyncio.create_task(self._init(environment))
        self._starting.add(task)
        task.add_done_callback(self._begun)
        return task

    async def _init(self, environment: _Environment) -> None:
        if self._failures:
            delay = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0 ** min(self._failures - 1, 10))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._back_off.wait(), delay)
        if self._stopping or environment not in self._environments:  # replaced while it waited
            self._environments.discard(environment)
            return
        try:
            await environment.start()
        except _InitFailed as error:
            if environment.replaced:
                return  # we ended it, and whoever waited has a new one coming
            while self._waiting:
                waiting = self._waiting.popleft()
                if not waiting.done():
                    waiting.set_exception(error)
                    break
            raise

    def _begun(self, task: "asyncio.Task[None]") -> None:
        self._starting.discard(task)
        look_at(task)  # whoever waits for it has its exception too
        self._scale()

    def _release(self, environment: _Environment) -> None:
        self._busy.discard(environment)
        if environment.replaced:
            self._let_go(environment)
        else:
            if environment.served:
                self._failures = 0
            if environment not in self._idle:
                self._idle.append(environment)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give the idle ones to those who wait."""
        while self._waiting and self._idle and len(self._busy) < self.limit:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(self._give())

    def _ended(self, environment: _Environment) -> None:
        self._environments.discard(environment)
        self._busy.discard(environment)
        if environment in self._idle:
            self._idle.remove(environment)
        if not (environment.was_working or environment.served or environment.replaced):
            self._failures += 1
        if environment.watcher is not None:
            self._end_with(environment.watcher)
        self._hand_out()
        self._scale(keep=self._initial if environment.was_ready and not environment.replaced else 0)
