"""The function image: its size, the time to build it, and the time from starting a container to its first answer."""

import subprocess
import time
import uuid
from typing import Final

import requests
from rich.console import Console

from adapters.models import AUTO, STAND_IN
from bench.tables import SPREAD, Section, spread
from deploy import function_image
from deploy.function_image import ROOT, Image

#: Where this machine has it, the image with torch: `faceq image build --engine torch --tag faceq-torch-function`.
TORCH: Final = "faceq-torch-function"
#: A request that each function answers without a queue, once its networks are loaded.
_EVENTS: Final = {
    "face_detection": {"requestContext": {"http": {"method": "POST"}}, "body": "{}"},
    "face_recognition": {"Records": []},
}
#: As docker-compose.yml starts them.
_CLOSED: Final = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp:size=512m")
_START_SECONDS: Final = 60


def measure(builds: int, starts: int, console: Console) -> list[Section]:
    """Build the image, look at it, start it, and remove what was built."""
    times = Section(
        "Building the function image",
        "Seconds, with the model that `auto` takes. Cold uses none of the layers that Docker keeps from before; what "
        "pip and `faceq models get` fetched before is kept, as between two builds on one machine.",
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
        made = [tag for tag in tags.values() if tag.startswith(prefix)]
        subprocess.run(["docker", "image", "rm", *made], capture_output=True, check=False)


def _sizes(images: dict[str, Image]) -> Section:
    section = Section("Size of the function image", "MB without compression, by what a layer holds.", ("what", *images))
    kinds = dict.fromkeys(layer.holds for found in images.values() for layer in found.layers)
    for kind in kinds:
        sizes = (sum(layer.bytes for layer in found.layers if layer.holds == kind) for found in images.values())
        section.rows.append((kind, *(f"{size / 1e6:.1f}" for size in sizes)))
    section.rows.append(("all", *(f"{found.bytes / 1e6:.1f}" for found in images.values())))
    return section


def _cold_starts(tags: dict[str, str], starts: int, console: Console) -> Section:
    section = Section(
        "Cold start of a container",
        "Seconds from `docker run` to the first answer: container, emulator, imports, networks, one request that needs "
        "no queue. Files in the page cache, all cores; a container that does nothing is what Docker alone takes.",
        ("what", *SPREAD),
    )
    console.print("starting containers")
    nothing = []
    for _ in range(starts):
        began = time.perf_counter()
        _docker("run", "--rm", *_CLOSED, "--entrypoint", "true", tags["onnx"])
        nothing.append(time.perf_counter() - began)
    section.rows.append(("a container that does nothing, to its end", *spread(nothing, 2)))
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
            except requests.ConnectionError:  # Docker listens before the emulator does
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
            f"docker {arguments[0]}: {function_image.last_words(done.stderr.splitlines()) or done.stderr}"
        )
    return done.stdout.strip()
