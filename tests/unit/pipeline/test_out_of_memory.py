"""A function that has not enough memory for a picture says so: that is no fault of the client."""

import json
import sys
from typing import Any

import pytest

from tests.scripts import start_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process reliably")

#: The script's process may take no more than some MB beyond what it has when `limit_memory` is called.
LIMIT = """
import json, logging, resource, sys
from pathlib import Path

def limit_memory(megabytes):
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + megabytes * 2**20, resource.RLIM_INFINITY))

logged = []
handler = logging.Handler()
handler.emit = lambda record: logged.append([record.levelname, record.getMessage(), vars(record).get("error")])
logging.getLogger().addHandler(handler)
"""


def run_limited(script: str) -> Any:
    """Run a script after `LIMIT`; return the JSON that it prints."""
    process = start_script(LIMIT + script)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return json.loads(out)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_frame_without_enough_memory_gets_503_and_is_logged(file_format: str) -> None:
    """The body of the BMP is so long that not even its JSON can be read."""
    answer, logged, queued, next_status = run_limited(f"""
from pipeline.embed import PREPROCESSINGS
from pipeline.handlers import detect_faces
from pipeline.images import MAX_PIXELS
from pipeline.messages import FrameRequest
from tests.builders import RED, frame, post
from tests.fakes import MemoryMetrics, PatchDetector, UnreliableQueue, stepping_clock
from pipeline.log_events import LogPrivacy
from PIL import Image
import io

stream = io.BytesIO()
Image.new("RGB", (4000, 3000), "red").save(stream, {file_format!r})
large = post(FrameRequest(stream.getvalue(), "large", "large.png").to_json().encode())
small = post(frame(RED))
requests, responses = UnreliableQueue(), UnreliableQueue()
collaborators = detect_faces.Collaborators(
    PatchDetector(), PREPROCESSINGS["facenet-160"], requests, responses, stepping_clock(), MAX_PIXELS,
    MemoryMetrics(), LogPrivacy(log_names=True),
)
detect_faces.handle(small, collaborators)
limit_memory(12)
answer = detect_faces.handle(large, collaborators)
queued = len(requests) + len(responses)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps([answer, logged, queued, detect_faces.handle(small, collaborators)["statusCode"]]))
""")
    assert answer["statusCode"] == 503
    body = json.loads(answer["body"])
    assert body["error"] == "out_of_memory"
    assert "not enough memory" in body["message"]
    assert ["ERROR", "not queued", "out_of_memory"] in logged
    assert queued == 1
    assert next_status == 200


def test_a_message_without_enough_memory_to_decode_it_stays_on_the_queue_and_the_last_attempt_is_answered() -> None:
    first, first_answers, last, last_answers, logged = run_limited("""
from pipeline.handlers import recognise_faces
from tests.builders import BLUE, RED, faces_message, gallery_of, sqs_event
from tests.fakes import ColourEmbedder, MemoryMetrics, UnreliableQueue, stepping_clock
from tests.memory_queue import MemoryQueue
from pipeline.log_events import LogPrivacy
from pipeline.pace import Pace

responses = UnreliableQueue()
gallery = gallery_of({"Ada": RED})
collaborators = recognise_faces.Collaborators(
    ColourEmbedder(), lambda: gallery, responses, MemoryQueue(), None, None, stepping_clock(), 3, Pace(),
    MemoryMetrics(), LogPrivacy(log_names=True),
)

def handle(receive_count):
    event = sqs_event(many, faces_message(RED, request_id="small"), receive_count=receive_count)
    failures = recognise_faces.handle(event, collaborators, lambda: 1e6)["batchItemFailures"]
    answers = []
    for message in responses.receive():
        answers.append(json.loads(message.body))
        responses.delete(message.receipt)
    return [row["itemIdentifier"] for row in failures], {each["request_id"]: each for each in answers}

many = faces_message(*[RED] * 2, request_id="small")
handle(1)
many = faces_message(*[BLUE] * 900, request_id="many")
limit_memory(30)
print(json.dumps([*handle(1), *handle(3), logged]))
""")
    assert first == ["m0"]
    assert first_answers.keys() == {"small"}
    assert first_answers["small"]["result"] == "Ada"
    assert any(level == "ERROR" and text.startswith("failed; the queue will deliver") for level, text, _ in logged)
    assert last == ["m0"]
    assert last_answers["small"]["result"] == "Ada"
    assert last_answers["many"]["result"] == "Error"
    assert last_answers["many"]["error"]["code"] == "retries_exhausted"
