"""The Docker engine, the command `docker` and Compose: what is installed, and what to do if something is missing.

Everything goes through the command `docker`, which knows the user's context, Docker Desktop and the plugins.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

from pipeline.errors import SetupError

#: docker-compose.yml sets `provenance` and `sbom` for a build, which Compose supports since this version.
LEAST_COMPOSE: Final = (2, 39)
#: Default tag of the function image, as in docker-compose.yml.
FUNCTION_IMAGE: Final = "faceq-function"


@dataclass(frozen=True)
class Engine:
    """A running engine. `architecture` is Docker's name for it: `amd64`, `arm64`."""

    version: str
    architecture: str
    compose: str


def engine() -> Engine:
    """Return the running Docker engine.

    Raises
    ------
    SetupError
        There is no command `docker`, no engine that answers it, or no Compose of `LEAST_COMPOSE` or newer.

    """
    if shutil.which("docker") is None:
        raise SetupError("no_docker", "There is no command docker. Install Docker, or run without it: faceq up")
    result = docker("version", "--format", "{{json .Server}}")
    server = json.loads(result.stdout.strip() or "null") if result.returncode == 0 else None
    if server is None:
        reason = " ".join(result.stderr.split()) or "it does not answer"
        raise SetupError(
            "no_engine", f"The Docker engine is not running ({reason}). Start Docker, or run without it: faceq up"
        )
    compose = docker("compose", "version", "--short")
    version = compose.stdout.strip().removeprefix("v")
    numbers = re.match(r"(\d+)\.(\d+)", version) if compose.returncode == 0 else None
    if numbers is None or (int(numbers[1]), int(numbers[2])) < LEAST_COMPOSE:
        has_version_1 = shutil.which("docker-compose") is not None and numbers is None
        installed = (
            "only the old docker-compose" if has_version_1 else f"version {version}" if numbers else "no Compose plugin"
        )
        raise SetupError(
            "no_compose",
            f"faceq needs the Compose plugin {'.'.join(map(str, LEAST_COMPOSE))} or newer (`docker compose`), but this "
            f"machine has {installed}. Update Docker.",
        )
    return Engine(str(server["Version"]), str(server["Arch"]), version)


def architecture(image: str) -> str | None:
    """Return the processor architecture of an image, by Docker's name for it; None if there is no such image."""
    result = docker("image", "inspect", "--format", "{{.Architecture}}", image)
    return result.stdout.strip() if result.returncode == 0 else None


def docker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a Docker command that takes little time, and return its exit code and output."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=30)  # noqa: S607
