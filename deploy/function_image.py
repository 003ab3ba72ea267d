"""The function image: building it with labels that describe its contents, and inspecting an image."""

import json
import re
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from deploy.docker_engine import docker, engine
from pipeline.errors import SetupError

ROOT: Final = Path(__file__).parents[1]
#: Docker's names for the platforms that Lambda runs.
PLATFORMS: Final = ("linux/amd64", "linux/arm64")
#: Largest image that the project promises to build, in bytes without compression.
PROMISED_BYTES: Final = 550_000_000
#: Largest image that Lambda takes, in bytes without compression. (Lambda developer guide, "Lambda quotas")
LAMBDA_BYTES: Final = 10 * 2**30

#: Contents of one of our layers, by a part of the instruction that made it. The first match counts.
_CONTENTS: Final = (
    ("aws-lambda-rie", "the Runtime Interface Emulator"),
    ("/opt/faceq/venv /opt/faceq/venv", "packages"),
    ("/opt/faceq/models /opt/faceq/models", "networks"),
    ("boto3.client(", "Python's own library, compiled"),
    ("/var/task /var/task", "code"),
    ("/opt/faceq/gateway /opt/faceq/gateway", "the gateway's packages"),
    ("COPY client client", "the gateway's code"),
    ("COPY local local", "the gateway's code"),
)
_BASE: Final = "base system"
_FACEQ_MESSAGE: Final = re.compile(r"^(?:#\d+ )?\d+\.\d+ (faceq: .*)$")
_DOCKER_ERROR: Final = re.compile(r"^(?:#\d+ )?ERROR: (.*)$")
_OTHER_PLATFORM: Final = "exec format error"


@dataclass(frozen=True)
class Recipe:
    """What to build.

    Parameters
    ----------
    tag : str
        Tag of the function image.
    model, engine, torch_index : str
        The Dockerfile's build arguments of these names.
    platform : str
        One of `PLATFORMS`; empty for the Docker engine's own.

    """

    tag: str
    model: str = "auto"
    engine: str = "onnx"
    torch_index: str = ""
    platform: str = ""

    @property
    def gateway_tag(self) -> str:
        """The gateway image's tag: `faceq-gateway` beside `faceq-function`."""
        folder, slash, name = self.tag.rpartition("/")  # a registry's host may have a port
        name, colon, tag = name.partition(":")
        return f"{folder}{slash}{name.removesuffix('-function')}-gateway{colon}{tag}"


@dataclass(frozen=True)
class Layer:
    """One layer: its size without compression, and a few words about its contents."""

    bytes: int
    holds: str


@dataclass(frozen=True)
class Image:
    """An image in the Docker engine.

    Parameters
    ----------
    id : str
        Docker's image id, `sha256:` and 64 hex digits.
    tags : sequence of str
    platform : str
        Such as `linux/amd64`.
    created : str
        ISO 8601.
    bytes : int
        Size without compression, as Lambda counts it.
    user : str
        The user that the image runs as; empty for root.
    labels : Mapping of str to str
    layers : sequence of Layer
        The base system first.
    warnings : sequence of str
        One sentence for each thing that Lambda would refuse, or that the project does not promise.

    """

    id: str
    tags: Sequence[str]
    platform: str
    created: str
    bytes: int
    user: str
    labels: Mapping[str, str]
    layers: Sequence[Layer]
    warnings: Sequence[str]


def build(recipe: Recipe, progress: Callable[[str], None]) -> None:
    """Build the function image and the gateway image.

    Docker takes labels only from outside a build. So the build has two steps: the first builds the networks and writes
    their manifest to a file, the second builds the images with labels from that manifest. The second step takes the
    results of the first from Docker's cache.

    Parameters
    ----------
    recipe : Recipe
    progress : callable
        Called with each line that Docker prints.

    Raises
    ------
    SetupError
        Docker, Compose or buildx is missing, the Docker engine is not running, or the build fails; then the message
        has the reason that Docker printed.

    """
    engine()
    if docker("buildx", "version").returncode:
        raise SetupError(
            "no_buildx", "The command `docker buildx` is missing. Install the Docker plugin docker-buildx."
        )
    with tempfile.TemporaryDirectory(prefix="faceq-image-") as folder:
        _run([*_command(recipe, "manifest", {}), "--output", f"type=local,dest={folder}", str(ROOT)], progress)
        manifest = json.loads((Path(folder) / "manifest.json").read_text())
    labels = {
        "VERSION": version("faceq"),
        "REVISION": revision(ROOT),
        "MODEL_ID": manifest["id"],
        "MODEL_SHA256": manifest["sha256"],
        "PREPROCESSING": manifest["preprocessing"],
    }
    for target, tag in (("function", recipe.tag), ("gateway", recipe.gateway_tag)):
        _run([*_command(recipe, target, labels), "--load", "--tag", tag, str(ROOT)], progress)


def inspect(tag: str) -> Image:
    """Inspect an image in the Docker engine. Raises SetupError if there is no such image, or no engine."""
    engine_platform = f"linux/{engine().architecture}"
    inspection = docker("image", "inspect", tag)
    history = docker("history", "--no-trunc", "--human=false", "--format", "{{json .}}", tag)
    if inspection.returncode or history.returncode:
        raise SetupError("no_image", f"There is no image {tag}. Build it with: faceq image build --tag {tag}")
    entries = [json.loads(line) for line in history.stdout.splitlines()]
    return read(json.loads(inspection.stdout)[0], entries, engine_platform)


def revision(folder: Path) -> str:
    """Return the commit of a git work tree, with `-dirty` if it has changes; empty without a work tree or git."""
    try:
        commit, changes = (
            subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S607
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}-dirty" if changes else commit


def read(image: Mapping[str, Any], history: Sequence[Mapping[str, str]], engine_platform: str) -> Image:
    """Read what Docker prints about an image.

    Parameters
    ----------
    image : Mapping
        The output of `docker image inspect`.
    history : sequence of Mapping
        The output of `docker history --no-trunc --human=false`, newest first.
    engine_platform : str
        The platform that the engine runs without emulation, such as `linux/amd64`.

    """
    layers = _layers(history)
    config = image["Config"]
    # The image's own `Size` counts compressed layers if Docker uses the containerd image store, so add them up.
    size = sum(layer.bytes for layer in layers)
    platform = f"{image['Os']}/{image['Architecture']}"
    return Image(
        id=image["Id"],
        tags=image["RepoTags"] or [],
        platform=platform,
        created=image["Created"],
        bytes=size,
        user=config.get("User") or "",
        labels=config.get("Labels") or {},
        layers=layers,
        warnings=list(_warnings(image, platform, size, engine_platform)),
    )


def failure_reason(lines: Iterable[str]) -> str:
    """Return why a build failed, from the lines that Docker printed.

    That is faceq's own message if there is one, otherwise Docker's error; empty without either.
    """
    docker_error = faceq_message = ""
    other_platform = False
    for line in lines:
        if match := _FACEQ_MESSAGE.match(line):
            faceq_message = match[1].removeprefix("faceq: ")
        elif match := _DOCKER_ERROR.match(line):
            docker_error = match[1]
        other_platform |= _OTHER_PLATFORM in line
    if other_platform:
        return (
            "This Docker engine cannot run programs for that platform. Build on a machine that can, or let Docker "
            "emulate it: docker run --privileged --rm tonistiigi/binfmt --install all"
        )
    # Docker quotes the whole instruction, a page of shell, which says less than what follows it.
    return faceq_message or re.sub(
        r"(executor failed running|process) .*?(: exit code| did not complete)", r"a command\2", docker_error
    )


def _layers(history: Sequence[Mapping[str, str]]) -> list[Layer]:
    """Return the layers that are not empty, the base system first. Adjacent ones of the same contents are added up."""
    layers: list[Layer] = []
    base_bytes = 0
    for entry in reversed(history):
        size, instruction = int(entry["Size"]), entry["CreatedBy"]
        contents = next((contents for part, contents in _CONTENTS if part in instruction), None)
        if contents is None and not layers:
            base_bytes += size
        elif size and layers and layers[-1].holds == contents:
            layers[-1] = Layer(layers[-1].bytes + size, layers[-1].holds)
        elif size:
            layers.append(Layer(size, contents or "something else"))
    return [Layer(base_bytes, _BASE), *layers]


def _warnings(image: Mapping[str, Any], platform: str, size: int, engine_platform: str) -> Iterable[str]:
    if (image["Config"].get("User") or "0").partition(":")[0] in ("0", "root"):
        yield "It runs as root."
    # Docker shows a descriptor only if it uses the containerd image store.
    kind = str((image.get("Descriptor") or {}).get("mediaType", ""))
    if kind.endswith(("image.index.v1+json", "manifest.list.v2+json")):
        yield "It is an index of manifests (an attestation, or several platforms); Lambda takes only a single image."
    if platform not in PLATFORMS:
        yield f"Lambda does not run {platform}."
    elif platform != engine_platform:
        yield f"It is for {platform} but this engine runs {engine_platform}: it works by emulation here, if at all."
    if size > LAMBDA_BYTES:
        yield f"It has {size / 2**30:.1f} GiB; Lambda takes at most 10."
    elif size > PROMISED_BYTES:
        yield f"It has {size / 1e6:.0f} MB; more than {PROMISED_BYTES / 1e6:.0f} makes cold starts long."


def _command(recipe: Recipe, target: str, labels: Mapping[str, str]) -> list[str]:
    arguments = {"MODEL": recipe.model, "ENGINE": recipe.engine, "TORCH_INDEX": recipe.torch_index, **labels}
    # With attestations the image would become an index of manifests, which Lambda refuses.
    command = ["buildx", "build", "--progress=plain", "--provenance=false", "--sbom=false", "--target", target]
    command += [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    return command + (["--platform", recipe.platform] if recipe.platform else [])


def _run(arguments: Sequence[str], progress: Callable[[str], None]) -> None:
    lines: deque[str] = deque(maxlen=1000)
    with subprocess.Popen(
        ["docker", *arguments],  # noqa: S607
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as build:
        for line in build.stderr or ():
            lines.append(line.rstrip("\n"))
            progress(lines[-1])
    if build.returncode:
        raise SetupError("build_failed", f"The build failed: {failure_reason(lines) or 'Docker gives no reason'}")
