"""What stands before the functions, whatever runs them: the function URL, the Lambda API, the event source mapping.

The stack without Docker and the gateway of the containers are both made of it.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from aiohttp import web

from adapters.settings import DEFAULT_REGION
from local import event_source_mapping, function_url, lambda_api
from local.addresses import ACCOUNT, queue_url, read_local_template
from local.http_server import LOOPBACK, listen
from local.runtimes import FunctionRuntime
from pipeline.gallery import Gallery
from template.model import ServiceTemplate
from template.reader import TEMPLATE_FILE
from template.yaml_nodes import TemplateError

_ROOT: Final = Path(__file__).parents[1]

#: How long a frame waits for a free execution environment before it is answered 429, seconds. AWS would start another
#: environment instead; a laptop has only so many processors, so a burst waits as long as one frame may take.
WAIT_SECONDS: Final = 30.0
#: Waits before a child is started again, seconds; the wait doubles while it keeps dying.
_FIRST_RESTART_SECONDS: Final = 0.1
_LONGEST_RESTART_SECONDS: Final = 5.0
#: How long a child has to be ready, and to end by itself, seconds.
_READY_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 2.0


class StackError(Exception):
    """The stack cannot start or go on, in one line for people."""


class Front:
    """Servers and processes around a runtime, ended in the opposite order of their start.

    Parameters
    ----------
    tell : callable
        Takes a sentence for people about what happens while it runs.
    logs : Path or None
        Folder of the children's logs; None lets them write to our own standard error.
    host : str
        Address that the servers listen on.

    """

    def __init__(self, tell: Callable[[str], None], logs: Path | None = None, host: str = LOOPBACK) -> None:
        self._tell = tell
        self._logs = logs
        self._host = host
        self.stops = contextlib.AsyncExitStack()
        self.children: list[Child] = []

    async def serve(self, application: web.Application, port: int) -> None:
        """Listen until the end. Raises OSError if the port is taken."""
        runner, _ = await listen(application, port, self._host)
        self.stops.push_async_callback(runner.cleanup)

    def child(self, name: str, command: Sequence[str], variables: Mapping[str, str], lost: str = "") -> "Child":
        """Return a process that ends with us; it is not started yet."""
        log = None if self._logs is None else self._logs / f"{name}.log"
        child = Child(name, command, variables, log, self._tell, lost)
        self.children.append(child)
        self.stops.push_async_callback(child.stop)
        return child

    async def serve_api(
        self,
        runtime: FunctionRuntime,
        played: ServiceTemplate,
        url: str,
        region: str,
        port: int,
        wait_seconds: float = 0.0,
        more: Mapping[str, Callable[[web.Request], Awaitable[web.Response]]] = MappingProxyType({}),
    ) -> None:
        """Serve the Lambda API; `url` is where the function URLs are, `more` what else answers a GET, by path."""
        urls = {each.function: url for each in played.function_urls}
        api = lambda_api.application(runtime, played, urls, region=region, account=ACCOUNT, wait_seconds=wait_seconds)
        for path, answer in more.items():
            api.router.add_get(path, answer)
        await self.serve(api, port)

    async def serve_urls(self, runtime: FunctionRuntime, played: ServiceTemplate, port: int) -> None:
        """Serve the function URLs."""
        for url in played.function_urls:
            await self.serve(function_url.application(runtime, url.function, WAIT_SECONDS), port)

    def task(self, work: Coroutine[None, None, None]) -> None:
        """Do something beside, until the end."""
        self.stops.push_async_callback(cancel, asyncio.create_task(work))

    def mapping(
        self, played: ServiceTemplate, concurrency: Mapping[str, int], sqs_endpoint: str, lambda_endpoint: str
    ) -> "Child":
        """Return the process that plays the event source mappings; it is not started yet."""
        return self.child(
            "event-source-mapping",
            event_source_mapping.command(played.event_source_mappings, concurrency),
            {"AWS_ENDPOINT_URL_SQS": sqs_endpoint, "AWS_ENDPOINT_URL_LAMBDA": lambda_endpoint},
        )


async def cancel(task: "asyncio.Task[None]") -> None:
    """End a task and wait until it has."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def read_template(parameters: Mapping[str, str], sqs_endpoint: str, region: str = DEFAULT_REGION) -> ServiceTemplate:
    """Read the service's template for this machine. Raises StackError that names file and line."""
    try:
        return read_local_template(parameters, region, sqs_endpoint)
    except TemplateError as error:
        raise StackError(f"{TEMPLATE_FILE.relative_to(_ROOT)}: {error}") from None


def gallery_notice(gallery: Gallery | None) -> str | None:
    """Return what people should know of their gallery when the service starts, None if it is nothing."""
    if gallery is None:
        return "Nobody is enrolled yet, so every face is Unknown: faceq people add NAME PHOTO..."
    return gallery.warning


def queues_of(played: ServiceTemplate, sqs_endpoint: str) -> dict[str, str]:
    """Return the three queue URLs of `RunningStack`. Raises StackError if the template does not name them."""
    sources = {mapping.queue for mapping in played.event_source_mappings}
    responses = [name for name in played.queues if name.endswith("-resp-queue")]
    if len(sources) != 1 or len(responses) != 1:
        raise StackError(
            "deploy/template.yaml: one queue must trigger a function and one name must end in -resp-queue; "
            f"there are {len(sources)} and {len(responses)}."
        )
    source = sources.pop()
    redrive = played.queues[source].redrive
    return {
        "request_queue_url": queue_url(sqs_endpoint, source),
        "response_queue_url": queue_url(sqs_endpoint, responses[0]),
        "dead_letter_queue_url": queue_url(sqs_endpoint, redrive.dead_letter_queue) if redrive is not None else "",
    }


class Child:
    """A process of our own that says when it is ready, lives as long as we do and is started again when it dies.

    Parameters
    ----------
    command : sequence of str
        Prints one line of JSON on standard output when it is ready; ends on SIGTERM, and when its standard input does.
    variables : Mapping of str to str
        Added to our own environment.
    log : Path or None
        Where its standard error goes; None: where ours does.
    lost : str
        What people are told is gone when it dies.

    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        log: Path | None,
        tell: Callable[[str], None],
        lost: str,
    ) -> None:
        self.name = name
        self._command = command
        self._variables = variables
        self._log = log
        self._tell = tell
        self._lost = lost
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, None while it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def send(self, line: str) -> None:
        """Write a line to its standard input, if it runs."""
        if self.pid is not None and self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(f"{line}\n".encode())

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises StackError with its own last words if it does not get there."""
        self._process = await self._begin()
        self._keeper = asyncio.create_task(self._keep(self._process))

    async def stop(self) -> None:
        """End it, politely first."""
        if self._keeper is not None:
            self._keeper.cancel()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _begin(self) -> asyncio.subprocess.Process:
        with contextlib.nullcontext() if self._log is None else self._log.open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=_ROOT,
                env={**os.environ, **self._variables},
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops the parts in order
            )
        assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        try:
            async with asyncio.timeout(_READY_SECONDS):
                ready = await process.stdout.readline()
        except TimeoutError:
            ready = b""
        if not ready:
            if process.returncode is None:
                process.kill()
            await process.wait()
            lines = self._log.read_text(errors="replace").strip().splitlines() if self._log is not None else []
            raise StackError(f"The {self.name} did not start: {lines[-1] if lines else 'it said no more'}")
        return process

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_RESTART_SECONDS
        while True:
            began = loop.time()
            await process.wait()
            if loop.time() - began > _LONGEST_RESTART_SECONDS:
                pause = _FIRST_RESTART_SECONDS
            self._tell(f"The {self.name} died ({_end(process.returncode)}); starting it again. {self._lost}".rstrip())
            while True:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_RESTART_SECONDS)
                try:
                    process = await self._begin()
                    break
                except (StackError, OSError) as error:
                    self._tell(f"The {self.name} cannot be started again yet: {error}")


def _end(code: int | None) -> str:
    return f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
