"""The file that says which stack runs, with real processes."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from local import state
from local.state import FILE, RunningStack, running_stack
from tests.builders import stack_record
from tests.polling import eventually


@pytest.fixture
def this() -> RunningStack:
    """A stack whose supervisor is this process."""
    return stack_record()


def test_a_stack_that_runs_is_found_until_it_stops(tmp_path: Path, this: RunningStack) -> None:
    folder = tmp_path / "new" / "folder"
    assert running_stack(folder) is None
    held = state.hold(folder)
    assert held is not None
    assert running_stack(folder) is None  # it starts, and is not ready
    state.write(this, folder)
    assert running_stack(folder) == this
    state.write(replace(this, model="vggface2"), folder)
    found = running_stack(folder)
    assert found is not None
    assert found.model == "vggface2"
    state.remove(folder)
    state.remove(folder)
    assert running_stack(folder) is None
    os.close(held)


def test_of_two_stacks_that_start_one_runs(tmp_path: Path) -> None:
    first = state.hold(tmp_path)
    assert first is not None
    assert state.hold(tmp_path) is None
    os.close(first)
    second = state.hold(tmp_path)
    assert second is not None
    os.close(second)


def test_another_process_finds_the_same_stack(tmp_path: Path, this: RunningStack) -> None:
    held = state.hold(tmp_path)
    assert held is not None
    state.write(this, tmp_path)
    code = "from local.state import running_stack; print(running_stack().pid)"
    output = subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "FACEQ_STATE_DIR": str(tmp_path)})
    assert int(output) == os.getpid()
    os.close(held)


def test_a_killed_supervisor_runs_no_stack(tmp_path: Path) -> None:
    """Not even before it is reaped; its file goes."""
    code = "import sys, pathlib, local.state as s; s.hold(pathlib.Path(sys.argv[1])); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        state.write(stack_record(pid=process.pid), tmp_path)
        assert running_stack(tmp_path) == stack_record(pid=process.pid)
        process.kill()
        eventually(lambda: running_stack(tmp_path) is None)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"7",
        b"{}",
        json.dumps({"pid": 1}).encode(),
        json.dumps({**asdict(stack_record()), "later": 1}).encode(),
    ],
    ids=lambda content: content[:20].decode(errors="replace") + content[-20:].decode(errors="replace"),
)
def test_a_file_that_cannot_be_a_stacks_is_none(tmp_path: Path, content: bytes) -> None:
    """And removed if no stack runs."""
    (tmp_path / FILE).write_bytes(content)
    held = state.hold(tmp_path)
    assert held is not None
    assert running_stack(tmp_path) is None
    os.close(held)
    assert running_stack(tmp_path) is None
    assert not (tmp_path / FILE).exists()


def test_the_exports_are_what_an_aws_client_reads(this: RunningStack) -> None:
    assert this.exports() == {
        "FUNCTION_URL": this.function_url,
        "REQUEST_QUEUE_URL": this.request_queue_url,
        "RESPONSE_QUEUE_URL": this.response_queue_url,
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL_SQS": this.sqs_endpoint,
        "AWS_ENDPOINT_URL_LAMBDA": this.lambda_endpoint,
    }
