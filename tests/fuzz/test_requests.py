"""Any input over HTTP or from the queue leads to an answer or a reported failure, never to an exception.

`FACEQ_FUZZ_EXAMPLES=5000 pytest tests/fuzz` tries more inputs than a usual run of the suite.
"""

import base64
import json
import os
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.embed import PREPROCESSINGS
from pipeline.handlers import detect_faces, recognise_faces
from pipeline.images import FORMATS
from pipeline.log_events import LogPrivacy
from pipeline.messages import FrameRequest, read_request_id
from pipeline.pace import Pace
from tests.builders import BLUE, GREEN, RED, faces_message, frame, gallery_of, picture, post, sqs_event
from tests.fakes import ColourEmbedder, MemoryMetrics, PatchDetector, UnreliableQueue, stepping_clock
from tests.memory_queue import MemoryQueue

fuzzed = settings(
    max_examples=int(os.environ.get("FACEQ_FUZZ_EXAMPLES", "80")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn, originals: tuple[bytes, ...]) -> bytes:
    """One of the originals with bytes changed, a part removed, a part repeated, or the end missing."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        change = draw(st.sampled_from(["flip", "cut", "double", "end"]))
        if change == "flip":
            content[start : start + 4] = draw(st.binary(min_size=1, max_size=4))
        elif change == "cut":
            del content[start : start + draw(st.integers(1, 200))]
        elif change == "double":
            content[start:start] = content[start : start + draw(st.integers(1, 200))]
        else:
            del content[start:]
    return bytes(content)


@st.composite
def mutated_json(draw: st.DrawFn, original: str) -> str:
    """The original with one value, at any depth, replaced or removed."""
    tree: Any = json.loads(original)
    node = tree
    while True:
        keys = sorted(node) if isinstance(node, dict) else range(len(node))
        key = draw(st.sampled_from(list(keys)))
        if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            continue
        if draw(st.booleans()):
            del node[key]
        else:
            node[key] = draw(json_values)
        return json.dumps(tree)


def assert_is_answered(body: bytes) -> None:
    """Post `body` to the function. It must be accepted and queued, or refused with a reason and not queued."""
    requests, responses = UnreliableQueue(), UnreliableQueue()
    collaborators = detect_faces.Collaborators(
        PatchDetector(),
        PREPROCESSINGS["facenet-160"],
        requests,
        responses,
        stepping_clock(),
        200_000,
        MemoryMetrics(),
        LogPrivacy(log_names=True),
    )
    answer = detect_faces.handle(post(body), collaborators)
    status = answer["statusCode"]
    if status == 200:
        assert answer["body"] == "Face detection completed"
        assert len(requests) + len(responses) == 1
    else:
        assert isinstance(status, int)
        assert 400 <= status < 500
        refusal = json.loads(str(answer["body"]))
        assert refusal.keys() == {"error", "message"}
        assert len(requests) == len(responses) == 0
    assert json.dumps(answer, allow_nan=False)


@fuzzed
@given(st.binary(max_size=300))
def test_any_bytes_get_an_answer(body: bytes) -> None:
    assert_is_answered(body)


@fuzzed
@given(json_values.map(lambda value: json.dumps(value).encode()))
def test_any_json_gets_an_answer(body: bytes) -> None:
    assert_is_answered(body)


@fuzzed
@given(mutated_json(frame(RED).decode()))
def test_a_request_with_any_other_value_gets_an_answer(body: str) -> None:
    assert_is_answered(body.encode())


@fuzzed
@given(mutated((frame(RED), frame())))
def test_a_damaged_request_gets_an_answer(body: bytes) -> None:
    assert_is_answered(body)


@fuzzed
@given(mutated(tuple(picture(RED, GREEN, file_format=form) for form in FORMATS)))
def test_a_damaged_picture_gets_an_answer(content: bytes) -> None:
    if content:
        assert_is_answered(FrameRequest(content, "frame-1", "door.png").to_json().encode())


QUEUED = faces_message(RED, BLUE, timings={"detect": 1.5})

garbage = st.one_of(
    st.text(max_size=200),
    json_values.map(json.dumps),
    mutated_json(QUEUED),
    mutated((QUEUED.encode(),)).map(lambda body: body.decode(errors="replace")),
    mutated((picture(RED, file_format="JPEG"),)).map(
        lambda crop: json.dumps(
            {
                **json.loads(QUEUED),
                "faces": [{**json.loads(QUEUED)["faces"][0], "crop": base64.b64encode(crop).decode()}],
            }
        )
    ),
)


@fuzzed
@given(garbage, st.integers(1, 4), st.booleans())
@example(QUEUED.replace('"score":1.0', '"score":1e999'), 1, False)
@example(QUEUED.replace('"detect":1.5', '"detect":' + "9" * 400), 3, False)
def test_garbage_on_the_queue_is_answered_or_reported_and_does_not_affect_other_frames(
    body: str, receive_count: int, down: bool
) -> None:
    responses = UnreliableQueue()
    responses.down = down
    gallery = gallery_of({"Ada": RED})
    collaborators = recognise_faces.Collaborators(
        ColourEmbedder(),
        lambda: gallery,
        responses,
        MemoryQueue(),
        MemoryQueue(),
        "exhausted",
        stepping_clock(),
        3,
        Pace(),
        MemoryMetrics(),
        LogPrivacy(log_names=True),
    )
    good = faces_message(RED, request_id="good")
    response = recognise_faces.handle(sqs_event(good, body, receive_count=receive_count), collaborators, lambda: 1e6)
    failures = response["batchItemFailures"]
    assert isinstance(failures, list)
    failed = {str(row["itemIdentifier"]) for row in failures if isinstance(row, dict)}
    answers = [json.loads(message.body, parse_constant=_reject_constant) for message in responses.receive()]
    if down:
        assert failed == {"m0", "m1"}
        return
    results = {answer["request_id"]: answer["result"] for answer in answers}
    assert len(results) == len(answers)
    request_id = read_request_id(body)
    assert results.pop("good") == "Ada"
    assert "m0" not in failed
    if request_id is None:
        assert failed == {"m1"}
        assert results == {}
    else:
        assert failed == set()
        assert results.keys() == {request_id}
        assert results[request_id]


def _reject_constant(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")
