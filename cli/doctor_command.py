"""`faceq doctor`: is everything here that a frame needs, and which command mends it if not."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from adapters.models.installed import DETECTOR, installed_detector, installed_model
from adapters.settings import ModelSettings
from adapters.wiring import checked_gallery
from cli.queues_commands import reached
from cli.stack_commands import MODEL_NOTES
from cli.target_options import Profile, Region, StackName, Target, Where
from client.deployed_stack import STACK
from client.stack_state import RunningStack, local_stack
from deploy.docker_engine import FUNCTION_IMAGE, architecture, engine
from local.free_ports import port_owner
from local.stack import StackError, read_template
from pipeline.errors import FaceqError, SetupError

#: The ports that `faceq up` takes unless told otherwise, and their use.
PORTS = {8000: "function URL", 8001: "Lambda API", 9324: "queues"}
#: More difference than this between two clocks makes AWS refuse signatures (SigV4 allows 5 minutes).
CLOCK_SECONDS = 300

PACKAGES = (
    "awslambdaric",
    "boto3",
    "moto",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "Pillow",
    "dlib-bin",
    "torch",
)


@dataclass(frozen=True)
class Check:
    """What was looked at, whether it is well, and what was found.

    Parameters
    ----------
    well : bool or None
        None for a fact that is neither good nor bad.

    """

    name: str
    well: bool | None
    found: str


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog="Example: faceq doctor --json")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Check what a frame needs; each trouble is shown with the command that mends it. Exit code 1 if there is one."""
    if target is Where.AWS:
        from cli import doctor_aws

        checks = list(doctor_aws.checks(stack, region, profile))
    else:
        checks = list(_checks())
    if as_json:
        print(json.dumps([vars(check) for check in checks], indent=2))
    else:
        console = Console(highlight=False)
        signs = {True: "[green]ok  [/green]", False: "[red]bad [/red]", None: "    "}
        for check in checks:
            console.print(f"{signs[check.well]} {check.name:14} {escape(check.found)}", soft_wrap=True)
    if any(check.well is False for check in checks):
        raise typer.Exit(1)


def _checks() -> Iterator[Check]:
    stack = local_stack(os.environ)
    yield Check("stack", None, _where(stack))
    yield Check("python", sys.version_info >= (3, 11), sys.version.split()[0])
    yield Check("versions", None, ", ".join(_versions()))
    settings = ModelSettings.from_environment(os.environ)
    yield _tried("detector", lambda: f"MTCNN in {installed_detector(settings.models).folder}")
    yield _tried("model", lambda: _model(settings))
    yield _tried("weights", lambda: _weights(settings))
    yield _tried("gallery", lambda: _gallery(settings))
    if stack is None:
        yield from (_port(port, use) for port, use in PORTS.items())
    else:
        yield _tried("queues", _queues)
        yield _clock(stack)
    yield from _docker()
    try:
        template = read_template({}, "http://127.0.0.1:9324")
    except StackError as error:
        yield Check("template", False, str(error))
        return
    yield Check("template", True, f"{len(template.functions)} functions, {len(template.queues)} queues")
    yield from (Check("advice", None, sentence) for sentence in template.advice)
    yield from (Check("only on AWS", None, sentence) for sentence in template.only_on_aws)


def _where(stack: RunningStack | None) -> str:
    if stack is None:
        return "not running; start it with `faceq up` or `docker compose up`"
    return f"runs as process {stack.pid}" if stack.pid else f"runs in containers, {stack.function_url}"


def _docker() -> Iterator[Check]:
    """Look at what `docker compose up` needs. `faceq up` does without Docker: that there is none, is no trouble."""
    try:
        found = engine()
    except SetupError as error:
        yield Check("docker", None if error.code in {"no_docker", "no_engine"} else False, error.message)
        return
    yield Check("docker", True, f"engine {found.version} on {found.architecture}, Compose {found.compose}")
    image = os.environ.get("FACEQ_IMAGE") or FUNCTION_IMAGE
    built_for = architecture(image)
    if built_for is None:
        yield Check("image", None, f"{image} is not built: docker compose build")
    else:
        well = built_for == found.architecture
        cure = "" if well else f", this machine is {found.architecture}: docker compose build"
        yield Check("image", well, f"{image} is for {built_for}{cure}")


def _tried(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except FaceqError as error:
        return Check(name, False, error.message)


def _versions() -> Iterator[str]:
    for package in PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def _model(settings: ModelSettings) -> str:
    model = installed_model(settings.model, settings.models)
    return f"{model.id}{MODEL_NOTES.get(model.id, '')}, SHA-256 {model.sha256[:12]}, {model.licence}"


def _weights(settings: ModelSettings) -> str:
    """Read every byte of the networks; serving looks at their sizes only."""
    from adapters.models.install import is_right

    model = installed_model(settings.model, settings.models).id
    for part in (DETECTOR, model):
        if not is_right(part, settings.models):
            raise SetupError("wrong_weights", f"A file of {part} was changed. Run: faceq models get {model}")
    return "every file has the SHA-256 that it was installed with"


def _gallery(settings: ModelSettings) -> str:
    gallery = checked_gallery(settings)
    if gallery is None:
        return f"none in {settings.gallery}, so everybody is Unknown: faceq people add NAME PHOTO..."
    size = f"{len(gallery.people)} people, {len(gallery.photos)} photos, version {gallery.version}"
    return size if gallery.warning is None else f"{size}. {gallery.warning}"


def _port(port: int, use: str) -> Check:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return Check(f"port {port}", False, f"taken by {port_owner(port)}; start with `faceq up --port 0`")
    return Check(f"port {port}", True, f"free for the {use}")


def _queues() -> str:
    from client.queue_operations import depths

    with reached() as there:
        return ", ".join(f"{queue.name} {queue.visible}" for queue in depths(there.sqs))


def _clock(stack: RunningStack) -> Check:
    """Compare this clock with that of whoever answers on the function URL, which may be a container's."""
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    import requests

    try:
        answer = requests.get(stack.function_url, timeout=5, proxies={"http": "", "https": ""})
    except requests.RequestException as error:
        return Check("clock", False, f"{stack.function_url} does not answer ({type(error).__name__}); `faceq logs`")
    skew = abs((datetime.now(UTC) - parsedate_to_datetime(answer.headers["date"])).total_seconds())
    return Check("clock", skew < CLOCK_SECONDS, f"{skew:.0f} s off the service's; AWS allows {CLOCK_SECONDS} s")
