"""Measure the whole service as a user starts it: time to ready, time of a frame and of its steps, memory."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Final

import numpy as np

from adapters.queue_sqs import sqs_client
from adapters.settings import (
    FACEQ_ENGINE,
    FACEQ_GALLERY_DIR,
    FACEQ_MODEL,
    FACEQ_STATE_DIR,
    ModelSettings,
)
from client import stack_state
from client.frames import Frame
from client.service_client import Outcome
from client.stack_connections import client_of_running_stack
from client.stack_state import RunningStack
from local.addresses import ACCOUNT
from local.event_source_mapping_rules import to_record
from local.function_url import HttpRequest, to_event
from local.runtimes.embedded import EmbeddedRuntime
from local.runtimes.function_runtime import Invocation, new_trace_id
from local.stack import ROOT, read_template
from local.supervisor import Options, function_variables
from pipeline.log_events import DETECTED, RECOGNISED
from pipeline.messages import FrameRequest

#: The parts of `timings` that are a function's own compute; all other time is overhead.
COMPUTE: Final = {"face-detection": ("decode", "detect", "crop"), "face-recognition": ("read", "embed", "match")}
#: Frames sent before the first one that is measured.
WARM_UP: Final = 5
READY_SECONDS: Final = 60.0
#: How long the log line of an answered frame may take.
LOG_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Service:
    """A service with its own state and gallery.

    Parameters
    ----------
    folder : Path
        Parent of its state and its gallery.
    model, engine : str
        What the functions run.

    """

    folder: Path
    model: str
    engine: str

    @property
    def name(self) -> str:
        """Return the service's name in the tables."""
        return f"{self.model} on {self.engine}"

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of its commands."""
        return {
            **os.environ,
            FACEQ_STATE_DIR: str(self.folder / "state"),
            FACEQ_GALLERY_DIR: str(self.folder / "gallery"),
            FACEQ_MODEL: self.model,
            FACEQ_ENGINE: self.engine,
        }

    def faceq(self, *arguments: str) -> str:
        """Run a command to its end; return its output. Raise RuntimeError with the command's message if it fails."""
        done = subprocess.run(
            self._command(*arguments), capture_output=True, text=True, check=False, cwd=ROOT, env=self.environ
        )
        if done.returncode != 0:
            raise RuntimeError(f"`faceq {' '.join(arguments)}` failed. {done.stderr.strip()}")
        return done.stdout

    @contextmanager
    def running(self) -> Iterator[RunningStack]:
        """Start the service on free ports; stop it at the end."""
        self.faceq("up", "--detach", "--port", "0")
        try:
            stack = stack_state.process_stack(self.folder / "state")
            assert stack is not None
            yield stack
        finally:
            self.faceq("down")

    def start_and_stop(self) -> tuple[float, float]:
        """Return the seconds from `faceq up` to ready, and from Ctrl-C to the end of the process."""
        file = self.folder / "state" / stack_state.FILE
        began = time.monotonic()
        process = subprocess.Popen(
            self._command("up", "--quiet", "--port", "0"), stdout=subprocess.DEVNULL, cwd=ROOT, env=self.environ
        )
        try:
            while not file.exists():
                if process.poll() is not None or time.monotonic() - began > READY_SECONDS:
                    raise RuntimeError("The service did not start. Run `faceq up` to see why.")
                time.sleep(0.005)
            ready = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait(10)
            return ready - began, time.monotonic() - ready
        finally:
            if process.poll() is None:
                process.kill()

    def start_detached(self) -> float:
        """Return the seconds that `faceq up -d` takes."""
        began = time.monotonic()
        with self.running():
            return time.monotonic() - began

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "cli.main", *arguments]


# One frame in flight


@dataclass(frozen=True)
class Passage:
    """The times of one frame.

    Parameters
    ----------
    total, overhead : float
        Milliseconds from the start of the post until the client has the answer; the part that is not compute.
    steps : Mapping of str to float
        Milliseconds of each step; their sum is `total`.

    """

    total: float
    overhead: float
    steps: Mapping[str, float]


def one_in_flight(stack: RunningStack, frame: Frame, runs: int) -> list[Passage]:
    """Send a frame `runs` times, each after the answer to the one before; return the times of each."""
    answered: list[tuple[Outcome, float]] = []
    for outcome in client_of_running_stack(stack).send(repeat(frame, WARM_UP + runs), concurrency=1):
        answered.append((outcome, time.time()))
        if outcome.answer is None:
            raise RuntimeError(f"A frame got no answer: {outcome.problem}")
    last = answered[-1][0].request_id
    detected, recognised = (_log_lines(Path(stack.logs), function, last) for function in COMPUTE)
    return [
        _passage(outcome, end, detected[outcome.request_id], recognised[outcome.request_id])
        for outcome, end in answered[WARM_UP:]
    ]


@dataclass(frozen=True)
class _Line:
    """What a function logged about a frame: when it received the event, when it had sent, and the times between.

    Parameters
    ----------
    start, sent : float
        Seconds since the epoch, in whole milliseconds.
    timings : Mapping of str to float
        Milliseconds.

    """

    start: float
    sent: float
    timings: Mapping[str, float]

    def compute(self, function: str) -> float:
        """Return the milliseconds of the function's compute."""
        return sum(self.timings[part] for part in COMPUTE[function])


def _passage(outcome: Outcome, end: float, detection: _Line, recognition: _Line) -> Passage:
    # The logs cut times off to whole milliseconds. We cut this time off too: then differences are right on average.
    end = int(end * 1e3) / 1e3
    began = end - outcome.milliseconds / 1e3
    detect, recognise = detection.compute("face-detection"), recognition.compute("face-recognition")
    sends = detection.timings["send"], recognition.timings["send"]
    steps = {
        "post, function URL, to the detector's START": (detection.start - began) * 1e3,
        "detector: runtime hands the event over, parse": (detection.sent - detection.start) * 1e3 - detect - sends[0],
        "detector: compute": detect,
        "send to the request queue": sends[0],
        "mapping's receive, invoke, to the recogniser's START": (recognition.start - detection.sent) * 1e3,
        "recogniser: runtime hands the event over, parse": (recognition.sent - recognition.start) * 1e3
        - recognise
        - sends[1],
        "recogniser: compute": recognise,
        "send to the response queue": sends[1],
        "answer in the client's hands, after that": (end - recognition.sent) * 1e3,
    }
    return Passage(outcome.milliseconds, outcome.milliseconds - detect - recognise, steps)


def mean_steps(passages: Sequence[Passage]) -> Mapping[str, float]:
    """Return the mean of each step: unlike medians, means add up."""
    return {step: float(np.mean([passage.steps[step] for passage in passages])) for step in passages[0].steps}


def _log_lines(logs: Path, function: str, last: str) -> dict[str, _Line]:
    """Return what a function logged about each frame, by request id.

    A function logs a frame after it has sent the answer. So this waits for the line of the frame `last`.
    """
    deadline = time.monotonic() + LOG_SECONDS
    while last not in (lines := _read_log(logs, function)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return lines


def _read_log(logs: Path, function: str) -> dict[str, _Line]:
    starts: dict[str, float] = {}
    lines: dict[str, _Line] = {}
    for line in (logs / f"{function}.log").read_text().splitlines():
        when, _, invocation, text = line.split(" ", 3)
        if text.startswith("START "):
            starts[invocation] = datetime.fromisoformat(when).timestamp()
        elif text.startswith("{"):
            record = json.loads(text)
            if record.get("message") in {DETECTED, RECOGNISED} and "send" in record["timings"]:
                sent = datetime.strptime(record["timestamp"], "%Y-%m-%d %H:%M:%S,%f%z").timestamp()
                lines[record["request_id"]] = _Line(starts[invocation], sent, record["timings"])
    return lines


# Many frames together, and memory


def burst(stack: RunningStack, frame: Frame, count: int) -> tuple[list[Outcome], float]:
    """Post `count` frames together; return their outcomes and the seconds until the last answer."""
    began = time.monotonic()
    outcomes = list(client_of_running_stack(stack).send(repeat(frame, count), concurrency=count))
    return outcomes, time.monotonic() - began


def memory(service: Service) -> list[tuple[str, float]]:
    """Return each process's part of the service and its resident memory in MB."""
    rows = json.loads(service.faceq("status", "--json"))["processes"]
    return [(str(row["part"]), float(row["resident_mb"])) for row in rows]


# A fresh function process


@dataclass(frozen=True)
class ColdStart:
    """Seconds from the start of a function's process to the end of its init and to its first answer."""

    ready: float
    answered: float


def cold_starts(service: Service, stack: RunningStack, frame: Frame, runs: int) -> dict[str, list[ColdStart]]:
    """Start a new process of each function `runs` times and send it one event; it sends to a queue made for this."""
    sqs = sqs_client(stack.region, stack.sqs_endpoint)
    url = str(sqs.create_queue(QueueName="bench")["QueueUrl"])
    body = FrameRequest(frame.content, "cold", frame.filename).to_json().encode()
    posted = to_event(
        HttpRequest("POST", "/", [("Content-Type", "application/json")], body, "127.0.0.1", 80),
        url_id="bench",
        request_id="cold",
        trace_id=new_trace_id(),
        now=datetime.now(UTC),
    )
    starts: dict[str, list[ColdStart]] = {}
    with tempfile.TemporaryDirectory(prefix="faceq-bench-") as logs:
        event: Mapping[str, object] = posted
        for function in COMPUTE:
            starts[function] = []
            for _ in range(runs):
                cold, answer = asyncio.run(_cold_start(service, stack, function, event, url, Path(logs)))
                if answer.function_error:
                    raise RuntimeError(f"{function} failed: {answer.payload[:300].decode()}")
                starts[function].append(cold)
                sent = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5, AttributeNames=["All"])["Messages"][0]
                sqs.delete_message(QueueUrl=url, ReceiptHandle=sent["ReceiptHandle"])
            # The recogniser is next: it receives what the detector sent.
            event = {"Records": [to_record(sent, f"arn:aws:sqs:{stack.region}:{ACCOUNT}:bench", stack.region)]}
    return starts


async def _cold_start(
    service: Service, stack: RunningStack, function: str, event: Mapping[str, object], queue_url: str, logs: Path
) -> tuple[ColdStart, Invocation]:
    options = Options(ModelSettings.from_environment(service.environ), logs)
    under_test = read_template({}, stack.sqs_endpoint).functions[function]
    under_test = replace(
        under_test,
        environment={
            name: queue_url if name.endswith("QUEUE_URL") else value for name, value in under_test.environment.items()
        },
    )
    runtime = EmbeddedRuntime(
        [under_test],
        task_root=ROOT,
        logs=logs,
        region=stack.region,
        account=ACCOUNT,
        environment={**function_variables(options, service.model), "AWS_ENDPOINT_URL_SQS": stack.sqs_endpoint},
        concurrency=1,
    )
    began = time.monotonic()
    try:
        await runtime.start()
        ready = time.monotonic()
        answer = await runtime.invoke(function, json.dumps(event).encode())
        return ColdStart(ready - began, time.monotonic() - began), answer
    finally:
        await runtime.stop()
