"""Compare the service in containers with the service in processes: overhead of a frame and frames a second."""

import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Final

from rich.console import Console

from adapters.models.installed import installed_model
from adapters.settings import FACEQ_API_PORT, FACEQ_PORT, FACEQ_QUEUE_PORT, ModelSettings
from bench import sample_frames
from bench.service import COMPUTE, Service
from bench.tables import SPREAD, Section, spread
from client.frames import Frame
from client.service_client import Outcome, ServiceClient
from client.stack_connections import client_of_running_stack
from client.stack_state import RunningStack, local_stack
from local.free_ports import free_ports
from local.stack import ROOT

#: How many containers of each function are measured.
REPLICAS: Final = (1, 2, 4)
#: Frames sent before the measured ones: ElasticMQ on a JVM gets faster over its first hundreds of messages.
WARM_UP: Final = 400
#: Frames in flight while throughput is measured.
IN_FLIGHT: Final = 16
_COMPUTE: Final = tuple(part for parts in COMPUTE.values() for part in parts)


@dataclass(frozen=True)
class Containers(Service):
    """The service in containers of a separate Compose project, with the same folders and people."""

    ports: Mapping[str, int]
    project: str = field(default_factory=lambda: f"faceq-bench-{uuid.uuid4().hex[:8]}")

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of its commands and of docker-compose.yml."""
        return {**super().environ, **{name: str(port) for name, port in self.ports.items()}}

    @contextmanager
    def replicas(self, number: int) -> Iterator[RunningStack]:
        """Start `number` containers of each function; remove all containers at the end."""
        scale = [word for function in COMPUTE for word in ("--scale", f"{function}={number}")]
        try:
            self._compose("up", "--no-build", "--detach", "--wait", *scale)
            stack = local_stack(self.environ)
            if stack is None or stack.model != self.model:
                served = stack.model if stack else "no model"
                raise RuntimeError(f"The image contains {served}, not {self.model}. Build it again: faceq image build")
            yield stack
        finally:
            self._compose("down", "--volumes", "--timeout", "5")

    def _compose(self, *arguments: str) -> None:
        command = ["docker", "compose", "--project-name", self.project, "--ansi", "never", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=self.environ)
        if done.returncode != 0:
            raise RuntimeError(f"`docker compose {arguments[0]}` failed. {done.stderr[-500:]}")


def measure(folder: Path, runs: int, count: int, console: Console) -> list[Section]:
    """Measure overhead and throughput of processes, and of containers with several numbers of replicas.

    Parameters
    ----------
    folder : Path
        An empty folder for state and gallery.
    runs : int
        How many frames to send one after the other.
    count : int
        How many frames to send for each throughput.

    """
    settings = ModelSettings.from_environment(os.environ)
    model = installed_model(settings.model, settings.models).id
    processes = Service(folder, model, "onnx")
    ports = dict(zip((FACEQ_PORT, FACEQ_API_PORT, FACEQ_QUEUE_PORT), free_ports(3), strict=True))
    containers = Containers(folder, model, "onnx", ports)
    for name, photo in sample_frames.photographs(settings.models).items():
        processes.faceq("people", "add", name, str(photo))
    kinds = {
        kind: sample_frames.frame(kind, picture) for kind, picture in sample_frames.pictures(settings.models).items()
    }
    overhead = Section(
        "Pipeline overhead, one frame in flight, ms",
        "From the start of the post until the client has the answer, without the functions' compute, after "
        f"{WARM_UP} frames. `just started` shows the first of those frames. Budget: the median of a 640x480 frame is "
        "at most 25 ms.",
        ("stack and frame", *SPREAD),
    )
    throughput = Section(
        f"Frames a second, {IN_FLIGHT} in flight",
        f"{count} frames of 640x480 with one face; all replicas share this machine's processors.",
        ("stack", "frames/s", "answered", "median ms", "slowest ms"),
    )
    with processes.running() as stack:
        console.print("processes")
        _one_stack("processes", stack, kinds, runs, count, overhead, throughput)
    for number in REPLICAS:
        console.print(f"containers, {number} of each function")
        with containers.replicas(number) as stack:
            name = f"containers, {number} of each function"
            _one_stack(name, stack, kinds, runs if number == 1 else 0, count, overhead, throughput)
    return [overhead, throughput]


def _one_stack(
    name: str,
    stack: RunningStack,
    kinds: Mapping[str, Frame],
    runs: int,
    count: int,
    overhead: Section,
    throughput: Section,
) -> None:
    frame = kinds[sample_frames.ONE_FACE]
    if runs:
        overhead.rows.append(
            (f"{name}, just started, {sample_frames.ONE_FACE}", *spread(_overheads(stack, frame, runs)))
        )
        _overheads(stack, frame, WARM_UP - runs)
        for kind, other in kinds.items():
            overhead.rows.append((f"{name}, {kind}", *spread(_overheads(stack, other, runs))))
    # Every replica works once before the measurement.
    list(client_of_running_stack(stack).send(repeat(frame, IN_FLIGHT), concurrency=IN_FLIGHT))
    began = time.monotonic()
    outcomes = list(client_of_running_stack(stack).send(repeat(frame, count), concurrency=IN_FLIGHT))
    seconds = time.monotonic() - began
    answered = sum(outcome.answer is not None for outcome in outcomes)
    times = sorted(outcome.milliseconds for outcome in outcomes)
    throughput.rows.append(
        (name, f"{count / seconds:.1f}", f"{answered} of {count}", f"{times[len(times) // 2]:.0f}", f"{times[-1]:.0f}")
    )


def _overheads(stack: RunningStack, frame: Frame, runs: int) -> list[float]:
    sender: ServiceClient = client_of_running_stack(stack)
    outcomes = list(sender.send(repeat(frame, runs), concurrency=1))
    return [outcome.milliseconds - _compute(outcome) for outcome in outcomes]


def _compute(outcome: Outcome) -> float:
    """Return the milliseconds of both functions' compute, as the answer's `timings` give them."""
    timings = outcome.answer.get("timings") if outcome.answer is not None else None
    if not isinstance(timings, dict):
        raise RuntimeError(f"A frame got no answer: {outcome.problem or outcome.answer}")
    parts = [timings[name] for name in _COMPUTE]
    return sum(float(part) for part in parts if isinstance(part, int | float))
