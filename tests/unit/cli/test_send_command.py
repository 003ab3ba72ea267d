"""`faceq send` on the command line, with a real queue server and a function URL that names frames by their file."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from cli import send_command
from client.frames import Frame
from client.service_client import Outcome
from pipeline.errors import BadInput
from pipeline.messages import RecognisedFace, RecognitionResult
from tests.answering_stack import Stack
from tests.builders import RED, face, picture
from tests.videos import write_video


def outcome(answer: RecognitionResult | None, problem: str | None = None, filename: str = "a.jpg") -> Outcome:
    fields = None if answer is None else json.loads(answer.to_json())
    return Outcome(Frame(filename, b"x"), "id", fields, problem, 12.345)


def test_a_json_row_has_the_whole_answer_and_the_name_that_was_sent() -> None:
    answer = RecognitionResult(
        "id", "Ada", "as the service has it", model="dlib", gallery="abc", timings={"embed": 1.0}
    )
    assert send_command.row(outcome(answer)) == {
        "filename": "a.jpg",
        "request_id": "id",
        "result": "Ada",
        "faces": [],
        "model": "dlib",
        "gallery": "abc",
        "timings": {"embed": 1.0},
        "problem": None,
        "milliseconds": 12.3,
    }


def test_a_json_row_without_an_answer_has_the_reason() -> None:
    assert send_command.row(outcome(None, "no answer within 60 s")) == {
        "filename": "a.jpg",
        "request_id": "id",
        "result": None,
        "problem": "no answer within 60 s",
        "milliseconds": 12.3,
    }


def plain(answer: RecognitionResult) -> list[str]:
    return [cell.plain for cell in send_command.cells(outcome(answer))]


def test_a_table_row_has_the_distance_of_the_face_that_gave_the_name() -> None:
    faces = (
        RecognisedFace(face(0, 0, 9, 9), "Unknown", 1.5),
        RecognisedFace(face(0, 0, 8, 8), "Ada", 0.256),
        RecognisedFace(face(0, 0, 7, 7), "Ada", 0.1),
    )
    assert plain(RecognitionResult("id", "Ada", faces=faces)) == ["a.jpg", "Ada", "3", "0.26", "12"]
    nobody = (RecognisedFace(face(0, 0, 9, 9), "Unknown", None),)
    assert plain(RecognitionResult("id", "Unknown", faces=nobody))[3] == ""
    assert plain(RecognitionResult("id", "No-Face")) == ["a.jpg", "No-Face", "0", "", "12"]


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
    assert sorted((row["filename"], row["result"]) for row in rows) == [
        ("ada.png", "ada"),
        ("ada.png", "ada"),
        ("bo.png", "bo"),
        ("cy.png", "cy"),
    ]
    assert len({row["request_id"] for row in rows}) == 4


def test_a_table_shows_who_is_in_each_frame(stack: Stack, photos: Path) -> None:
    result = run_send(stack, photos)
    assert result.exit_code == 0
    for name in ("ada", "bo", "cy"):
        assert any(f"{name}.png" in line and f" {name} " in line for line in result.stdout.splitlines())


@pytest.mark.parametrize("as_json", [True, False])
def test_an_unanswered_frame_exits_with_code_1_and_the_others_are_answered(
    stack: Stack, photos: Path, as_json: bool
) -> None:
    stack.refused = {"bo.png"}
    result = run_send(stack, *(["--json"] if as_json else []), photos)
    assert result.exit_code == 1
    assert "HTTP 400: This is no" in result.stdout
    assert "1 frame got no answer" in result.stderr
    assert result.stdout.count("cy.png") >= 1


def test_a_broken_video_in_a_folder_is_a_row_with_its_problem(stack: Stack, photos: Path) -> None:
    """The video is not sent and counts as unanswered. The photos beside it are answered."""
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
