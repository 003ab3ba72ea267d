"""`faceq up --reload`: a change of the functions' code takes effect with the next answer."""

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
RECOGNITION = "adapters/lambda_entry/face_recognition.py"  # a file that the other function does not import


@dataclass(frozen=True)
class Reloading:
    """A service that runs a copy of the code, and the output of its terminal."""

    service: Service
    code: Path
    terminal: Path

    def post(self, content: bytes) -> requests.Response:
        request = FrameRequest(content, str(uuid4()), "frame.jpg")
        return requests.post(self.service.stack.function_url, request.to_json(), timeout=60)

    def save(self, changes: Mapping[str, tuple[str, str]]) -> str:
        """Replace a text in each file, as an editor saves: a new file replaces the old one. Return the new output.

        The new file gets the old one's time of modification, which a file system may keep in whole seconds only.
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
    assert compileall.compile_dir(code, quiet=1)  # other commands that run the same code leave compiled files
    parameters = ("RecognitionTimeout=2", "RequestVisibilityTimeout=3")  # how soon a queued frame is retried
    options = [word for parameter in parameters for word in ("--parameter", parameter)]
    with terminal.open("w") as file:
        up = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up", "--quiet", "--reload", "--port", "0", *options],
            stdout=file, stderr=file, cwd=code, env=home.environ(), process_group=0,
        )  # fmt: skip
    try:
        eventually(lambda: "Press Ctrl-C to stop." in terminal.read_text() or up.poll() is not None, 60)
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


def test_a_saved_change_is_in_the_next_answer_and_a_syntax_error_stops_no_part(
    reloading: Reloading, frame: Callable[[str], Frame]
) -> None:
    content = frame(COLLINS).content
    before = reloading.service.processes()
    assert reloading.post(content).text == "Face detection completed"
    # Same length and same time of modification: Python cannot tell the files apart by them.
    output = reloading.save({ANSWERS: ("Face detection completed", "Face detection has moved")})
    assert output == f"{RELOADED} {ANSWERS}"
    assert reloading.post(content).text == "Face detection has moved"

    output = reloading.save({ANSWERS: ("def accepted() -> ", "def accepted( -> ")})
    line = (reloading.code / ANSWERS).read_text().partition("def accepted(")[0].count("\n") + 1
    assert output.startswith(f"{ANSWERS}, line {line}: The function face-")
    assert "SyntaxError" in output
    assert "\n" not in output
    assert reloading.post(content).status_code == 502

    changes = {ANSWERS: ("def accepted( -> ", "def accepted() -> "), RECOGNITION: ("import os\n", "import os\n\n")}
    assert reloading.save(changes) == f"{RELOADED} {RECOGNITION} and 1 more"  # sorted by name, not by time
    assert reloading.post(content).text == "Face detection has moved"

    after = reloading.service.processes()
    unchanged = {"faceq", "queue-server", "event-source-mapping"}
    assert {part: pids for part, pids in after.items() if before[part] == pids}.keys() == unchanged


def test_a_queued_frame_waits_for_the_fix_of_its_function(reloading: Reloading, frame: Callable[[str], Frame]) -> None:
    output = reloading.save({RECOGNITION: ("import os\n", "import os\n1 / 0\n")})
    assert output.startswith(f"{RECOGNITION}, line ")
    assert "The function face-recognition did not start: ZeroDivisionError" in output
    sent = frame(COLLINS)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(reloading.service.send, sent)
        requests_queue = reloading.service.stack.request_queue_url.rpartition("/")[2]
        eventually(lambda: requests_queue in waiting(reloading.service.home))
        assert reloading.save({RECOGNITION: ("1 / 0\n", "")}) == f"{RELOADED} {RECOGNITION}"
        assert answer.result()[sent.filename].result == "Unknown"


def waiting(home: Home) -> set[str]:
    """Return the names of the queues that have messages."""
    rows = json.loads(home.faceq("queues", "list", "--json").stdout)
    return {row["name"] for row in rows if row["visible"] or row["in_flight"]}
