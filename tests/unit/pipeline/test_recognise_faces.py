"""The function `face-recognition` answers each frame once, whatever arrives. Faces are colours, queues in memory."""

import base64
import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters.current_gallery import CurrentGallery
from pipeline import gallery_storage
from pipeline.errors import TransientError
from pipeline.gallery import Gallery
from pipeline.handlers import recognise_faces
from pipeline.handlers.recognise_faces import Collaborators
from pipeline.log_events import LogPrivacy
from pipeline.pace import Pace
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
from tests.fakes import ColourEmbedder, MemoryMetrics, MemoryStore, UnreliableQueue, stepping_clock
from tests.memory_queue import MemoryQueue

ADA_AND_BO = gallery_of({"Ada": RED, "Bo": GREEN})


class FlakyEmbedder(ColourEmbedder):
    """Raises `problem` while it is set."""

    problem: Exception | None = None

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.problem is not None:
            raise self.problem
        return super().embed(crops)


class FlakyStore(MemoryStore):
    """A store that cannot be reached while it is `down`."""

    down = False

    def version(self, name: str) -> str | None:
        if self.down:
            raise TransientError("store_unavailable", "The gallery cannot be reached.")
        return super().version(name)


def store_of(gallery: Gallery | None) -> FlakyStore:
    store = FlakyStore()
    if gallery is not None:
        gallery_storage.save(store, gallery)
    return store


def function(
    store: ArtifactStore | None = None, embedder: FaceEmbedder | None = None, max_receive_count: int = 3
) -> tuple[Collaborators, UnreliableQueue]:
    """The collaborators of the function, whose gallery is in `store`, and its response queue."""
    embedder = embedder or ColourEmbedder()
    responses = UnreliableQueue()
    current = CurrentGallery(store or store_of(ADA_AND_BO), embedder.model, embedder.preprocessing)
    collaborators = Collaborators(
        embedder,
        current,
        responses,
        MemoryQueue(),
        MemoryQueue(),
        "exhausted",
        stepping_clock(),
        max_receive_count,
        Pace(),
        MemoryMetrics(),
        LogPrivacy(log_names=True),
    )
    return collaborators, responses


def handle(event: dict[str, Any], collaborators: Collaborators) -> dict[str, Any]:
    """The response to an event for which there is plenty of time."""
    return recognise_faces.handle(event, collaborators, lambda: 1e6)


def answers(queue: UnreliableQueue) -> dict[str, dict[str, Any]]:
    """Take all answers off the queue; return them by request id. No frame may have two."""
    by_request_id: dict[str, dict[str, Any]] = {}
    while received := queue.receive():
        for message in received:
            answer = json.loads(message.body)
            assert answer["request_id"] not in by_request_id
            by_request_id[answer["request_id"]] = answer
            queue.delete(message.receipt)
    return by_request_id


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
def test_the_result_is_the_name_of_the_largest_recognised_face(colours: tuple[Any, ...], result: str) -> None:
    collaborators, responses = function()
    assert failed(handle(sqs_event(faces_message(*colours)), collaborators)) == []
    assert results(responses) == {"frame-1": result}


def test_an_answer_contains_place_name_and_distance_of_each_face_and_the_versions_used() -> None:
    collaborators, responses = function()
    body = faces_message(BLUE, RED, request_id="r", filename="f.png", truncated=True, timings={"detect": 12.5})
    handle(sqs_event(body), collaborators)
    answer = answers(responses)["r"]
    timings = answer.pop("timings")
    stranger, known = answer.pop("faces")
    assert answer == {
        "request_id": "r",
        "result": "Ada",
        "filename": "f.png",
        "model": "stand-in",
        "gallery": ADA_AND_BO.version,
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


@pytest.mark.parametrize("gallery", [None, gallery_of({})], ids=["absent", "empty"])
def test_all_faces_are_unknown_while_the_gallery_is_empty(gallery: Gallery | None) -> None:
    collaborators, responses = function(store_of(gallery))
    assert failed(handle(sqs_event(faces_message(RED)), collaborators)) == []
    answer = answers(responses)["frame-1"]
    assert answer["result"] == "Unknown"
    assert (answer["faces"][0]["name"], answer["faces"][0]["distance"]) == ("Unknown", None)
    assert answer["gallery"] == (None if gallery is None else gallery.version)


def test_a_change_of_the_gallery_takes_effect_in_the_next_batch() -> None:
    store = store_of(None)
    collaborators, responses = function(store)
    named = []
    for change in (
        lambda: None,
        lambda: gallery_storage.save(store, ADA_AND_BO),
        lambda: gallery_storage.save(store, ADA_AND_BO.rename("Ada", "Grace")),
        lambda: gallery_storage.save(store, ADA_AND_BO.remove("Ada")),
        lambda: gallery_storage.clear(store),
    ):
        change()
        handle(sqs_event(faces_message(RED)), collaborators)
        named.append(results(responses)["frame-1"])
    assert named == ["Unknown", "Ada", "Grace", "Unknown", "Unknown"]


@pytest.mark.parametrize("last", [False, True], ids=["first attempt", "last attempt"])
@pytest.mark.parametrize(
    ("embedder", "code", "advice"),
    [
        (ColourEmbedder(model="dlib"), "other_model", "faceq people"),
        (ColourEmbedder(preprocessing="dlib-160"), "other_preprocessing", "faceq people"),
    ],
    ids=["model", "preprocessing"],
)
def test_frames_get_an_error_with_its_reason_while_the_gallery_does_not_fit_the_model(
    embedder: ColourEmbedder, code: str, advice: str, last: bool
) -> None:
    store = store_of(ADA_AND_BO)
    collaborators, responses = function(store, embedder)
    event = sqs_event(
        faces_message(RED, preprocessing=embedder.preprocessing),
        receive_count=collaborators.max_receive_count if last else 1,
    )
    assert failed(handle(event, collaborators)) == []
    answer = answers(responses)["frame-1"]
    assert answer["result"] == "Error"
    assert answer["error"]["code"] == code
    assert advice in answer["error"]["message"]
    gallery_storage.save(store, gallery_of({"Ada": RED}, embedder))
    assert failed(handle(event, collaborators)) == []
    assert results(responses) == {"frame-1": "Ada"}


def test_frames_get_an_error_with_its_reason_while_the_gallery_is_broken() -> None:
    store = store_of(ADA_AND_BO)
    store.write(gallery_storage.MANIFEST, b"{")
    collaborators, responses = function(store)
    assert failed(handle(sqs_event(faces_message(RED)), collaborators)) == []
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
    "too many faces": (changed(GOOD, faces=json.loads(GOOD)["faces"] * 1001), "too_many_faces"),
    "timings no object": (changed(GOOD, timings=[]), "wrong_type"),
    "timing beyond float64": (changed(GOOD, timings={"a": 10**400}), "wrong_type"),
    "timing no number": (changed(GOOD, timings={"a": "fast"}), "wrong_type"),
    "no filename": (changed(GOOD, filename=...), "missing_key"),
    "no preprocessing": (changed(GOOD, preprocessing=...), "missing_key"),
    "another preprocessing": (changed(GOOD, preprocessing="dlib-160"), "other_preprocessing"),
    "very long preprocessing": (changed(GOOD, preprocessing="é" * 400_000), "too_long"),
}


@pytest.mark.parametrize(("body", "code"), BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
def test_an_unusable_frame_is_answered_with_an_error_and_the_rest_of_its_batch_is_named(body: str, code: str) -> None:
    collaborators, responses = function()
    before, after = faces_message(RED, request_id="before"), faces_message(BLUE, GREEN, request_id="after")
    assert failed(handle(sqs_event(before, body, after), collaborators)) == []
    answered = answers(responses)
    assert answered.pop("frame-1")["error"]["code"] == code
    assert {request_id: answer["result"] for request_id, answer in answered.items()} == {"before": "Ada", "after": "Bo"}


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
def test_a_message_without_a_readable_request_id_is_left_for_the_dead_letter_queue(body: str) -> None:
    for receive_count in (1, 3, 4):
        collaborators, responses = function(max_receive_count=3)
        event = sqs_event(faces_message(RED, request_id="good"), body, receive_count=receive_count)
        assert failed(handle(event, collaborators)) == ["m1"]
        assert results(responses) == {"good": "Ada"}


@pytest.mark.parametrize(
    "problem", [TransientError("busy", "Out of memory."), RuntimeError("onnxruntime failed"), MemoryError()], ids=repr
)
def test_a_frame_stays_on_the_queue_if_a_retry_may_help_and_is_named_by_the_retry(problem: Exception) -> None:
    embedder = FlakyEmbedder()
    collaborators, responses = function(embedder=embedder)
    bodies = [
        faces_message(RED, request_id="a"),
        "garbage",
        changed(GOOD, faces=[]),
        faces_message(RED, request_id="b"),
    ]
    embedder.problem = problem
    assert sorted(failed(handle(sqs_event(*bodies), collaborators))) == ["m0", "m1", "m3"]
    assert results(responses) == {"frame-1": "Error"}
    embedder.problem = None
    assert failed(handle(sqs_event(bodies[0], bodies[3], receive_count=2), collaborators)) == []
    assert results(responses) == {"a": "Ada", "b": "Ada"}


def test_a_frame_stays_on_the_queue_while_the_gallery_cannot_be_reached() -> None:
    store = store_of(ADA_AND_BO)
    collaborators, responses = function(store)
    store.down = True
    assert failed(handle(sqs_event(GOOD), collaborators)) == ["m0"]
    assert results(responses) == {}
    store.down = False
    assert failed(handle(sqs_event(GOOD, receive_count=2), collaborators)) == []
    assert results(responses) == {"frame-1": "Ada"}


@pytest.mark.parametrize("receive_count", [3, 4])
@pytest.mark.parametrize("without_dead_letters", [False, True], ids=["", "without a dead-letter queue"])
def test_on_the_last_attempt_the_client_gets_an_error_before_the_message_is_given_up(
    receive_count: int, without_dead_letters: bool
) -> None:
    """Without the variables of the template, the queue itself moves the message on, so the message stays there."""
    embedder = FlakyEmbedder()
    embedder.problem = RuntimeError("out of order")
    collaborators, responses = function(embedder=embedder, max_receive_count=3)
    if without_dead_letters:
        collaborators = replace(collaborators, dead_letters=None, exhausted_queue=None)
    event = sqs_event(GOOD, faces_message(BLUE, request_id="b"), receive_count=receive_count)
    assert sorted(failed(handle(event, collaborators))) == (["m0", "m1"] if without_dead_letters else [])
    answered = answers(responses)
    assert {request_id: answer["result"] for request_id, answer in answered.items()} == {
        "frame-1": "Error",
        "b": "Error",
    }
    assert answered["b"]["error"]["code"] == "retries_exhausted"
    assert "out of order" in answered["b"]["error"]["message"]


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (RuntimeError("[ONNXRuntimeError]\n  failed:\tallocation"), "[ONNXRuntimeError] failed: allocation"),
        (RuntimeError("x" * 2_000_000), "x" * 300),
        (MemoryError(), "MemoryError"),
    ],
    ids=["several lines", "very long", "no text"],
)
def test_the_error_of_the_last_attempt_is_one_short_line(problem: Exception, reason: str) -> None:
    embedder = FlakyEmbedder()
    embedder.problem = problem
    collaborators, responses = function(embedder=embedder, max_receive_count=3)
    handle(sqs_event(GOOD, receive_count=3), collaborators)
    assert answers(responses)["frame-1"]["error"]["message"] == f"The frame failed 3 times: {reason}"


@pytest.mark.parametrize("receive_count", [1, 3], ids=["first attempt", "last attempt"])
def test_every_message_stays_on_the_queue_while_the_response_queue_is_down(receive_count: int) -> None:
    collaborators, responses = function(max_receive_count=3)
    responses.down = True
    bodies = [GOOD, "garbage", changed(GOOD, faces=[]), faces_message(BLUE, request_id="b")]
    event = sqs_event(*bodies, receive_count=receive_count)
    assert sorted(failed(handle(event, collaborators))) == ["m0", "m1", "m2", "m3"]
    responses.down = False
    assert len(responses) == 0


def test_an_answer_too_long_for_the_queue_does_not_affect_the_rest_of_its_batch() -> None:
    collaborators, responses = function(max_receive_count=3)
    huge = changed(GOOD, timings={"é" * 200_000: 1})
    event = sqs_event(huge, faces_message(RED, request_id="b"), receive_count=3)
    assert failed(handle(event, collaborators)) == []
    assert results(responses) == {"frame-1": "Error", "b": "Ada"}


def test_one_environment_serves_batch_after_batch() -> None:
    collaborators, responses = function()
    for number in range(3):
        bodies = [faces_message(RED, request_id=f"{number}-{frame}") for frame in range(10)]
        assert failed(handle(sqs_event(*bodies), collaborators)) == []
        assert results(responses) == {f"{number}-{frame}": "Ada" for frame in range(10)}


def test_a_message_that_is_delivered_twice_gets_the_same_answer_twice() -> None:
    collaborators, responses = function()
    both = []
    for _ in range(2):
        handle(sqs_event(GOOD), collaborators)
        answer = answers(responses)["frame-1"]
        del answer["timings"]
        both.append(answer)
    assert both[0] == both[1]


def test_an_empty_batch_is_a_success() -> None:
    collaborators, _ = function()
    assert failed(handle({"Records": []}, collaborators)) == []


def test_each_frame_is_logged_once_with_its_request_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    embedder = FlakyEmbedder()
    collaborators, _ = function(embedder=embedder)
    bad = changed(faces_message(RED, request_id="bad"), faces=[])
    handle(sqs_event(faces_message(RED, request_id="good"), bad, "garbage"), collaborators)
    embedder.problem = RuntimeError("out of order")
    handle(sqs_event(faces_message(RED, request_id="again")), collaborators)
    ids = [vars(record)["request_id"] for record in caplog.records]
    assert ids == ["good", "bad", None, "again"]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "ERROR", "ERROR"]
    good = vars(caplog.records[0])
    assert (good["result"], good["faces"], good["gallery"]) == ("Ada", 1, ADA_AND_BO.version)
    assert good["timings"].keys() == {"read", "embed", "match", "send"}


def test_no_log_line_contains_a_crop_or_a_vector(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    embedder = FlakyEmbedder()
    collaborators, responses = function(embedder=embedder, max_receive_count=1)
    odd = (211, 97, 43)
    body = faces_message(odd)
    handle(sqs_event(body, with_face(body, score="1"), with_face(body, box=[]), body[:-1]), collaborators)
    embedder.problem = RuntimeError("out of order")
    handle(sqs_event(body), collaborators)
    responses.down = True
    handle(sqs_event(body), collaborators)
    written = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert written.count("frame-1") >= 5
    crop = json.loads(body)["faces"][0]["crop"]
    for start in range(0, len(crop) - 40, 40):
        assert crop[start : start + 40] not in written
    for value in ColourEmbedder().embed(np.full((1, 160, 160, 3), odd, np.uint8))[0].tolist():
        assert f"{value:.3f}"[:-1] not in written


def reported(collaborators: Collaborators) -> list[dict[str, list[float]]]:
    assert isinstance(collaborators.metrics, MemoryMetrics)
    return [{metric.value: values for metric, values in flush.items()} for flush in collaborators.metrics.flushed]


def test_an_invocation_reports_its_answers_by_kind_and_what_they_took() -> None:
    collaborators, responses = function()
    bodies = [
        faces_message(RED, BLUE, request_id="ada"),
        faces_message(WHITE, request_id="stranger"),
        faces_message(GREEN, request_id="bo"),
        changed(faces_message(RED, request_id="broken"), faces=[]),
        "no message",
    ]
    response = handle(sqs_event(*bodies), collaborators)
    assert failed(response) == ["m4"]
    assert results(responses) == {"ada": "Ada", "stranger": "Unknown", "bo": "Bo", "broken": "Error"}
    (report,) = reported(collaborators)
    durations = report.pop("ComputeMilliseconds")
    assert len(durations) == 3, "one for each frame that was recognised"
    assert all(milliseconds >= 3 for milliseconds in durations), "read, embed, match: each at least a tick of the clock"
    assert report == {"AnsweredName": [2], "AnsweredUnknown": [1], "AnsweredError": [1], "Faces": [4]}


def test_only_answers_that_were_sent_are_counted() -> None:
    collaborators, responses = function()
    responses.down = True
    handle(sqs_event(faces_message(RED), receive_count=1), collaborators)
    handle(sqs_event(faces_message(RED), receive_count=3), collaborators)  # the answer Error is not sent either
    assert reported(collaborators) == []


def test_an_answer_from_the_exhausted_queue_is_counted() -> None:
    collaborators, responses = function()
    event = sqs_event(faces_message(RED))
    event["Records"][0]["eventSourceARN"] = "arn:aws:sqs:us-east-1:000000000000:exhausted"
    handle(event, collaborators)
    assert results(responses) == {"frame-1": "Error"}
    assert reported(collaborators) == [{"AnsweredError": [1]}]


def test_a_batch_that_runs_out_of_time_is_counted_once() -> None:
    collaborators, _ = function()
    bodies = [faces_message(RED, request_id=f"frame-{number}") for number in range(4)]
    recognise_faces.handle(sqs_event(*bodies), collaborators, lambda: 0.0)
    (report,) = reported(collaborators)
    assert report["BatchesCutByTime"] == [1]
    assert report["AnsweredName"] == [1]


@pytest.mark.parametrize("log_names", [True, False])
def test_names_of_people_and_of_files_are_in_the_log_only_where_that_is_wanted(
    caplog: pytest.LogCaptureFixture, log_names: bool
) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    collaborators, responses = function()
    collaborators = replace(collaborators, privacy=LogPrivacy(log_names))
    bodies = [
        faces_message(RED, request_id="ada", filename="ada.png"),
        faces_message(WHITE, request_id="stranger", filename="ada2.png"),
        changed(faces_message(RED, request_id="broken", filename="ada3.png"), faces=[]),
    ]
    handle(sqs_event(*bodies), collaborators)
    assert results(responses)["ada"] == "Ada", "the answer always names her"
    lines = [vars(record) for record in caplog.records]
    assert [line.get("result") for line in lines] == ["Ada" if log_names else "name", "Unknown", None]
    assert [line.get("file") for line in lines] == (["ada.png", "ada2.png", "ada3.png"] if log_names else [None] * 3)
    if not log_names:
        fields = [value for line in lines for key, value in line.items() if key not in {"request_id", "pathname"}]
        assert not [value for value in fields if "Ada" in str(value) or "ada" in str(value)]
