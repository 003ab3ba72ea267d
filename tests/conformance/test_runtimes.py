"""What every `FunctionRuntime` promises. To test a new runtime, add it to `DRIVERS` in `runtime_drivers.py`."""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from local.runtimes.function_runtime import (
    FunctionInitError,
    FunctionNotFound,
    FunctionRuntime,
    RequestTooLarge,
    TooManyRequests,
)
from local.runtimes.limits import MAX_REQUEST_BYTES
from tests.conformance.runtime_drivers import (
    CLIENTS,
    LACKS,
    NAME,
    ROOT,
    HeldRequests,
    Running,
    alive,
    call,
    calls,
    children,
    embedded,
    failure,
    result,
    sample,
)
from tests.polling import until


def test_the_documentation_names_everything_that_a_driver_lacks() -> None:
    page = (ROOT / "docs" / "emulation.md").read_text("utf-8")
    assert [reason for reasons in LACKS.values() for reason in reasons.values() if reason not in page] == []


# Results


async def test_a_handler_gets_the_event_and_its_result_comes_back(running: Running) -> None:
    runtime = await running.start(sample())
    for event in [
        "{}", "null", "true", "3", "-0.5", "1e99", '"text"', '""', "[]", '[1,[2,{"a":null}]]',
        '"\\u00e9\\ud83d\\ude00\\u0000"',
    ]:  # fmt: skip
        invocation = await runtime.invoke(NAME, event.encode())
        assert result(invocation) == json.loads(event), event


async def test_the_largest_event_arrives_complete_and_a_larger_one_is_refused(running: Running) -> None:
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


async def test_an_environment_is_reused_and_keeps_its_state(running: Running) -> None:
    running.needs("environments on demand")
    runtime = await running.start(sample(concurrency=5))
    assert [calls(await call(runtime, do="context")) for _ in range(20)] == list(range(1, 21))


async def test_a_result_of_bytes_is_passed_on_unchanged(running: Running) -> None:
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
    assert calls(await call(runtime, do="context")) == 2, "the process lives on"


async def test_an_error_with_a_deep_stack_trace_comes_back(running: Running) -> None:
    runtime = await running.start(sample())
    assert failure(await call(runtime, do="fail deep"))["errorType"] == "CustomError"
    assert calls(await call(runtime, do="context")) == 2


async def test_a_result_that_is_not_json_is_a_marshal_error(running: Running) -> None:
    runtime = await running.start(sample())
    for kind in ["set", "object"]:
        report = failure(await call(runtime, do="result", result=kind))
        assert report["errorType"] == "Runtime.MarshalError", kind
        assert str(report["errorMessage"]).startswith("Unable to marshal response: "), kind
        assert result(await call(runtime)) == {}, kind


async def test_an_event_that_is_not_json_is_an_unmarshal_error(running: Running) -> None:
    runtime = await running.start(sample())
    report = failure(await runtime.invoke(NAME, b"{"))
    assert report["errorType"] == "Runtime.UnmarshalError"
    assert result(await call(runtime)) == {}


async def test_a_response_over_the_limit_is_an_error_with_its_size(running: Running) -> None:
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
async def test_a_function_that_cannot_init_reports_why_and_leaves_no_process(
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


async def test_an_environment_that_cannot_init_answers_with_its_error_and_is_started_again(running: Running) -> None:
    """GIVEN a function that worked, WHEN it dies and cannot init, THEN invocations return its error until it can."""
    module = running.folder / "changing.py"
    module.write_text("import os\ndef handler(event, context): os._exit(1) if event else None")
    runtime = await running.start(sample(handler="changing.handler"), task_root=running.folder)
    module.write_text("raise ValueError('now it is broken')")
    assert failure(await call(runtime, x=1))["errorType"] == "Runtime.ExitError"
    for _ in range(2):
        report = failure(await call(runtime))
        assert (report["errorType"], report["errorMessage"]) == ("ValueError", "now it is broken")
    module.write_text("def handler(event, context): return 'repaired and longer than before'")
    await until_answered(runtime, "repaired and longer than before")


async def until_answered(runtime: FunctionRuntime, expected: object) -> None:
    for _ in range(10):
        invocation = await call(runtime)
        if invocation.function_error is None:
            assert json.loads(invocation.payload) == expected
            return
    pytest.fail("the function never answered")


async def test_a_function_that_dies_idle_again_and_again_is_started_after_longer_and_longer_delays(
    running: Running,
) -> None:
    running.needs("replacement while idle")
    starts = running.folder / "starts"
    (running.folder / "dies.py").write_text(
        "import os, threading\n"
        f"open({str(starts)!r}, 'a').write('x')\n"
        "threading.Timer(0.02, os._exit, [1]).start()\n"
        "def handler(event, context): return event\n"
    )
    failures_seen: list[int] = []

    def delay(failures: int) -> float:
        failures_seen.append(failures)
        return 0.1 * failures

    driver = embedded(CLIENTS[running.name], restart_delay=delay)
    await running.start(sample(handler="dies.handler"), task_root=running.folder, driver=driver)
    await until(lambda: len(starts.read_text()) >= 2)
    began = time.monotonic()
    await until(lambda: len(starts.read_text()) >= 4)
    assert time.monotonic() - began > 0.4, "it waited 0.2 s and 0.3 s"
    assert failures_seen[:3] == [1, 2, 3]


# Time, memory, death


async def test_a_function_over_its_timeout_is_killed_and_replaced(running: Running) -> None:
    runtime = await running.start(sample(timeout_seconds=1))
    invocation = await call(runtime, do="wait in C", began=str(running.folder / "began"))
    assert failure(invocation) == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {invocation.request_id} Error: Task timed out after 1.00 seconds",
    }
    assert not alive(int((running.folder / "began").read_text()))
    assert calls(await call(runtime, do="context")) == 1
    line = f"{invocation.request_id} Task timed out after 1.00 seconds"
    assert line in invocation.log_tail.decode()
    assert line in running.log() or not running.has("log file")
    assert "Status: timeout" in invocation.log_tail.decode() or not running.has("REPORT line")


async def test_a_process_that_ends_is_an_exit_error_and_is_replaced(running: Running) -> None:
    runtime = await running.start(sample())
    ends: list[tuple[dict[str, object], str]] = [
        ({"do": "exit", "status": 3}, "Runtime exited with error: exit status 3"),
        ({"do": "exit", "status": 0}, "Runtime exited without providing a reason"),
        ({"do": "system exit", "status": 4}, "Runtime exited with error: exit status 4"),
        ({"do": "die", "signal": "SIGKILL"}, "Runtime exited with error: signal: killed"),
        ({"do": "die", "signal": "SIGTERM"}, "Runtime exited with error: signal: terminated"),
        ({"do": "segfault"}, "Runtime exited with error: signal: segmentation fault"),
    ]
    for event, end in ends:
        invocation = await runtime.invoke(NAME, json.dumps(event).encode())
        assert failure(invocation) == {
            "errorType": "Runtime.ExitError",
            "errorMessage": f"RequestId: {invocation.request_id} Error: {end}",
        }, event
        assert calls(await call(runtime, do="context")) == 1, event


async def test_a_process_killed_from_outside_is_answered_immediately(running: Running) -> None:
    runtime = await running.start(sample(timeout_seconds=60))
    began = running.folder / "began"
    task = asyncio.create_task(call(runtime, do="wait in C", began=str(began)))
    await until(lambda: began.exists() and began.read_text())
    os.kill(int(began.read_text()), signal.SIGKILL)
    invocation = await asyncio.wait_for(task, 5)
    assert "signal: killed" in str(failure(invocation)["errorMessage"])
    assert result(await call(runtime)) == {}


async def test_an_idle_process_that_is_killed_is_replaced_and_costs_no_request(running: Running) -> None:
    running.needs("replacement while idle")
    runtime = await running.start(sample())
    before = children()
    assert len(before) == 1
    before[0].kill()
    await until(lambda: [child.pid for child in children()] not in ([], [before[0].pid]))
    assert result(await call(runtime)) == {}


async def test_processes_that_a_killed_function_started_are_killed_too(running: Running) -> None:
    runtime = await running.start(sample(timeout_seconds=60))
    began = running.folder / "began"
    task = asyncio.create_task(call(runtime, do="wait with a child", began=str(began)))
    await until(lambda: began.exists() and began.read_text())
    child = int(began.read_text())
    os.kill(psutil.Process(child).ppid(), signal.SIGKILL)
    failure(await task)
    await until(lambda: not alive(child))


async def test_a_function_over_its_memory_limit_is_killed_and_the_log_says_so(running: Running) -> None:
    running.needs("memory limit")
    runtime = await running.start(sample(memory_mb=128))
    invocation = await call(runtime, do="allocate", megabytes=300, hold_seconds=10)
    assert failure(invocation)["errorMessage"] == (
        f"RequestId: {invocation.request_id} Error: Runtime exited with error: signal: killed"
    )
    assert "Memory limit of 128 MB exceeded" in running.log()
    assert result(await call(runtime, do="allocate", megabytes=10)) == 10


# Concurrency


async def test_50_parallel_invocations_never_share_an_environment(running: Running) -> None:
    runtime = await running.start(sample(concurrency=2))
    # Both environments have started before the requests come, so that both take part.
    held = HeldRequests(runtime, running.folder)
    requests = await held.send(2)
    held.release()
    assert len({result(await request) for request in requests}) == 2
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
    for rows in by_process.values():
        assert all(first["ended"] <= second["began"] for first, second in itertools.pairwise(rows))


async def test_environments_start_on_demand_up_to_the_limit_and_further_requests_are_throttled(
    running: Running,
) -> None:
    running.needs("environments on demand")
    runtime = await running.start(sample(concurrency=3))
    assert len(children()) == 1
    held = HeldRequests(runtime, running.folder)
    requests = await held.send(3)
    with pytest.raises(TooManyRequests):
        await call(runtime, wait_seconds=0.1)
    held.release()
    assert len({result(await request) for request in requests}) == 3
    assert result(await call(runtime)) == {}


async def test_requests_that_wait_are_served_in_the_order_in_which_they_came(running: Running) -> None:
    runtime = await running.start(sample())
    held = HeldRequests(runtime, running.folder)
    (first,) = await held.send()
    record = running.folder / "record"
    waiting = []
    for number in range(10):
        waiting.append(asyncio.create_task(call(runtime, do="record", file=str(record), seconds=0, n=number)))
        await asyncio.sleep(0)
    held.release()
    await asyncio.gather(first, *waiting)
    assert [json.loads(line)["n"] for line in record.read_text().splitlines()] == list(range(10))


async def test_a_function_with_a_concurrency_of_0_is_switched_off(running: Running) -> None:
    running.needs("environments on demand")
    runtime = await running.start(sample(concurrency=0))
    assert children() == []
    with pytest.raises(TooManyRequests):
        await call(runtime, wait_seconds=0.01)


async def test_an_invocation_continues_when_its_caller_is_cancelled(running: Running) -> None:
    runtime = await running.start(sample())
    held = HeldRequests(runtime, running.folder)
    (request,) = await held.send()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    held.release()
    assert calls(await call(runtime, do="context")) == 2


# What a handler sees


async def test_the_context_identifies_the_request_and_gives_the_remaining_time(running: Running) -> None:
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


async def test_a_function_sees_the_variables_that_lambda_sets_and_none_of_the_users_shell(
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


async def test_the_runtime_api_refuses_calls_that_are_out_of_turn(running: Running) -> None:
    running.needs("runtime API out of turn")
    runtime = await running.start(sample())
    assert result(await call(runtime, do="call the API")) == {
        "another's answer": [400, "InvalidRequestID"],
        "another's error": [400, "InvalidRequestID"],
        "next before the answer": [403, "InvalidStateTransition"],
        "init error after init": [403, "InvalidStateTransition"],
    }


# Logs


async def test_the_lines_of_a_request_are_logged_between_its_start_and_end_lines(running: Running) -> None:
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


async def test_the_tail_is_the_last_4_kb_and_the_log_file_has_every_line(running: Running) -> None:
    runtime = await running.start(sample())
    invocation = await call(runtime, do="print much", lines=20_000)
    result(invocation)
    assert len(invocation.log_tail) == 4096
    last = "REPORT" if running.has("REPORT line") else "END"
    assert invocation.log_tail.decode().splitlines()[-1].startswith(last)
    assert len(re.findall(r"\bline \d+ x+$", running.log(), re.MULTILINE)) == 20_000


async def test_an_error_of_the_handler_is_logged_with_its_trace(running: Running) -> None:
    runtime = await running.start(sample())
    invocation = await call(runtime, do="fail", message="seen in the log")
    lines = invocation.log_tail.decode()
    assert "[ERROR] CustomError: seen in the log\nTraceback (most recent call last):\n" in lines
    assert "sample_functions.py" in lines


# The end


async def test_stop_ends_busy_and_idle_environments_refuses_waiting_requests_and_leaves_no_process(
    running: Running,
) -> None:
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
from local.runtimes.embedded import EmbeddedRuntime
from template.model import Function
HANDLER = "tests.conformance.sample_functions.handler"
async def main():
    root, folder = Path.cwd(), Path(sys.argv[2])
    functions = [Function(name, name, HANDLER, 600, 512, {}, 1) for name in ("sample", "second")]
    runtime = EmbeddedRuntime(
        functions, task_root=root, logs=folder, region="eu-west-1", account="123456789012", client=sys.argv[1]
    )
    await runtime.start()
    await runtime.invoke("sample", json.dumps({"do": "wait in C", "began": str(folder / "began")}).encode())
asyncio.run(main())
"""


async def test_the_processes_of_a_killed_supervisor_end_by_themselves(running: Running) -> None:
    """One of the two processes is busy with a request, the other one waits for its next."""
    running.needs("processes of its own")
    command = [sys.executable, "-c", PARENT, CLIENTS[running.name], str(running.folder)]
    parent = subprocess.Popen(command, cwd=ROOT)  # noqa: ASYNC220
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


async def test_a_missing_task_root_is_reported_and_leaves_no_process(running: Running) -> None:
    running.needs("processes of its own")
    with pytest.raises(FunctionInitError, match="No such file or directory"):
        await running.start(sample(), task_root=running.folder / "missing")
    assert children() == []


async def test_a_cancelled_start_leaves_no_process_after_stop(running: Running) -> None:
    (running.folder / "slow.py").write_text("import time\ntime.sleep(30)\ndef handler(event, context): return event")
    started = asyncio.create_task(running.start(sample(handler="slow.handler"), task_root=running.folder))
    await until(children)
    started.cancel()
    with pytest.raises(asyncio.CancelledError):
        await started
    await asyncio.wait_for(running.stop(), 2)
    assert children() == []
