"""The function `face-recognition` with colours for faces and a queue in memory: one answer a frame, whatever comes."""

import base64
import json
import logging
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters.wiring import CurrentGallery
from pipeline import gallery_storage
from pipeline.errors import TransientError
from pipeline.gallery import Gallery
from pipeline.handlers import recognise_faces
from pipeline.handlers.recognise_faces import Collaborators
from pipeline.ports import ArtifactStore, FaceEmbedder
from tests.builders import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    changed,
    crop_of,
    faces_message,
    gallery_of,
    sqs_event,
    with_face,
)
from tests.fakes import ColourEmbedder, MemoryStore, UnreliableQueue, ticking

TWO = gallery_of({"Ada": RED, "Bo": GREEN})


class FlakyEmbedder(ColourEmbedder):
    """Fails as long as it has a problem."""

    problem: Exception | None = None

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.problem is not None:
            raise self.problem
        return super().embed(crops)


class FlakyStore(MemoryStore):
    """Cannot be reached as long as it is down."""

    down = False

    def version(self, name: str) -> str | None:
        if self.down:
            raise TransientError("store_unavailable", "The gallery is out of reach.")
        return super().version(name)


def store_of(known: Gallery | None) -> FlakyStore:
    store = FlakyStore()
    if known is not None:
        gallery_storage.save(store, known)
    return store


def function(
    store: ArtifactStore | None = None, embedder: FaceEmbedder | None = None, max_receive_count: int = 3
) -> tuple[Collaborators, UnreliableQueue]:
    """The function with its gallery in a store, and the queue that it answers on."""
    embedder = embedder or ColourEmbedder()
    responses = UnreliableQueue()
    current = CurrentGallery(store or store_of(TWO), embedder.model, embedder.preprocessing)
    return Collaborators(embedder, current, responses, ticking(), max_receive_count), responses


def answers(queue: UnreliableQueue) -> dict[str, dict[str, Any]]:
    """What is on the queue by request id, taken off it; no frame has two answers."""
    found: dict[str, dict[str, Any]] = {}
    while received := queue.receive():
        for message in received:
            answer = json.loads(message.body)
            assert answer["request_id"] not in found
            found[answer["request_id"]] = answer
            queue.delete(message.receipt)
    return found


def results(queue: UnreliableQueue) -> dict[str, str]:
    return {request_id: answer["result"] for request_id, answer in answers(queue).items()}


def failed(response: dict[str, Any]) -> list[str]:
    assert response.keys() == {"batchItemFailures"}
    assert all(row.keys() == {"itemIdentifier"} for row in response["batchItemFailures"])
    return [row["itemIdentifier"] for row in response["batchItemFailures"]]


@pytest.mark.parametrize(
    ("colours", "result"),
    [
        ((RED,), "Ada"),
        ((GREEN, RED), "Bo"),
        ((BLUE, RED), "Ada"),
        ((BLUE, WHITE, GREEN, RED), "Bo"),
        ((BLUE,), "Unknown"),
        ((BLUE, WHITE), "Unknown"),
    ],
)
def test_the_result_is_the_largest_face_that_is_recognised(colours: tuple[Any, ...], result: str) -> None:
    parts, responses = function()
    assert failed(recognise_faces.handle(sqs_event(faces_message(*colours)), parts)) == []
    assert results(responses) == {"frame-1": result}


def test_an_answer_says_where_each_face_is_who_it_is_and_what_named_it() -> None:
    parts, responses = function()
    body = faces_message(BLUE, RED, request_id="r", filename="f.png", truncated=True, timings={"detect": 12.5})
    recognise_faces.handle(sqs_event(body), parts)
    answer = answers(responses)["r"]
    timings = answer.pop("timings")
    stranger, known = answer.pop("faces")
    assert answer == {
        "request_id": "r",
        "result": "Ada",
        "filename": "f.png",
        "model": "stand-in",
        "gallery": TWO.version,
        "truncated": True,
    }
    assert (stranger["name"], known["name"]) == ("Unknown", "Ada")
    assert stranger["distance"] == pytest.approx(2**0.5, abs=0.02)
    assert known["distance"] == pytest.approx(0, abs=0.02)
    assert known["box"] == [0, 0, 99, 99]
    assert known["landmarks"] == [[49.5, 49.5]] * 5
    assert known["score"] == 1
    assert timings == {
        "detect": 12.5,
        "read": pytest.approx(1),
        "embed": pytest.approx(1),
        "match": pytest.approx(1),
    }


@pytest.mark.parametrize("known", [None, gallery_of({})], ids=["absent", "empty"])
def test_while_nobody_is_enrolled_everybody_is_unknown(known: Gallery | None) -> None:
    parts, responses = function(store_of(known))
    assert failed(recognise_faces.handle(sqs_event(faces_message(RED)), parts)) == []
    answer = answers(responses)["frame-1"]
    assert answer["result"] == "Unknown"
    assert (answer["faces"][0]["name"], answer["faces"][0]["distance"]) == ("Unknown", None)
    assert answer["gallery"] == (None if known is None else known.version)


def test_who_is_enrolled_removed_or_cleared_counts_from_the_next_batch() -> None:
    store = store_of(None)
    parts, responses = function(store)
    seen = []
    for change in (
        lambda: None,
        lambda: gallery_storage.save(store, TWO),
        lambda: gallery_storage.save(store, TWO.rename("Ada", "Grace")),
        lambda: gallery_storage.save(store, TWO.remove("Ada")),
        lambda: gallery_storage.clear(store),
    ):
        change()
        recognise_faces.handle(sqs_event(faces_message(RED)), parts)
        seen.append(results(responses)["frame-1"])
    assert seen == ["Unknown", "Ada", "Grace", "Unknown", "Unknown"]


@pytest.mark.parametrize("last", [False, True], ids=["first attempt", "last attempt"])
@pytest.mark.parametrize(
    ("embedder", "code", "advice"),
    [
        (ColourEmbedder(model="dlib"), "other_model", "faceq people"),
        (ColourEmbedder(preprocessing="dlib-160"), "other_preprocessing", "faceq people"),
    ],
    ids=["model", "preprocessing"],
)
def test_a_gallery_that_does_not_fit_is_an_error_with_its_reason_until_it_is_replaced(
    embedder: ColourEmbedder, code: str, advice: str, last: bool
) -> None:
    store = store_of(TWO)
    parts, responses = function(store, embedder)
    event = sqs_event(
        faces_message(RED, preprocessing=embedder.preprocessing), receive_count=parts.max_receive_count if last else 1
    )
    assert failed(recognise_faces.handle(event, parts)) == []
    answer = answers(responses)["frame-1"]
    assert answer["result"] == "Error"
    assert answer["error"]["code"] == code
    assert advice in answer["error"]["message"]
    gallery_storage.save(store, gallery_of({"Ada": RED}, embedder))
    assert failed(recognise_faces.handle(event, parts)) == []
    assert results(responses) == {"frame-1": "Ada"}


def test_a_broken_gallery_is_an_error_with_its_reason() -> None:
    store = store_of(TWO)
    store.write(gallery_storage.MANIFEST, b"{")
    parts, responses = function(store)
    assert failed(recognise_faces.handle(sqs_event(faces_message(RED)), parts)) == []
    assert answers(responses)["frame-1"]["error"]["code"] == "broken_gallery"


GOOD = faces_message(RED)
BAD_MESSAGES = {
    "crop is text": (with_face(GOOD, crop=base64.b64encode(b"no picture").decode()), "not_an_image"),
    "crop is cut short": (with_face(GOOD, crop=base64.b64encode(crop_of(RED)[:-100]).decode()), "not_an_image"),
    "crop is too small": (with_face(GOOD, crop=base64.b64encode(crop_of(RED, 80)).decode()), "wrong_crop"),
    "crop is too large": (with_face(GOOD, crop=base64.b64encode(crop_of(RED, 161)).decode()), "too_many_pixels"),
    "crop is not base64": (with_face(GOOD, crop="?"), "not_base64"),
    "crop is empty": (with_face(GOOD, crop=""), "empty_value"),
    "no crop": (with_face(GOOD, crop=...), "missing_key"),
    "box of three": (with_face(GOOD, box=[1, 2, 3]), "wrong_type"),
    "box of text": (with_face(GOOD, box=["1", "2", "3", "4"]), "wrong_type"),
    "box of lists": (with_face(GOOD, box=[[1, 2], [3, 4]]), "wrong_type"),
    "no box": (with_face(GOOD, box=...), "wrong_type"),
    "box beyond float32": (with_face(GOOD, box=[1e300, 0, 1, 1]), "wrong_type"),
    "box beyond float64": (with_face(GOOD, box=[10**400, 0, 1, 1]), "wrong_type"),
    "landmarks of four": (with_face(GOOD, landmarks=[[1, 2]] * 4), "wrong_type"),
    "landmarks flat": (with_face(GOOD, landmarks=list(range(10))), "wrong_type"),
    "score true": (with_face(GOOD, score=True), "wrong_type"),
    "score beyond float64": (with_face(GOOD, score=10**400), "wrong_type"),
    "score written as 1e999": (GOOD.replace('"score":1.0', '"score":1e999'), "wrong_type"),
    "no faces": (changed(GOOD, faces=[]), "wrong_type"),
    "faces no list": (changed(GOOD, faces={"0": 1}), "wrong_type"),
    "a face no object": (changed(GOOD, faces=[1]), "wrong_type"),
    "endlessly many faces": (changed(GOOD, faces=json.loads(GOOD)["faces"] * 1001), "too_many_faces"),
    "timings no object": (changed(GOOD, timings=[]), "wrong_type"),
    "timing beyond float64": (changed(GOOD, timings={"a": 10**400}), "wrong_type"),
    "timing no number": (changed(GOOD, timings={"a": "fast"}), "wrong_type"),
    "no filename": (changed(GOOD, filename=...), "missing_key"),
    "no preprocessing": (changed(GOOD, preprocessing=...), "missing_key"),
    "another preprocessing": (changed(GOOD, preprocessing="dlib-160"), "other_preprocessing"),
    "endless preprocessing": (changed(GOOD, preprocessing="é" * 400_000), "too_long"),
}


@pytest.mark.parametrize(("body", "code"), BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
def test_a_frame_that_never_can_be_named_is_answered_while_its_batch_is_named(body: str, code: str) -> None:
    parts, responses = function()
    before, after = faces_message(RED, request_id="before"), faces_message(BLUE, GREEN, request_id="after")
    assert failed(recognise_faces.handle(sqs_event(before, body, after), parts)) == []
    given = answers(responses)
    assert given.pop("frame-1")["error"]["code"] == code
    assert {request_id: answer["result"] for request_id, answer in given.items()} == {"before": "Ada", "after": "Bo"}


@pytest.mark.parametrize(
    "body",
    [
        "hello",
        "{",
        "[]",
        "null",
        "{}",
        changed(GOOD, request_id=...),
        changed(GOOD, request_id=7),
        changed(GOOD, request_id=""),
        changed(GOOD, request_id="x" * 257),
        GOOD[:-1],
        GOOD[:-1] + ',"request_id":"again"}',
        '{"request_id": "frame-1", "a": NaN}',
        "[" * 100_000,
    ],
    ids=lambda body: body[:20],
)
def test_a_message_that_nobody_can_be_told_about_is_left_for_the_dead_letter_queue(body: str) -> None:
    for receive_count in (1, 3, 4):
        parts, responses = function(max_receive_count=3)
        event = sqs_event(faces_message(RED, request_id="good"), body, receive_count=receive_count)
        assert failed(recognise_faces.handle(event, parts)) == ["m1"]
        assert results(responses) == {"good": "Ada"}


@pytest.mark.parametrize(
    "problem", [TransientError("busy", "Out of memory."), RuntimeError("onnxruntime failed"), MemoryError()], ids=repr
)
def test_what_a_retry_may_mend_stays_on_the_queue_and_is_named_then(problem: Exception) -> None:
    embedder = FlakyEmbedder()
    parts, responses = function(embedder=embedder)
    bodies = [
        faces_message(RED, request_id="a"),
        "garbage",
        changed(GOOD, faces=[]),
        faces_message(RED, request_id="b"),
    ]
    embedder.problem = problem
    assert sorted(failed(recognise_faces.handle(sqs_event(*bodies), parts))) == ["m0", "m1", "m3"]
    assert results(responses) == {"frame-1": "Error"}
    embedder.problem = None
    assert failed(recognise_faces.handle(sqs_event(bodies[0], bodies[3], receive_count=2), parts)) == []
    assert results(responses) == {"a": "Ada", "b": "Ada"}


def test_a_gallery_out_of_reach_is_tried_again() -> None:
    store = store_of(TWO)
    parts, responses = function(store)
    store.down = True
    assert failed(recognise_faces.handle(sqs_event(GOOD), parts)) == ["m0"]
    assert results(responses) == {}
    store.down = False
    assert failed(recognise_faces.handle(sqs_event(GOOD, receive_count=2), parts)) == []
    assert results(responses) == {"frame-1": "Ada"}


@pytest.mark.parametrize("receive_count", [3, 4])
def test_on_the_last_attempt_the_client_is_told_before_the_message_is_given_up(receive_count: int) -> None:
    embedder = FlakyEmbedder()
    embedder.problem = RuntimeError("out of order")
    parts, responses = function(embedder=embedder, max_receive_count=3)
    event = sqs_event(GOOD, faces_message(BLUE, request_id="b"), receive_count=receive_count)
    assert failed(recognise_faces.handle(event, parts)) == ["m0", "m1"]
    given = answers(responses)
    assert {request_id: answer["result"] for request_id, answer in given.items()} == {"frame-1": "Error", "b": "Error"}
    assert given["b"]["error"]["code"] == "retries_exhausted"
    assert "out of order" in given["b"]["error"]["message"]


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (RuntimeError("[ONNXRuntimeError]\n  failed:\tallocation"), "[ONNXRuntimeError] failed: allocation"),
        (RuntimeError("x" * 2_000_000), "x" * 300),
        (MemoryError(), "MemoryError"),
    ],
    ids=["lines", "endless", "no text"],
)
def test_a_client_is_told_the_last_failure_in_one_short_line(problem: Exception, reason: str) -> None:
    embedder = FlakyEmbedder()
    embedder.problem = problem
    parts, responses = function(embedder=embedder, max_receive_count=3)
    recognise_faces.handle(sqs_event(GOOD, receive_count=3), parts)
    assert answers(responses)["frame-1"]["error"]["message"] == f"The frame failed 3 times: {reason}"


@pytest.mark.parametrize("receive_count", [1, 3], ids=["first attempt", "last attempt"])
def test_while_the_response_queue_is_down_every_message_stays(receive_count: int) -> None:
    parts, responses = function(max_receive_count=3)
    responses.down = True
    bodies = [GOOD, "garbage", changed(GOOD, faces=[]), faces_message(BLUE, request_id="b")]
    event = sqs_event(*bodies, receive_count=receive_count)
    assert sorted(failed(recognise_faces.handle(event, parts))) == ["m0", "m1", "m2", "m3"]
    responses.down = False
    assert len(responses) == 0


def test_an_answer_that_no_queue_takes_does_not_take_its_batch_with_it() -> None:
    parts, responses = function(max_receive_count=3)
    huge = changed(GOOD, timings={f"{number}é": 1 for number in range(90_000)})
    event = sqs_event(huge, faces_message(RED, request_id="b"), receive_count=3)
    assert failed(recognise_faces.handle(event, parts)) == ["m0"]
    assert results(responses) == {"frame-1": "Error", "b": "Ada"}


def test_an_environment_serves_batch_after_batch() -> None:
    parts, responses = function()
    for number in range(3):
        bodies = [faces_message(RED, request_id=f"{number}-{frame}") for frame in range(10)]
        assert failed(recognise_faces.handle(sqs_event(*bodies), parts)) == []
        assert results(responses) == {f"{number}-{frame}": "Ada" for frame in range(10)}


def test_a_message_that_is_delivered_twice_gets_the_same_answer_twice() -> None:
    parts, responses = function()
    given = []
    for _ in range(2):
        recognise_faces.handle(sqs_event(GOOD), parts)
        answer = answers(responses)["frame-1"]
        del answer["timings"]
        given.append(answer)
    assert given[0] == given[1]


def test_an_empty_batch_is_a_success() -> None:
    parts, _ = function()
    assert failed(recognise_faces.handle({"Records": []}, parts)) == []


def test_one_line_a_frame_with_its_request_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    embedder = FlakyEmbedder()
    parts, _ = function(embedder=embedder)
    bad = changed(faces_message(RED, request_id="bad"), faces=[])
    recognise_faces.handle(sqs_event(faces_message(RED, request_id="good"), bad, "garbage"), parts)
    embedder.problem = RuntimeError("out of order")
    recognise_faces.handle(sqs_event(faces_message(RED, request_id="again")), parts)
    ids = [vars(record)["request_id"] for record in caplog.records]
    assert ids == ["bad", None, "good", "again"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", "INFO", "ERROR"]
    good = vars(caplog.records[2])
    assert (good["result"], good["faces"], good["gallery"]) == ("Ada", 1, TWO.version)
    assert good["timings"].keys() == {"read", "embed", "match", "send"}


def test_no_log_line_holds_a_crop_or_a_vector(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    embedder = FlakyEmbedder()
    parts, responses = function(embedder=embedder, max_receive_count=1)
    odd = (211, 97, 43)
    body = faces_message(odd)
    recognise_faces.handle(sqs_event(body, with_face(body, score="1"), with_face(body, box=[]), body[:-1]), parts)
    embedder.problem = RuntimeError("out of order")
    recognise_faces.handle(sqs_event(body), parts)
    responses.down = True
    recognise_faces.handle(sqs_event(body), parts)
    written = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert written.count("frame-1") >= 5
    crop = json.loads(body)["faces"][0]["crop"]
    for start in range(0, len(crop) - 40, 40):
        assert crop[start : start + 40] not in written
    for value in ColourEmbedder().embed(np.full((1, 160, 160, 3), odd, np.uint8))[0].tolist():
        assert f"{value:.3f}"[:-1] not in written
