"""The two ways to run the service: as processes, and in containers. The functional tests run on either.

`pytest --target containers` runs them against `docker compose`, with images that `make test-docker` builds before.
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from adapters.queue_sqs import sqs_client
from adapters.settings import (
    FACEQ_API_PORT,
    FACEQ_GALLERY_DIR,
    FACEQ_PARAMETERS,
    FACEQ_PORT,
    FACEQ_QUEUE_PORT,
    FACEQ_STATE_DIR,
)
from client.frames import Frame
from client.service_client import Outcome, ServiceClient
from client.stack_processes import stack_processes
from client.stack_state import RunningStack, local_stack, process_stack
from local.free_ports import free_ports

ROOT = Path(__file__).parents[2]
PROCESSES, CONTAINERS = "processes", "containers"
#: A part of the stack that has no container: it is a process in the gateway's.
MAPPING = "event-source-mapping"
#: Prints the process ids of the event source mapping, as seen in the gateway's container.
FIND_MAPPING = """
from pathlib import Path
for path in Path("/proc").glob("[0-9]*/cmdline"):
    if b"\\0local.event_source_mapping\\0" in path.read_bytes():
        print(path.parent.name)
"""


@dataclass(frozen=True)
class Home:
    """Folders for one user: state, logs and gallery of its own, and the models of this machine."""

    folder: Path
    #: Nothing listens at port 1, so a test does not find containers that run on this machine for something else.
    more: Mapping[str, str] = field(default_factory=lambda: {FACEQ_API_PORT: "1"})

    @property
    def variables(self) -> Mapping[str, str]:
        return {
            FACEQ_STATE_DIR: str(self.folder / "state"),
            FACEQ_GALLERY_DIR: str(self.folder / "gallery"),
            **self.more,
        }

    def faceq(self, *arguments: str, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
            cwd=ROOT,
            env=self.environ(variables),
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own, as a terminal does, and let it run."""
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=self.environ(),
            process_group=0,
        )

    def environ(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, **self.variables, **(variables or {})}

    def running(self) -> RunningStack | None:
        return process_stack(self.folder / "state")


@dataclass(frozen=True)
class Service:
    """A running service, and the home that started it."""

    home: Home
    stack: RunningStack

    def client(self) -> ServiceClient:
        return ServiceClient(
            self.stack.function_url,
            self.stack.response_queue_url,
            sqs_client(self.stack.region, self.stack.sqs_endpoint),
        )

    def send(self, *frames: Frame, concurrency: int = 1, timeout: float = 60) -> dict[str, Outcome]:
        """Send frames; return their outcomes by file name."""
        return {
            outcome.frame.filename: outcome
            for outcome in self.client().send(frames, concurrency=concurrency, timeout_seconds=timeout)
        }

    def instances(self, part: str) -> set[str]:
        """Return an id of each running process, or container, of a part; what replaces one has another id."""
        return {str(pid) for pid in self.processes().get(part, [])}

    def kill_later(self, part: str) -> Callable[[], object]:
        """Return a call that kills a part's processes with SIGKILL. They are looked up now, so the call is quick."""
        pids = self.processes()[part]

        def kill() -> None:
            for pid in pids:
                os.kill(pid, 9)

        return kill

    def processes(self) -> dict[str, list[int]]:
        """Return the process ids of each part."""
        pids: dict[str, list[int]] = {}
        for process in stack_processes(self.stack.pid):
            pids.setdefault(process.part, []).append(process.pid)
        return pids

    def supervisor_output(self) -> str:
        """Return what the supervisor printed."""
        return (self.home.folder / "state" / "up.log").read_text()

    def log_text(self) -> str:
        """Return everything that functions and other parts logged."""
        return "".join(path.read_text() for path in Path(self.stack.logs).glob("*.log"))


@dataclass(frozen=True)
class Containers(Service):
    """A service of containers, under a project name of its own."""

    project: str

    def compose(self, *arguments: str) -> str:
        return compose(self.home, self.project, *arguments)

    def containers(self, part: str) -> list[str]:
        """Return the ids of a service's containers, including those that have ended."""
        return self.compose("ps", "--all", "--quiet", part).split()

    def instances(self, part: str) -> set[str]:
        if part == MAPPING:
            return set(self.compose("exec", "--no-TTY", "gateway", "python", "-c", FIND_MAPPING).split())
        found = set()
        for container in self.containers(part):
            state = json.loads(docker("inspect", "--format", "{{json .State}}", container))
            if state["Running"]:
                found.add(f"{container} {state['StartedAt']}")
        return found

    def kill_later(self, part: str) -> Callable[[], object]:
        """Return a call that kills a part. It starts containers again, because Docker does not after `docker kill`."""
        if part == MAPPING:
            command = f"kill -9 {' '.join(self.instances(part))}"
            return partial(self.compose, "exec", "--no-TTY", "gateway", "bash", "-c", command)
        containers = self.containers(part)

        def kill() -> None:
            docker("kill", *containers)
            docker("start", *containers)

        return kill

    def supervisor_output(self) -> str:
        return self.compose("logs", "gateway")

    def log_text(self) -> str:
        return self.compose("logs", "--no-log-prefix", "--no-color")


@contextmanager
def processes(
    folder: Path,
    *options: str,
    people: Mapping[str, Path] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """Enrol people, start a service on free ports with these variables, and stop it at the end."""
    home = Home(folder, {**Home(folder).more, **(variables or {})})
    enrol(home, people or {})
    up = home.faceq("up", "--detach", "--port", "0", *options)
    assert up.returncode == 0, up.stdout + up.stderr
    stack = home.running()
    assert stack is not None
    try:
        yield Service(home, stack)
    finally:
        home.faceq("down")


@contextmanager
def containers(
    folder: Path,
    *options: str,
    people: Mapping[str, Path] | None = None,
    variables: Mapping[str, str] | None = None,
    scale: Mapping[str, int] | None = None,
) -> Iterator[Containers]:
    """Enrol people, start containers on free ports with these variables, remove them and their volume at the end."""
    parameters = [option for option in options if option != "--parameter"]
    url, api, queue = free_ports(3)
    home = Home(
        folder,
        {
            FACEQ_PORT: str(url),
            FACEQ_API_PORT: str(api),
            FACEQ_QUEUE_PORT: str(queue),
            FACEQ_PARAMETERS: " ".join(parameters),
            **(variables or {}),
        },
    )
    (folder / "gallery").mkdir(parents=True, exist_ok=True)
    for each in (folder, *folder.parents):  # pytest's folders are private, and containers run as another user
        if each.owner() == folder.owner() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o011)
    enrol(home, people or {})
    project = f"faceq-test-{uuid.uuid4().hex[:8]}"
    scales = [word for name, number in (scale or {}).items() for word in ("--scale", f"{name}={number}")]
    try:
        compose(home, project, "up", "--no-build", "--detach", "--wait", "--wait-timeout", "100", *scales)
        stack = local_stack(home.environ())
        assert stack is not None
        yield Containers(home, stack, project)
    finally:
        compose(home, project, "down", "--volumes", "--timeout", "5")


def enrol(home: Home, people: Mapping[str, Path]) -> None:
    for name, photo in people.items():
        enrolled = home.faceq("people", "add", name, str(photo))
        assert enrolled.returncode == 0, enrolled.stderr


def compose(home: Home, project: str, *arguments: str) -> str:
    return docker("compose", "--project-name", project, "--ansi", "never", *arguments, environ=home.environ())


def docker(*arguments: str, environ: Mapping[str, str] | None = None) -> str:
    """Run a docker command. Fail with its error output."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False, timeout=180, cwd=ROOT, env=environ
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr[-4000:]}"
    return done.stdout
