"""Docker images of a few bytes, for the tests of pushing and deploying."""

import io
import subprocess
import tarfile
from collections.abc import Mapping


def build_image(tag: str, platform: str = "", labels: Mapping[str, str] | None = None) -> str:
    """Build an image of one file, which contains the tag, so that no two images are the same; return its id."""
    lines = ["FROM scratch", *(f"LABEL {name}={value}" for name, value in (labels or {}).items()), "COPY file /file"]
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, text in {"Dockerfile": "\n".join([*lines, "USER 65532", ""]), "file": tag}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    done = subprocess.run(
        ["docker", "build", "--quiet", "--provenance=false", "--sbom=false", "--tag", tag,
         *(["--platform", platform] if platform else []), "-"],
        input=context.getvalue(), check=True, capture_output=True,
    )  # fmt: skip
    return done.stdout.decode().strip()


def remove_image(image: str) -> None:
    """Delete an image from the Docker engine, with all its tags."""
    subprocess.run(["docker", "image", "rm", "--force", image], check=True, capture_output=True)
