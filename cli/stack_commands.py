"""`faceq up`, `down`, `status`, `env`: the running stack."""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from adapters.settings import ENGINES, FACEQ_ENGINE, FACEQ_MODEL, ModelSettings, Paths
from client import stack_state
from client.stack_state import RunningStack, process_stack
from pipeline.errors import BadInput, SetupError

if TYPE_CHECKING:
    from local.supervisor import Options

#: How long `up -d` waits for the stack to be ready and `down` for it to end, seconds.
READY_SECONDS = 60
DOWN_SECONDS = 10

PROXY_VARIABLES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("up", epilog="Example: faceq up -d --port 0")(up)
    app.command("down", epilog="Example: faceq down")(down)
    app.command("status", epilog="Example: faceq status --json")(status)
    app.command("env", epilog='Example: eval "$(faceq env)"')(env)


def up(
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Return when it is ready; it runs on.")] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the function URL; 0: all ports are free ones.")
    ] = 8000,
    api_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Of the Lambda API.  [default: 8001]")] = None,
    queue_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Of SQS.  [default: 9324]")] = None,
    model: Annotated[
        str | None, typer.Option(help="auto, vggface2, casia-webface, dlib, stand-in or a weight file.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="onnx or torch.")] = None,
    environments: Annotated[
        int | None, typer.Option(min=1, max=64, help="Most processes a function.  [default: one a processor]")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", metavar="NAME=VALUE", help="A parameter of deploy/template.yaml.")
    ] = None,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload",
            help="Take changes to pipeline/ and adapters/ into use as they are saved; to local/, after a restart.",
        ),
    ] = False,
) -> None:
    """Start the whole service on this machine: queues, both functions, function URL. Ctrl-C stops it."""
    if engine is not None and engine not in ENGINES:
        raise typer.BadParameter(f"choose one of {', '.join(ENGINES)}", param_hint="--engine")
    if other := process_stack():
        raise BadInput(
            "running",
            f"A stack is running already: process {other.pid}, {other.function_url}. "
            "See `faceq status`; stop it with `faceq down`.",
        )
    if detach:
        _start_detached([argument for argument in sys.argv[1:] if argument not in {"-d", "--detach"}])
        return
    from local.supervisor import Options  # imports the servers, which the other commands do without

    environ = {**os.environ}
    if model is not None:
        environ[FACEQ_MODEL] = model
    if engine is not None:
        environ[FACEQ_ENGINE] = engine
    options = Options(
        settings=ModelSettings.from_environment(environ),
        state_folder=Paths.from_environment(environ).state,
        port=port,
        api_port=_port(api_port, port, 8001),
        queue_port=_port(queue_port, port, 9324),
        environments=environments or os.cpu_count() or 1,
        parameters=dict(_pair(text) for text in parameter or []),
        environ=environ,
        reload=reload,
    )
    asyncio.run(_run(options))


async def _run(options: "Options") -> None:
    from local.supervisor import Stack

    console = Console(highlight=False)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup wants it to outlive the terminal
            loop.add_signal_handler(number, stopping.set)
    # As it is, in one line: an error's text may hold anything.
    stack = Stack(options, lambda text: console.print(text, style="yellow", markup=False, emoji=False, soft_wrap=True))
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
            console.print("Only AWS can play these parts of deploy/template.yaml (`faceq doctor` lists them again):")
            for sentence in stack.template.only_on_aws:
                console.print(f"  - {sentence}", style="dim")
        console.print("Ctrl-C stops it.")
        await interrupted
        console.print("stopping")
    finally:
        await stack.stop()


def _start_detached(arguments: list[str]) -> None:
    folder = Paths.from_environment(os.environ).state
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "up.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            # -P: a folder called `cli` where the command is given is not ours.
            [sys.executable, "-P", "-m", "cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "COLUMNS": "200"},
        )
    try:
        stack = _wait_until_ready(process)
    except KeyboardInterrupt:
        process.terminate()  # in a session of its own, it has not seen the Ctrl-C
        raise
    if stack is not None:
        Console(highlight=False).print(_describe(stack), soft_wrap=True)
        return
    if process.returncode is not None:
        lines = output.read_text(errors="replace").strip().splitlines()
        raise SetupError("stack", (lines[-1] if lines else "the stack ended").removeprefix("faceq: "))
    process.terminate()
    raise SetupError("stack", f"The stack was not ready within {READY_SECONDS} s; {output} shows how far it came.")


def _wait_until_ready(process: "subprocess.Popen[bytes]") -> RunningStack | None:
    """Return the stack that `process` has started; None if it ended, or is not ready in time."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            return None
        if (stack := process_stack()) is not None and stack.pid == process.pid:
            return stack
    return None


def down() -> None:
    """Stop the running stack, wherever it was started."""
    folder = Paths.from_environment(os.environ).state
    stack = process_stack(folder)
    if stack is None:
        if stack_state.is_locked(folder):
            raise BadInput("starting", "A stack is still starting. Try again in a moment.")
        in_containers = stack_state.container_stack(os.environ) is not None
        print("The stack runs in containers: docker compose down" if in_containers else "No stack is running.")
        return
    processes = _family(stack.pid)
    for process in processes[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=DOWN_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=DOWN_SECONDS)
    stack_state.remove_record(folder)
    print(f"Stopped process {stack.pid}" + (f" and killed {len(alive)} that did not end." if alive else "."))


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what runs, how much memory it holds and how full the queues are. Exit code 1 if nothing runs."""
    stack = stack_here()
    from cli.queues_commands import reached
    from client.queue_operations import depths

    parts = _replicas() if stack.runtime == stack_state.CONTAINERS else _processes(stack)
    with reached() as there:
        queues = depths(there.sqs)
    if as_json:
        kind = "replicas" if stack.runtime == stack_state.CONTAINERS else "processes"
        print(json.dumps({**vars(stack), kind: parts, "queues": [vars(queue) for queue in queues]}, indent=2))
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


def stack_here() -> RunningStack:
    """Return the stack that runs on this machine, be it in processes or in containers. Raises BadInput if none does."""
    if (stack := stack_state.local_stack(os.environ)) is not None:
        return stack
    found = stack_state.container_stack(os.environ)
    if found is not None:
        waits = sorted({str(row["function"]) for row in found.replicas if row["state"] in {"starting", "failed"}})
        for_what = f" (it waits for {' and '.join(waits)})" if waits else ""
        raise BadInput(
            "starting", f"The containers are still starting{for_what}. `docker compose logs gateway` says more."
        )
    raise BadInput("not_running", "No stack is running. Start one with `faceq up` or `docker compose up`.")


def _processes(stack: RunningStack) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for process in _family(stack.pid):
        with contextlib.suppress(psutil.Error):  # a function's process may end at any time
            resident = process.memory_info().rss
            rows.append({"part": _part(process), "pid": process.pid, "resident_mb": round(resident / 2**20)})
    return rows


def _replicas() -> list[dict[str, object]]:
    found = stack_state.container_stack(os.environ)
    return [dict(row) for row in found.replicas] if found is not None else []


def env() -> None:
    """Print the variables with which a client written for AWS reaches the running stack, as export lines."""
    stack = stack_here()
    variables = stack.exports()
    if not (os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE")):
        variables |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    if any(os.environ.get(name) for name in PROXY_VARIABLES):  # it would catch what goes to this machine
        variables["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"]))
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")


def _describe(stack: RunningStack) -> str:
    lines = {
        "function URL": stack.function_url,
        "response queue": stack.response_queue_url,
        "Lambda API": stack.lambda_endpoint,
        "model": f"{stack.model} on {stack.engine}{MODEL_NOTES.get(stack.model, '')}",
        "gallery": stack.gallery,
        "logs": stack.logs,
        **({"process": str(stack.pid)} if stack.pid else {}),
    }
    return "\n".join(f"  {name:15} {value}" for name, value in lines.items())


#: What must be said wherever these models answer.
MODEL_NOTES = {
    "dlib": " (not the original vggface2: get that with `faceq models get vggface2`)",
    "stand-in": " (seeded weights for tests of shape and speed: it recognises near-identical pictures only)",
}


def _family(pid: int) -> list[psutil.Process]:
    """Return the supervisor and its children."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _part(process: psutil.Process) -> str:
    """Return which part of the stack a process is, from its command line."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return "?"
    for word in words:
        if word.startswith("adapters.lambda_entry."):
            return word.split(".")[2].replace("_", "-")
        if word in {"local.queue_server", "local.event_source_mapping"}:
            return {"local.queue_server": "queue-server"}.get(word, "event-source-mapping")
    return "faceq"


def _port(port: int | None, function_url_port: int, default: int) -> int:
    if port is not None:
        return port
    return 0 if function_url_port == 0 else default


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"'{text}' is not NAME=VALUE", param_hint="--parameter")
    return name, value
