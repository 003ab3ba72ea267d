"""`faceq send` on the command line, with a real queue server and a function URL that names frames by their file."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from cli import outcome_rows, send_command
from client.frames import Frame
from client.service_client import Failure, Outcome
from pipeline.errors import BadInput
from pipeline.messages import RecognisedFace, RecognitionResult
from tests.answering_stack import Stack
from tests.builders import RED, face, picture
from tests.polling import eventually
from tests.videos import write_video


def outcome(answer: RecognitionResult | None, problem: str | None = None, index: int = 0, **frame: Any) -> Outcome:
    fields = None if answer is None else json.loads(answer.to_json())
    failure = None if problem is None else Failure.UNANSWERED
    return Outcome(Frame("a.jpg", b"x", **frame), "id", fields, problem, 12.345, index, failure)


def test_a_json_row_has_the_whole_answer_and_the_name_that_was_sent() -> None:
    answer = RecognitionResult(
        "id", "Ada", "as the service has it", model="dlib", gallery="abc", timings={"embed": 1.0}
    )
    assert outcome_rows.json_row(outcome(answer, index=3, path="films/a.mp4", seconds=0.4)) == {
        "filename": "a.jpg",
        "request_id": "id",
        "result": "Ada",
        "faces": [],
        "model": "dlib",
        "gallery": "abc",
        "timings": {"embed": 1.0},
        "problem": None,
        "milliseconds": 12.3,
        "index": 3,
        "path": "films/a.mp4",
        "seconds": 0.4,
        "failure": None,
    }


def test_a_json_row_without_an_answer_has_the_reason() -> None:
    assert outcome_rows.json_row(outcome(None, "no answer within 60 s")) == {
        "filename": "a.jpg",
        "request_id": "id",
        "result": None,
        "problem": "no answer within 60 s",
        "milliseconds": 12.3,
        "index": 0,
        "path": "a.jpg",
        "seconds": None,
        "failure": "unanswered",
    }


def plain(answer: RecognitionResult) -> list[str]:
    return [cell.plain for cell in outcome_rows.cells(outcome(answer))]


def test_a_table_row_names_every_recognised_face_with_its_distance() -> None:
    faces = (
        RecognisedFace(face(0, 0, 9, 9), "Unknown", 1.5),
        RecognisedFace(face(0, 0, 8, 8), "Ada", 0.256),
        RecognisedFace(face(0, 0, 7, 7), "Bo", 0.1),
    )
    assert plain(RecognitionResult("id", "Ada", faces=faces)) == ["a.jpg", "Ada, Bo", "3", "0.26, 0.10", "12"]
    assert plain(RecognitionResult("id", "Unknown", faces=faces[:1])) == ["a.jpg", "Unknown", "1", "1.50", "12"]
    nobody = (RecognisedFace(face(0, 0, 9, 9), "Unknown", None),)
    assert plain(RecognitionResult("id", "Unknown", faces=nobody))[3] == ""
    assert plain(RecognitionResult("id", "No-Face")) == ["a.jpg", "No-Face", "0", "", "12"]


def test_a_json_row_of_a_stranger_has_the_distance_to_the_nearest_person() -> None:
    faces = (RecognisedFace(face(0, 0, 9, 9), "Unknown", 1.5),)
    row: dict[str, Any] = outcome_rows.json_row(outcome(RecognitionResult("id", "Unknown", faces=faces)))
    assert [shown["distance"] for shown in row["faces"]] == [1.5]


def test_the_row_of_an_error_has_its_reason() -> None:
    answer = RecognitionResult("id", "Error", error={"code": "wrong_crop", "message": "The crop is \x1b[2J wrong."})
    assert plain(answer) == ["a.jpg", "Error: The crop is \\x1b[2J wrong.", "0", "", "12"]


def test_a_row_has_the_index_the_path_as_given_and_the_time_of_a_frame_of_a_video() -> None:
    shown = outcome_rows.table_row(
        outcome(RecognitionResult("id", "Ada"), index=7, path="../films/\x1b]0;a\x07.mp4", seconds=1.5)
    )
    assert shown.split() == ["7", "../films/\\x1b]0;a\\x07.mp4", "at", "1.50", "s", "Ada", "0", "12"]


@pytest.mark.parametrize(
    ("arriving", "after_each"),
    [
        ([0, 1, 2], [[0], [1], [2]]),
        ([2, 1, 0], [[], [], [0, 1, 2]]),
        ([1, 0, 3, 2], [[], [0, 1], [], [2, 3]]),
    ],
)
def test_rows_come_in_the_order_of_the_input_each_as_soon_as_it_can(
    arriving: list[int], after_each: list[list[int]]
) -> None:
    order = outcome_rows.InputOrder()
    ready = [order.add(outcome(RecognitionResult("id", "Ada"), index=index)) for index in arriving]
    assert [[row.index for row in rows] for rows in ready] == after_each
    assert order.rest() == []


def test_outcomes_that_wait_for_an_earlier_one_are_not_lost_and_keep_no_picture() -> None:
    order = outcome_rows.InputOrder()
    for index in (3, 1):
        assert order.add(outcome(RecognitionResult("id", "Ada"), index=index)) == []
    assert [(row.index, row.frame.content) for row in order.rest()] == [(1, b""), (3, b"")]


def run_send(stack: Stack, *arguments: object) -> Result:
    return stack.run(send_command.register, *arguments)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("ada.png", "bo.png", "cy.png"):
        (folder / name).write_bytes(picture(RED))
    return folder


def test_json_prints_one_row_for_each_frame_and_nothing_else(stack: Stack, photos: Path) -> None:
    result = run_send(stack, "--json", photos, photos / "ada.png")
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["index"], row["path"], row["filename"], row["result"]) for row in rows] == [
        (0, f"{photos}/ada.png", "ada.png", "ada"),
        (1, f"{photos}/bo.png", "bo.png", "bo"),
        (2, f"{photos}/cy.png", "cy.png", "cy"),
        (3, f"{photos}/ada.png", "ada.png", "ada"),
    ]
    assert len({row["request_id"] for row in rows}) == 4


def test_a_table_shows_who_is_in_each_frame(stack: Stack, photos: Path) -> None:
    result = run_send(stack, photos)
    assert result.exit_code == 0
    for name in ("ada", "bo", "cy"):
        assert any(f"{name}.png" in line and f" {name} " in line for line in result.stdout.splitlines())


@pytest.mark.parametrize("as_json", [True, False])
def test_a_refused_frame_exits_with_code_1_and_the_others_are_answered(
    stack: Stack, photos: Path, as_json: bool
) -> None:
    stack.refused = {"bo.png"}
    result = run_send(stack, *(["--json"] if as_json else []), photos)
    assert result.exit_code == 1
    assert "HTTP 400: This is no" in result.stdout
    assert result.stderr == "faceq: 1 frame was refused.\n"
    assert result.stdout.count("cy.png") >= 1


def test_a_broken_video_in_a_folder_is_a_row_with_its_problem(stack: Stack, photos: Path) -> None:
    """The video is not sent. The photos beside it are answered."""
    (photos / "b.mp4").write_bytes(b"no video")
    result = run_send(stack, "--json", photos)
    assert result.exit_code == 1
    rows = {row["filename"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert {name: row["result"] for name, row in rows.items()} == {
        "ada.png": "ada",
        "b.mp4": None,
        "bo.png": "bo",
        "cy.png": "cy",
    }
    assert "No frame of the video" in rows["b.mp4"]["problem"]
    assert result.stderr == "faceq: 1 frame could not be read, so it was not sent.\n"


def test_a_damaged_video_exits_with_code_1_although_every_decoded_frame_is_answered(
    stack: Stack, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.mp4"
    frames = list(np.random.default_rng(7).integers(0, 256, (10, 48, 64, 3), np.uint8))
    write_video(whole, frames)
    write_video(
        cut, frames, codec="libx264", options={"g": "1", "bf": "0"}, container_options={"movflags": "faststart"}
    )
    result = run_send(stack, "--every", "0.5s", whole)
    assert result.exit_code == 0
    assert "faceq: whole.avi: 10 frames announced, 10 decoded, 2 sent\n" in result.stderr
    cut.write_bytes(cut.read_bytes()[: -cut.stat().st_size // 2])
    result = run_send(stack, "--fps", "1", cut)
    assert result.exit_code == 1
    assert re.search(
        r"cut\.mp4: 10 frames announced, [3-6] decoded, 1 sent\. The file is damaged: [4-7] lost", result.stderr
    )
    assert "got no answer" not in result.stderr


def test_skipped_files_are_counted_and_each_is_a_row_of_json(stack: Stack, photos: Path) -> None:
    (photos / "notes.txt").write_text("no picture")
    (photos / "._ada.png").write_bytes(picture(RED))
    result = run_send(stack, "--json", photos)
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row for row in rows if "skipped" in row] == [
        {"filename": "._ada.png", "skipped": "metadata of macOS"},
        {"filename": "notes.txt", "skipped": "neither a picture nor a video"},
    ]
    assert len(rows) == 5
    assert "skipped 2 files: 1 metadata of macOS, 1 neither a picture nor a video" in result.stderr


def test_a_picture_whose_name_is_not_utf_8_is_answered(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(picture(RED))
    result = run_send(stack, "--json", path)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["filename"] == "caf\ufffd.png"


def test_a_name_with_brackets_is_printed_unchanged(stack: Stack, tmp_path: Path) -> None:
    names = ("ada [red].png", "[/bold] bo.png")
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(picture(RED))
    stack.refused = {names[0]}
    result = run_send(stack, tmp_path / "photos")
    for shown in (*names, "This is no [picture]."):
        assert shown in result.stdout


def test_a_frame_that_is_answered_error_exits_with_code_1_and_shows_why(stack: Stack, photos: Path) -> None:
    stack.errors = {"bo.png"}
    result = run_send(stack, photos)
    assert result.exit_code == 1
    assert "Error: The crop is wrong." in result.stdout
    assert result.stderr == "faceq: 1 frame was answered Error.\n"


def test_a_frame_without_an_answer_points_to_the_logs(stack: Stack, photos: Path) -> None:
    stack.silent = {"bo.png"}
    result = run_send(stack, "--timeout", 0.5, "--json", photos)
    assert result.exit_code == 1
    assert [json.loads(line)["problem"] for line in result.stdout.splitlines()] == [
        None,
        "no answer within 0.5 s",
        None,
    ]
    assert result.stderr == "faceq: 1 frame got no answer. See why with: faceq logs\n"


def test_unordered_rows_come_as_they_are_answered(stack: Stack, photos: Path) -> None:
    """The first frame is never answered, so in the order of the input its row would come first."""
    stack.silent = {"ada.png"}
    result = run_send(stack, "--timeout", 1, "--json", "--unordered", photos)
    assert [json.loads(line)["index"] for line in result.stdout.splitlines()][-1] == 0


def test_a_missing_file_is_named(stack: Stack, photos: Path) -> None:
    result = run_send(stack, photos / "absent.png")
    assert isinstance(result.exception, BadInput)
    assert "absent.png" in result.exception.message


def test_without_a_running_stack_the_error_names_the_command_that_starts_one(tmp_path: Path, photos: Path) -> None:
    result = run_send(Stack(tmp_path / "nothing here"), photos)
    assert isinstance(result.exception, BadInput)
    assert "faceq up" in result.exception.message


def test_option_values_out_of_range_are_wrong_usage(stack: Stack, photos: Path) -> None:
    for option in ("--concurrency", "--timeout", "--every", "--fps"):
        assert run_send(stack, option, 0, photos).exit_code == 2


def test_ctrl_c_prints_what_was_answered_and_says_how_many_were_not(stack: Stack, photos: Path) -> None:
    """The second frame is never answered, so the row of the third waits for it until Ctrl-C."""
    stack.silent = {"bo.png"}
    arguments = [sys.executable, "-m", "cli.main", "send", "--json", str(photos)]
    environment = {**os.environ, "FACEQ_STATE_DIR": str(stack.folder), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as sending:
        assert sending.stdout is not None
        first = sending.stdout.readline()
        eventually(lambda: stack.accepted == {"ada.png", "bo.png", "cy.png"})
        time.sleep(0.5)  # cy.png's answer is on the queue; the command needs a moment to take it
        sending.send_signal(signal.SIGINT)
        rest, errors = sending.communicate(timeout=30)
    assert sending.returncode == 130
    assert [json.loads(row)["filename"] for row in [first, *rest.splitlines()]] == ["ada.png", "cy.png"]
    late = "1 frame may still be answered; such an answer stays on the response queue."
    assert errors == f"faceq: Interrupted. 1 frame got no answer. {late}\n"
