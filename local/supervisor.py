"""The whole service on one machine: wired, started and stopped in order.

One process supervises: it serves the function URL and the Lambda API and manages the functions' execution environments.
The queue server and the event source mappings are processes of their own, restarted when they die. All of them end with
the supervisor, even when it is killed.

A start begins everything slow together (queue server, environments, event source mappings); the stack is ready when all
of them are. A stop goes in the opposite order: first no more batches, then the functions, then the servers, then the
queues.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from adapters import json_log
from adapters.models.installed import installed_detector, installed_model
from adapters.private_files import make_private_file, make_private_folder
from adapters.settings import (
    DEFAULT_API_PORT,
    DEFAULT_PORT,
    DEFAULT_QUEUE_PORT,
    DEFAULT_REGION,
    FACEQ_ENGINE,
    FACEQ_GALLERY,
    FACEQ_GALLERY_DIR,
    FACEQ_MAX_PIXELS,
    FACEQ_MIN_FACE_SIZE,
    FACEQ_MODEL,
    FACEQ_MODELS_DIR,
    FACEQ_THREADS,
    FACEQ_TRY_ROTATIONS,
    ModelSettings,
    S3Place,
    log_names,
    stack_name,
)
from adapters.wiring import check_engine, checked_gallery
from client import stack_state
from client.answered_frames import AnsweredFrame, AnsweredFrames
from client.stack_state import RunningStack
from local import queue_server
from local.addresses import ACCOUNT
from local.background_task import cancel
from local.child_process import SupervisedProcess
from local.free_ports import free_port, port_owner
from local.lambda_service import LambdaService
from local.reload import reload_on_change
from local.runtimes.embedded import EmbeddedRuntime
from local.stack import ROOT, StackError, gallery_notice, queue_urls, read_template
from template.reader import TEMPLATE_FILE

if TYPE_CHECKING:
    from template.model import ServiceTemplate

_log = logging.getLogger(__name__)

#: What the user loses when the queue server dies.
_QUEUE_LOSS: Final = "Its messages were in memory and are lost; send the frames that were in the queues again."


@dataclass(frozen=True)
class Options:
    """What the user chooses when starting a stack.

    Parameters
    ----------
    settings : ModelSettings
        Model, engine, folders.
    state_folder : Path
        Folder for `stack.json` and the logs.
    port, api_port, queue_port : int
        Of the function URL, the Lambda API and the queues; 0 takes a free one.
    environments : int
        Most execution environments of a function for which the template reserves no concurrency; at least 1.
    parameters : Mapping of str to str
        Values for the template's parameters.
    template : Path
        The template to play.
    environ : Mapping of str to str
        The source of the functions' other faceq variables.
    reload : bool
        Whether the running stack takes changes of the functions' code into use.

    """

    settings: ModelSettings
    state_folder: Path
    port: int = DEFAULT_PORT
    api_port: int = DEFAULT_API_PORT
    queue_port: int = DEFAULT_QUEUE_PORT
    environments: int = field(default_factory=lambda: os.cpu_count() or 1)
    parameters: Mapping[str, str] = field(default_factory=dict)
    template: Path = TEMPLATE_FILE
    environ: Mapping[str, str] = field(default_factory=dict)
    reload: bool = False


class Stack:
    """A service that is started, runs and is stopped, once.

    Parameters
    ----------
    options : Options
    notify : callable
        Takes a sentence for the user about what happens while the stack runs.
    on_answer : callable, optional
        Takes each answered frame, once, as soon as its function has logged it.

    """

    def __init__(
        self,
        options: Options,
        notify: Callable[[str], None],
        on_answer: Callable[[AnsweredFrame], None] | None = None,
    ) -> None:
        self._options = options
        self._notify_user = notify
        self._on_answer = on_answer
        self._answered_frames = AnsweredFrames()
        self._logs = options.state_folder / stack_state.LOGS
        #: Closed by `stop`: it ends everything in the opposite order of the start.
        self._cleanup = AsyncExitStack()
        self.running: RunningStack | None = None
        self.template: ServiceTemplate | None = None

    async def start(self) -> RunningStack:
        """Start everything; return the addresses when the stack can answer a frame.

        Raises
        ------
        FaceqError
            The stack cannot start; the message says what to do. Nothing is left running.

        """
        options = self._options
        lock = stack_state.acquire_lock(options.state_folder)
        if lock is None:
            other = stack_state.process_stack(options.state_folder)
            raise StackError(
                stack_state.already_running(other)
                if other is not None
                else "A stack is still starting. See `faceq status`."
            )
        self._cleanup.callback(lock.release)
        try:
            stack_state.remove_record(options.state_folder)  # of a stack that was killed
            return await self._check_and_start()
        except BaseException:
            await self.stop()
            raise

    async def _check_and_start(self) -> RunningStack:
        options = self._options
        ports = [_checked_port(port) for port in (options.port, options.api_port, options.queue_port)]
        model = installed_model(options.settings.model, options.settings.models)
        installed_detector(options.settings.models)
        check_engine(options.settings.engine)
        gallery = checked_gallery(options.settings)
        running = await self._start(ports, model.id)
        if notice := gallery_notice(gallery):
            self._notify(notice)
        return running

    async def _start(self, ports: Sequence[int], model: str) -> RunningStack:
        options, cleanup = self._options, self._cleanup
        port, api_port, queue_port = ports
        sqs_endpoint = f"http://127.0.0.1:{queue_port}"
        lambda_endpoint = f"http://127.0.0.1:{api_port}"
        function_url = f"http://127.0.0.1:{port}/"
        region = DEFAULT_REGION
        template = self.template = read_template(
            options.parameters, sqs_endpoint, region, options.template, log_names=log_names(options.environ)
        )
        _rotate_logs(self._logs)
        make_private_file(self._logs / "supervisor.log")
        logging.raiseExceptions = False  # on a full disk, one error says so, not each line of the log
        json_log.set_up("supervisor", cleanup.enter_context((self._logs / "supervisor.log").open("a")))
        variables = {**function_variables(options, model), "AWS_ENDPOINT_URL_SQS": sqs_endpoint}
        if options.reload:
            variables["PYTHONDONTWRITEBYTECODE"] = "1"  # see local.reload
        runtime = EmbeddedRuntime(
            template.functions.values(),
            task_root=ROOT,
            logs=self._logs,
            region=region,
            account=ACCOUNT,
            environment=variables,
            concurrency=options.environments,
            on_line=self._read_line,
        )
        queues = SupervisedProcess(
            "queue-server",
            queue_server.command(queue_port, template.queues.values(), region),
            {},
            self._logs / "queue-server.log",
            self._notify,
            _QUEUE_LOSS,
        )
        cleanup.push_async_callback(queues.stop)
        service = LambdaService(template, runtime, region, cleanup)
        await service.serve_api(api_port, function_url)
        await service.serve_function_url(port)
        # Before the servers end, so that they can still answer the requests that wait for an environment.
        cleanup.push_async_callback(runtime.stop)
        mappings = service.event_source_mappings(
            sqs_endpoint, lambda_endpoint, self._notify, self._logs / "event-source-mapping.log"
        )
        if options.reload:  # before the functions read their code, so that no change is missed
            watch = asyncio.create_task(reload_on_change(runtime, self._notify))
            cleanup.push_async_callback(cancel, watch)
        # The mappings need not wait for the queue server: its port is open long before they first poll it.
        await asyncio.gather(queues.start(), runtime.start(), mappings.start())
        running = self.running = RunningStack(
            pid=os.getpid(),
            function_url=function_url,
            **queue_urls(template, sqs_endpoint),
            region=region,
            sqs_endpoint=sqs_endpoint,
            lambda_endpoint=lambda_endpoint,
            model=model,
            engine=options.settings.engine,
            gallery=str(options.settings.gallery),
            logs=str(self._logs),
            name=stack_name(options.environ),
        )
        stack_state.write_record(running, options.state_folder)
        _log.info("The stack is ready.", extra={"function_url": function_url})
        return running

    def _read_line(self, line: str) -> None:
        if self._on_answer is not None and (frame := self._answered_frames.read(line)) is not None:
            self._on_answer(frame)

    def _notify(self, sentence: str) -> None:
        """Tell the user, and keep the sentence in the log."""
        _log.info("%s", sentence, stacklevel=2)
        self._notify_user(sentence)

    async def stop(self) -> None:
        """Stop everything, in order; nothing is left running."""
        if self.running is not None:
            _log.info("The stack is stopping.")
            stack_state.remove_record(self._options.state_folder)
            self.running = None
        await self._cleanup.aclose()


def function_variables(options: Options, model: str) -> dict[str, str]:
    """Return the variables that the image sets on AWS. Raises StackError if the gallery is a bucket."""
    settings = options.settings
    if isinstance(settings.gallery, S3Place):
        raise StackError(
            f"{FACEQ_GALLERY} is for functions on AWS; on this machine they read a folder. Run: unset {FACEQ_GALLERY}"
        )
    variables = {
        FACEQ_MODEL: model,
        FACEQ_ENGINE: settings.engine,
        FACEQ_MODELS_DIR: str(settings.models),
        FACEQ_GALLERY_DIR: str(settings.gallery),
        FACEQ_MIN_FACE_SIZE: str(settings.min_face_size),
        FACEQ_MAX_PIXELS: str(settings.max_pixels),
        FACEQ_TRY_ROTATIONS: "true" if settings.try_rotations else "false",
    }
    if FACEQ_THREADS in options.environ:
        variables[FACEQ_THREADS] = options.environ[FACEQ_THREADS]
    return variables


def _checked_port(port: int) -> int:
    """Return `port`, or any free port for 0. Raises StackError if the port is taken."""
    try:
        return free_port(port)
    except OSError:
        raise StackError(
            f"Port {port} is taken by {port_owner(port)}. Stop it, or start with --port 0 for free ports."
        ) from None


def _rotate_logs(folder: Path) -> None:
    """Rename the log files of the previous run to `.1`, in place of those of the run before it."""
    make_private_folder(folder)
    for file in folder.glob("*.log"):
        file.replace(file.with_suffix(".log.1"))
