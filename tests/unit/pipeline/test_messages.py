"""The wire format: messages are read back as they were written, and they are written as the contract says."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInput
from pipeline.messages import (
    FaceCrop,
    FacesMessage,
    FrameRequest,
    RecognisedFace,
    RecognitionResult,
    face_fields,
    read_request_id,
)
from pipeline.ports import Face
from tests.builders import RED, changed, crop_of, face, faces_message, frame

few = settings(max_examples=50, deadline=None)

#: Text that UTF-8 can encode.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
coordinates = st.floats(-1e4, 1e4, width=32)


@st.composite
def face_crops(draw: st.DrawFn) -> FaceCrop:
    numbers = np.array(draw(st.lists(coordinates, min_size=14, max_size=14)), np.float32)
    return FaceCrop(
        Face(numbers[:4], draw(st.floats(0, 1)), numbers[4:].reshape(5, 2)), draw(st.binary(min_size=1, max_size=30))
    )


faces_messages = st.builds(
    FacesMessage,
    request_id=texts,
    filename=texts,
    preprocessing=texts,
    faces=st.lists(face_crops(), min_size=1, max_size=4).map(tuple),
    truncated=st.booleans(),
    timings=st.dictionaries(texts, st.floats(0, 1e6), max_size=4),
)


@few
@given(st.builds(FrameRequest, content=st.binary(min_size=1), request_id=texts, filename=texts))
def test_a_request_is_read_as_it_was_written(request: FrameRequest) -> None:
    assert FrameRequest.from_json(request.to_json().encode()) == request


@few
@given(faces_messages)
def test_faces_are_read_as_they_were_written_to_a_hundredth_of_a_pixel(message: FacesMessage) -> None:
    text = message.to_json()
    assert text.isascii()
    read = FacesMessage.from_json(text)
    for field in ("request_id", "filename", "preprocessing", "truncated", "timings"):
        assert getattr(read, field) == getattr(message, field)
    for after, before in zip(read.faces, message.faces, strict=True):
        assert after.jpeg == before.jpeg
        assert after.face.box.dtype == after.face.landmarks.dtype == np.float32
        np.testing.assert_allclose(after.face.box, before.face.box, atol=0.006)
        np.testing.assert_allclose(after.face.landmarks, before.face.landmarks, atol=0.006)
        assert math.isclose(after.face.score, before.face.score, abs_tol=1e-6)


def test_a_request_has_the_three_keys_that_every_client_sends() -> None:
    assert json.loads(FrameRequest(b"\0\xff", "id", "a.jpg").to_json()) == {
        "content": "AP8=",
        "request_id": "id",
        "filename": "a.jpg",
    }


def test_an_answer_has_the_two_keys_of_the_contract_and_no_value_that_is_not_known() -> None:
    answer = json.loads(RecognitionResult("id", "No-Face").to_json())
    assert answer == {
        "request_id": "id",
        "result": "No-Face",
        "filename": "",
        "faces": [],
        "model": None,
        "gallery": None,
        "timings": {},
    }


def test_an_answer_rounds_its_numbers_to_their_precision() -> None:
    answer = RecognitionResult(
        "id",
        "Åsa 😀",
        faces=(RecognisedFace(face(1 / 3, 0, 10, 10, score=2 / 3), "Åsa 😀", 1 / 3),),
        timings={"embed": 1 / 3},
        truncated=True,
        error={"code": "c", "message": "m"},
    )
    fields = json.loads(answer.to_json())
    assert fields["faces"] == [
        {
            "box": [0.33, 0, 10, 10],
            "score": 0.666667,
            "landmarks": [[5.17, 5]] * 5,
            "name": "Åsa 😀",
            "distance": 0.3333,
        }
    ]
    assert fields["timings"] == {"embed": 0.333}
    assert fields["truncated"] is True
    assert fields["error"] == {"code": "c", "message": "m"}


def test_a_face_in_json_has_plain_numbers() -> None:
    fields = face_fields(face(-1, -2, 3, 4, score=0.5))
    assert fields == {"box": [-1, -2, 3, 4], "score": 0.5, "landmarks": [[1, 1]] * 5}
    json.dumps(fields)


@pytest.mark.parametrize(
    ("body", "request_id"),
    [
        (faces_message(RED, request_id="id"), "id"),
        (frame(request_id="id"), "id"),
        ('{"request_id": "id"}', "id"),
        ('{"request_id": "id", "faces": 7}', "id"),
        ('{"request_id": 7}', None),
        ('{"request_id": ""}', None),
        ('{"request_id": "\\ud800"}', None),
        ('{"request_id": "a", "request_id": "b"}', None),
        (json.dumps({"request_id": "x" * 256}), "x" * 256),
        (json.dumps({"request_id": "x" * 257}), None),
        ("[]", None),
        ("", None),
        (b"\xff", None),
        ("\ud800", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_request_id_of_a_broken_message_is_read_if_it_is_valid_itself(
    body: str | bytes, request_id: str | None
) -> None:
    assert read_request_id(body) == request_id


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (changed(faces_message(RED), request_id="x" * 257), "too_long"),
        (changed(faces_message(RED), preprocessing=""), "empty_value"),
        (changed(faces_message(RED), truncated="yes"), None),
        (faces_message(RED)[:-1] + ', "later": {"version": 2}}', None),
        (changed(faces_message(RED), timings=...), None),
    ],
    ids=["long id", "no preprocessing", "odd truncated", "unknown key", "no timings"],
)
def test_a_reader_checks_the_keys_that_it_uses_and_ignores_keys_of_later_versions(body: str, code: str | None) -> None:
    if code is None:
        assert not FacesMessage.from_json(body).truncated
    else:
        with pytest.raises(BadInput) as refused:
            FacesMessage.from_json(body)
        assert refused.value.code == code


def test_a_crop_is_carried_byte_for_byte() -> None:
    jpeg = crop_of(RED)
    (crop,) = FacesMessage.from_json(faces_message(RED)).faces
    assert crop.jpeg == jpeg
