"""The file that says which stack runs, with real processes."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from local import state
from local.state import FILE, RunningStack, running_stack, started
from tests.queue_server import eventually


def stack(pid: int, process_started: float) -> RunningStack:
    return RunningStack(
        pid=pid,
        process_started=process_started,
        function_url="http://127.0.0.1:1/",
        request_queue_url="http://127.0.0.1:2/a-req-queue",
        response_queue_url="http://127.0.0.1:2/a-resp-queue",
        dead_letter_queue_url="http://127.0.0.1:2/a-dead-letter-queue",
        region="eu-central-1",
        sqs_endpoint="http://127.0.0.1:2",
        lambda_endpoint="http://127.0.0.1:3",
        model="dlib",
        engine="onnx",
        gallery="/gallery",
        logs="/logs",
    )


@pytest.fixture
def this() -> RunningStack:
    """A stack whose supervisor is this process."""
    own_start = started(os.getpid())
    assert own_start is not None
    return stack(os.getpid(), own_start)


def test_a_stack_that_runs_is_found_until_it_stops(tmp_path: Path, this: RunningStack) -> None:
    folder = tmp_path / "new" / "folder"
    assert running_stack(folder) is None
    state.write(this, folder)
    assert running_stack(folder) == this
    assert [file.name for file in folder.iterdir()] == [FILE]
    state.write(replace(this, model="vggface2"), folder)
    found = running_stack(folder)
    assert found is not None
    assert found.model == "vggface2"
    state.remove(folder)
    state.remove(folder)
    assert running_stack(folder) is None


def test_another_process_finds_the_same_stack(tmp_path: Path, this: RunningStack) -> None:
    state.write(this, tmp_path)
    code = "from local.state import running_stack; print(running_stack().pid)"
    output = subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "FACEQ_STATE_DIR": str(tmp_path)})
    assert int(output) == os.getpid()


def test_a_process_that_ended_or_waits_to_be_reaped_runs_no_stack(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        start = started(process.pid)
        assert start is not None
        ended = stack(process.pid, start)
        state.write(ended, tmp_path)
        assert running_stack(tmp_path) == ended
        process.kill()
        eventually(lambda: started(process.pid) is None)  # not reaped yet: a zombie
        assert running_stack(tmp_path) is None
    assert not (tmp_path / FILE).exists()
    state.write(ended, tmp_path)
    assert running_stack(tmp_path) is None
    assert not (tmp_path / FILE).exists()


def test_a_process_that_got_the_id_of_a_dead_supervisor_is_not_taken_for_it(tmp_path: Path, this: RunningStack) -> None:
    state.write(replace(this, process_started=this.process_started - 100), tmp_path)
    assert running_stack(tmp_path) is None
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
        json.dumps({**asdict(stack(1, 1.0)), "later": 1}).encode(),
        json.dumps({**asdict(stack(1, 1.0)), "pid": "x"}).encode(),
        json.dumps({**asdict(stack(1, 1.0)), "pid": -5}).encode(),
        json.dumps({**asdict(stack(1, 1.0)), "pid": 10**9}).encode(),
        json.dumps({**asdict(stack(1, 1.0)), "pid": 10**30}).encode(),
    ],
    ids=lambda content: content[:20].decode(errors="replace") + content[-20:].decode(errors="replace"),
)
def test_a_file_that_cannot_be_a_stacks_is_removed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
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
