"""The file that says which stack runs, with real processes."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from client import stack_state
from client.stack_state import FILE, RunningStack, running_stack
from tests.builders import stack_record
from tests.polling import eventually


@pytest.fixture
def this() -> RunningStack:
    """A stack whose supervisor is this process."""
    return stack_record()


def test_a_stack_that_runs_is_found_until_it_stops(tmp_path: Path, this: RunningStack) -> None:
    folder = tmp_path / "new" / "folder"
    assert running_stack(folder) is None
    held = stack_state.hold(folder)
    assert held is not None
    assert running_stack(folder) is None  # it starts, and is not ready
    stack_state.write(this, folder)
    assert running_stack(folder) == this
    stack_state.write(replace(this, model="vggface2"), folder)
    found = running_stack(folder)
    assert found is not None
    assert found.model == "vggface2"
    stack_state.remove(folder)
    stack_state.remove(folder)
    assert running_stack(folder) is None
    os.close(held)


def test_of_two_stacks_that_start_one_runs(tmp_path: Path) -> None:
    first = stack_state.hold(tmp_path)
    assert first is not None
    assert stack_state.hold(tmp_path) is None
    os.close(first)
    second = stack_state.hold(tmp_path)
    assert second is not None
    os.close(second)


def test_another_process_finds_the_same_stack(tmp_path: Path, this: RunningStack) -> None:
    held = stack_state.hold(tmp_path)
    assert held is not None
    stack_state.write(this, tmp_path)
    code = "from client.stack_state import running_stack; print(running_stack().pid)"
    output = subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "FACEQ_STATE_DIR": str(tmp_path)})
    assert int(output) == os.getpid()
    os.close(held)


def test_a_killed_supervisor_runs_no_stack(tmp_path: Path) -> None:
    """Not even before it is reaped; its file goes."""
    code = "import sys, pathlib, client.stack_state as s; s.hold(pathlib.Path(sys.argv[1])); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        stack_state.write(stack_record(pid=process.pid), tmp_path)
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
    held = stack_state.hold(tmp_path)
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


# Containers


@contextmanager
def gateway(answer: bytes) -> Iterator[dict[str, str]]:
    """Serve one answer where the gateway's would be; give the variables that lead there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == stack_state.STACK_PATH else 404)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    try:
        yield {"FACEQ_API_PORT": str(server.server_port)}
    finally:
        server.shutdown()
        server.server_close()


def said(stack: RunningStack, ready: bool = True) -> bytes:
    replicas = [{"function": "face-detection", "state": "idle"}]
    return json.dumps({"ready": ready, "stack": asdict(stack), "replicas": replicas}).encode()


def test_containers_are_found_by_what_their_gateway_says(tmp_path: Path) -> None:
    stack = replace(stack_record(), pid=0, runtime=stack_state.CONTAINERS)
    with gateway(said(stack)) as environ:
        found = stack_state.containers(environ)
        assert found is not None
        assert (found.ready, found.stack) == (True, stack)
        assert stack_state.reachable_stack({**environ, "FACEQ_STATE_DIR": str(tmp_path)}) == stack


def test_containers_that_start_are_not_reachable_yet(tmp_path: Path) -> None:
    with gateway(said(stack_record(), ready=False)) as environ:
        assert stack_state.containers(environ) is not None
        assert stack_state.reachable_stack({**environ, "FACEQ_STATE_DIR": str(tmp_path)}) is None


def test_processes_go_before_containers(tmp_path: Path, this: RunningStack) -> None:
    held = stack_state.hold(tmp_path)
    assert held is not None
    stack_state.write(this, tmp_path)
    with gateway(said(replace(this, runtime=stack_state.CONTAINERS))) as environ:
        assert stack_state.reachable_stack({**environ, "FACEQ_STATE_DIR": str(tmp_path)}) == this
    os.close(held)


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"null", b'{"ready": true}', b'{"ready": true, "stack": {}}'])
def test_another_program_on_the_port_is_no_stack(answer: bytes) -> None:
    with gateway(answer) as environ:
        assert stack_state.containers(environ) is None


def test_nobody_on_the_port_is_no_stack() -> None:
    assert stack_state.containers({"FACEQ_API_PORT": "1"}) is None
