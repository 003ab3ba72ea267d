"""The checks of `faceq doctor` on this machine: whether everything is in place that a frame needs.

They stand beside the command, because they draw on both `local` and `deploy`, and no package below `cli` may import
both.
"""

import os
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import requests

from adapters.models.installed import DETECTOR, installed_detector, installed_model, is_intact
from adapters.settings import DEFAULT_API_PORT, DEFAULT_PORT, DEFAULT_QUEUE_PORT, FACEQ_IMAGE, ModelSettings
from adapters.wiring import checked_gallery
from cli.model_notes import model_note
from client.checks import Check, check_result
from client.queue_operations import depths
from client.stack_connections import queues_of_running_stack
from client.stack_state import RunningStack, local_stack
from deploy.docker_engine import FUNCTION_IMAGE, architecture, engine
from local.free_ports import port_owner
from local.stack import StackError, read_template
from pipeline.errors import SetupError

#: The default ports of `faceq up`, and what each is for.
PORTS: Final = {DEFAULT_PORT: "function URL", DEFAULT_API_PORT: "Lambda API", DEFAULT_QUEUE_PORT: "queues"}
#: The largest difference between two clocks with which AWS still accepts signatures, seconds. (IAM user guide, "AWS
#: Signature Version 4 for API requests": within five minutes)
MAX_CLOCK_SKEW_SECONDS: Final = 300
#: The packages whose versions matter most in a report of an error.
PACKAGES: Final = (
    "awslambdaric",
    "boto3",
    "moto",
    "numpy",
    "onnxruntime",
    "av",
    "Pillow",
    "dlib-bin",
    "torch",
)


def checks() -> Iterator[Check]:
    """Check this machine, and the stack on it if one is running."""
    stack = local_stack(os.environ)
    yield Check("stack", None, _stack(stack))
    yield Check("python", sys.version_info >= (3, 11), sys.version.split()[0])
    yield Check("versions", None, ", ".join(_versions()))
    settings = ModelSettings.from_environment(os.environ)
    yield check_result("detector", lambda: f"MTCNN in {installed_detector(settings.models).folder}")
    yield check_result("model", lambda: _model(settings))
    yield check_result("weights", lambda: _weights(settings))
    yield check_result("gallery", lambda: _gallery(settings))
    if stack is None:
        yield from (_port(port, use) for port, use in PORTS.items())
    else:
        yield check_result("queues", lambda: _queues(stack))
        yield _clock(stack)
    yield from _docker()
    yield from _template()


def _stack(stack: RunningStack | None) -> str:
    if stack is None:
        return "not running; start it with `faceq up` or `docker compose up`"
    return f"runs as process {stack.pid}" if stack.pid else f"runs in containers, {stack.function_url}"


def _versions() -> Iterator[str]:
    for package in PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def _model(settings: ModelSettings) -> str:
    model = installed_model(settings.model, settings.models)
    return f"{model.id}{model_note(model.id)}, SHA-256 {model.sha256[:12]}, {model.licence}"


def _weights(settings: ModelSettings) -> str:
    """Read every byte of the networks. The functions only compare the sizes of the files when they start."""
    model = installed_model(settings.model, settings.models).id
    for part in (DETECTOR, model):
        if not is_intact(part, settings.models):
            raise SetupError("wrong_weights", f"A file of {part} was changed. Run: faceq models get {model}")
    return "every file has the SHA-256 that it was installed with"


def _gallery(settings: ModelSettings) -> str:
    gallery = checked_gallery(settings)
    if gallery is None:
        return f"none in {settings.gallery}, so every face is Unknown: faceq people add NAME PHOTO..."
    size = f"{len(gallery.people)} people, {len(gallery.photos)} photos, version {gallery.version}"
    return size if gallery.warning is None else f"{size}. {gallery.warning}"


def _port(port: int, use: str) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return Check(f"port {port}", False, f"taken by {port_owner(port)}; start with `faceq up --port 0`")
    return Check(f"port {port}", True, f"free for the {use}")


def _queues(stack: RunningStack) -> str:
    with queues_of_running_stack(stack) as queues:
        return ", ".join(f"{queue.name} {queue.visible}" for queue in depths(queues.sqs))


def _clock(stack: RunningStack) -> Check:
    """Compare this machine's clock with that of the function URL's server, which may run in a container."""
    try:
        response = requests.get(stack.function_url, timeout=5, proxies={"http": "", "https": ""})
    except requests.RequestException as error:
        return Check("clock", False, f"{stack.function_url} does not answer ({type(error).__name__}): faceq logs")
    skew = abs((datetime.now(UTC) - parsedate_to_datetime(response.headers["date"])).total_seconds())
    return Check(
        "clock",
        skew < MAX_CLOCK_SKEW_SECONDS,
        f"{skew:.0f} s from the service's clock; AWS allows {MAX_CLOCK_SKEW_SECONDS} s",
    )


def _docker() -> Iterator[Check]:
    """Check what `docker compose up` needs. `faceq up` works without Docker, so its absence is not a failure."""
    try:
        docker = engine()
    except SetupError as error:
        yield Check("docker", None if error.code in {"no_docker", "no_engine"} else False, error.message)
        return
    yield Check("docker", True, f"engine {docker.version} on {docker.architecture}, Compose {docker.compose}")
    image = os.environ.get(FACEQ_IMAGE) or FUNCTION_IMAGE
    built_for = architecture(image)
    if built_for is None:
        yield Check("image", None, f"{image} is not built: docker compose build")
    elif built_for != docker.architecture:
        problem = f"{image} is for {built_for}, this machine is {docker.architecture}"
        yield Check("image", False, f"{problem}: docker compose build")
    else:
        yield Check("image", True, f"{image} is for {built_for}")


def _template() -> Iterator[Check]:
    try:
        template = read_template({}, "http://127.0.0.1:9324")
    except StackError as error:
        yield Check("template", False, error.message)
        return
    yield Check("template", True, f"{len(template.functions)} functions, {len(template.queues)} queues")
    yield from (Check("advice", None, sentence) for sentence in template.advice)
    yield from (Check("only on AWS", None, sentence) for sentence in template.only_on_aws)
