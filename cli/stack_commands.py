"""`faceq up`, `down`, `status` and `env`: start and stop the stack on this machine, and show how to reach it."""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from adapters.private_files import make_private_file, make_private_folder
from adapters.settings import (
    ENGINES,
    FACEQ_ENGINE,
    FACEQ_MODEL,
    ModelSettings,
    Paths,
    Ports,
    stack_name,
    template_parameters,
)
from cli.answered_lines import LinePrinter, answered_line
from cli.model_notes import model_note
from client import stack_state
from client.stack_connections import queues_of_running_stack, stack_on_this_machine
from client.stack_processes import stack_processes, stop_stack
from client.stack_state import RunningStack, process_stack
from pipeline.errors import BadInput, SetupError

if TYPE_CHECKING:
    from local.supervisor import Options

#: How long `up -d` waits until the stack is ready, and `down` until it has ended, seconds.
READY_SECONDS: Final = 60
DOWN_SECONDS: Final = 10
#: How long the last lines about answered frames may take to be printed, seconds.
PRINT_SECONDS: Final = 1

#: A block of a file system: with less, not even a message can be written.
SMALLEST_FREE_BYTES: Final = 4096

PROXY_VARIABLES: Final = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("up", epilog="Example: faceq up -d --port 0")(up)
    app.command("down", epilog="Example: faceq down")(down)
    app.command("status", epilog="Example: faceq status --json")(status)
    app.command("env", epilog='Example: eval "$(faceq env)"')(env)


def up(
    detach: Annotated[
        bool, typer.Option("-d", "--detach", help="Return when the stack is ready; it keeps running.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of the function URL; 0 takes free ports for everything.  "
            "[default: FACEQ_PORT, or 8000; with --name 0]",
        ),
    ] = None,
    api_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the Lambda API.  [default: FACEQ_API_PORT, or 8001]"),
    ] = None,
    queue_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the queues (SQS).  [default: FACEQ_QUEUE_PORT, or 9324]"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model: auto, vggface2, casia-webface, dlib, stand-in or a weight file.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="The engine: onnx or torch.")] = None,
    environments: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Run at most this many processes per function.  [default: one per processor]"),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            metavar="NAME=VALUE",
            help="Set a parameter of the template.  [default: those of FACEQ_PARAMETERS]",
        ),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option("--template", metavar="FILE", help="Play this template.  [default: deploy/template.yaml]"),
    ] = None,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload",
            help="Use changes to pipeline/ and adapters/ when they are saved. Changes to local/ need a restart.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print no line for each answered frame.")] = False,
) -> None:
    """Start the whole service on this machine. Ctrl-C stops it.

    The service consists of the queues, both functions and the function URL. Without --detach, it prints a line for each
    answered frame: time, file name, who, faces, and the milliseconds from when face-detection began until the answer
    was on the response queue, as the functions log them. With --name, it starts a stack beside others, with its own
    state, logs, ports and gallery.
    """
    if engine is not None and engine not in ENGINES:
        raise typer.BadParameter(f"choose one of {', '.join(ENGINES)}", param_hint="--engine")
    if running := process_stack():
        raise BadInput("running", stack_state.already_running(running))
    if detach:
        _start_detached([*(argument for argument in sys.argv[1:] if argument not in {"-d", "--detach"}), "--quiet"])
        return
    from local.supervisor import Options  # imports the servers, which the other commands do not need
    from template.reader import TEMPLATE_FILE

    environ = {**os.environ}
    if model is not None:
        environ[FACEQ_MODEL] = model
    if engine is not None:
        environ[FACEQ_ENGINE] = engine
    ports = Ports.from_environment(environ, port, api_port, queue_port)
    options = Options(
        settings=ModelSettings.from_environment(environ),
        state_folder=Paths.from_environment(environ).state,
        port=ports.function_url,
        api_port=ports.lambda_api,
        queue_port=ports.queues,
        environments=environments or os.cpu_count() or 1,
        parameters=template_parameters(environ) | dict(_name_and_value(text) for text in parameter or []),
        template=template.absolute() if template is not None else TEMPLATE_FILE,
        environ=environ,
        reload=reload,
    )
    asyncio.run(_run_until_interrupted(options, print_answers=not quiet))


async def _run_until_interrupted(options: "Options", *, print_answers: bool) -> None:
    from local.supervisor import Stack

    console = Console(highlight=False)
    printer = LinePrinter(FileIO(sys.stdout.fileno(), "wb", closefd=False), sys.stdout.encoding)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP so that we outlive the terminal
            loop.add_signal_handler(number, stopping.set)
    # An error's text may contain anything, so the console must not interpret or wrap it.
    stack = Stack(
        options,
        lambda message: console.print(message, style="yellow", markup=False, emoji=False, soft_wrap=True),
        (lambda frame: printer.print(answered_line(frame))) if print_answers else None,
    )
    began = time.monotonic()
    starting = asyncio.create_task(stack.start())
    interrupted = asyncio.create_task(stopping.wait())
    await asyncio.wait({starting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    try:
        running = starting.result()
        console.print(f"faceq is up after {time.monotonic() - began:.1f} s", style="bold green")
        console.print(_describe(running), soft_wrap=True)
        if stack.template is not None and stack.template.only_on_aws:
            console.print("These parts of the template work on AWS only (`faceq doctor` lists them again):")
            for sentence in stack.template.only_on_aws:
                console.print(f"  - {sentence}", style="dim")
        console.print("Press Ctrl-C to stop.")
        await interrupted
        console.print("stopping")
    finally:
        await stack.stop()
        printer.close(PRINT_SECONDS)


def _start_detached(arguments: list[str]) -> None:
    folder = Paths.from_environment(os.environ).state
    make_private_folder(folder)
    output = folder / "up.log"
    make_private_file(output)
    process = None
    try:
        with output.open("wb") as log, _interrupt_at_end():
            process = subprocess.Popen(
                # -P: do not import a folder called `cli` from the current directory.
                [sys.executable, "-P", "-m", "cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "COLUMNS": "200"},
            )
        stack = _wait_until_ready(process)
    except KeyboardInterrupt:
        if process is not None:
            process.terminate()  # it runs in a session of its own, so Ctrl-C did not reach it
        raise
    if stack is not None:
        Console(highlight=False).print(_describe(stack), soft_wrap=True)
        return
    if process.returncode is not None:
        lines = output.read_text(errors="replace").strip().splitlines()
        message = lines[-1] if lines else "The stack ended without a message. Start it without -d to see more."
        if not lines and shutil.disk_usage(folder).free < SMALLEST_FREE_BYTES:
            message = f"The disk is full, so {output} cannot be written. Make space and try again."
        raise SetupError("stack", message.removeprefix("faceq: "))
    process.terminate()
    raise SetupError("stack", f"The stack was not ready within {READY_SECONDS} s. See how far it came in {output}.")


@contextlib.contextmanager
def _interrupt_at_end() -> Iterator[None]:
    """Raise the KeyboardInterrupt of a Ctrl-C only at the end of the block.

    If it were raised while `Popen` starts a process, no one would know the process and it would stay.
    """
    signals: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: signals.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if signals:
        raise KeyboardInterrupt


def _wait_until_ready(process: "subprocess.Popen[bytes]") -> RunningStack | None:
    """Return the stack that `process` starts; None if the process ends or the stack is not ready in time."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            return None
        if (stack := process_stack()) is not None and stack.pid == process.pid:
            return stack
    return None


def down() -> None:
    """Stop the running stack, from any terminal."""
    folder = Paths.from_environment(os.environ).state
    stack = process_stack(folder)
    if stack is None:
        if stack_state.is_locked(folder):
            raise BadInput("starting", "A stack is still starting. Try again in a moment.")
        stack_state.remove_record(folder)
        name = stack_name(os.environ)
        in_containers = not name and stack_state.container_stack(os.environ) is not None
        print(
            "The stack runs in containers. Stop it with: docker compose down"
            if in_containers
            else f"No stack{f' named {name}' if name else ''} is running.{stack_state.others_running(os.environ)}"
        )
        return
    killed = stop_stack(stack.pid, DOWN_SECONDS)
    stack_state.remove_record(folder)
    print(f"Stopped process {stack.pid}" + (f" and killed {killed} that did not end." if killed else "."))


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what is running, its memory, how full the queues are, and what the functions have counted since the start.

    Exit code 1 if nothing is running.
    """
    from client.queue_operations import depths
    from client.stack_metrics import metric_sums

    stack = stack_on_this_machine(os.environ)
    in_containers = stack.runtime == stack_state.CONTAINERS
    parts = _replicas() if in_containers else [asdict(process) for process in stack_processes(stack.pid)]
    with queues_of_running_stack(stack) as stack_queues:
        queues = depths(stack_queues.sqs)
    try:
        counts = metric_sums(stack, Paths.from_environment(os.environ).state)
        problem = ""
    except (BadInput, OSError) as error:  # without Docker, for example
        counts, problem = None, str(error)
    if as_json:
        kind = "replicas" if in_containers else "processes"
        fields = {**vars(stack), kind: parts, "queues": [vars(queue) for queue in queues], "counts": counts}
        print(json.dumps(fields, indent=2))
        return
    console = Console(highlight=False)
    console.print(_describe(stack), soft_wrap=True)
    if parts:
        table = Table(*parts[0])
        for row in parts:
            table.add_row(*map(str, row.values()))
        console.print(table)
    table = Table("queue", "waiting", "in flight", "delayed")
    for queue in queues:
        table.add_row(queue.name, str(queue.visible), str(queue.in_flight), str(queue.delayed))
    console.print(table)
    if counts is None:
        console.print(f"What the functions have counted is not known: {problem}", markup=False, soft_wrap=True)
        return
    table = Table("function", "metric", "since the start")
    for function, sums in counts.items():
        for name, total in sums.items():
            table.add_row(function, name, f"{total:,.0f}")
    console.print(table)


def _replicas() -> list[dict[str, object]]:
    containers = stack_state.container_stack(os.environ)
    return [dict(row) for row in containers.replicas] if containers is not None else []


def env() -> None:
    """Print the variables for clients of the running stack.

    They are `export` lines, which point a client written for AWS at this stack.
    """
    stack = stack_on_this_machine(os.environ)
    variables = stack.exports()
    if not (os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE")):
        variables |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    if any(os.environ.get(name) for name in PROXY_VARIABLES):  # a proxy must not receive requests to this machine
        variables["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"]))
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")


def _describe(stack: RunningStack) -> str:
    lines = {
        **({"name": stack.name} if stack.name else {}),
        "function URL": stack.function_url,
        "response queue": stack.response_queue_url,
        "Lambda API": stack.lambda_endpoint,
        "model": f"{stack.model} on {stack.engine}{model_note(stack.model)}",
        "gallery": stack.gallery,
        "logs": stack.logs,
        **({"process": str(stack.pid)} if stack.pid else {}),
    }
    return "\n".join(f"  {name:15} {value}" for name, value in lines.items())


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"'{text}' is not NAME=VALUE", param_hint="--parameter")
    return name, value
