"""The whole service on one machine: wired, started and stopped in order.

One process supervises: it serves the function URL and the Lambda API and keeps the functions' execution environments.
The queue server and the event source mapping are processes of their own, started again when they die. All of them end
with the supervisor, also when that is killed.

The order of a start: everything slow begins at once (queue server, environments, event source mapping), and the stack
is ready when all are. A stop goes the other way: no more batches, then the functions, then the addresses, then the
queues.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
from aiohttp import web

from adapters.models import installed, installed_detector
from adapters.settings import (
    DEFAULT_REGION,
    FACEQ_ENGINE,
    FACEQ_GALLERY_DIR,
    FACEQ_MAX_PIXELS,
    FACEQ_MIN_FACE_SIZE,
    FACEQ_MODEL,
    FACEQ_MODELS_DIR,
    FACEQ_THREADS,
    ModelSettings,
)
from adapters.wiring import check_engine, gallery_store
from local import event_source_mapping, function_url, lambda_api, queues, state, template
from local.http_server import listen
from local.runtimes import FunctionInitError
from local.runtimes.embedded import EmbeddedRuntime
from local.state import RunningStack
from pipeline.gallery import Gallery, load

ROOT: Final = Path(__file__).parents[1]
TEMPLATE: Final = ROOT / "deploy" / "template.yaml"

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


@dataclass(frozen=True)
class Options:
    """What a person chooses when starting a stack.

    Parameters
    ----------
    settings : ModelSettings
        Model, engine, folders.
    state_folder : Path
        Where `stack.json` and the logs go.
    port, api_port, queue_port : int
        Of the function URL, the Lambda API and the queues; 0 takes a free one.
    environments : int
        Most execution environments of a function for which the template reserves no concurrency; at least 1.
    parameters : Mapping of str to str
        The template's parameters.
    environ : Mapping of str to str
        Where the functions' other faceq variables are taken from.

    """

    settings: ModelSettings
    state_folder: Path
    port: int = 8000
    api_port: int = 8001
    queue_port: int = 9324
    environments: int = field(default_factory=lambda: os.cpu_count() or 1)
    parameters: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)


class Stack:
    """A service that is started, runs and is stopped, once.

    Parameters
    ----------
    options : Options
    tell : callable
        Takes a sentence for people about what happens while it runs.

    """

    def __init__(self, options: Options, tell: Callable[[str], None]) -> None:
        self._options = options
        self._tell = tell
        self._stops = AsyncExitStack()
        self._children: list[_Child] = []
        self._runtime: EmbeddedRuntime | None = None
        self.running: RunningStack | None = None
        self.template: template.Template | None = None

    async def start(self) -> RunningStack:
        """Start everything; return where it is reached once a frame would be answered.

        Raises
        ------
        StackError
            With what to do about it; nothing is left running.

        """
        options = self._options
        held = state.hold(options.state_folder)
        if held is None:
            other = state.running_stack(options.state_folder)
            where = f"process {other.pid}, {other.function_url}" if other is not None else "it is still starting"
            raise StackError(f"A stack is running already ({where}). See `faceq status`; stop it with `faceq down`.")
        self._stops.callback(os.close, held)
        try:
            return await self._checked_start()
        except FunctionInitError as error:
            await self.stop()
            raise StackError(str(error)) from None
        except BaseException:
            await self.stop()
            raise

    async def _checked_start(self) -> RunningStack:
        options = self._options
        ports = [_free_port(port) for port in (options.port, options.api_port, options.queue_port)]
        model = installed(options.settings.model, options.settings.models)
        installed_detector(options.settings.models)
        check_engine(options.settings.engine)
        gallery = checked_gallery(options.settings)
        running = await self._start(ports, model.id)
        if gallery is None:
            self._tell("Nobody is enrolled yet, so every face is Unknown: faceq people add NAME PHOTO...")
        elif gallery.caveat is not None:
            self._tell(gallery.caveat)
        return running

    async def _start(self, ports: Sequence[int], model: str) -> RunningStack:
        options = self._options
        port, api_port, queue_port = ports
        sqs_endpoint = f"http://127.0.0.1:{queue_port}"
        lambda_endpoint = f"http://127.0.0.1:{api_port}"
        region = DEFAULT_REGION
        played = self.template = read_template(options.parameters, sqs_endpoint)
        logs = options.state_folder / state.LOGS
        _new_logs(logs)
        runtime = self._runtime = EmbeddedRuntime(
            played.functions.values(),
            task_root=ROOT,
            logs=logs,
            region=region,
            account=queues.ACCOUNT,
            environment={**function_variables(options, model), "AWS_ENDPOINT_URL_SQS": sqs_endpoint},
            concurrency=options.environments,
        )
        lost = "It keeps messages in memory: those that waited in the queues are lost, their frames must be sent again."
        queue_server = self._child(
            "queue-server", queues.command(queue_port, played.queues.values(), region), {}, logs, lost
        )
        addresses = {url.function: f"http://127.0.0.1:{port}/" for url in played.urls}
        await self._serve(
            lambda_api.application(runtime, played, addresses, region=region, account=queues.ACCOUNT), api_port
        )
        for url in played.urls:
            await self._serve(function_url.application(runtime, url.function, WAIT_SECONDS), port)
        self._stops.push_async_callback(runtime.stop)  # before the servers, which can then tell whoever waits
        mapping = self._child(
            "event-source-mapping",
            event_source_mapping.command(
                played.mappings, {name: runtime.concurrency(name) for name in played.functions}
            ),
            {"AWS_ENDPOINT_URL_SQS": sqs_endpoint, "AWS_ENDPOINT_URL_LAMBDA": lambda_endpoint},
            logs,
        )
        # The mapping, too, at once: long before it first asks, the queue server's port is open and lets it wait.
        await asyncio.gather(queue_server.start(), runtime.start(), mapping.start())
        urls = {name: queues.queue_url(sqs_endpoint, name) for name in played.queues}
        source, responses = _contract_queues(played)
        redrive = played.queues[source].redrive
        running = self.running = RunningStack(
            pid=os.getpid(),
            function_url=f"http://127.0.0.1:{port}/",
            request_queue_url=urls[source],
            response_queue_url=urls[responses],
            dead_letter_queue_url=urls[redrive.dead_letter_queue] if redrive is not None else "",
            region=region,
            sqs_endpoint=sqs_endpoint,
            lambda_endpoint=lambda_endpoint,
            model=model,
            engine=options.settings.engine,
            gallery=str(options.settings.gallery),
            logs=str(logs),
        )
        state.write(running, options.state_folder)
        return running

    async def stop(self) -> None:
        """Stop everything, in order; nothing is left running."""
        if self.running is not None:
            state.remove(self._options.state_folder)
            self.running = None
        await self._stops.aclose()

    def processes(self) -> dict[str, list[int]]:
        """Return the process ids by part, the supervisor's under `faceq`."""
        functions = self._runtime.processes() if self._runtime is not None else {}
        children = {child.name: [child.pid] for child in self._children if child.pid is not None}
        return {"faceq": [os.getpid()], **children, **functions}

    async def _serve(self, application: web.Application, port: int) -> None:
        runner, _ = await listen(application, port)
        self._stops.push_async_callback(runner.cleanup)

    def _child(
        self,
        name: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        logs: Path,
        lost: str = "",
    ) -> "_Child":
        child = _Child(name, command, variables, logs / f"{name}.log", self._tell, lost)
        self._children.append(child)
        self._stops.push_async_callback(child.stop)
        return child


def read_template(parameters: Mapping[str, str], sqs_endpoint: str) -> template.Template:
    """Read the service's template for this machine. Raises StackError that names file and line."""
    try:
        return template.read(
            TEMPLATE.read_text(),
            parameters,
            DEFAULT_REGION,
            queues.ACCOUNT,
            lambda name: queues.queue_url(sqs_endpoint, name),
        )
    except template.TemplateError as error:
        raise StackError(f"{TEMPLATE.relative_to(ROOT)}: {error}") from None


def _contract_queues(played: template.Template) -> tuple[str, str]:
    """Return the names of the request queue, which triggers a function, and of the response queue."""
    sources = {mapping.queue for mapping in played.mappings}
    responses = [name for name in played.queues if name.endswith("-resp-queue")]
    if len(sources) != 1 or len(responses) != 1:
        raise StackError(
            f"{TEMPLATE.relative_to(ROOT)}: one queue must trigger a function and one name must end in -resp-queue; "
            f"there are {len(sources)} and {len(responses)}."
        )
    return sources.pop(), responses[0]


def checked_gallery(settings: ModelSettings) -> Gallery | None:
    """Return the gallery, None if there is none. Raises ArtifactError if it does not fit the model."""
    gallery = load(gallery_store(settings))
    if gallery is not None:
        model = installed(settings.model, settings.models)
        gallery.check(model.id, model.preprocessing)
    return gallery


def function_variables(options: Options, model: str) -> dict[str, str]:
    """Return the variables that on AWS are part of the image."""
    settings = options.settings
    variables = {
        FACEQ_MODEL: model,
        FACEQ_ENGINE: settings.engine,
        FACEQ_MODELS_DIR: str(settings.models),
        FACEQ_GALLERY_DIR: str(settings.gallery),
        FACEQ_MIN_FACE_SIZE: str(settings.min_face_size),
        FACEQ_MAX_PIXELS: str(settings.max_pixels),
    }
    if FACEQ_THREADS in options.environ:
        variables[FACEQ_THREADS] = options.environ[FACEQ_THREADS]
    return variables


def owner_of_port(port: int) -> str:
    """Return who listens on a port of this machine, as far as the system tells an ordinary user."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {process.pid} ({' '.join(process.cmdline())[:60] or process.name()})"
    except psutil.Error:
        pass
    return "another program"


def _free_port(wanted: int) -> int:
    """Return a port that nobody listens on: `wanted`, or any where that is 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            raise StackError(
                f"Port {wanted} is taken by {owner_of_port(wanted)}. Stop it, or start with --port 0 for free ports."
            ) from None
        return int(probe.getsockname()[1])


def _new_logs(folder: Path) -> None:
    """Begin new log files; those of the run before are kept as `.1`, older ones go."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.log"):
        file.replace(file.with_suffix(".log.1"))


class _Child:
    """A process of our own that says when it is ready, lives as long as we do and is started again when it dies.

    Parameters
    ----------
    command : sequence of str
        Prints one line of JSON on standard output when it is ready; ends on SIGTERM, and when its standard input does.
    variables : Mapping of str to str
        Added to our own environment.
    log : Path
        Where its standard error goes.
    lost : str
        What people are told is gone when it dies.

    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        log: Path,
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
        return self._process.pid if self._process is not None and self._process.returncode is None else None

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
        with self._log.open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
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
            lines = self._log.read_text(errors="replace").strip().splitlines()
            raise StackError(f"The {self.name} did not start: {lines[-1] if lines else 'it said nothing'}")
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
