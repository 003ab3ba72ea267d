"""A whole service, started as a person starts it: real processes, real queue, real networks, real photographs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.frames import Frame
from adapters.models import installed
from adapters.models.fetch import ASTRONAUT, GRACE_HOPPER, package_file
from adapters.queue_sqs import client
from adapters.service_client import Outcome, ServiceClient
from adapters.settings import FACEQ_GALLERY_DIR, FACEQ_STATE_DIR, Paths
from local.state import RunningStack, running_stack
from pipeline.errors import ArtifactError

ROOT = Path(__file__).parents[2]
COLLINS = "Eileen Collins"
HOPPER = "Grace Hopper"


@dataclass(frozen=True)
class Home:
    """A person's folders: state, logs and gallery of their own, the models of this machine."""

    folder: Path

    @property
    def variables(self) -> Mapping[str, str]:
        return {FACEQ_STATE_DIR: str(self.folder / "state"), FACEQ_GALLERY_DIR: str(self.folder / "gallery")}

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

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and let it run, in a process group of its own as in a terminal."""
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
        return running_stack(self.folder / "state")


@dataclass(frozen=True)
class Service:
    """A running service and the one who started it."""

    home: Home
    stack: RunningStack

    def client(self) -> ServiceClient:
        return ServiceClient(
            self.stack.function_url, self.stack.response_queue_url, client(self.stack.region, self.stack.sqs_endpoint)
        )

    def ask(self, *frames: Frame, concurrency: int = 1, timeout: float = 60) -> dict[str, Outcome]:
        """Send frames; return their outcomes by file name."""
        return {
            outcome.frame.filename: outcome
            for outcome in self.client().send(frames, concurrency=concurrency, timeout_seconds=timeout)
        }

    def processes(self) -> dict[str, list[int]]:
        """Return the process ids by part."""
        found: dict[str, list[int]] = {}
        for row in json.loads(self.home.faceq("status", "--json").stdout)["processes"]:
            found.setdefault(row["part"], []).append(row["pid"])
        return found


@contextmanager
def service(folder: Path, *options: str, people: Mapping[str, Path] | None = None) -> Iterator[Service]:
    """Enrol people, start a service on free ports, stop it in the end."""
    home = Home(folder)
    for name, photo in (people or {}).items():
        enrolled = home.faceq("people", "add", name, str(photo))
        assert enrolled.returncode == 0, enrolled.stderr
    up = home.faceq("up", "--detach", "--port", "0", *options)
    assert up.returncode == 0, up.stdout + up.stderr
    stack = home.running()
    assert stack is not None
    try:
        yield Service(home, stack)
    finally:
        home.faceq("down")


@pytest.fixture(scope="session")
def model() -> None:
    """A recogniser in the cache; without one each test says at once what to run."""
    try:
        installed("auto", Paths.from_environment(os.environ).models)
    except ArtifactError as error:
        pytest.fail(error.message)


@pytest.fixture(scope="session")
def photos(model: None) -> Mapping[str, Path]:
    """Two photographs in the public domain, from packages that carry them."""
    models = Paths.from_environment(os.environ).models
    return {COLLINS: package_file(ASTRONAUT, models), HOPPER: package_file(GRACE_HOPPER, models)}


@pytest.fixture
def home(tmp_path: Path, model: None) -> Home:
    """Folders in which nothing runs and nobody is enrolled."""
    return Home(tmp_path)


@pytest.fixture(scope="module")
def running(photos: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that knows both people; the tests of a module share it."""
    with service(tmp_path_factory.mktemp("service"), people=photos) as started:
        yield started


@pytest.fixture
def frame(photos: Mapping[str, Path]) -> Callable[[str], Frame]:
    """Return how to get a person's photograph as a frame."""
    return lambda name: Frame(photos[name].name, photos[name].read_bytes())
