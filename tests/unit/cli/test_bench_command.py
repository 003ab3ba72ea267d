"""`faceq bench` as a person meets it, against a stack that answers at once."""

import json
from pathlib import Path

import pytest
from click.testing import Result

from cli import bench_command
from client.frames import Frame
from client.service_client import Outcome
from pipeline.errors import BadInput
from tests.answering_stack import Stack
from tests.builders import RED, picture


def measured(stack: Stack, *arguments: object) -> Result:
    return stack.run(bench_command.register, *arguments)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("ada.png", "bo.png"):
        (folder / name).write_bytes(picture(RED))
    return folder


def outcome(milliseconds: float, result: str | None = "Ada", problem: str | None = None) -> Outcome:
    answer = None if result is None else {"result": result}
    return Outcome(Frame("a.jpg", b"x"), "id", answer, problem, milliseconds)  # type: ignore[arg-type]


def test_the_figures_are_of_answered_frames_only() -> None:
    outcomes = [outcome(float(ms)) for ms in range(1, 101)] + [outcome(60_000, None, "no answer within 60 s")] * 2
    assert bench_command.figures(outcomes, 4, 2.0) == bench_command.Figures(
        frames=102,
        answered=100,
        concurrency=4,
        seconds=2.0,
        throughput=50.0,
        p50=50.5,
        p95=95.0,
        max=100.0,
        results={"Ada": 100},
        problems={"no answer within 60 s": 2},
    )


def test_without_any_answer_there_are_no_times() -> None:
    found = bench_command.figures([outcome(5, None, "HTTP 502: broken")], 1, 1.0)
    assert (found.throughput, found.p50, found.p95, found.max) == (0.0, None, None, None)


def test_frames_are_sent_in_turn_until_there_are_enough(stack: Stack, photos: Path) -> None:
    done = measured(stack, "--count", 7, "--json", photos)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["frames"], found["answered"], found["results"]) == (7, 7, {"ada": 4, "bo": 3})
    assert 0 < found["p50"] <= found["p95"] <= found["max"]


def test_a_table_shows_the_figures(stack: Stack, photos: Path) -> None:
    done = measured(stack, "-n", 3, photos / "ada.png")
    assert done.exit_code == 0
    assert "frames/s" in done.stdout
    assert "3 × ada" in done.stdout


def test_a_frame_without_an_answer_is_exit_code_1_and_its_reason_is_counted(stack: Stack, photos: Path) -> None:
    stack.refused = {"bo.png"}
    done = measured(stack, "--count", 4, photos)
    assert done.exit_code == 1
    assert "2 without an answer: HTTP 400: This is no [picture]." in done.stdout
    assert "2 frames got no answer. See why with: faceq logs" in done.stderr


def test_there_is_a_most_that_one_bench_sends(stack: Stack, photos: Path) -> None:
    assert measured(stack, "--count", bench_command.MOST_FRAMES + 1, photos).exit_code == 2


def test_a_path_that_is_not_there_is_said_before_anything_is_sent(stack: Stack, photos: Path) -> None:
    assert isinstance(measured(stack, photos / "absent.png").exception, BadInput)
