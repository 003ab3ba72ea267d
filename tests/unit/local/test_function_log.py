"""A function's log keeps every line, in files of a limited size."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from local.runtimes.function_log import FunctionLog, ProcessOutput
from tests.polling import until


def test_lines_are_appended_with_the_time_the_environment_and_the_request(tmp_path: Path) -> None:
    path = tmp_path / "sample.log"
    path.write_text("before\n")
    log = FunctionLog(path)
    log.write("sample/1", "id-1", ["first", "second"])
    log.write("sample/2", "", ["third"])
    log.close()
    before, *lines = path.read_text().splitlines()
    assert before == "before"
    assert [line.split(" ", 1)[1] for line in lines] == [
        "sample/1 id-1 first",
        "sample/1 id-1 second",
        "sample/2 - third",
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in lines)


def test_each_line_is_passed_on_once_even_if_the_disk_is_full() -> None:
    lines: list[str] = []
    log = FunctionLog(Path("/dev/full"), on_line=lines.append)
    log.write("sample/1", "id-1", ["first", "second"])
    log.write("sample/2", "", ["third"])
    log.close()
    assert lines == ["first", "second", "third"]


def test_a_full_file_becomes_the_old_one_and_a_new_one_begins(tmp_path: Path) -> None:
    log = FunctionLog(tmp_path / "sample.log", max_bytes=100)
    for number in range(10):
        log.write("sample/1", "", [f"line {number} " + "x" * 40])
    log.close()
    assert {file.name for file in tmp_path.iterdir()} == {"sample.log", "sample.log.1"}
    old, new = ((tmp_path / name).read_text() for name in ("sample.log.1", "sample.log"))
    numbers = [int(number) for number in re.findall(r"line (\d)", old + new)]
    assert numbers == list(range(numbers[0], 10)), "in order, and only the oldest are gone"
    assert len(numbers) >= 3


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_disk_loses_lines_and_raises_no_error() -> None:
    log = FunctionLog(Path("/dev/full"))
    log.write("sample/1", "", ["lost"])
    log.close()


async def test_output_is_passed_on_line_by_line_and_the_rest_when_it_is_drained() -> None:
    lines: list[str] = []
    output = ProcessOutput(lines.append)
    try:
        os.write(output.writer, b"one\ntwo\nhalf")
        await until(lambda: lines == ["one", "two"])
        output.drain()
        assert lines == ["one", "two", "half"]
        os.write(output.writer, b"\xff\n")
        output.drain()
        assert lines[3:] == ["\ufffd"]
    finally:
        os.close(output.writer)
        output.close()


async def test_a_line_that_never_ends_is_passed_on_in_parts() -> None:
    lines: list[str] = []
    output = ProcessOutput(lines.append)
    try:
        await asyncio.to_thread(_write_all, output.writer, b"x" * 600_000)
        await until(lambda: lines)
        output.drain()
        assert "".join(lines) == "x" * 600_000
        assert len(lines) > 1
    finally:
        os.close(output.writer)
        output.close()


def _write_all(target: int, content: bytes) -> None:
    while content:
        content = content[os.write(target, content) :]
