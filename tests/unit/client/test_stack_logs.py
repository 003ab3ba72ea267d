"""The log lines of a stack on this machine; a Python program takes Docker's place."""

import shlex
import sys
from pathlib import Path

import pytest

from client.stack_logs import LogLine, container_log_lines, process_log_lines
from pipeline.errors import BadInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "face-detection.log").write_text("one frame-1\ntwo frame-2\nthree frame-1\n")
    (tmp_path / "supervisor.log").write_text("ready\n")
    return tmp_path


def test_the_last_lines_of_every_part_are_read(folder: Path) -> None:
    assert list(process_log_lines(folder, last=2)) == [
        LogLine("face-detection", "two frame-2"),
        LogLine("face-detection", "three frame-1"),
        LogLine("supervisor", "ready"),
    ]
    assert list(process_log_lines(folder, last=0)) == []


def test_the_lines_of_all_parts_are_merged_by_time(tmp_path: Path) -> None:
    """A line without a time, such as one of a traceback, follows the line before it in its part."""

    def logged(second: int) -> str:
        return f'{{"message": "{second}", "timestamp": "2026-11-26 10:00:{second:02},000+0000"}}'

    parts = {
        "a": ["START", logged(3), "  File", logged(7)],
        "b": [logged(1), logged(5), '{"timestamp": 5}', "[" * 9999],
    }
    for part, lines in parts.items():
        (tmp_path / f"{part}.log").write_text("".join(f"{line}\n" for line in lines))
    assert [(line.part, line.text) for line in process_log_lines(tmp_path)] == [
        ("a", "START"),
        ("b", logged(1)),
        ("a", logged(3)),
        ("a", "  File"),
        ("b", logged(5)),
        ("b", '{"timestamp": 5}'),
        ("b", "[" * 9999),
        ("a", logged(7)),
    ]
    assert [line.part for line in process_log_lines(tmp_path, last=1)] == ["b", "a"]


def test_lines_can_be_filtered_by_part_and_text(folder: Path) -> None:
    assert list(process_log_lines(folder, ["supervisor"])) == [LogLine("supervisor", "ready")]
    assert [line.text for line in process_log_lines(folder, containing="frame-1")] == ["one frame-1", "three frame-1"]


def test_following_yields_a_new_line_once_it_is_complete(folder: Path) -> None:
    lines = process_log_lines(folder, last=1, containing="frame-1", follow=True)
    assert next(lines) == LogLine("face-detection", "three frame-1")
    with (folder / "face-detection.log").open("a", buffering=1) as log:
        log.write("four frame-2\nfive frame-1\nsix fra")
        assert next(lines) == LogLine("face-detection", "five frame-1")
        log.write("me-1\n")
    assert next(lines) == LogLine("face-detection", "six frame-1")


def test_an_unknown_part_and_a_folder_without_logs_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no log of 'gateway'. Existing logs: face-detection, supervisor\."):
        list(process_log_lines(folder, ["gateway"]))
    with pytest.raises(BadInput, match="faceq up"):
        list(process_log_lines(tmp_path / "nothing"))


def docker(program: str) -> str:
    return shlex.join([sys.executable, "-c", program])


def test_docker_is_asked_for_the_last_lines_or_for_all_if_they_are_filtered() -> None:
    command = docker("import sys; print(*sys.argv[1:])")
    assert list(container_log_lines(command, ["gateway"], last=7)) == ["--no-color --tail 7 gateway"]
    assert list(container_log_lines(command, containing="tail", follow=True)) == ["--no-color --tail all --follow"]
    assert list(container_log_lines(command, containing="frame-1")) == []


def test_without_docker_and_if_docker_fails_the_command_is_named() -> None:
    with pytest.raises(BadInput, match=r"no command `docker`.*no-such-program logs"):
        list(container_log_lines("no-such-program logs"))
    with pytest.raises(BadInput, match="ended with exit code 3"):
        list(container_log_lines(docker("raise SystemExit(3)")))
