"""The function `face-detection` with patches for faces and queues in memory: what it answers and what it queues."""

import base64
import json
import logging
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.embed import PREPROCESSINGS
from pipeline.handlers import detect_faces
from pipeline.handlers.detect_faces import Collaborators
from pipeline.images import decode, encode_jpeg
from pipeline.messages import FacesMessage, FrameRequest
from pipeline.ports import MAX_MESSAGE_BYTES, Face, FaceDetector, Image
from tests.builders import BLUE, GREEN, RED, changed, face, frame, picture, post
from tests.fakes import PatchDetector, UnreliableQueue, ticking


def collaborators(detector: FaceDetector | None = None, max_pixels: int = 1_000_000) -> Collaborators:
    return Collaborators(
        detector=detector or PatchDetector(),
        preprocessing=PREPROCESSINGS["facenet-160"],
        requests=UnreliableQueue(),
        responses=UnreliableQueue(),
        clock=ticking(),
        max_pixels=max_pixels,
    )


@pytest.fixture
def parts() -> Collaborators:
    return collaborators()


def queued(queue: object) -> list[str]:
    assert isinstance(queue, UnreliableQueue)
    return [message.body for message in queue.receive()]


def refused(answer: dict[str, Any]) -> tuple[int, str]:
    """Status and code of a refusal, whose form is checked."""
    assert answer["headers"] == {"content-type": "application/json"}
    body = json.loads(answer["body"])
    assert body.keys() == {"error", "message"}
    assert body["message"]
    assert "\n" not in body["message"]
    return answer["statusCode"], body["error"]


def request(**fields: object) -> bytes:
    return changed(frame(RED).decode(), **fields).encode()


def with_content(content: bytes) -> bytes:
    return FrameRequest(content, "frame-1", "door.png").to_json().encode()


def png(width: int, height: int, *chunks: tuple[bytes, bytes], rows: bytes = b"") -> bytes:
    """A greyscale PNG with any header and any chunks before its picture data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


BAD_INPUT: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "empty_body"),
    "not JSON": (b"hello", 400, "not_json"),
    "form fields": (b"content=abc&request_id=1", 400, "not_json"),
    "JSON cut short": (frame(RED)[:-1], 400, "not_json"),
    "JSON and more": (frame(RED) + b"}", 400, "not_json"),
    "a byte order mark": (b"\xef\xbb\xbf" + frame(RED), 400, "not_json"),
    "a list": (b"[]", 400, "not_object"),
    "a string": (b'"content"', 400, "not_object"),
    "a number": (b"1", 400, "not_object"),
    "null": (b"null", 400, "not_object"),
    "an empty object": (b"{}", 400, "missing_key"),
    "no content": (request(content=...), 400, "missing_key"),
    "no request_id": (request(request_id=...), 400, "missing_key"),
    "no filename": (request(filename=...), 400, "missing_key"),
    "content of another type": (request(content=[1, 2]), 400, "wrong_type"),
    "request_id of another type": (request(request_id=7), 400, "wrong_type"),
    "filename null": (request(filename=None), 400, "wrong_type"),
    "half a surrogate pair": (request(filename="\ud800"), 400, "wrong_type"),
    "empty content": (request(content=""), 400, "empty_value"),
    "content of spaces": (request(content="  \n"), 400, "empty_value"),
    "empty request_id": (request(request_id=""), 400, "empty_value"),
    "empty filename": (request(filename=""), 400, "empty_value"),
    "very long request_id": (request(request_id="x" * 257), 400, "too_long"),
    "endless request_id": (request(request_id="x" * 3_000_000), 400, "too_long"),
    "very long filename": (request(filename="x" * 4097), 400, "too_long"),
    "not base64": (request(content="not base64!"), 400, "not_base64"),
    "wrong padding": (request(content="AAA"), 400, "not_base64"),
    "not ASCII": (request(content="äöü€"), 400, "not_base64"),
    "a data URL": (request(content="data:image/png;base64,AAAA"), 400, "not_base64"),
    "base64 of text": (with_content(b"this is no picture"), 400, "not_an_image"),
    "base64 of SVG": (with_content(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 400, "not_an_image"),
    "truncated JPEG": (with_content(picture(RED, form="JPEG")[:-200]), 400, "not_an_image"),
    "truncated PNG": (with_content(picture(RED)[:100]), 400, "not_an_image"),
    "JPEG header alone": (with_content(picture(RED, form="JPEG")[:20]), 400, "not_an_image"),
    "no pixels": (with_content(png(0, 0)), 400, "not_an_image"),
    "too many pixels": (with_content(png(1001, 1000)), 413, "too_many_pixels"),
    "a 20,000 × 20,000 header": (with_content(png(20_000, 20_000)), 413, "too_many_pixels"),
    "decompression bomb": (with_content(png(30_000, 30_000, rows=bytes(10_000_000))), 413, "too_many_pixels"),
    "decompression bomb in a text": (
        with_content(png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9)))),
        400,
        "not_an_image",
    ),
    "NaN": (b'{"content": NaN}', 400, "not_json"),
    "Infinity beside good keys": (frame(RED)[:-1] + b', "x": -Infinity}', 400, "not_json"),
    "a number of 5,000 digits": (frame(RED)[:-1] + b', "x": 1' + b"0" * 5000 + b"}", 400, "not_json"),
    "deep nesting": (b"[" * 100_000 + b"]" * 100_000, 400, "not_json"),
    "deep nesting in a key": (frame(RED)[:-1] + b', "x": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001, 400, "not_json"),
    "duplicate keys": (frame(RED)[:-1] + b', "request_id": "other"}', 400, "duplicate_key"),
    "invalid UTF-8": (frame(RED, filename="x").replace(b'"x"', b'"\xff\xfe"'), 400, "not_json"),
    "UTF-16": (frame(RED).decode().encode("utf-16"), 400, "not_json"),
}


@pytest.mark.parametrize(("body", "status", "code"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_refused_with_its_reason_and_the_next_frame_is_served(
    parts: Collaborators, body: bytes, status: int, code: str
) -> None:
    assert refused(detect_faces.handle(post(body), parts)) == (status, code)
    assert queued(parts.requests) == queued(parts.responses) == []
    assert detect_faces.handle(post(frame(RED)), parts)["statusCode"] == 200
    assert len(queued(parts.requests)) == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "post"])
def test_only_a_post_is_a_frame(parts: Collaborators, method: str) -> None:
    assert refused(detect_faces.handle(post(frame(RED), method), parts)) == (405, "method_not_allowed")
    assert queued(parts.requests) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"filename": "../../etc/passwd"},
        {"filename": "/etc/passwd"},
        {"filename": "C:\\windows\\win.ini"},
        {"filename": "a\0b\n"},
        {"filename": "https://example.invalid/x.png"},
        {"filename": "😀" * 4096, "request_id": "😀" * 256},
        {"request_id": "x" * 256},
        {"request_id": "'; DROP TABLE frames; --"},
        {"unknown": {"key": [1, None]}},
    ],
    ids=str,
)
def test_a_label_is_a_label_and_comes_back_as_it_was(parts: Collaborators, fields: dict[str, object]) -> None:
    assert detect_faces.handle(post(request(**fields)), parts)["statusCode"] == 200
    (body,) = queued(parts.requests)
    message = FacesMessage.from_json(body)
    assert message.filename == fields.get("filename", "door.png")
    assert message.request_id == fields.get("request_id", "frame-1")


def test_base64_may_be_broken_into_lines_as_mime_does(parts: Collaborators) -> None:
    body = request(content=base64.encodebytes(picture(RED)).decode())
    assert detect_faces.handle(post(body), parts)["statusCode"] == 200


def test_success_is_exactly_what_the_contract_says(parts: Collaborators) -> None:
    for colours in ((RED,), ()):
        assert detect_faces.handle(post(frame(*colours)), parts) == {
            "statusCode": 200,
            "body": "Face detection completed",
        }


def test_a_body_in_base64_is_the_same_frame(parts: Collaborators) -> None:
    event = post(frame(RED)) | {"body": base64.b64encode(frame(RED)).decode(), "isBase64Encoded": True}
    assert detect_faces.handle(event, parts)["statusCode"] == 200


def test_all_faces_of_a_frame_travel_in_one_message_largest_first(parts: Collaborators) -> None:
    detect_faces.handle(post(frame(RED, GREEN, BLUE, request_id="r", filename="f.png")), parts)
    (body,) = queued(parts.requests)
    message = FacesMessage.from_json(body)
    assert (message.request_id, message.filename, message.truncated) == ("r", "f.png", False)
    assert message.preprocessing == "facenet-160"
    assert [crop.face.box.tolist() for crop in message.faces] == [
        [5, 5, 95, 105],
        [105, 5, 185, 105],
        [205, 5, 275, 105],
    ]
    for crop, colour in zip(message.faces, (RED, GREEN, BLUE), strict=True):
        pixels = decode(crop.jpeg)
        assert pixels.shape == (160, 160, 3)
        assert np.abs(pixels.astype(int) - colour).max() < 5
    assert queued(parts.responses) == []


def test_the_message_says_how_long_each_step_took(parts: Collaborators) -> None:
    detect_faces.handle(post(frame(RED)), parts)
    timings = json.loads(queued(parts.requests)[0])["timings"]
    assert timings.keys() == {"decode", "detect", "crop"}
    assert timings["decode"] == pytest.approx(1)
    assert timings["detect"] == pytest.approx(1)
    assert timings["crop"] >= 1


def test_a_frame_without_a_face_is_answered_at_once(parts: Collaborators) -> None:
    detect_faces.handle(post(frame(request_id="r", filename="wall.png")), parts)
    (body,) = queued(parts.responses)
    answer = json.loads(body)
    assert (answer["request_id"], answer["result"], answer["filename"]) == ("r", "No-Face", "wall.png")
    assert answer["faces"] == []
    assert (answer["model"], answer["gallery"]) == (None, None)
    assert answer["timings"].keys() == {"decode", "detect"}
    assert "error" not in answer
    assert queued(parts.requests) == []


@pytest.mark.parametrize("colours", [(RED,), ()], ids=["a face", "no face"])
def test_while_its_queue_is_down_a_frame_is_not_accepted_and_may_be_sent_again(colours: tuple[Any, ...]) -> None:
    parts = collaborators()
    queue = parts.requests if colours else parts.responses
    assert isinstance(queue, UnreliableQueue)
    queue.down = True
    assert refused(detect_faces.handle(post(frame(*colours)), parts)) == (503, "queue_unavailable")
    assert len(queue) == 0
    queue.down = False
    assert detect_faces.handle(post(frame(*colours)), parts)["statusCode"] == 200
    assert len(queue) == 1


class Crowd(FaceDetector):
    """Finds so many faces in every picture, largest first."""

    def __init__(self, faces: int) -> None:
        self._faces = faces

    def detect(self, image: Image) -> list[Face]:
        height, width = image.shape[:2]
        side = min(height, width)
        return [face(0, 0, side - 0.1 * number, side - 0.1 * number) for number in range(self._faces)]


def noisy_frame(seed: int, side: int) -> bytes:
    """What compresses worst."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return with_content(encode_jpeg(noise))


def sent(faces: int, side: int = 200, seed: int = 1) -> tuple[str, FacesMessage]:
    parts = collaborators(Crowd(faces))
    assert detect_faces.handle(post(noisy_frame(seed, side)), parts)["statusCode"] == 200
    (body,) = queued(parts.requests)
    return body, FacesMessage.from_json(body)


def test_a_full_message_first_costs_quality_then_the_smallest_faces() -> None:
    body, few = sent(5)
    best = len(few.faces[0].jpeg)
    assert not few.truncated

    body, many = sent(20)
    assert not many.truncated
    assert len(many.faces) == 20
    assert len(many.faces[0].jpeg) < best

    body, most = sent(120)
    assert most.truncated
    assert len(most.faces[0].jpeg) < best
    assert 20 < len(most.faces) < 120
    assert len(body) > 0.9 * MAX_MESSAGE_BYTES
    assert [crop.face.box[2] for crop in most.faces] == pytest.approx([200 - 0.1 * n for n in range(len(most.faces))])


@settings(max_examples=8, deadline=None)
@given(faces=st.integers(1, 150), side=st.integers(20, 400), seed=st.integers(0, 2**32 - 1))
def test_no_message_is_longer_than_the_queue_takes_and_the_largest_faces_are_kept(
    faces: int, side: int, seed: int
) -> None:
    body, message = sent(faces, side, seed)
    assert len(body.encode()) <= MAX_MESSAGE_BYTES
    kept = len(message.faces)
    assert message.truncated == (kept < faces)
    expected = [round(crop.box[2].item(), 2) for crop in Crowd(faces).detect(np.zeros((side, side, 3), np.uint8))]
    assert [crop.face.box[2] for crop in message.faces] == pytest.approx(expected[:kept])


def test_one_line_a_frame_with_its_request_id(parts: Collaborators, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    detect_faces.handle(post(frame(RED, request_id="one")), parts)
    detect_faces.handle(post(frame(request_id="two")), parts)
    detect_faces.handle(post(request(request_id="three", content="AAAA")), parts)
    detect_faces.handle(post(request(request_id="four", filename=...)), parts)
    assert isinstance(parts.requests, UnreliableQueue)
    parts.requests.down = True
    detect_faces.handle(post(frame(RED, request_id="five")), parts)
    ids = [vars(record)["request_id"] for record in caplog.records]
    assert ids == ["one", "two", "three", "four", "five"]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING", "WARNING", "ERROR"]
    line = vars(caplog.records[0])
    assert (line["faces"], line["faces_sent"]) == (1, 1)
    assert line["timings"].keys() == {"decode", "detect", "crop", "send"}


def test_no_log_line_holds_a_picture(parts: Collaborators, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    content = base64.b64encode(picture(RED)).decode()
    for body in (frame(RED), frame(), request(filename=...), request(content=content + "!"), frame(RED)[:-1]):
        detect_faces.handle(post(body), parts)
    crops = [row["crop"] for message in queued(parts.requests) for row in json.loads(message)["faces"]]
    written = "".join(str(vars(record)) for record in caplog.records)
    for secret in (content, *crops):
        for start in range(0, len(secret) - 40, 40):
            assert secret[start : start + 40] not in written
