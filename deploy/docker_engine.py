"""The Docker engine, its command and Compose: whether they are there, and what to do if not.

Everything goes through the command `docker`, which knows the person's context, Docker Desktop and the plugins.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

from pipeline.errors import SetupError

#: docker-compose.yml says `provenance` and `sbom` of a build, which Compose knows since this version.
LEAST_COMPOSE: Final = (2, 39)
#: The functions' image where nobody says else, as in docker-compose.yml.
FUNCTION_IMAGE: Final = "faceq-function"


@dataclass(frozen=True)
class Engine:
    """A running engine. `architecture` is Docker's word: `amd64`, `arm64`."""

    version: str
    architecture: str
    compose: str


def engine() -> Engine:
    """Return the engine that runs here.

    Raises
    ------
    SetupError
        There is no command `docker`, no engine that answers it, or no Compose of `LEAST_COMPOSE` or newer.

    """
    if shutil.which("docker") is None:
        raise SetupError("no_docker", "There is no command docker. Install Docker, or run without it: faceq up")
    asked = docker("version", "--format", "{{json .Server}}")
    server = json.loads(asked.stdout.strip() or "null") if asked.returncode == 0 else None
    if server is None:
        why = " ".join(asked.stderr.split()) or "it does not answer"
        raise SetupError(
            "no_engine", f"The Docker engine does not run ({why}). Start Docker, or run without it: faceq up"
        )
    compose = docker("compose", "version", "--short")
    version = compose.stdout.strip().removeprefix("v")
    numbers = re.match(r"(\d+)\.(\d+)", version) if compose.returncode == 0 else None
    if numbers is None or (int(numbers[1]), int(numbers[2])) < LEAST_COMPOSE:
        old = shutil.which("docker-compose") is not None and numbers is None
        found = "only the old docker-compose" if old else f"version {version}" if numbers else "no Compose plugin"
        raise SetupError(
            "no_compose",
            f"faceq needs the Compose plugin {'.'.join(map(str, LEAST_COMPOSE))} or newer (`docker compose`); there is "
            f"{found}. Update Docker.",
        )
    return Engine(str(server["Version"]), str(server["Arch"]), version)


def architecture(image: str) -> str | None:
    """Return what processor an image is for, in Docker's word; None if there is no such image."""
    asked = docker("image", "inspect", "--format", "{{.Architecture}}", image)
    return asked.stdout.strip() if asked.returncode == 0 else None


def docker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Ask Docker something that it answers at once."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=30)  # noqa: S607
