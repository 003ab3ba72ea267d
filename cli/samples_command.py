"""`faceq samples`: put two photographs in the public domain into a folder, for a first try."""

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from adapters import atomic_file
from adapters.models.fetch import package_file
from adapters.models.published import ASTRONAUT, GRACE_HOPPER
from adapters.settings import Paths
from pipeline.errors import BadInput

#: The photographs, by the names that the README uses.
SAMPLES: Final = {"grace_hopper.jpg": GRACE_HOPPER, "astronaut.png": ASTRONAUT}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("samples", epilog="Example: faceq samples")(samples)


def samples(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where to put them.  [default: the current folder]")
    ] = Path(),
) -> None:
    """Get two example photographs: Grace Hopper, and Eileen Collins as an astronaut.

    They come from the packages matplotlib and scikit-image, or from the cache after the first time. A file of the same
    name that has another content is never replaced.
    """
    cache = Paths.from_environment(os.environ).models
    for name, package in SAMPLES.items():
        content = package_file(package, cache).read_bytes()
        file = folder / name
        if file.exists() and file.read_bytes() != content:
            raise BadInput("file_exists", f"{file} exists already. Choose another folder: faceq samples FOLDER")
        atomic_file.write(file, content)
        print(file)
