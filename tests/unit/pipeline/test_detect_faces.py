"""What the function `face-detection` answers and queues, with patches for faces and queues in memory."""

import base64
import json
import logging
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.embed import PREPROCESSINGS
from pipeline.handlers import detect_faces
from pipeline.handlers.detect_faces import Collaborators
from pipeline.images import decode, encode_jpeg
from pipeline.log_events import LogPrivacy
from pipeline.messages import FacesMessage, FrameRequest
from pipeline.metrics import Metric
from pipeline.ports import MAX_MESSAGE_BYTES, Face, FaceDetector, Image
from tests.builders import BLUE, GREEN, RED, changed, face, frame, greyscale_png, picture, post
from tests.fakes import MemoryMetrics, PatchDetector, UnreliableQueue, stepping_clock


def make_collaborators(detector: FaceDetector | None = None, max_pixels: int = 1_000_000) -> Collaborators:
    return Collaborators(
        detector=detector or PatchDetector(),
        preprocessing=PREPROCESSINGS["facenet-160"],
        requests=UnreliableQueue(),
        responses=UnreliableQueue(),
        clock=stepping_clock(),
        max_pixels=max_pixels,
        metrics=MemoryMetrics(),
        privacy=LogPrivacy(log_names=True),
    )


@pytest.fixture
def collaborators() -> Collaborators:
    return make_collaborators()


def queued(queue: object) -> list[str]:
    assert isinstance(queue, UnreliableQueue)
    return [message.body for message in queue.receive()]


def refused(answer: dict[str, Any]) -> tuple[int, str]:
    """The status and the code of a refusal, after a check of its other collaborators."""
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
    "base64 that lacks characters": (request(content="AAAAA"), 400, "not_base64"),
    "padding before the end": (request(content="AA==AAAA"), 400, "not_base64"),
    "padding alone": (request(content="===="), 400, "empty_value"),
    "not ASCII": (request(content="äöü€"), 400, "not_base64"),
    "a data URL without base64": (request(content="data:image/svg+xml,<svg/>"), 400, "not_base64"),
    "the head of a data URL": (request(content="data:image/png;base64,"), 400, "empty_value"),
    "a data URL without a comma": (request(content="data:image/png;base64"), 400, "not_base64"),
    "base64 of text": (with_content(b"this is no picture"), 400, "not_an_image"),
    "base64 of SVG": (with_content(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 400, "not_an_image"),
    "truncated JPEG": (with_content(picture(RED, file_format="JPEG")[:-200]), 400, "not_an_image"),
    "truncated PNG": (with_content(picture(RED)[:100]), 400, "not_an_image"),
    "JPEG header alone": (with_content(picture(RED, file_format="JPEG")[:20]), 400, "not_an_image"),
    "no pixels": (with_content(greyscale_png(0, 0)), 400, "not_an_image"),
    "too many pixels": (with_content(greyscale_png(1001, 1000)), 413, "too_many_pixels"),
    "a 20,000 × 20,000 header": (with_content(greyscale_png(20_000, 20_000)), 413, "too_many_pixels"),
    "decompression bomb": (with_content(greyscale_png(30_000, 30_000, rows=bytes(10_000_000))), 413, "too_many_pixels"),
    "decompression bomb in a text": (
        with_content(greyscale_png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9)))),
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
    collaborators: Collaborators, body: bytes, status: int, code: str
) -> None:
    assert refused(detect_faces.handle(post(body), collaborators)) == (status, code)
    assert queued(collaborators.requests) == queued(collaborators.responses) == []
    assert detect_faces.handle(post(frame(RED)), collaborators)["statusCode"] == 200
    assert len(queued(collaborators.requests)) == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "post"])
def test_a_frame_is_accepted_only_by_post(collaborators: Collaborators, method: str) -> None:
    assert refused(detect_faces.handle(post(frame(RED), method), collaborators)) == (405, "method_not_allowed")
    assert queued(collaborators.requests) == []


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
def test_file_names_and_request_ids_are_labels_and_travel_unchanged(
    collaborators: Collaborators, fields: dict[str, object]
) -> None:
    assert detect_faces.handle(post(request(**fields)), collaborators)["statusCode"] == 200
    (body,) = queued(collaborators.requests)
    message = FacesMessage.from_json(body)
    assert message.filename == fields.get("filename", "door.png")
    assert message.request_id == fields.get("request_id", "frame-1")


PICTURE = next(content for more in range(3) if len(content := picture(RED) + bytes(more)) % 3)  # so that it is padded
BASE64 = base64.b64encode(PICTURE).decode()
BASE64_FORMS = {
    "line breaks, as in MIME": base64.encodebytes(PICTURE).decode(),
    "CR LF": BASE64[:100] + "\r\n" + BASE64[100:] + "\r\n",
    "a data URL": "data:image/png;base64," + BASE64,
    "a data URL with a parameter": "data:image/png;name=door.png;base64," + BASE64,
    "a data URL without a type": "DATA:;BASE64," + BASE64,
    "a data URL after a line break": "\n data:image/png;base64,\n" + BASE64,
    "the URL-safe alphabet": base64.urlsafe_b64encode(PICTURE).decode(),
    "no padding": BASE64.rstrip("="),
    "more padding than is needed": BASE64.rstrip("=") + "====",
    "all of it": "data:image/png;base64," + "\n".join(base64.urlsafe_b64encode(PICTURE).decode().rstrip("=")),
}


@pytest.mark.parametrize("content", BASE64_FORMS.values(), ids=BASE64_FORMS.keys())
def test_base64_is_read_in_each_form_that_clients_send(collaborators: Collaborators, content: str) -> None:
    assert "+" in BASE64
    assert "/" in BASE64
    assert BASE64.endswith("=")
    assert detect_faces.handle(post(request(content=content)), collaborators)["statusCode"] == 200
    detect_faces.handle(post(frame(RED)), collaborators)
    in_this_form, as_usual = map(json.loads, queued(collaborators.requests))
    assert in_this_form["faces"] == as_usual["faces"]


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("not base64!", "character 11 is '!'"),
        ("AAAA\nAA*A", "character 8 is '*'"),
        ("AAAAé", r"character 5 is '\xe9'"),
        ("AA==AAAA", "character 3 is '='"),
        ("data:image/png;base64,AAAA?", "character 27 is '?'"),
        ("AAAAA", "its 5 characters are one more than whole bytes give"),
        ("data:image/png;base64,AAAAA", "its 5 characters are one more than whole bytes give"),
        ("data:image/svg+xml,<svg/>", "is a data URL without base64"),
    ],
)
def test_nonsense_in_place_of_base64_is_refused_with_what_is_wrong_and_where(
    collaborators: Collaborators, content: str, finding: str
) -> None:
    answer = detect_faces.handle(post(request(content=content)), collaborators)
    assert refused(answer) == (400, "not_base64")
    assert finding in json.loads(str(answer["body"]))["message"]


def test_the_response_to_an_accepted_frame_is_exactly_the_contract(collaborators: Collaborators) -> None:
    for colours in ((RED,), ()):
        assert detect_faces.handle(post(frame(*colours)), collaborators) == {
            "statusCode": 200,
            "body": "Face detection completed",
        }


def test_a_body_in_base64_is_accepted(collaborators: Collaborators) -> None:
    event = post(frame(RED)) | {"body": base64.b64encode(frame(RED)).decode(), "isBase64Encoded": True}
    assert detect_faces.handle(event, collaborators)["statusCode"] == 200


def test_all_faces_of_a_frame_travel_in_one_message_largest_first(collaborators: Collaborators) -> None:
    detect_faces.handle(post(frame(RED, GREEN, BLUE, request_id="r", filename="f.png")), collaborators)
    (body,) = queued(collaborators.requests)
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
    assert queued(collaborators.responses) == []


def test_the_message_contains_the_duration_of_each_step(collaborators: Collaborators) -> None:
    detect_faces.handle(post(frame(RED)), collaborators)
    timings = json.loads(queued(collaborators.requests)[0])["timings"]
    assert timings.keys() == {"decode", "detect", "crop"}
    assert timings["decode"] == pytest.approx(1)
    assert timings["detect"] == pytest.approx(1)
    assert timings["crop"] >= 1


def test_a_frame_without_a_face_is_answered_without_recognition(collaborators: Collaborators) -> None:
    detect_faces.handle(post(frame(request_id="r", filename="wall.png")), collaborators)
    (body,) = queued(collaborators.responses)
    answer = json.loads(body)
    assert (answer["request_id"], answer["result"], answer["filename"]) == ("r", "No-Face", "wall.png")
    assert answer["faces"] == []
    assert (answer["model"], answer["gallery"]) == (None, None)
    assert answer["timings"].keys() == {"decode", "detect"}
    assert "error" not in answer
    assert queued(collaborators.requests) == []


@pytest.mark.parametrize("colours", [(RED,), ()], ids=["a face", "no face"])
def test_a_frame_is_refused_while_its_queue_is_down_and_accepted_when_it_is_sent_again(
    colours: tuple[Any, ...],
) -> None:
    collaborators = make_collaborators()
    queue = collaborators.requests if colours else collaborators.responses
    assert isinstance(queue, UnreliableQueue)
    queue.down = True
    assert refused(detect_faces.handle(post(frame(*colours)), collaborators)) == (503, "queue_unavailable")
    assert len(queue) == 0
    queue.down = False
    assert detect_faces.handle(post(frame(*colours)), collaborators)["statusCode"] == 200
    assert len(queue) == 1


class Crowd(FaceDetector):
    """Finds the same number of faces in every picture, largest first."""

    def __init__(self, faces: int) -> None:
        self._faces = faces

    def detect(self, image: Image) -> list[Face]:
        height, width = image.shape[:2]
        side = min(height, width)
        return [face(0, 0, side - 0.1 * number, side - 0.1 * number) for number in range(self._faces)]


def noisy_frame(seed: int, side: int) -> bytes:
    """A frame of noise, which compresses worst."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return with_content(encode_jpeg(noise))


def sent_message(faces: int, side: int = 200, seed: int = 1) -> tuple[str, FacesMessage]:
    collaborators = make_collaborators(Crowd(faces))
    assert detect_faces.handle(post(noisy_frame(seed, side)), collaborators)["statusCode"] == 200
    (body,) = queued(collaborators.requests)
    return body, FacesMessage.from_json(body)


def test_a_full_message_first_loses_quality_and_then_the_smallest_faces() -> None:
    body, few = sent_message(5)
    best = len(few.faces[0].jpeg)
    assert not few.truncated

    body, many = sent_message(20)
    assert not many.truncated
    assert len(many.faces) == 20
    assert len(many.faces[0].jpeg) < best

    body, most = sent_message(120)
    assert most.truncated
    assert len(most.faces[0].jpeg) < best
    assert 20 < len(most.faces) < 120
    assert len(body) > 0.9 * MAX_MESSAGE_BYTES
    assert [crop.face.box[2] for crop in most.faces] == pytest.approx([200 - 0.1 * n for n in range(len(most.faces))])


@settings(max_examples=8, deadline=None)
@given(faces=st.integers(1, 150), side=st.integers(20, 400), seed=st.integers(0, 2**32 - 1))
def test_no_message_exceeds_the_limit_of_the_queue_and_the_largest_faces_are_kept(
    faces: int, side: int, seed: int
) -> None:
    body, message = sent_message(faces, side, seed)
    assert len(body.encode()) <= MAX_MESSAGE_BYTES
    kept = len(message.faces)
    assert message.truncated == (kept < faces)
    expected = [round(crop.box[2].item(), 2) for crop in Crowd(faces).detect(np.zeros((side, side, 3), np.uint8))]
    assert [crop.face.box[2] for crop in message.faces] == pytest.approx(expected[:kept])


def test_each_frame_is_logged_once_with_its_request_id(
    collaborators: Collaborators, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    detect_faces.handle(post(frame(RED, request_id="one")), collaborators)
    detect_faces.handle(post(frame(request_id="two")), collaborators)
    detect_faces.handle(post(request(request_id="three", content="AAAA")), collaborators)
    detect_faces.handle(post(request(request_id="four", filename=...)), collaborators)
    assert isinstance(collaborators.requests, UnreliableQueue)
    collaborators.requests.down = True
    detect_faces.handle(post(frame(RED, request_id="five")), collaborators)
    ids = [vars(record)["request_id"] for record in caplog.records]
    assert ids == ["one", "two", "three", "four", "five"]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING", "WARNING", "ERROR"]
    line = vars(caplog.records[0])
    assert (line["faces"], line["faces_sent"]) == (1, 1)
    assert line["timings"].keys() == {"decode", "detect", "crop", "send"}


def test_no_log_line_contains_a_picture(collaborators: Collaborators, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    content = base64.b64encode(picture(RED)).decode()
    for body in (frame(RED), frame(), request(filename=...), request(content=content + "!"), frame(RED)[:-1]):
        detect_faces.handle(post(body), collaborators)
    crops = [row["crop"] for message in queued(collaborators.requests) for row in json.loads(message)["faces"]]
    written = "".join(str(vars(record)) for record in caplog.records)
    for secret in (content, *crops):
        for start in range(0, len(secret) - 40, 40):
            assert secret[start : start + 40] not in written


def reported(collaborators: Collaborators) -> list[dict[str, list[float]]]:
    assert isinstance(collaborators.metrics, MemoryMetrics)
    return [{metric.value: values for metric, values in flush.items()} for flush in collaborators.metrics.flushed]


def test_each_invocation_reports_what_became_of_its_frame(collaborators: Collaborators) -> None:
    responses = [
        detect_faces.handle(event, collaborators)
        for event in (post(frame(RED, GREEN)), post(frame()), post(b"no frame"), post(with_content(b"no picture")))
    ]
    assert isinstance(collaborators.requests, UnreliableQueue)
    collaborators.requests.down = True
    responses.append(detect_faces.handle(post(frame(RED)), collaborators))
    assert [response["statusCode"] for response in responses] == [200, 200, 400, 400, 503]
    with_faces, without, *others = reported(collaborators)
    (milliseconds,) = with_faces.pop("ComputeMilliseconds")
    assert milliseconds >= 3, "decode, detect and crop: each at least a tick of the clock"
    assert with_faces == {"FramesAccepted": [1], "Faces": [2]}
    assert without.pop("ComputeMilliseconds") == pytest.approx([2])
    assert without == {"FramesAccepted": [1], "AnsweredNoFace": [1]}
    assert others == [{"FramesRefused": [1]}, {"FramesRefused": [1]}, {"FramesNotQueued": [1]}]


def test_an_invocation_that_fails_reports_what_it_has_counted(collaborators: Collaborators) -> None:
    class Broken(PatchDetector):
        def detect(self, image: Image) -> list[Face]:
            collaborators.metrics.count(Metric.FACES, 7)
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        detect_faces.handle(post(frame(RED)), replace(collaborators, detector=Broken()))
    assert reported(collaborators) == [{"Faces": [7]}]


@pytest.mark.parametrize(("log_names", "files"), [(True, ["door.png", "door.png"]), (False, [None, None])])
def test_file_names_are_logged_only_where_names_are(
    collaborators: Collaborators, caplog: pytest.LogCaptureFixture, log_names: bool, files: list[str | None]
) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    private = replace(collaborators, privacy=LogPrivacy(log_names))
    detect_faces.handle(post(frame(RED)), private)
    detect_faces.handle(post(frame()), private)
    assert [vars(record).get("file") for record in caplog.records] == files
    assert any("door.png" in str(vars(record)) for record in caplog.records) == log_names


def test_a_long_file_name_is_cut_in_the_log(collaborators: Collaborators, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    detect_faces.handle(post(frame(RED, filename="x" * 4096)), collaborators)
    assert vars(caplog.records[0])["file"] == "x" * 200
