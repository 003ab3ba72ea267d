"""`faceq up --reload`: who changes the functions' code sees it in the next answer."""

import compileall
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
import requests

from client.frames import Frame
from client.stack_state import RunningStack
from pipeline.messages import FrameRequest
from tests.conftest import COLLINS
from tests.functional.targets import ROOT, Home, Service
from tests.polling import eventually

pytestmark = pytest.mark.only("processes", "containers run the code of their image")

RELOADED = "reloaded after a change to"
ANSWERS = "pipeline/aws_events.py"
RECOGNITION = "adapters/lambda_entry/face_recognition.py"  # what the other function does without


@dataclass(frozen=True)
class Reloading:
    """A service that runs a copy of the code, and what its terminal shows."""

    service: Service
    code: Path
    terminal: Path

    def post(self, content: bytes) -> requests.Response:
        request = FrameRequest(content, str(uuid4()), "frame.jpg")
        return requests.post(self.service.stack.function_url, request.to_json(), timeout=60)

    def save(self, changes: Mapping[str, tuple[str, str]]) -> str:
        """Replace a text in files, as an editor saves: a new file takes the old one's place. Return what is said then.

        The new one is of the old one's time, which a file system may keep in whole seconds.
        """
        shown = len(self.terminal.read_text())
        for name, (old, new) in changes.items():
            file = self.code / name
            text = file.read_text()
            assert text.count(old) == 1
            written = file.with_name(f".{file.name}.new")
            written.write_text(text.replace(old, new))
            os.utime(written, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
            written.replace(file)
        eventually(lambda: self.terminal.read_text().endswith("\n") and len(self.terminal.read_text()) > shown)
        return self.terminal.read_text()[shown:].rstrip("\n")


@pytest.fixture
def reloading(home: Home) -> Iterator[Reloading]:
    code, terminal = home.folder / "code", home.folder / "terminal"
    for name in ("cli", "local", "deploy", "client", "adapters", "template", "pipeline"):
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(code, quiet=1)  # as other commands leave it, which run the same code
    parameters = ("RecognitionTimeout=2", "RequestVisibilityTimeout=3")  # how soon a queued frame is tried again
    options = [word for parameter in parameters for word in ("--parameter", parameter)]
    with terminal.open("w") as file:
        up = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up", "--reload", "--port", "0", *options],
            stdout=file, stderr=file, cwd=code, env=home.environ(), process_group=0,
        )  # fmt: skip
    try:
        eventually(lambda: "Ctrl-C stops it." in terminal.read_text() or up.poll() is not None, 60)
        stack = home.running()
        assert isinstance(stack, RunningStack), terminal.read_text()
        yield Reloading(Service(home, stack), code, terminal)
    finally:
        parts = [psutil.Process(up.pid), *psutil.Process(up.pid).children(recursive=True)]
        up.send_signal(signal.SIGINT)
        up.wait(30)
        _, alive = psutil.wait_procs(parts, timeout=10)
        assert alive == []
    assert "Traceback" not in terminal.read_text()


def test_a_saved_change_is_in_the_next_answer_and_a_mistake_takes_nothing_down(
    reloading: Reloading, frame: Callable[[str], Frame]
) -> None:
    content = frame(COLLINS).content
    before = reloading.service.processes()
    assert reloading.post(content).text == "Face detection completed"
    # The same length and time: neither tells that it is another text.
    said = reloading.save({ANSWERS: ("Face detection completed", "Face detection has moved")})
    assert said == f"{RELOADED} {ANSWERS}"
    assert reloading.post(content).text == "Face detection has moved"

    said = reloading.save({ANSWERS: ("def accepted() -> ", "def accepted( -> ")})
    line = (reloading.code / ANSWERS).read_text().partition("def accepted(")[0].count("\n") + 1
    assert said.startswith(f"{ANSWERS}, line {line}: The function face-")
    assert "SyntaxError" in said
    assert "\n" not in said
    assert reloading.post(content).status_code == 502

    changes = {ANSWERS: ("def accepted( -> ", "def accepted() -> "), RECOGNITION: ("import os\n", "import os\n\n")}
    assert reloading.save(changes) == f"{RELOADED} {RECOGNITION} and 1 more"  # by name, not by time
    assert reloading.post(content).text == "Face detection has moved"

    after = reloading.service.processes()
    stays = {"faceq", "queue-server", "event-source-mapping"}
    assert {part: pids for part, pids in after.items() if before[part] == pids}.keys() == stays


def test_a_queued_frame_waits_for_the_mistake_to_be_mended(reloading: Reloading, frame: Callable[[str], Frame]) -> None:
    said = reloading.save({RECOGNITION: ("import os\n", "import os\n1 / 0\n")})
    assert said.startswith(f"{RECOGNITION}, line ")
    assert "The function face-recognition did not start: ZeroDivisionError" in said
    sent = frame(COLLINS)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(reloading.service.ask, sent)
        requests_queue = reloading.service.stack.request_queue_url.rpartition("/")[2]
        eventually(lambda: requests_queue in waiting(reloading.service.home))
        assert reloading.save({RECOGNITION: ("1 / 0\n", "")}) == f"{RELOADED} {RECOGNITION}"
        assert asked.result()[sent.filename].result == "Unknown"


def waiting(home: Home) -> set[str]:
    """Return the queues that hold messages."""
    rows = json.loads(home.faceq("queues", "list", "--json").stdout)
    return {row["name"] for row in rows if row["visible"] or row["in_flight"]}
