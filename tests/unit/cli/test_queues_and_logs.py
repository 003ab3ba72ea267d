"""What `faceq queues peek`, `queues purge` and `faceq logs` print, with a real queue server."""

import os
from pathlib import Path

import pytest
from click.testing import Result

from cli import logs_command, queues_commands
from client import stack_state
from tests.answering_stack import Stack
from tests.sqs_servers import sqs_client


def run_queues(stack: Stack, *arguments: object) -> Result:
    return stack.run(lambda app: app.add_typer(queues_commands.app, name="queues"), "queues", *arguments)


@pytest.fixture
def queue(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a hostile message on the response queue; return the queue's name."""
    monkeypatch.setenv("FACEQ_STATE_DIR", str(stack.folder))
    record = stack_state.local_stack(os.environ)
    assert record is not None
    body = '{"request_id": "\x1b]0;title\x07\u202e", "rest": "' + "x" * 300 + '"}'
    sqs_client(str(record.sqs_endpoint)).send_message(QueueUrl=record.response_queue_url, MessageBody=body)
    return record.response_queue_url.rsplit("/", 1)[1]


def test_a_peeked_message_is_two_whole_harmless_lines(stack: Stack, queue: str) -> None:
    peeked = run_queues(stack, "peek", queue)
    assert peeked.exit_code == 0
    described, body = peeked.stdout.splitlines()
    assert "  received 1×  " in described
    assert len(described) <= 80
    assert body.startswith('    {"request_id": "\\x1b]0;title\\x07\\u202e", "rest": "xxx')
    assert body.endswith("x…")


def test_purge_takes_the_short_option_that_other_commands_have(stack: Stack, queue: str) -> None:
    purged = run_queues(stack, "purge", queue, "-y")
    assert (purged.exit_code, purged.stdout) == (0, f"{queue} is empty.\n")
    assert run_queues(stack, "peek", queue).stdout == f"No message is waiting on {queue}.\n"


def test_log_lines_cannot_control_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "face-detection.log").write_text("door\x1b[2J.jpg\n")
    shown = Stack(tmp_path).run(logs_command.register)
    assert shown.stdout == "face-detection: door\\x1b[2J.jpg\n"
