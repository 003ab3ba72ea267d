"""The line that `faceq up` prints for each answered frame."""

import io
import os
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from cli.answered_lines import LinePrinter, answered_line
from client.answered_frames import AnsweredFrame

MORNING = datetime(2026, 11, 26, 9, 41, 7, tzinfo=UTC)


def line(**fields: Any) -> str:
    values = {"filename": "door.jpg", "result": "Grace Hopper", "error": "", "faces": 1, "milliseconds": 193.2}
    return answered_line(AnsweredFrame(at=MORNING, request_id="r-1", **{**values, **fields}))


@pytest.mark.parametrize(
    ("fields", "rest"),
    [
        ({}, "door.jpg  Grace Hopper  1 face  193 ms"),
        ({"faces": 3}, "door.jpg  Grace Hopper  3 faces  193 ms"),
        ({"result": "No-Face", "faces": 0}, "door.jpg  No-Face  0 faces  193 ms"),
        ({"result": "Error", "error": "wrong_crop"}, "door.jpg  Error (wrong_crop)  1 face  193 ms"),
        ({"result": "Error", "error": "wrong_crop", "faces": None}, "door.jpg  Error (wrong_crop)  193 ms"),
        ({"filename": "", "result": "name"}, "r-1  name  1 face  193 ms"),
    ],
)
def test_a_line_has_the_time_file_name_who_faces_and_milliseconds(fields: dict[str, Any], rest: str) -> None:
    assert line(**fields) == f"{MORNING.astimezone():%H:%M:%S}  {rest}"


def test_text_from_outside_cannot_control_the_terminal_and_is_not_long() -> None:
    assert "\\x1b[2J" in line(filename="\x1b[2J.jpg")
    assert f"  {'x' * 59}…  " in line(filename="x" * 4096)
    assert f"  {'x' * 59}…  " in line(result="x" * 4096)


def test_lines_are_printed_once_and_in_order_while_they_come_from_several_threads() -> None:
    stream = io.BytesIO()
    printer = LinePrinter(stream, "utf-8")

    def burst(name: str) -> None:
        for number in range(1000):
            printer.print(f"{name} {number}")

    threads = [threading.Thread(target=burst, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    printer.close(10)
    lines = stream.getvalue().decode().splitlines()
    assert len(lines) == 2000
    for name in ("a", "b"):
        assert [line for line in lines if line[0] == name] == [f"{name} {number}" for number in range(1000)]


def test_a_terminal_that_takes_no_more_does_not_hold_up_the_caller() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb", buffering=0) as full:
        printer = LinePrinter(full, "utf-8")
        for _ in range(100):
            printer.print("x" * 10_000)  # far more than a pipe takes
        printer.close(0.05)
        os.close(reader)
        printer.close(10)


def test_a_character_that_the_terminal_lacks_is_escaped() -> None:
    stream = io.BytesIO()
    printer = LinePrinter(stream, "ascii")
    printer.print("tür")
    printer.close(10)
    assert stream.getvalue() == b"t\\xfcr\n"
