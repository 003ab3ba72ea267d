"""Standard output is for data, in whole lines, whether or not standard output and standard error are terminals."""

import json
import os
import pty
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from adapters.artifacts_directory import DirectoryStore
from cli.main import command_line
from client import stack_state
from pipeline import gallery_storage
from pipeline.messages import RecognitionResult
from tests.answering_stack import Stack
from tests.builders import RED, picture
from tests.galleries import random_gallery
from tests.sqs_servers import sqs_client

#: The commands with `--json` that run here, with their arguments. The path of the photographs is longer than a line.
COMMANDS = {
    "send": ["{photos}"],
    "bench": ["--count", "3", "{photos}"],
    "people list": [],
    "people show": ["Ada"],
    "people check": [],
    "people threshold": [],
    "queues list": [],
    "queues peek": ["{queue}"],
    "models list": [],
    "models where": [],
    "status": [],
    "doctor": [],
}
#: Those that need AWS or Docker. They show no progress bar, so nothing takes their standard output away.
ELSEWHERE = {
    "deploy",
    "deploy rollback",
    "deploy history",
    "deploy logs",
    "deploy plan",
    "deploy status",
    "image build",
    "image inspect",
    "people diff",
}


@dataclass
class Captured:
    """What was written to a stream."""

    content: bytes = b""

    @property
    def lines(self) -> list[str]:
        return self.content.decode().replace("\r\n", "\n").splitlines()


@contextmanager
def stream(*, terminal: bool, redirect: Callable[..., contextmanager]) -> Iterator[Captured]:  # type: ignore[type-arg]
    """Replace standard output or standard error by a pseudo-terminal or a pipe, and read what is written there."""
    reader, writer = pty.openpty() if terminal else os.pipe()
    captured = Captured()

    def read() -> None:
        try:
            while chunk := os.read(reader, 65536):
                captured.content += chunk
        except OSError:  # a pseudo-terminal whose other end was closed
            pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    with os.fdopen(writer, "w", encoding="utf-8") as file, redirect(file):
        yield captured
    thread.join(20)
    os.close(reader)


@pytest.fixture
def arguments(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in {
        "FACEQ_STATE_DIR": str(stack.folder),
        "FACEQ_GALLERY_DIR": str(tmp_path / "gallery"),
        "TERM": "xterm",
        "COLUMNS": "80",
    }.items():
        monkeypatch.setenv(name, value)
    photos = tmp_path / ("a folder with a very long name " * 4).strip()
    photos.mkdir()
    for name in ("ada.png", "bo.png", "cy.png"):
        (photos / name).write_bytes(picture(RED))
    gallery_storage.save(DirectoryStore(tmp_path / "gallery"), random_gallery("Ada"))
    record = stack_state.local_stack(os.environ)
    assert record is not None
    body = RecognitionResult("id", "x" * 200).to_json()
    sqs_client(str(record.sqs_endpoint)).send_message(QueueUrl=record.response_queue_url, MessageBody=body)
    return {"photos": str(photos), "queue": record.response_queue_url.rsplit("/", 1)[1]}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("error_terminal", [True, False], ids=["stderr-terminal", "stderr-pipe"])
@pytest.mark.parametrize("output_terminal", [True, False], ids=["stdout-terminal", "stdout-pipe"])
def test_json_goes_to_standard_output_whole(
    command: str, arguments: dict[str, str], output_terminal: bool, error_terminal: bool
) -> None:
    words = [*command.split(), "--json", *(argument.format(**arguments) for argument in COMMANDS[command])]
    app = command_line(words[0])
    with (
        stream(terminal=output_terminal, redirect=redirect_stdout) as output,
        stream(terminal=error_terminal, redirect=redirect_stderr) as error,
    ):
        assert sys.stdout.isatty() is output_terminal
        app(words, standalone_mode=False)
    if command == "send":
        rows = [json.loads(line) for line in output.lines]
        assert [(row["path"], row["result"]) for row in rows] == [
            (f"{arguments['photos']}/{name}.png", name) for name in ("ada", "bo", "cy")
        ]
    else:
        assert json.loads("\n".join(output.lines))
    assert "{" not in "".join(error.lines)


@pytest.mark.parametrize("error_terminal", [True, False], ids=["stderr-terminal", "stderr-pipe"])
@pytest.mark.parametrize("output_terminal", [True, False], ids=["stdout-terminal", "stdout-pipe"])
def test_rows_of_a_table_are_whole_lines(
    arguments: dict[str, str], output_terminal: bool, error_terminal: bool
) -> None:
    app = command_line("send")
    with (
        stream(terminal=output_terminal, redirect=redirect_stdout) as output,
        stream(terminal=error_terminal, redirect=redirect_stderr) as error,
    ):
        app(["send", arguments["photos"]], standalone_mode=False)
    header, *rows = output.lines
    assert header.split() == ["#", "frame", "result", "faces", "distance", "ms"]
    assert [row.split(arguments["photos"])[1].split()[:2] for row in rows] == [
        [f"/{name}.png", name] for name in ("ada", "bo", "cy")
    ]
    assert ("sending" in "".join(error.lines)) is error_terminal


def test_every_command_with_json_is_in_the_table() -> None:
    def with_json(command: Any, name: str) -> Iterator[str]:
        for word, inner in getattr(command, "commands", {}).items():
            yield from with_json(inner, f"{name} {word}".strip())
        if any("--json" in parameter.opts for parameter in command.params):
            yield name

    assert set(with_json(typer.main.get_command(command_line()), "")) == set(COMMANDS) | ELSEWHERE
