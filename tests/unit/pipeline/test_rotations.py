"""Faces are found in turned pictures and placed in the posted one, if that is asked for."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.embed import PREPROCESSINGS
from pipeline.handlers import detect_faces
from pipeline.handlers.detect_faces import Collaborators
from pipeline.images import decode
from pipeline.log_events import LogPrivacy
from pipeline.messages import FacesMessage, FrameRequest
from pipeline.ports import Face, FaceDetector, Image
from pipeline.rotations import TurnedPicture, find_faces
from tests.builders import BLUE, RED, greyscale_png, post
from tests.fakes import MemoryMetrics, PatchDetector, UnreliableQueue, stepping_clock


class UprightDetector(FaceDetector):
    """Finds the patches of a picture whose first pixel is dark grey; counts the pictures that it saw.

    Of other pictures it finds a patch with a low score, if `chance` is set.
    """

    def __init__(self, chance: bool = False) -> None:
        self.shapes: list[tuple[int, int]] = []
        self._chance = chance

    def detect(self, image: Image) -> list[Face]:
        self.shapes.append((image.shape[0], image.shape[1]))
        faces = PatchDetector().detect(image)
        if image[0, 0, 0] == 99:
            return faces
        return [Face(faces[0].box, 0.75, faces[0].landmarks)] if self._chance and len(self.shapes) > 1 else []


def portrait() -> Image:
    """An upright picture, 60 wide and 100 high, with a blue patch upper left and a smaller red one below it."""
    image = np.zeros((100, 60, 3), np.uint8)
    image[0, 0] = 99
    image[5:45, 5:35] = BLUE
    image[60:80, 30:55] = RED
    return image


def posted_picture(quarter_turns: int) -> Image:
    """The portrait on its side or upside down: `quarter_turns` counter-clockwise make it upright."""
    return np.ascontiguousarray(np.rot90(portrait(), -quarter_turns))


@pytest.mark.parametrize("chance", [False, True])
@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_faces_are_found_in_each_turn_and_placed_in_the_posted_picture(quarter_turns: int, chance: bool) -> None:
    posted = posted_picture(quarter_turns)
    found = find_faces(posted, UprightDetector(chance), try_rotations=True)
    assert found.quarter_turns == quarter_turns
    assert np.array_equal(found.image, portrait())
    places = [found.in_posted_picture(face) for face in found.faces]
    assert len(places) == 2
    for face, colour in zip(places, (BLUE, RED), strict=True):
        x1, y1, x2, y2 = face.box.astype(int)
        assert (posted[y1:y2, x1:x2] == colour).all()
        assert (face.box.dtype, face.landmarks.dtype) == (np.float32, np.float32)
        assert (face.box[:2] < face.landmarks).all()
        assert (face.landmarks < face.box[2:]).all()
    assert [face.area for face in places] == [face.area for face in found.faces] == [1200, 500]


@given(
    height=st.integers(1, 30), width=st.integers(1, 30), quarter_turns=st.integers(0, 3), seed=st.integers(0, 2**32 - 1)
)
def test_a_place_in_a_turned_picture_is_the_same_place_in_the_posted_one(
    height: int, width: int, quarter_turns: int, seed: int
) -> None:
    """Each pixel of one turn is found in the other one; boxes may reach outside."""
    random = np.random.default_rng(seed)
    posted = random.integers(0, 256, (height, width, 3), np.uint8)
    turned = np.ascontiguousarray(np.rot90(posted, quarter_turns))
    x, y = random.integers(0, turned.shape[1]), random.integers(0, turned.shape[0])
    box = np.array([x, y, x + 1, y + 1], np.float32)
    landmarks = np.tile(np.array([x + 0.5, y + 0.5], np.float32), (5, 1))
    face = TurnedPicture(turned, [], quarter_turns).in_posted_picture(Face(box, 0.9, landmarks))
    left, top, right, bottom = face.box.astype(int)
    assert (right - left, bottom - top, face.score) == (1, 1, 0.9)
    assert np.array_equal(posted[top, left], turned[y, x])
    assert np.array_equal(face.landmarks.astype(int), [[left, top]] * 5)
    outside = Face(np.array([-3, -2, 1, 4], np.float32), 0.9, landmarks)
    assert TurnedPicture(turned, [], quarter_turns).in_posted_picture(outside).area == outside.area


def test_a_picture_with_a_face_is_looked_at_once() -> None:
    detector = UprightDetector()
    assert find_faces(portrait(), detector, try_rotations=True).quarter_turns == 0
    assert len(detector.shapes) == 1


def test_a_picture_without_a_face_is_looked_at_in_all_turns_only_if_that_is_asked_for() -> None:
    nothing = np.zeros((20, 30, 3), np.uint8)
    for try_rotations, shapes in ((False, [(20, 30)]), (True, [(20, 30), (30, 20), (30, 20), (20, 30)])):
        detector = UprightDetector()
        found = find_faces(nothing, detector, try_rotations)
        assert (list(found.faces), found.quarter_turns) == ([], 0)
        assert detector.shapes == shapes


def handled(posted: Image, try_rotations: bool) -> tuple[list[str], list[str]]:
    """The bodies on the request queue and on the response queue after a frame was posted."""
    requests, responses = UnreliableQueue(), UnreliableQueue()
    rows = b"".join(b"\0" + row.tobytes() for row in posted.max(axis=2))
    content = greyscale_png(posted.shape[1], posted.shape[0], rows=rows)
    collaborators = Collaborators(
        UprightDetector(),
        PREPROCESSINGS["facenet-160"],
        requests,
        responses,
        stepping_clock(),
        max_pixels=10_000,
        metrics=MemoryMetrics(),
        privacy=LogPrivacy(log_names=True),
        try_rotations=try_rotations,
    )
    answer: dict[str, Any] = detect_faces.handle(
        post(FrameRequest(content, "r", "f").to_json().encode()), collaborators
    )
    assert answer["statusCode"] == 200
    return [message.body for message in requests.receive()], [message.body for message in responses.receive()]


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_the_crops_for_recognition_are_upright_and_the_boxes_are_in_the_posted_picture(quarter_turns: int) -> None:
    upright = portrait()
    upright[5:25, 5:35] = 160  # the upper half of the larger patch is darker
    posted = np.ascontiguousarray(np.rot90(upright, -quarter_turns))
    ((body,), answers) = handled(posted, try_rotations=True)
    assert answers == []
    first, second = FacesMessage.from_json(body).faces
    crop = decode(first.jpeg)
    assert np.abs(crop[:75].astype(int) - 160).max() < 8
    assert crop[85:].min() > 247
    for each in (first, second):
        x1, y1, x2, y2 = each.face.box.astype(int)
        assert posted[y1:y2, x1:x2].max(axis=2).min() >= 160


def test_without_the_setting_a_turned_picture_is_answered_as_before() -> None:
    (requests, (answer,)) = handled(posted_picture(1), try_rotations=False)
    assert requests == []
    assert json.loads(answer)["result"] == "No-Face"
