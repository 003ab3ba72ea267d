"""`faceq bench` on the command line, against a stack that answers immediately."""

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


def run_bench(stack: Stack, *arguments: object) -> Result:
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


def test_times_and_throughput_count_answered_frames_only() -> None:
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
        errors={},
    )


def test_without_answers_there_are_no_times() -> None:
    found = bench_command.figures([outcome(5, None, "HTTP 502: broken")], 1, 1.0)
    assert (found.throughput, found.p50, found.p95, found.max) == (0.0, None, None, None)


def test_frames_are_sent_in_turn_until_there_are_enough(stack: Stack, photos: Path) -> None:
    done = run_bench(stack, "--count", 7, "--json", photos)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["frames"], found["answered"], found["results"]) == (7, 7, {"ada": 4, "bo": 3})
    assert 0 < found["p50"] <= found["p95"] <= found["max"]


def test_a_table_shows_the_figures(stack: Stack, photos: Path) -> None:
    done = run_bench(stack, "-n", 3, photos / "ada.png")
    assert done.exit_code == 0
    assert "frames/s" in done.stdout
    assert "3 × ada" in done.stdout


def test_a_refused_frame_exits_with_code_1_and_its_reason_is_counted(stack: Stack, photos: Path) -> None:
    stack.refused = {"bo.png"}
    done = run_bench(stack, "--count", 4, photos)
    assert done.exit_code == 1
    assert "2 without an answer: HTTP 400: This is no [picture]." in done.stdout
    assert done.stderr == "faceq: 2 frames were refused.\n"


def test_a_frame_that_is_answered_error_exits_with_code_1_and_its_reason_is_counted(stack: Stack, photos: Path) -> None:
    stack.errors = {"bo.png"}
    done = run_bench(stack, "--count", 4, photos)
    assert done.exit_code == 1
    assert "2 answered Error: The crop is wrong." in done.stdout
    assert done.stderr == "faceq: 2 frames were answered Error.\n"
    found = json.loads(run_bench(stack, "--count", 4, "--json", photos).stdout)
    assert (found["answered"], found["errors"]) == (4, {"The crop is wrong.": 2})


def test_too_many_frames_are_wrong_usage(stack: Stack, photos: Path) -> None:
    assert run_bench(stack, "--count", bench_command.MOST_FRAMES + 1, photos).exit_code == 2


def test_a_missing_file_is_refused(stack: Stack, photos: Path) -> None:
    assert isinstance(run_bench(stack, photos / "absent.png").exception, BadInput)
