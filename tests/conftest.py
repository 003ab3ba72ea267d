"""Shared fixtures: the two ways to run the service, two photographs, and a running service that knows both people."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from adapters.models.fetch import package_file
from adapters.models.installed import installed_model
from adapters.models.published import ASTRONAUT, GRACE_HOPPER
from adapters.settings import Paths
from client.frames import Frame
from local.runtimes.embedded import EmbeddedRuntime
from pipeline.errors import SetupError
from template.model import Function
from tests.aws_server import AwsServer, running_aws_server
from tests.functional import targets
from tests.functional.targets import Home, Service
from tests.rie_replicas import RieWithReplicas
from tests.sqs_servers import running_elasticmq, running_queue_server

COLLINS = "Eileen Collins"
HOPPER = "Grace Hopper"

#: Starts a service: `processes` or `containers` of tests/functional/targets.py.
Start = Callable[..., AbstractContextManager[Service]]
#: Starts a queue server on a given port or on a free one, and yields its endpoint.
StartQueueServer = Callable[..., AbstractContextManager[str]]
#: An emulation of Lambda, and how to start it with a function.
Runtime = EmbeddedRuntime | RieWithReplicas
StartRuntime = Callable[[Function], Awaitable[Runtime]]


# A shell's background job ignores Ctrl-C, and so would every process that the tests start in one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that chooses between the two ways to run the service."""
    parser.addoption(
        "--target", choices=("processes", "containers"), default="processes", help="what the functional tests start"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that only the other target can pass."""
    target = config.getoption("--target")
    for item in items:
        only = item.get_closest_marker("only")
        if only is not None and only.args[0] != target:
            item.add_marker(pytest.mark.skip(reason=f"holds for {only.args[0]}: {only.args[1]}"))


@pytest.fixture(scope="session")
def in_containers(request: pytest.FixtureRequest) -> bool:
    """True if the target is the containers: ElasticMQ and RIE instead of moto and our own Lambda."""
    return bool(request.config.getoption("--target") == targets.CONTAINERS)


@pytest.fixture(scope="session")
def service(in_containers: bool) -> Start:
    """Starts a service of the target."""
    return targets.containers if in_containers else targets.processes


@pytest.fixture(scope="session")
def queue_server(in_containers: bool) -> StartQueueServer:
    """Starts a queue server of the target."""
    return running_elasticmq if in_containers else running_queue_server


@pytest.fixture(scope="module")
def endpoint(queue_server: StartQueueServer) -> Iterator[str]:
    """A running queue server, which the tests of a module share."""
    with queue_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def _session_aws_server() -> Iterator[AwsServer]:
    with running_aws_server() as server:
        yield server


@pytest.fixture
def aws_server(_session_aws_server: AwsServer) -> AwsServer:
    """An AWS whose account is empty."""
    _session_aws_server.reset()
    return _session_aws_server


@pytest.fixture
async def start_runtime(in_containers: bool, tmp_path: Path) -> AsyncIterator[StartRuntime]:
    """Starts a function in a runtime of the target: as processes of ours, or under RIE."""
    started: list[Runtime] = []

    async def start(function: Function) -> Runtime:
        logs = tmp_path / "logs"
        runtime: Runtime
        if in_containers:
            if sys.platform != "linux":
                pytest.skip("RIE is a Linux program")
            runtime = RieWithReplicas([function], task_root=targets.ROOT, logs=logs, environment={})
        else:
            runtime = EmbeddedRuntime(
                [function],
                task_root=targets.ROOT,
                logs=logs,
                region="us-east-1",
                account="000000000000",
                next_event_seconds=2.0,  # not to depend on how quickly a process of a busy machine goes on
            )
        started.append(runtime)
        await runtime.start()
        return runtime

    yield start
    for runtime in started:
        await runtime.stop()


@pytest.fixture(scope="session")
def model() -> None:
    """Check that a recogniser is installed. Without one, each test fails with the command that installs it."""
    try:
        installed_model("auto", Paths.from_environment(os.environ).models)
    except SetupError as error:
        pytest.fail(error.message)


@pytest.fixture(scope="session")
def photos(model: None) -> Mapping[str, Path]:
    """Two photographs in the public domain, which Python packages contain."""
    models = Paths.from_environment(os.environ).models
    return {COLLINS: package_file(ASTRONAUT, models), HOPPER: package_file(GRACE_HOPPER, models)}


@pytest.fixture
def home(tmp_path: Path, model: None) -> Home:
    """Folders without a running stack and without enrolled people."""
    return Home(tmp_path)


@pytest.fixture(scope="module")
def running(service: Start, photos: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that knows both people, which the tests of a module share."""
    with service(tmp_path_factory.mktemp("service"), people=photos) as started:
        yield started


@pytest.fixture
def frame(photos: Mapping[str, Path]) -> Callable[[str], Frame]:
    """Returns the photograph of a person as a frame."""
    return lambda name: Frame(photos[name].name, photos[name].read_bytes())
