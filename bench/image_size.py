"""Measure the function image: its size, how long a build takes, and how long a container takes to answer first."""

import subprocess
import time
import uuid
from typing import Final

import requests
from rich.console import Console

from adapters.models.catalogue import AUTO, STAND_IN
from bench.tables import SPREAD, Section, spread
from deploy import function_image
from deploy.function_image import ROOT, Image

#: The image with torch, measured if it exists: `faceq image build --engine torch --tag faceq-torch-function`.
TORCH: Final = "faceq-torch-function"
#: A request for each function that it can answer without a queue once its networks are loaded.
_EVENTS: Final = {
    "face_detection": {"requestContext": {"http": {"method": "POST"}}, "body": "{}"},
    "face_recognition": {"Records": []},
}
#: The same restrictions as in docker-compose.yml.
_CLOSED: Final = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp:size=512m")
_START_SECONDS: Final = 60


def measure(builds: int, starts: int, console: Console) -> list[Section]:
    """Build the image, inspect it, start containers of it, and remove the built images."""
    times = Section(
        "Building the function image",
        "Seconds, with the model that `auto` chooses. A cold build uses none of Docker's cached layers; it does use "
        "the files that pip and `faceq models get` downloaded earlier, as a second build on the same machine does.",
        ("what", *SPREAD),
    )
    prefix = f"faceq-bench-{uuid.uuid4().hex[:8]}"
    tags = {"onnx": f"{prefix}-{AUTO}", "onnx, a network as large as vggface2's": f"{prefix}-{STAND_IN}"}
    try:
        for what, options in (("cold", ["--no-cache"]), ("warm, nothing changed", [])):
            console.print(f"building, {what}")
            seconds = [_build(tags["onnx"], AUTO, *options) for _ in range(builds)]
            times.rows.append((what, *spread(seconds, 1)))
        _build(tags["onnx, a network as large as vggface2's"], STAND_IN)
        if subprocess.run(["docker", "image", "inspect", TORCH], capture_output=True, check=False).returncode == 0:
            tags["torch"] = TORCH
        return [
            _sizes({name: function_image.inspect(tag) for name, tag in tags.items()}),
            times,
            _cold_starts({name: tag for name, tag in tags.items() if tag != f"{prefix}-{STAND_IN}"}, starts, console),
        ]
    finally:
        built = [tag for tag in tags.values() if tag.startswith(prefix)]
        subprocess.run(["docker", "image", "rm", *built], capture_output=True, check=False)


def _sizes(images: dict[str, Image]) -> Section:
    section = Section(
        "Size of the function image", "Uncompressed MB, by the contents of the layers.", ("what", *images)
    )
    kinds = dict.fromkeys(layer.holds for image in images.values() for layer in image.layers)
    for kind in kinds:
        sizes = (sum(layer.bytes for layer in image.layers if layer.holds == kind) for image in images.values())
        section.rows.append((kind, *(f"{size / 1e6:.1f}" for size in sizes)))
    section.rows.append(("all", *(f"{image.bytes / 1e6:.1f}" for image in images.values())))
    return section


def _cold_starts(tags: dict[str, str], starts: int, console: Console) -> Section:
    section = Section(
        "Cold start of a container",
        "Seconds from `docker run` to the first answer: container, emulator, imports, networks, and one request that "
        "needs no queue. All files are in the page cache; a container may use all cores. The empty container shows "
        "what Docker alone takes.",
        ("what", *SPREAD),
    )
    console.print("starting containers")
    nothing = []
    for _ in range(starts):
        began = time.perf_counter()
        _docker("run", "--rm", *_CLOSED, "--entrypoint", "true", tags["onnx"])
        nothing.append(time.perf_counter() - began)
    section.rows.append(("an empty container, to its end", *spread(nothing, 2)))
    for name, tag in tags.items():
        for function in _EVENTS:
            seconds = [_first_answer(tag, function) for _ in range(starts)]
            section.rows.append((f"{function.replace('_', '-')}, {name}", *spread(seconds, 2)))
    return section


def _first_answer(tag: str, function: str) -> float:
    handler = f"adapters.lambda_entry.{function}.handler"
    began = time.perf_counter()
    container = _docker("run", "--detach", "--rm", *_CLOSED, "--publish=127.0.0.1::8080", tag, handler)
    try:
        address = _docker("port", container, "8080/tcp").splitlines()[0]
        while True:
            try:
                answer = requests.post(
                    f"http://{address}/2015-03-31/functions/function/invocations",
                    json=_EVENTS[function],
                    timeout=_START_SECONDS,
                )
            except requests.ConnectionError:  # Docker accepts connections before the emulator does
                if time.perf_counter() - began > _START_SECONDS:
                    raise
                time.sleep(0.01)
                continue
            if "errorType" in answer.text:
                raise RuntimeError(f"{tag} answers: {answer.text[:500]}")
            return time.perf_counter() - began
    finally:
        _docker("kill", container)


def _build(tag: str, model: str, *options: str) -> float:
    began = time.perf_counter()
    _docker(
        "buildx", "build", "--provenance=false", "--sbom=false", "--load", "--target=function", f"--tag={tag}",
        f"--build-arg=MODEL={model}", *options, str(ROOT),
    )  # fmt: skip
    return time.perf_counter() - began


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"docker {arguments[0]}: {function_image.failure_reason(done.stderr.splitlines()) or done.stderr}"
        )
    return done.stdout.strip()
