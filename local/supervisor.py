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
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from adapters.models.installed import installed_detector, installed_model
from adapters.settings import (
    DEFAULT_REGION,
    FACEQ_ENGINE,
    FACEQ_GALLERY,
    FACEQ_GALLERY_DIR,
    FACEQ_MAX_PIXELS,
    FACEQ_MIN_FACE_SIZE,
    FACEQ_MODEL,
    FACEQ_MODELS_DIR,
    FACEQ_THREADS,
    ModelSettings,
    S3Place,
)
from adapters.wiring import check_engine, checked_gallery
from client import stack_state
from client.stack_state import RunningStack
from local import queue_server
from local.addresses import ACCOUNT
from local.lambda_service import Front, StackError, cancel, gallery_notice, queues_of, read_template
from local.runtimes import FunctionInitError
from local.runtimes.embedded import EmbeddedRuntime

if TYPE_CHECKING:
    from template.model import ServiceTemplate

ROOT: Final = Path(__file__).parents[1]

#: Folders of the functions' code, which a reloading stack watches.
_CODE: Final = ("pipeline", "adapters")
#: How long files must be at rest before their changes count, and the longest that is waited for that, ms: an editor's
#: "save all" is one change.
_REST_MS: Final = 50
_LONGEST_REST_MS: Final = 500


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
    reload : bool
        Whether changes of the functions' code are taken into use while the stack runs.

    """

    settings: ModelSettings
    state_folder: Path
    port: int = 8000
    api_port: int = 8001
    queue_port: int = 9324
    environments: int = field(default_factory=lambda: os.cpu_count() or 1)
    parameters: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    reload: bool = False


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
        self._logs = options.state_folder / stack_state.LOGS
        self._front = Front(tell, self._logs)
        self._runtime: EmbeddedRuntime | None = None
        self.running: RunningStack | None = None
        self.template: ServiceTemplate | None = None

    async def start(self) -> RunningStack:
        """Start everything; return where it is reached once a frame would be answered.

        Raises
        ------
        StackError
            With what to do about it; nothing is left running.

        """
        options = self._options
        held = stack_state.acquire_lock(options.state_folder)
        if held is None:
            other = stack_state.process_stack(options.state_folder)
            where = f"process {other.pid}, {other.function_url}" if other is not None else "it is still starting"
            raise StackError(f"A stack is running already ({where}). See `faceq status`; stop it with `faceq down`.")
        self._front.stops.callback(held.release)
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
        model = installed_model(options.settings.model, options.settings.models)
        installed_detector(options.settings.models)
        check_engine(options.settings.engine)
        gallery = checked_gallery(options.settings)
        running = await self._start(ports, model.id)
        if notice := gallery_notice(gallery):
            self._tell(notice)
        return running

    async def _start(self, ports: Sequence[int], model: str) -> RunningStack:
        options = self._options
        port, api_port, queue_port = ports
        sqs_endpoint = f"http://127.0.0.1:{queue_port}"
        lambda_endpoint = f"http://127.0.0.1:{api_port}"
        region = DEFAULT_REGION
        played = self.template = read_template(options.parameters, sqs_endpoint)
        _new_logs(self._logs)
        variables = {**function_variables(options, model), "AWS_ENDPOINT_URL_SQS": sqs_endpoint}
        if options.reload:
            variables["PYTHONDONTWRITEBYTECODE"] = "1"  # see `_forget_compiled`
        runtime = self._runtime = EmbeddedRuntime(
            played.functions.values(),
            task_root=ROOT,
            logs=self._logs,
            region=region,
            account=ACCOUNT,
            environment=variables,
            concurrency=options.environments,
        )
        lost = "It keeps messages in memory: those that waited in the queues are lost, their frames must be sent again."
        front = self._front
        queues = front.child("queue-server", queue_server.command(queue_port, played.queues.values(), region), {}, lost)
        function_url = f"http://127.0.0.1:{port}/"
        await front.serve_api(runtime, played, function_url, region, api_port)
        await front.serve_urls(runtime, played, port)
        front.stops.push_async_callback(runtime.stop)  # before the servers, which can then tell whoever waits
        concurrency = {name: runtime.concurrency(name) for name in played.functions}
        mapping = front.mapping(played, concurrency, sqs_endpoint, lambda_endpoint)
        if options.reload:  # before the functions read their code, so that no change of it is missed
            front.task(self._watch(runtime))
        # The mapping, too, at once: long before it first asks, the queue server's port is open and lets it wait.
        await asyncio.gather(queues.start(), runtime.start(), mapping.start())
        running = self.running = RunningStack(
            pid=os.getpid(),
            function_url=function_url,
            **queues_of(played, sqs_endpoint),
            region=region,
            sqs_endpoint=sqs_endpoint,
            lambda_endpoint=lambda_endpoint,
            model=model,
            engine=options.settings.engine,
            gallery=str(options.settings.gallery),
            logs=str(self._logs),
        )
        stack_state.write_record(running, options.state_folder)
        return running

    async def stop(self) -> None:
        """Stop everything, in order; nothing is left running."""
        if self.running is not None:
            stack_state.remove_record(self._options.state_folder)
            self.running = None
        await self._front.stops.aclose()

    async def _watch(self, runtime: EmbeddedRuntime) -> None:
        """Replace the functions' environments whenever their code changes. A change never waits for the one before."""
        import watchfiles

        root = ROOT.resolve()  # as the system names changed files
        folders = [root / name for name in _CODE]
        changed: set[Path] = set()
        replacing: asyncio.Task[None] | None = None
        try:
            async for changes in watchfiles.awatch(
                *folders, watch_filter=_is_code, debounce=_LONGEST_REST_MS, step=_REST_MS
            ):
                if replacing is not None and replacing.done():
                    changed.clear()
                elif replacing is not None:
                    replacing.cancel()
                changed |= {Path(path) for _, path in changes}
                _forget_compiled(changed)
                names = sorted(str(path.relative_to(root)) for path in changed)
                replacing = asyncio.create_task(self._replace(runtime, names))
        except (OSError, RuntimeError, ExceptionGroup) as error:  # what watchfiles makes of the system's refusals
            self._tell(f"Changes are not seen any more; start again to have them seen: {error}")
        finally:
            if replacing is not None:
                await cancel(replacing)

    async def _replace(self, runtime: EmbeddedRuntime, names: Sequence[str]) -> None:
        try:
            await runtime.replace()
        except FunctionInitError as error:
            self._tell(f"{error.place}: {error}" if error.place else str(error))
        else:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            self._tell(f"reloaded after a change to {names[0]}{more}")

    def processes(self) -> dict[str, list[int]]:
        """Return the process ids by part, the supervisor's under `faceq`."""
        functions = self._runtime.processes() if self._runtime is not None else {}
        children = {child.name: [child.pid] for child in self._front.children if child.pid is not None}
        return {"faceq": [os.getpid()], **children, **functions}


def function_variables(options: Options, model: str) -> dict[str, str]:
    """Return the variables that on AWS are part of the image."""
    settings = options.settings
    if isinstance(settings.gallery, S3Place):
        raise StackError(f"{FACEQ_GALLERY} is for functions on AWS; here they read a folder. unset {FACEQ_GALLERY}")
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


def _is_code(_change: object, path: str) -> bool:
    name = Path(path).name
    return name.endswith(".py") and not name.startswith(".")  # Emacs' lock of embed.py is .#embed.py


def _forget_compiled(files: Collection[Path]) -> None:
    """Remove what Python keeps of the files in __pycache__.

    It takes a file of the same size and of the same second for the same. That no environment writes a new one while we
    remove the old is what PYTHONDONTWRITEBYTECODE is for.
    """
    for file in files:
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink(missing_ok=True)


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
