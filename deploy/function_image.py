"""The function image: building it with labels that say what is in it, and telling what an image holds."""

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
#: What Lambda has processors for, by the name that Docker gives the platform.
PLATFORMS: Final = ("linux/amd64", "linux/arm64")
#: Bytes without compression: what the project promises, and what Lambda takes (developer guide, "Lambda quotas").
PROMISED_BYTES: Final = 550_000_000
LAMBDA_BYTES: Final = 10 * 2**30

#: What a layer of ours holds, by what is in the instruction that made it; the first that fits.
_HOLDS: Final = (
    ("aws-lambda-rie", "the Runtime Interface Emulator"),
    ("/opt/faceq/venv /opt/faceq/venv", "packages"),
    ("/opt/faceq/models /opt/faceq/models", "networks"),
    ("boto3.client(", "Python's own library, compiled"),
    ("/var/task /var/task", "code"),
    ("/opt/faceq/gateway /opt/faceq/gateway", "the gateway's packages"),
    ("COPY local local", "the gateway's code"),
)
_BASE: Final = "base system"
_WORDS: Final = re.compile(r"^(?:#\d+ )?\d+\.\d+ (faceq: .*)$")
_ERROR: Final = re.compile(r"^(?:#\d+ )?ERROR: (.*)$")
_FOREIGN: Final = "exec format error"


@dataclass(frozen=True)
class Recipe:
    """What to build.

    Parameters
    ----------
    model, engine, torch_index
        The Dockerfile's build arguments of these names.
    platform : str
        One of `PLATFORMS`; empty for the engine's own.
    tag : str
        Of the function image.

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
    """One layer, and what it holds in words."""

    bytes: int
    holds: str


@dataclass(frozen=True)
class Image:
    """What an image is.

    Parameters
    ----------
    bytes : int
        Without compression, as Lambda counts.
    warnings : sequence of str
        What Lambda would refuse or the project does not promise, a sentence each.

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
    """Build the function image and the gateway's.

    Labels can only be given from outside a build, so there are two steps: the networks, whose manifest comes out as a
    file, and the images with labels made from it. The second takes the first's work from Docker's cache.

    Parameters
    ----------
    recipe : Recipe
    progress : callable
        Told each line that Docker prints.

    Raises
    ------
    SetupError
        Docker, Compose or buildx is missing, the engine does not run, or the build fails: with Docker's last words.

    """
    engine()
    if docker("buildx", "version").returncode:
        raise SetupError(
            "no_buildx", "The command `docker buildx` is missing: install Docker's plugin of that name (docker-buildx)."
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
    """Look at an image that the engine has. Raises SetupError if there is none, or no engine."""
    here = f"linux/{engine().architecture}"
    found = docker("image", "inspect", tag)
    history = docker("history", "--no-trunc", "--human=false", "--format", "{{json .}}", tag)
    if found.returncode or history.returncode:
        raise SetupError("no_image", f"There is no image {tag}. Build it with: faceq image build --tag {tag}")
    return read(json.loads(found.stdout)[0], [json.loads(line) for line in history.stdout.splitlines()], here)


def revision(folder: Path) -> str:
    """Return the work tree's commit, with `-dirty` if it has changes; empty where there is no work tree, or no git."""
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S607
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}-dirty" if changes else commit


def read(image: Mapping[str, Any], history: Sequence[Mapping[str, str]], here: str) -> Image:
    """Read what Docker says of an image.

    Parameters
    ----------
    image : Mapping
        Of `docker image inspect`.
    history : sequence of Mapping
        Of `docker history --no-trunc --human=false`, newest first.
    here : str
        The platform that the engine runs without emulation, such as `linux/amd64`.

    """
    layers = _layers(history)
    config = image["Config"]
    # The sum, for the image's own `Size` is that of compressed layers where containerd keeps the images.
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
        warnings=list(_warnings(image, platform, size, here)),
    )


def last_words(lines: Iterable[str]) -> str:
    """Return why a build failed, of the lines that Docker printed: faceq's own sentence, else Docker's error."""
    error = said = ""
    foreign = False
    for line in lines:
        if found := _WORDS.match(line):
            said = found[1].removeprefix("faceq: ")
        elif found := _ERROR.match(line):
            error = found[1]
        foreign |= _FOREIGN in line
    if foreign:
        return (
            "This engine cannot run programs of that platform. Build on such a machine, or let Docker emulate it: "
            "docker run --privileged --rm tonistiigi/binfmt --install all"
        )
    # The instruction's text, a page of shell, says less than what came after it.
    return said or re.sub(
        r"(executor failed running|process) .*?(: exit code| did not complete)", r"a command\2", error
    )


def _layers(history: Sequence[Mapping[str, str]]) -> list[Layer]:
    """Return the layers that hold something, the base system's first and as one."""
    layers: list[Layer] = []
    base = 0
    for entry in reversed(history):
        size, words = int(entry["Size"]), entry["CreatedBy"]
        holds = next((holds for part, holds in _HOLDS if part in words), None)
        if holds is None and not layers:
            base += size
        elif size:
            layers.append(Layer(size, holds or "something else"))
    return [Layer(base, _BASE), *layers]


def _warnings(image: Mapping[str, Any], platform: str, size: int, here: str) -> Iterable[str]:
    if (image["Config"].get("User") or "0").partition(":")[0] in ("0", "root"):
        yield "It runs as root."
    # Only where containerd keeps the images is there a descriptor.
    kind = str((image.get("Descriptor") or {}).get("mediaType", ""))
    if kind.endswith(("image.index.v1+json", "manifest.list.v2+json")):
        yield "It is an index of manifests (an attestation, or several platforms); Lambda takes a plain manifest only."
    if platform not in PLATFORMS:
        yield f"Lambda has no {platform}."
    elif platform != here:
        yield f"It is for {platform} and this engine runs {here}: here it works by emulation, if at all."
    if size > LAMBDA_BYTES:
        yield f"It has {size / 2**30:.1f} GiB; Lambda takes 10."
    elif size > PROMISED_BYTES:
        yield f"It has {size / 1e6:.0f} MB; more than {PROMISED_BYTES / 1e6:.0f} makes cold starts long."


def _command(recipe: Recipe, target: str, labels: Mapping[str, str]) -> list[str]:
    arguments = {"MODEL": recipe.model, "ENGINE": recipe.engine, "TORCH_INDEX": recipe.torch_index, **labels}
    # Attestations would make the image an index of manifests, which Lambda refuses.
    command = ["buildx", "build", "--progress=plain", "--provenance=false", "--sbom=false", "--target", target]
    command += [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
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
        raise SetupError("build_failed", f"The build failed: {last_words(lines) or 'Docker does not say why'}")
