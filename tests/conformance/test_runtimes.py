"""What every `FunctionRuntime` promises. A new driver is one more entry in `DRIVERS`."""

import asyncio
import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from local.runtimes.embedded import EmbeddedRuntime
from local.runtimes.environment_pool import restart_delay
from local.runtimes.function_runtime import (
    FunctionInitError,
    FunctionNotFound,
    FunctionRuntime,
    Invocation,
    RequestTooLarge,
    TooManyRequests,
)
from local.runtimes.limits import MAX_REQUEST_BYTES
from template.model import Function
from tests.polling import until
from tests.rie_replicas import RieWithReplicas

ROOT = Path(__file__).parents[2]
NAME = "sample"


class Driver(Protocol):
    """Makes a runtime that is not started yet."""

    def __call__(
        self, functions: list[Function], *, task_root: Path, logs: Path, restart_delay: Callable[[int], float]
    ) -> FunctionRuntime: ...


def _embedded(client: str) -> Driver:
    def make(
        functions: list[Function], *, task_root: Path, logs: Path, restart_delay: Callable[[int], float]
    ) -> FunctionRuntime:
        return EmbeddedRuntime(
            functions, task_root=task_root, logs=logs, region="eu-west-1", account="123456789012",
            environment={"SHARED": "by all"}, client=client, restart_delay=restart_delay,
        )  # fmt: skip

    return make


def _rie(
    functions: list[Function], *, task_root: Path, logs: Path, restart_delay: Callable[[int], float]
) -> FunctionRuntime:
    return RieWithReplicas(functions, task_root=task_root, logs=logs, environment={"SHARED": "by all"})


DRIVERS: dict[str, Driver] = {
    "awslambdaric": _embedded("awslambdaric"),
    "our client": _embedded("local.runtimes.runtime_client"),
    "RIE": _rie,
}

#: What a driver cannot do, by the names that the tests give it, and why; docs/emulation.md says the same.
LACKS: dict[str, dict[str, str]] = {
    "RIE": {
        "environments on demand": "the replicas are as many as compose was told to start",
        "processes of its own": "the containers belong to compose, not to the driver",
        "replacement while idle": "a function's end is noticed with the next request only",
        "memory limit": "the memory limit is the container's",
        "reasons of exits in init": "a process that ends during its init is answered without a word of how",
        "identity": "the ARN and the log stream are fixed",
        "Lambda's environment": "the variables are the container's",
        "runtime API out of turn": "the Runtime API is RIE's own",
        "REPORT line": "RIE's REPORT line is not passed on: its durations and its memory are not measured ones",
        "log file": "the log is the container's",
    }
}


def sample(
    name: str = NAME,
    handler: str = "tests.conformance.sample_functions.handler",
    timeout_seconds: int = 20,
    memory_mb: int = 512,
    environment: dict[str, str] | None = None,
    concurrency: int | None = 1,
) -> Function:
    return Function(name, name, handler, timeout_seconds, memory_mb, environment or {}, concurrency)


class Running:
    """Started runtimes of one test and what they logged."""

    def __init__(self, driver: str, folder: Path) -> None:
        self._driver = DRIVERS[driver]
        self._lacks = LACKS.get(driver, {})
        self.folder = folder
        self.logs = folder / "logs"
        self._runtimes: list[FunctionRuntime] = []

    async def start(
        self,
        *functions: Function,
        task_root: Path = ROOT,
        restart_delay: Callable[[int], float] = restart_delay,
    ) -> FunctionRuntime:
        runtime = self._driver(list(functions), task_root=task_root, logs=self.logs, restart_delay=restart_delay)
        self._runtimes.append(runtime)
        await runtime.start()
        return runtime

    async def stop(self) -> None:
        for runtime in self._runtimes:
            await runtime.stop()

    def has(self, ability: str) -> bool:
        """Return whether the driver has what others lack."""
        return ability not in self._lacks

    def needs(self, ability: str) -> None:
        """Skip the test for a driver that cannot do what it is about."""
        if not self.has(ability):
            pytest.skip(self._lacks[ability])

    def log(self, name: str = NAME) -> str:
        return (self.logs / f"{name}.log").read_text()


@pytest.fixture(params=DRIVERS)
async def running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    if request.param == "awslambdaric" and importlib.util.find_spec("runtime_client") is None:
        pytest.skip("awslambdaric has wheels for Linux only")
    if request.param == "RIE" and sys.platform != "linux":
        pytest.skip("RIE is a Linux program")
    running = Running(request.param, tmp_path)
    yield running
    await running.stop()


def test_what_a_driver_lacks_is_written_down() -> None:
    page = (ROOT / "docs" / "emulation.md").read_text("utf-8")
    assert [reason for reasons in LACKS.values() for reason in reasons.values() if reason not in page] == []


async def call(runtime: FunctionRuntime, wait_seconds: float = 20.0, **event: object) -> Invocation:
    return await runtime.invoke(NAME, json.dumps(event).encode(), wait_seconds)


def result(invocation: Invocation) -> object:
    assert invocation.function_error is None, invocation.payload
    return json.loads(invocation.payload)


def failure(invocation: Invocation) -> dict[str, object]:
    assert invocation.function_error == "Unhandled"
    report = json.loads(invocation.payload)
    assert isinstance(report, dict)
    return report


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if alive(child.pid)]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# Results


@pytest.mark.parametrize(
    "event",
    [
        "{}", "null", "true", "3", "-0.5", "1e99", '"text"', '""', "[]", '[1,[2,{"a":null}]]',
        '"\\u00e9\\ud83d\\ude00\\u0000"',
    ],
)  # fmt: skip
async def test_a_handler_gets_the_event_and_its_result_comes_back(running: Running, event: str) -> None:
    runtime = await running.start(sample())
    invocation = await runtime.invoke(NAME, event.encode())
    assert result(invocation) == json.loads(event)


async def test_a_large_event_arrives_whole_and_one_over_the_limit_is_refused(running: Running) -> None:
    runtime = await running.start(sample())
    text = "x" * (MAX_REQUEST_BYTES - 100)
    assert result(await call(runtime, do="nothing", text=text)) == {"do": "nothing", "text": text}
    with pytest.raises(RequestTooLarge):
        await runtime.invoke(NAME, b'"' + b"x" * MAX_REQUEST_BYTES + b'"')
    assert result(await call(runtime)) == {}


async def test_an_unknown_function_is_not_found(running: Running) -> None:
    runtime = await running.start(sample())
    with pytest.raises(FunctionNotFound):
        await runtime.invoke("other", b"{}")
    with pytest.raises(FunctionNotFound):
        runtime.concurrency("other")
    assert runtime.concurrency(NAME) == 1


async def test_an_environment_is_used_again_and_keeps_its_state(running: Running) -> None:
    running.needs("environments on demand")
    runtime = await running.start(sample(concurrency=5))
    answers = [await call(runtime, do="context") for _ in range(20)]
    assert [json.loads(answer.payload)["calls"] for answer in answers] == list(range(1, 21))


async def test_bytes_are_passed_on_as_they_are(running: Running) -> None:
    runtime = await running.start(sample())
    assert result(await call(runtime, do="result", result="bytes")) == {"from": "bytes"}
    assert (await call(runtime, do="result", result="not utf-8")).payload == b"\xff\xfe\x00"


# Failures of the handler


async def test_an_exception_is_reported_with_its_type_message_and_place(running: Running) -> None:
    runtime = await running.start(sample())
    invocation = await call(runtime, do="fail", message="it was \u00e9 and \n two lines")
    report = failure(invocation)
    assert list(report) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert report["errorMessage"] == "it was \u00e9 and \n two lines"
    assert report["errorType"] == "CustomError"
    assert report["requestId"] == invocation.request_id
    trace = report["stackTrace"]
    assert isinstance(trace, list)
    assert "sample_functions.py" in trace[0]
    assert "raise CustomError" in trace[-1]
    assert result(await call(runtime, do="context"))["calls"] == 2, "the process lives on"  # type: ignore[index]


async def test_a_deep_stack_trace_comes_back(running: Running) -> None:
    runtime = await running.start(sample())
    assert failure(await call(runtime, do="fail deep"))["errorType"] == "CustomError"
    assert result(await call(runtime, do="context"))["calls"] == 2  # type: ignore[index]


@pytest.mark.parametrize("kind", ["set", "object"])
async def test_a_result_that_is_not_json_is_a_marshal_error(running: Running, kind: str) -> None:
    runtime = await running.start(sample())
    report = failure(await call(runtime, do="result", result=kind))
    assert report["errorType"] == "Runtime.MarshalError"
    assert str(report["errorMessage"]).startswith("Unable to marshal response: ")
    assert result(await call(runtime)) == {}


async def test_an_event_that_is_not_json_is_an_unmarshal_error(running: Running) -> None:
    runtime = await running.start(sample())
    report = failure(await runtime.invoke(NAME, b"{"))
    assert report["errorType"] == "Runtime.UnmarshalError"
    assert result(await call(runtime)) == {}


async def test_a_response_over_the_limit_is_an_error_that_says_its_size(running: Running) -> None:
    runtime = await running.start(sample())
    assert len((await call(runtime, do="result", result="largest")).payload) == 6_291_556
    report = failure(await call(runtime, do="result", result="large"))
    assert report == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size (7340034 bytes) exceeded maximum allowed payload size (6291556 bytes).",
    }
    assert result(await call(runtime)) == {}


# Init


@pytest.mark.parametrize(
    ("source", "handler", "error_type", "message"),
    [
        ("raise ValueError('no model here')", "broken.handler", "ValueError", "no model here"),
        ("import does_not_exist", "broken.handler", "Runtime.ImportModuleError", "No module named 'does_not_exist'"),
        ("def handler(:", "broken.handler", "Runtime.UserCodeSyntaxError", "invalid syntax"),
        ("", "broken.handler", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'broken'"),
        ("", "nothing.handler", "Runtime.ImportModuleError", "Unable to import module 'nothing'"),
        ("", "handler", "Runtime.MalformedHandlerName", "Bad handler 'handler'"),
        ("import os; os._exit(3)", "broken.handler", "Runtime.ExitError", "exit status 3"),
        ("import sys; sys.exit(0)", "broken.handler", "Runtime.ExitError", "Runtime exited without providing a reason"),
        ("import os; os.kill(os.getpid(), 9)", "broken.handler", "Runtime.ExitError", "signal: killed"),
    ],
)
async def test_a_function_that_cannot_init_says_why_and_leaves_no_process(
    running: Running, source: str, handler: str, error_type: str, message: str
) -> None:
    if "exit status" in message or "signal" in message:
        running.needs("reasons of exits in init")
    (running.folder / "broken.py").write_text(source)
    (running.folder / "fine.py").write_text("def handler(event, context): return event")
    with pytest.raises(FunctionInitError) as caught:
        await running.start(sample("fine", "fine.handler"), sample("broken", handler), task_root=running.folder)
    assert caught.value.function == "broken"
    assert message in caught.value.reason
    assert error_type in caught.value.reason or error_type == "Runtime.ExitError"
    assert "\n" not in str(caught.value)
    assert children() == []


async def test_an_environment_that_cannot_init_answers_with_its_error_and_is_tried_again(running: Running) -> None:
    """GIVEN a function that was fine, WHEN it dies and cannot init, THEN invocations say so, until it can."""
    module = running.folder / "changing.py"
    module.write_text("import os\ndef handler(event, context): os._exit(1) if event else None")
    runtime = await running.start(sample(handler="changing.handler"), task_root=running.folder)
    module.write_text("raise ValueError('now it is broken')")
    assert failure(await call(runtime, x=1))["errorType"] == "Runtime.ExitError"
    for _ in range(2):
        report = failure(await call(runtime))
        assert (report["errorType"], report["errorMessage"]) == ("ValueError", "now it is broken")
    module.write_text("def handler(event, context): return 'mended and longer than before'")
    await until_answered(runtime, "mended and longer than before")


async def until_answered(runtime: FunctionRuntime, expected: object) -> None:
    for _ in range(10):
        invocation = await call(runtime)
        if invocation.function_error is None:
            assert json.loads(invocation.payload) == expected
            return
    pytest.fail("it never answered")


async def test_functions_that_die_idle_are_replaced_ever_more_slowly(running: Running) -> None:
    running.needs("replacement while idle")
    (running.folder / "dies.py").write_text(
        "import os, threading\n"
        f"open({str(running.folder / 'starts')!r}, 'a').write('x')\n"
        "threading.Timer(0.02, os._exit, [1]).start()\n"
        "def handler(event, context): return event\n"
    )
    await running.start(sample(handler="dies.handler"), task_root=running.folder)
    starts = running.folder / "starts"
    await until(lambda: len(starts.read_text()) >= 3)
    began = time.monotonic()
    await until(lambda: len(starts.read_text()) >= 5)
    assert time.monotonic() - began > 0.4, "the waits double: 0.1, 0.2, 0.4 s"


# Time, memory, death


async def test_a_function_over_its_time_is_killed_and_replaced(running: Running) -> None:
    runtime = await running.start(sample(timeout_seconds=1))
    invocation = await call(runtime, do="wait in C", began=str(running.folder / "began"))
    assert failure(invocation) == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {invocation.request_id} Error: Task timed out after 1.00 seconds",
    }
    assert not alive(int((running.folder / "began").read_text()))
    assert result(await call(runtime, do="context"))["calls"] == 1  # type: ignore[index]
    line = f"{invocation.request_id} Task timed out after 1.00 seconds"
    assert line in invocation.log_tail.decode()
    assert line in running.log() or not running.has("log file")
    assert "Status: timeout" in invocation.log_tail.decode() or not running.has("REPORT line")


@pytest.mark.parametrize(
    ("event", "end"),
    [
        ({"do": "exit", "status": 3}, "Runtime exited with error: exit status 3"),
        ({"do": "exit", "status": 0}, "Runtime exited without providing a reason"),
        ({"do": "system exit", "status": 4}, "Runtime exited with error: exit status 4"),
        ({"do": "die", "signal": "SIGKILL"}, "Runtime exited with error: signal: killed"),
        ({"do": "die", "signal": "SIGTERM"}, "Runtime exited with error: signal: terminated"),
        ({"do": "segfault"}, "Runtime exited with error: signal: segmentation fault"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
async def test_a_process_that_ends_is_an_exit_error_and_is_replaced(
    running: Running, event: dict[str, object], end: str
) -> None:
    runtime = await running.start(sample())
    invocation = await runtime.invoke(NAME, json.dumps(event).encode())
    assert failure(invocation) == {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: {invocation.request_id} Error: {end}",
    }
    assert result(await call(runtime, do="context"))["calls"] == 1  # type: ignore[index]


async def test_kill_9_from_outside_is_answered_at_once(running: Running) -> None:
    runtime = await running.start(sample(timeout_seconds=60))
    began = running.folder / "began"
    task = asyncio.create_task(call(runtime, do="wait in C", began=str(began)))
    await until(lambda: began.exists() and began.read_text())
    os.kill(int(began.read_text()), signal.SIGKILL)
    invocation = await asyncio.wait_for(task, 5)
    assert "signal: killed" in str(failure(invocation)["errorMessage"])
    assert result(await call(runtime)) == {}


async def test_an_idle_process_that_is_killed_is_replaced_without_anyone_noticing(running: Running) -> None:
    running.needs("replacement while idle")
    runtime = await running.start(sample())
    before = children()
    assert len(before) == 1
    before[0].kill()
    await until(lambda: [child.pid for child in children()] not in ([], [before[0].pid]))
    assert result(await call(runtime)) == {}


async def test_what_a_killed_function_started_is_killed_too(running: Running) -> None:
    runtime = await running.start(sample(timeout_seconds=1))
    began = running.folder / "began"
    failure(await call(runtime, do="wait with a child", began=str(began)))
    await until(lambda: not alive(int(began.read_text())))


async def test_a_function_over_its_memory_is_killed_and_says_so(running: Running) -> None:
    running.needs("memory limit")
    runtime = await running.start(sample(memory_mb=128))
    invocation = await call(runtime, do="allocate", megabytes=300, hold_seconds=10)
    assert failure(invocation)["errorMessage"] == (
        f"RequestId: {invocation.request_id} Error: Runtime exited with error: signal: killed"
    )
    assert "Memory limit of 128 MB exceeded" in running.log()
    assert result(await call(runtime, do="allocate", megabytes=10)) == 10


# Concurrency


async def test_50_parallel_invocations_never_meet_in_an_environment(running: Running) -> None:
    runtime = await running.start(sample(concurrency=2))
    record = running.folder / "record"
    answers = await asyncio.gather(
        *(call(runtime, do="record", file=str(record), seconds=0.005, n=number) for number in range(50))
    )
    assert [result(answer) for answer in answers] == list(range(50))
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(rows) == 50
    by_process = {
        pid: sorted((row for row in rows if row["pid"] == pid), key=lambda row: row["began"])
        for pid in {row["pid"] for row in rows}
    }
    assert len(by_process) == 2
    for mine in by_process.values():
        assert all(first["ended"] <= second["began"] for first, second in itertools.pairwise(mine))


async def test_environments_are_added_on_demand_up_to_the_limit_and_then_it_throttles(running: Running) -> None:
    running.needs("environments on demand")
    runtime = await running.start(sample(concurrency=3))
    assert len(children()) == 1
    go = running.folder / "go"
    began = [running.folder / f"began{number}" for number in range(3)]
    tasks = [asyncio.create_task(call(runtime, do="wait", began=str(file), until=str(go))) for file in began]
    await until(lambda: all(file.exists() for file in began))
    with pytest.raises(TooManyRequests):
        await call(runtime, wait_seconds=0.1)
    go.touch()
    assert len({result(await task) for task in tasks}) == 3
    assert result(await call(runtime)) == {}


async def test_those_who_wait_are_served_in_their_order(running: Running) -> None:
    runtime = await running.start(sample())
    go, began = running.folder / "go", running.folder / "began"
    first = asyncio.create_task(call(runtime, do="wait", began=str(began), until=str(go)))
    await until(began.exists)
    record = running.folder / "record"
    waiting = []
    for number in range(10):
        waiting.append(asyncio.create_task(call(runtime, do="record", file=str(record), seconds=0, n=number)))
        await asyncio.sleep(0)
    go.touch()
    await asyncio.gather(first, *waiting)
    assert [json.loads(line)["n"] for line in record.read_text().splitlines()] == list(range(10))


async def test_a_function_without_concurrency_is_switched_off(running: Running) -> None:
    running.needs("environments on demand")
    runtime = await running.start(sample(concurrency=0))
    assert children() == []
    with pytest.raises(TooManyRequests):
        await call(runtime, wait_seconds=0.01)


async def test_an_invocation_goes_on_when_its_caller_goes(running: Running) -> None:
    runtime = await running.start(sample())
    go, began = running.folder / "go", running.folder / "began"
    task = asyncio.create_task(call(runtime, do="wait", began=str(began), until=str(go)))
    await until(began.exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.touch()
    assert result(await call(runtime, do="context"))["calls"] == 2  # type: ignore[index]


# What a handler sees


async def test_the_context_says_who_and_how_long(running: Running) -> None:
    runtime = await running.start(sample(timeout_seconds=9, memory_mb=256))
    first = await runtime.invoke(
        NAME, b'{"do":"context"}', client_context=b'{"custom":{"a":"\\u00e9"}}', trace_id="Root=1-2-3"
    )
    context = result(first)
    assert isinstance(context, dict)
    remaining = context.pop("remaining")
    assert 5000 < remaining <= 9000
    stream, group, arn = (context.pop(key) for key in ("log_stream_name", "log_group_name", "invoked_function_arn"))
    if running.has("identity"):
        assert stream.startswith(f"{NAME}/")
        assert group == f"/aws/lambda/{NAME}"
        assert arn == f"arn:aws:lambda:eu-west-1:123456789012:function:{NAME}"
    assert context == {
        "aws_request_id": first.request_id,
        "function_name": NAME,
        "function_version": "$LATEST",
        "memory_limit_in_mb": "256",
        "custom": {"a": "\u00e9"},
        "identity": None,
        "trace": "Root=1-2-3",
        "calls": 1,
    }
    second = result(await call(runtime, do="context"))
    assert isinstance(second, dict)
    assert second["custom"] is None
    assert second["aws_request_id"] != first.request_id
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0", second["trace"])


async def test_the_environment_is_what_lambda_gives_and_nothing_of_ours(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.needs("Lambda's environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the user's own")
    monkeypatch.setenv("SECRET_OF_THE_SHELL", "1")
    runtime = await running.start(sample(environment={"MINE": "1"}))
    seen = result(await call(runtime, do="environment"))
    assert isinstance(seen, dict)
    variables = seen["variables"]
    assert {"MINE": "1", "SHARED": "by all"}.items() <= variables.items()
    assert variables["_HANDLER"] == "tests.conformance.sample_functions.handler"
    assert variables["AWS_REGION"] == variables["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert variables["LAMBDA_TASK_ROOT"] == seen["directory"] == str(ROOT)
    assert variables["AWS_SECRET_ACCESS_KEY"] == variables["AWS_ACCESS_KEY_ID"] == "local"
    assert not {"SECRET_OF_THE_SHELL", "HOME", "USER", "VIRTUAL_ENV"} & variables.keys()
    assert os.path.isdir(variables["TMPDIR"])  # noqa: ASYNC240, PTH112
    assert seen["stdin"] == ""
    assert seen["session"] is True, "Ctrl-C in the terminal does not reach it"
    await running.stop()
    assert not os.path.exists(variables["TMPDIR"])  # noqa: ASYNC240, PTH110


async def test_calls_of_the_runtime_api_that_are_out_of_turn_are_refused(running: Running) -> None:
    running.needs("runtime API out of turn")
    runtime = await running.start(sample())
    assert result(await call(runtime, do="call the API")) == {
        "another's answer": [400, "InvalidRequestID"],
        "another's error": [400, "InvalidRequestID"],
        "next before the answer": [403, "InvalidStateTransition"],
        "init error after init": [403, "InvalidStateTransition"],
    }


# Logs


async def test_a_requests_lines_stand_between_its_start_and_its_end(running: Running) -> None:
    runtime = await running.start(sample())
    first = await call(runtime, do="print")
    second = await call(runtime)
    tail = first.log_tail.decode().splitlines()
    assert tail[0] == f"START RequestId: {first.request_id} Version: $LATEST"
    assert tail[1:3] == ["to stdout", "to stderr"]
    assert re.fullmatch(rf"\[WARNING\]\t\S+Z\t{first.request_id}\tto the log", tail[3])
    assert tail[4] == "\u00e9t\u00e9 without an end"
    assert tail[5] == f"END RequestId: {first.request_id}"
    if not running.has("REPORT line"):
        assert tail[6:] == []
        return
    assert re.fullmatch(
        rf"REPORT RequestId: {first.request_id}\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms\tMemory Size: 512 MB\t"
        r"Max Memory Used: \d+ MB\tInit Duration: [\d.]+ ms",
        tail[6],
    )
    assert "Init Duration" not in second.log_tail.decode()
    written = [line.split(" ", 3)[2:] for line in running.log().splitlines()]
    assert written == [[first.request_id, line] for line in tail] + [
        [second.request_id, line] for line in second.log_tail.decode().splitlines()
    ]


async def test_the_tail_is_the_last_4_kb_and_the_file_has_all(running: Running) -> None:
    runtime = await running.start(sample())
    invocation = await call(runtime, do="print much", lines=20_000)
    result(invocation)
    assert len(invocation.log_tail) == 4096
    last = "REPORT" if running.has("REPORT line") else "END"
    assert invocation.log_tail.decode().splitlines()[-1].startswith(last)
    assert len(re.findall(r"\bline \d+ x+$", running.log(), re.MULTILINE)) == 20_000


async def test_an_error_is_in_the_log(running: Running) -> None:
    runtime = await running.start(sample())
    invocation = await call(runtime, do="fail", message="seen in the log")
    lines = invocation.log_tail.decode()
    assert "[ERROR] CustomError: seen in the log\nTraceback (most recent call last):\n" in lines
    assert "sample_functions.py" in lines


# The end


async def test_stop_ends_busy_waiting_and_idle_ones_and_leaves_no_process(running: Running) -> None:
    runtime = await running.start(sample(), sample("second"))
    began = running.folder / "began"
    busy = asyncio.create_task(call(runtime, do="wait in C", began=str(began)))
    await until(began.exists)
    waiting = asyncio.create_task(call(runtime))
    await asyncio.sleep(0)
    pids = [child.pid for child in children()]
    assert len(pids) == 2 or not running.has("processes of its own")
    await asyncio.wait_for(running.stop(), 2)
    assert not any(alive(pid) for pid in pids)
    assert failure(await busy)["errorType"] == "Runtime.ExitError"
    with pytest.raises(TooManyRequests):
        await waiting
    with pytest.raises(TooManyRequests):
        await call(runtime)
    await running.stop()


async def test_stop_while_environments_start_leaves_no_process(running: Running) -> None:
    (running.folder / "slow.py").write_text("import time\ntime.sleep(30)\ndef handler(event, context): return event")
    started = asyncio.create_task(running.start(sample(handler="slow.handler"), task_root=running.folder))
    await until(children)
    await asyncio.wait_for(running.stop(), 2)
    with pytest.raises(FunctionInitError):
        await started
    assert children() == []


PARENT = """
import asyncio, json, sys
from pathlib import Path
from tests.conformance.test_runtimes import DRIVERS, NAME, ROOT, restart_delay, sample
async def main():
    folder = Path(sys.argv[2])
    runtime = DRIVERS[sys.argv[1]](
        [sample(timeout_seconds=600), sample("second")], task_root=ROOT, logs=folder, restart_delay=restart_delay
    )
    await runtime.start()
    await runtime.invoke(NAME, json.dumps({"do": "wait in C", "began": str(folder / "began")}).encode())
asyncio.run(main())
"""


async def test_when_the_supervisor_is_killed_its_processes_end_by_themselves(
    running: Running, request: pytest.FixtureRequest
) -> None:
    """One is in the middle of a request, one waits for its next."""
    running.needs("processes of its own")
    driver = request.node.callspec.params["running"]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, driver, str(running.folder)], cwd=ROOT)  # noqa: ASYNC220
    try:
        began = running.folder / "began"
        await until(lambda: began.exists() and began.read_text())
        pids = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
        assert len(pids) == 2
        assert int(began.read_text()) in pids
    finally:
        parent.kill()
        parent.wait()
    await until(lambda: not any(alive(pid) for pid in pids), 10)


async def test_a_runtime_whose_code_is_not_there_says_so_and_leaves_no_process(running: Running) -> None:
    running.needs("processes of its own")
    with pytest.raises(FunctionInitError, match="No such file or directory"):
        await running.start(sample(), task_root=running.folder / "not there")
    assert children() == []


async def test_a_start_that_is_cancelled_leaves_no_process_after_stop(running: Running) -> None:
    (running.folder / "slow.py").write_text("import time\ntime.sleep(30)\ndef handler(event, context): return event")
    started = asyncio.create_task(running.start(sample(handler="slow.handler"), task_root=running.folder))
    await until(children)
    started.cancel()
    with pytest.raises(asyncio.CancelledError):
        await started
    await asyncio.wait_for(running.stop(), 2)
    assert children() == []
