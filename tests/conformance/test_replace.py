"""What `EmbeddedRuntime.replace` promises: requests get changed code without failing."""

import asyncio

import pytest

from local.runtimes.embedded import EmbeddedRuntime
from local.runtimes.function_runtime import FunctionInitError, TooManyRequests
from template.model import Function
from tests.conformance.runtime_drivers import (
    CLIENTS,
    NAME,
    Driver,
    HeldRequests,
    Running,
    alive,
    call,
    children,
    embedded,
    failure,
    result,
    sample,
)
from tests.polling import until

#: The other driver runs containers, whose code is their image's.
pytestmark = pytest.mark.parametrize("running", CLIENTS, indirect=True)

HANDLER = """
import os, time
from pathlib import Path
def handler(event, context):
    if "began" in event:
        Path(event["began"]).write_text("")
        while not Path(event["until"]).exists():
            time.sleep(0.005)
    return {answer!r}
"""


def write_function(running: Running, answer: str, preamble: str = "") -> None:
    """Write the function's code: it returns `answer`."""
    (running.folder / "changing.py").write_text(preamble + HANDLER.format(answer=answer))


def changing(concurrency: int = 1) -> Function:
    # Python's cache of compiled code takes a file of the same second and size for unchanged.
    return sample(handler="changing.handler", concurrency=concurrency, environment={"PYTHONDONTWRITEBYTECODE": "1"})


async def started(running: Running, *functions: Function, driver: Driver | None = None) -> EmbeddedRuntime:
    runtime = await running.start(*functions, task_root=running.folder, driver=driver)
    assert isinstance(runtime, EmbeddedRuntime)
    return runtime


async def test_the_next_answer_comes_from_changed_code_and_the_idle_process_ends(running: Running) -> None:
    write_function(running, "old")
    runtime = await started(running, changing())
    assert result(await call(runtime)) == "old"
    before = children()
    write_function(running, "new")
    await runtime.replace()
    assert result(await call(runtime, wait_seconds=0)) == "new"
    await until(lambda: not any(alive(process.pid) for process in before))
    assert len(children()) == 1


async def test_new_environments_of_every_function_are_ready_before_the_next_request(running: Running) -> None:
    write_function(running, "same")
    runtime = await started(running, changing(), sample("second", "changing.handler"))
    before = runtime.processes()
    await runtime.replace()
    after = runtime.processes()
    assert before.keys() == after.keys() == {NAME, "second"}
    for name in before:
        assert len(after[name]) == 1
        assert not set(before[name]) & set(after[name])
        assert all(alive(pid) for pid in after[name])


async def test_a_request_that_comes_during_the_replacement_gets_the_new_code(running: Running) -> None:
    write_function(running, "old")
    runtime = await started(running, changing())
    write_function(running, "new")
    replacing = asyncio.create_task(runtime.replace())
    await asyncio.sleep(0)
    assert result(await call(runtime)) == "new"
    await replacing


async def test_a_busy_environment_finishes_its_request_and_then_ends(running: Running) -> None:
    write_function(running, "old")
    runtime = await started(running, changing(concurrency=2))
    held = HeldRequests(runtime, running.folder)
    (request,) = await held.send()
    old = children()
    write_function(running, "new")
    await runtime.replace()
    assert not request.done()
    assert result(await call(runtime, wait_seconds=0)) == "new"
    held.release()
    assert result(await request) == "old"
    await until(lambda: not any(alive(process.pid) for process in old))
    assert result(await call(runtime)) == "new"


async def test_a_replacement_never_raises_the_limit_of_parallel_requests(running: Running) -> None:
    write_function(running, "old")
    runtime = await started(running, changing(concurrency=1))
    held = HeldRequests(runtime, running.folder)
    (request,) = await held.send()
    write_function(running, "new")
    await runtime.replace()
    with pytest.raises(TooManyRequests):
        await call(runtime, wait_seconds=0.05)
    waiting = asyncio.create_task(call(runtime))
    await asyncio.sleep(0)
    held.release()
    assert result(await request) == "old"
    assert result(await waiting) == "new"


async def test_waiting_requests_get_the_new_code_in_the_order_in_which_they_came(running: Running) -> None:
    write_function(running, "old")
    runtime = await started(running, changing(concurrency=1))
    held = HeldRequests(runtime, running.folder)
    (request,) = await held.send()
    served: list[int] = []

    async def ask(number: int) -> object:
        answer = result(await call(runtime))
        served.append(number)
        return answer

    waiting = [asyncio.create_task(ask(number)) for number in range(5)]
    await asyncio.sleep(0)
    write_function(running, "new")
    await runtime.replace()
    held.release()
    assert [result(await request), *await asyncio.gather(*waiting)] == ["old", *["new"] * 5]
    assert served == list(range(5))


async def test_no_request_fails_and_none_gets_code_older_than_the_newest_when_it_was_sent(running: Running) -> None:
    """GIVEN callers that send without a pause, WHEN the code changes repeatedly, THEN their answers only get newer."""
    write_function(running, "0")
    runtime = await started(running, changing(concurrency=2))
    newest = 0
    finished = asyncio.Event()

    async def ask() -> int:
        count = 0
        while not finished.is_set():
            newest_when_sent = newest
            assert int(str(result(await call(runtime)))) >= newest_when_sent
            count += 1
        return count

    callers = [asyncio.create_task(ask()) for _ in range(3)]
    for number in range(1, 6):
        write_function(running, str(number))
        await runtime.replace()
        newest = number
    finished.set()
    assert all(await asyncio.gather(*callers))
    assert result(await call(runtime)) == "5"


async def test_a_starting_environment_is_replaced_and_its_waiting_request_gets_the_new_code(
    running: Running,
) -> None:
    write_function(running, "fine")
    runtime = await started(running, changing(concurrency=3))
    held = HeldRequests(runtime, running.folder)
    (request,) = await held.send()
    write_function(running, "hangs", "import time; open('hangs', 'w').close(); time.sleep(100)")
    waiting = [asyncio.create_task(call(runtime, wait_seconds=0)) for _ in range(2)]
    await until((running.folder / "hangs").exists)
    write_function(running, "new")
    await runtime.replace()
    assert [result(await each) for each in waiting] == ["new"] * 2
    held.release()
    assert result(await request) == "fine"


async def test_a_second_replacement_does_not_wait_for_the_first(running: Running) -> None:
    write_function(running, "old")
    runtime = await started(running, changing())
    write_function(running, "hangs", "import time; open('hangs', 'w').close(); time.sleep(100)")
    first = asyncio.create_task(runtime.replace())
    await until((running.folder / "hangs").exists)
    write_function(running, "new")
    await runtime.replace()
    assert result(await call(runtime, wait_seconds=0)) == "new"
    await first


async def test_code_that_cannot_init_is_reported_and_the_next_change_replaces_it(running: Running) -> None:
    cases = [
        ("\ndef handler(:", "Runtime.UserCodeSyntaxError", "changing.py, line 2", "changing.py, line 2"),
        ("\n\nraise ValueError('[no] model')", "ValueError", "[no] model", "changing.py, line 3"),
        ("import does_not_exist", "Runtime.ImportModuleError", "No module named 'does_not_exist'", ""),
    ]
    write_function(running, "old")
    runtime = await started(running, changing())
    for source, error_type, message, place in cases:
        (running.folder / "changing.py").write_text(source)
        with pytest.raises(FunctionInitError) as caught:
            await runtime.replace()
        assert caught.value.function == NAME, source
        assert error_type in caught.value.reason, source
        assert message in caught.value.reason, source
        assert "\n" not in str(caught.value), source
        assert caught.value.place == place, source
        assert failure(await call(runtime))["errorType"] == error_type, source
        write_function(running, f"repaired after {error_type}")
        await runtime.replace()
        assert result(await call(runtime)) == f"repaired after {error_type}"
        assert len(children()) == 1, source


async def test_no_request_waits_because_code_that_is_replaced_has_failed(running: Running) -> None:
    """GIVEN code that failed, so that its next start is delayed, WHEN it is replaced, THEN the new code starts now."""
    delays: list[int] = []

    def delay(failures: int) -> float:
        delays.append(failures)
        return 0.0 if failures == 1 else 1000.0

    write_function(running, "old")
    runtime = await started(running, changing(), driver=embedded(CLIENTS[running.name], restart_delay=delay))
    (running.folder / "changing.py").write_text("raise ValueError")
    with pytest.raises(FunctionInitError):
        await runtime.replace()
    failure(await call(runtime))
    write_function(running, "new")
    waiting = asyncio.create_task(call(runtime))
    await until(lambda: delays == [1, 2])
    await runtime.replace()
    assert result(await waiting) == "new"
    assert len(children()) == 1


async def test_a_stop_during_a_replacement_leaves_no_process(running: Running) -> None:
    write_function(running, "old")
    runtime = await started(running, changing(concurrency=2))
    (request,) = await HeldRequests(runtime, running.folder).send()
    write_function(running, "hangs", "import time; open('hangs', 'w').close(); time.sleep(100)")
    replacing = asyncio.create_task(runtime.replace())
    await until((running.folder / "hangs").exists)
    assert len(children()) == 2
    await asyncio.wait_for(running.stop(), 2)
    assert children() == []
    with pytest.raises(FunctionInitError):
        await replacing
    assert failure(await request)["errorType"] == "Runtime.ExitError"
    await runtime.replace()
    assert children() == []


async def test_a_function_that_is_switched_off_stays_off_when_replaced(running: Running) -> None:
    write_function(running, "old")
    runtime = await started(running, changing(concurrency=0))
    await runtime.replace()
    assert children() == []
