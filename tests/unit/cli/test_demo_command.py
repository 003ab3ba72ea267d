"""When `faceq demo` passes, and its sideways frame."""

import io

import pytest
from PIL import Image

from cli.demo_command import verdict
from cli.demo_frames import Expected, held_sideways
from client.frames import Frame
from client.service_client import Outcome
from pipeline.images import decode


def answered(result: str | None, expected: str = "Ada", milliseconds: float = 10) -> tuple[Expected, Outcome]:
    frame = Frame("a.jpg", b"picture")
    answer = None if result is None else {"request_id": "id", "result": result}
    return Expected(frame, expected), Outcome(frame, "id", answer, None, milliseconds)


def test_the_demo_passes_if_every_answer_is_as_expected() -> None:
    line, passed = verdict([answered("Ada"), answered("Unknown", "Unknown", 30), answered("Ada", milliseconds=20)], 3)
    assert (line, passed) == ("demo: 3 frames, 3 answered, 3 as expected, p50 20 ms", True)


@pytest.mark.parametrize(
    ("outcomes", "counts"),
    [
        ([answered("Ada"), answered("Bo")], "2 answered, 1 as expected"),
        ([answered("Ada"), answered(None)], "1 answered, 1 as expected"),
        ([answered("Ada")], "1 answered, 1 as expected"),
    ],
    ids=["wrong", "missing", "never sent"],
)
def test_a_wrong_or_missing_answer_fails_the_demo(outcomes: list[tuple[Expected, Outcome]], counts: str) -> None:
    line, passed = verdict(outcomes, 2)
    assert not passed
    assert line.startswith(f"demo: 2 frames, {counts}, ")


def test_the_sideways_frame_has_turned_pixels_and_the_tag_that_turns_them_back() -> None:
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (0, 0, 20, 20))
    content = held_sideways(picture)
    assert Image.open(io.BytesIO(content)).size == (20, 40)
    upright = decode(content)
    assert upright.shape == (20, 40, 3)
    assert upright[10, 5, 2] > 200 > 50 > upright[10, 35, 2]
