"""The record, the lock and the gateway by which a running stack is found, with real processes."""

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

from adapters.settings import Paths
from client import stack_state
from client.stack_connections import stack_on_this_machine
from client.stack_state import FILE, RunningStack, process_stack
from pipeline.errors import BadInput
from tests.builders import stack_record
from tests.polling import eventually


@pytest.fixture
def this() -> RunningStack:
    """A stack whose supervisor is this process."""
    return stack_record()


def test_a_stack_that_runs_is_found_until_it_stops(tmp_path: Path, this: RunningStack) -> None:
    folder = tmp_path / "new" / "folder"
    assert process_stack(folder) is None
    lock = stack_state.acquire_lock(folder)
    assert lock is not None
    assert process_stack(folder) is None  # still starting
    stack_state.write_record(this, folder)
    assert process_stack(folder) == this
    stack_state.write_record(replace(this, model="vggface2"), folder)
    found = process_stack(folder)
    assert found is not None
    assert found.model == "vggface2"
    stack_state.remove_record(folder)
    stack_state.remove_record(folder)
    assert process_stack(folder) is None
    lock.release()


def test_only_one_of_two_starting_stacks_gets_the_lock(tmp_path: Path) -> None:
    first = stack_state.acquire_lock(tmp_path)
    assert first is not None
    assert stack_state.acquire_lock(tmp_path) is None
    first.release()
    second = stack_state.acquire_lock(tmp_path)
    assert second is not None
    second.release()


def test_another_process_finds_the_same_stack(tmp_path: Path, this: RunningStack) -> None:
    lock = stack_state.acquire_lock(tmp_path)
    assert lock is not None
    stack_state.write_record(this, tmp_path)
    code = "from client.stack_state import process_stack; print(process_stack().pid)"
    output = subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "FACEQ_STATE_DIR": str(tmp_path)})
    assert int(output) == os.getpid()
    lock.release()


def test_a_killed_supervisor_runs_no_stack(tmp_path: Path) -> None:
    """Even before its parent has reaped it. Its record stays, because looking writes nothing."""
    code = """
import sys, pathlib, client.stack_state
client.stack_state.acquire_lock(pathlib.Path(sys.argv[1]))
print(flush=True)
input()
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        stack_state.write_record(stack_record(pid=process.pid), tmp_path)
        assert process_stack(tmp_path) == stack_record(pid=process.pid)
        process.kill()
        eventually(lambda: process_stack(tmp_path) is None)
    assert (tmp_path / FILE).exists()
    assert process_stack(tmp_path) is None


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
def test_an_unreadable_record_counts_as_no_stack(tmp_path: Path, content: bytes) -> None:
    """Whether a stack holds the lock or not. Looking does not change it."""
    (tmp_path / FILE).write_bytes(content)
    lock = stack_state.acquire_lock(tmp_path)
    assert lock is not None
    assert process_stack(tmp_path) is None
    lock.release()
    assert process_stack(tmp_path) is None
    assert (tmp_path / FILE).read_bytes() == content


def test_stacks_of_other_names_are_found_and_named(tmp_path: Path) -> None:
    environ = {"FACEQ_STATE_DIR": str(tmp_path), "FACEQ_API_PORT": "1"}
    assert (stack_state.running_stacks(environ), stack_state.others_running(environ)) == ([], "")
    locks = []
    for name in ("two", "one"):
        folder = Paths.from_environment({**environ, "FACEQ_NAME": name}).state
        locks.append(stack_state.acquire_lock(folder))
        stack_state.write_record(stack_record(name=name), folder)
    assert [stack.name for stack in stack_state.running_stacks(environ)] == ["one", "two"]
    found = stack_state.local_stack({**environ, "FACEQ_NAME": "one"})
    assert found is not None
    assert found.name == "one"
    with pytest.raises(BadInput, match=r"No stack is running\. .* --name one, --name two\."):
        stack_on_this_machine(environ)
    with pytest.raises(BadInput, match=r"No stack named three is running\. .*: faceq up --name three\. Other stacks"):
        stack_on_this_machine({**environ, "FACEQ_NAME": "three"})
    for lock in locks:
        assert lock is not None
        lock.release()
    assert stack_state.running_stacks(environ) == []


def test_a_stack_with_a_name_is_never_one_of_containers(tmp_path: Path) -> None:
    with gateway(description(stack_record())) as environ:
        named = {**environ, "FACEQ_STATE_DIR": str(tmp_path), "FACEQ_NAME": "one"}
        assert stack_state.local_stack(named) is None


def test_the_exports_are_the_variables_that_aws_clients_read(this: RunningStack) -> None:
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
    """Serve one answer in place of the gateway's; yield the variables that point there."""

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


def description(stack: RunningStack, ready: bool = True) -> bytes:
    replicas = [{"function": "face-detection", "state": "idle"}]
    return json.dumps({"ready": ready, "stack": asdict(stack), "replicas": replicas}).encode()


def test_containers_are_found_through_their_gateway(tmp_path: Path) -> None:
    stack = replace(stack_record(), pid=0, runtime=stack_state.CONTAINERS)
    with gateway(description(stack)) as environ:
        containers = stack_state.container_stack(environ)
        assert containers is not None
        assert (containers.ready, containers.stack) == (True, stack)
        assert stack_state.local_stack({**environ, "FACEQ_STATE_DIR": str(tmp_path)}) == stack


def test_starting_containers_are_no_running_stack_yet(tmp_path: Path) -> None:
    with gateway(description(stack_record(), ready=False)) as environ:
        assert stack_state.container_stack(environ) is not None
        assert stack_state.local_stack({**environ, "FACEQ_STATE_DIR": str(tmp_path)}) is None


def test_processes_take_precedence_over_containers(tmp_path: Path, this: RunningStack) -> None:
    lock = stack_state.acquire_lock(tmp_path)
    assert lock is not None
    stack_state.write_record(this, tmp_path)
    with gateway(description(replace(this, runtime=stack_state.CONTAINERS))) as environ:
        assert stack_state.local_stack({**environ, "FACEQ_STATE_DIR": str(tmp_path)}) == this
    lock.release()


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"null", b'{"ready": true}', b'{"ready": true, "stack": {}}'])
def test_another_program_on_the_gateways_port_is_no_stack(answer: bytes) -> None:
    with gateway(answer) as environ:
        assert stack_state.container_stack(environ) is None


def test_a_closed_gateway_port_is_no_stack() -> None:
    assert stack_state.container_stack({"FACEQ_API_PORT": "1"}) is None
    assert stack_state.container_stack({"FACEQ_API_PORT": "0"}) is None
