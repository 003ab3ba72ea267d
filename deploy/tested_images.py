"""The images that have passed `make test-docker` on this machine, by id.

`python -m deploy.tested_images IMAGE` records that an image has passed.
"""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from adapters import atomic_file
from adapters.settings import FACEQ_NAME, Paths
from deploy.function_image import inspect
from pipeline.errors import FaceqError

#: Name of the record, in the user's state folder.
_FILE: Final = "tested-images.json"


def tested(image_id: str) -> str | None:
    """Return when the image with this id passed (UTC, ISO 8601); None if it did not."""
    return _read(_file()).get(image_id)


def record(image_id: str) -> None:
    """Record that the image with this id has passed now."""
    file = _file()
    images = {**_read(file), image_id: datetime.now(UTC).isoformat(timespec="seconds")}
    atomic_file.write(file, json.dumps(images, indent=2).encode())


def _file() -> Path:
    """Return the record, which all stacks of this machine share, whatever their names."""
    return Paths.from_environment({**os.environ, FACEQ_NAME: ""}).state / _FILE


def _read(file: Path) -> dict[str, str]:
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def main() -> int:
    """Record the image that the command line names; return the exit code."""
    try:
        record(inspect(sys.argv[1]).id)
    except FaceqError as error:
        sys.stderr.write(f"faceq: {error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
