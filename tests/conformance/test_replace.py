"""What `EmbeddedRuntime.replace` promises: changed code is taken into use and no request notices more than that."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from local.runtimes.embedded import EmbeddedRuntime
from local.runtimes.environment_pool import restart_delay
from local.runtimes.function_runtime import FunctionInitError, FunctionRuntime, TooManyRequests
from template.model import Function
from tests.conformance.test_runtimes import (
    NAME,
    Running,
    alive,
    call,
    children,
    failure,
    result,
    running,
    sample,
)
from tests.polling import until

__all__ = ["running"]  # a fixture

#: Other drivers run containers, whose code is their image's.
pytestmark = pytest.mark.parametrize("running", ["awslambdaric", "our client"], indirect=True)

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


def answers(running: Running, answer: str, preamble: str = "") -> None:
    """Make the function one that answers so."""
    (running.folder / "changing.py").write_text(preamble + HANDLER.format(answer=answer))


def changing(concurrency: int = 1) -> Function:
    # Python's own cache would take a file of the same second and size for the same.
    return sample(handler="changing.handler", concurrency=concurrency, environment={"PYTHONDONTWRITEBYTECODE": "1"})


async def started(
    running: Running, *functions: Function, restart_delay: Callable[[int], float] = restart_delay
) -> EmbeddedRuntime:
    runtime = await running.start(*functions, task_root=running.folder, restart_delay=restart_delay)
    assert isinstance(runtime, EmbeddedRuntime)
    return runtime


class Busy:
    """Requests that their function holds until they may go on."""

    def __init__(self, running: Running, runtime: FunctionRuntime) -> None:
        self._folder = running.folder
        self._runtime = runtime
        self._go = self._folder / "go"
        self._began = 0

    async def one(self) -> "asyncio.Task[object]":
        began = self._folder / f"began{self._began}"
        self._began += 1
        task: asyncio.Task[object] = asyncio.create_task(self._ask(began))
        await until(began.exists)
        return task

    def go_on(self) -> None:
        self._go.touch()

    async def _ask(self, began: Path) -> object:
        return result(await call(self._runtime, began=str(began), until=str(self._go)))


async def test_a_change_is_in_the_next_answer_and_what_was_idle_is_gone(running: Running) -> None:
    answers(running, "old")
    runtime = await started(running, changing())
    assert result(await call(runtime)) == "old"
    before = children()
    answers(running, "new")
    await runtime.replace()
    assert result(await call(runtime, wait_seconds=0)) == "new"
    await until(lambda: not any(alive(process.pid) for process in before))
    assert len(children()) == 1


async def test_every_function_is_replaced_in_advance(running: Running) -> None:
    answers(running, "same")
    runtime = await started(running, changing(), sample("second", "changing.handler"))
    before = runtime.processes()
    await runtime.replace()
    after = runtime.processes()
    assert before.keys() == after.keys() == {NAME, "second"}
    for name in before:
        assert len(after[name]) == 1
        assert not set(before[name]) & set(after[name])
        assert all(alive(pid) for pid in after[name])


async def test_a_request_that_comes_after_the_call_gets_the_new_code_even_before_it_returns(running: Running) -> None:
    answers(running, "old")
    runtime = await started(running, changing())
    answers(running, "new")
    replacing = asyncio.create_task(runtime.replace())
    await asyncio.sleep(0)
    assert result(await call(runtime)) == "new"
    await replacing


async def test_a_busy_one_finishes_its_request_and_ends(running: Running) -> None:
    answers(running, "old")
    runtime = await started(running, changing(concurrency=2))
    busy = Busy(running, runtime)
    asked = await busy.one()
    old = children()
    answers(running, "new")
    await runtime.replace()
    assert not asked.done()
    assert result(await call(runtime, wait_seconds=0)) == "new"
    busy.go_on()
    assert await asked == "old"
    await until(lambda: not any(alive(process.pid) for process in old))
    assert result(await call(runtime)) == "new"


async def test_there_are_never_more_requests_at_once_than_the_function_may_have(running: Running) -> None:
    answers(running, "old")
    runtime = await started(running, changing(concurrency=1))
    busy = Busy(running, runtime)
    asked = await busy.one()
    answers(running, "new")
    await runtime.replace()
    with pytest.raises(TooManyRequests):
        await call(runtime, wait_seconds=0.05)
    waiting = asyncio.create_task(call(runtime))
    await asyncio.sleep(0)
    busy.go_on()
    assert await asked == "old"
    assert result(await waiting) == "new"


async def test_those_who_wait_are_served_in_their_order_by_the_new(running: Running) -> None:
    answers(running, "old")
    runtime = await started(running, changing(concurrency=1))
    busy = Busy(running, runtime)
    asked = await busy.one()
    served: list[int] = []

    async def ask(number: int) -> object:
        answer = result(await call(runtime))
        served.append(number)
        return answer

    waiting = [asyncio.create_task(ask(number)) for number in range(5)]
    await asyncio.sleep(0)
    answers(running, "new")
    await runtime.replace()
    busy.go_on()
    assert [await asked, *await asyncio.gather(*waiting)] == ["old", *["new"] * 5]
    assert served == list(range(5))


async def test_no_request_fails_and_none_is_answered_by_older_code_than_it_asked_for(running: Running) -> None:
    """GIVEN callers that ask without a pause, WHEN the code changes again and again, THEN they see it grow newer."""
    answers(running, "0")
    runtime = await started(running, changing(concurrency=2))
    newest = 0
    over = asyncio.Event()

    async def ask() -> int:
        count = 0
        while not over.is_set():
            least = newest
            assert int(str(result(await call(runtime)))) >= least
            count += 1
        return count

    callers = [asyncio.create_task(ask()) for _ in range(3)]
    for number in range(1, 6):
        answers(running, str(number))
        await runtime.replace()
        newest = number
    over.set()
    assert all(await asyncio.gather(*callers))
    assert result(await call(runtime)) == "5"


async def test_one_that_is_still_starting_is_replaced_and_who_waits_for_it_is_served_by_the_new(
    running: Running,
) -> None:
    answers(running, "fine")
    runtime = await started(running, changing(concurrency=3))
    busy = Busy(running, runtime)
    asked = await busy.one()
    answers(running, "hangs", "import time; open('hangs', 'w').close(); time.sleep(100)")
    waiting = [asyncio.create_task(call(runtime, wait_seconds=0)) for _ in range(2)]
    await until((running.folder / "hangs").exists)
    answers(running, "new")
    await runtime.replace()
    assert [result(await each) for each in waiting] == ["new"] * 2
    busy.go_on()
    assert await asked == "fine"


async def test_a_later_call_does_not_wait_for_the_one_before(running: Running) -> None:
    answers(running, "old")
    runtime = await started(running, changing())
    answers(running, "hangs", "import time; open('hangs', 'w').close(); time.sleep(100)")
    first = asyncio.create_task(runtime.replace())
    await until((running.folder / "hangs").exists)
    answers(running, "new")
    await runtime.replace()
    assert result(await call(runtime, wait_seconds=0)) == "new"
    await first


@pytest.mark.parametrize(
    ("source", "error_type", "message", "place"),
    [
        ("\ndef handler(:", "Runtime.UserCodeSyntaxError", "changing.py, line 2", "changing.py, line 2"),
        ("\n\nraise ValueError('[no] model')", "ValueError", "[no] model", "changing.py, line 3"),
        ("import does_not_exist", "Runtime.ImportModuleError", "No module named 'does_not_exist'", ""),
    ],
)
async def test_code_that_cannot_init_says_why_answers_so_and_is_mended_by_the_next(
    running: Running, source: str, error_type: str, message: str, place: str
) -> None:
    delayed: list[int] = []

    def delay(failures: int) -> float:
        delayed.append(failures)
        return 0.0 if failures == 1 else 1000.0

    answers(running, "old")
    runtime = await started(running, changing(), restart_delay=delay)
    (running.folder / "changing.py").write_text(source)
    with pytest.raises(FunctionInitError) as caught:
        await runtime.replace()
    assert caught.value.function == NAME
    assert error_type in caught.value.reason
    assert message in caught.value.reason
    assert "\n" not in str(caught.value)
    assert caught.value.place == place
    assert failure(await call(runtime))["errorType"] == error_type
    answers(running, "mended")
    waiting = asyncio.create_task(call(runtime))
    await until(lambda: delayed == [1, 2])
    await runtime.replace()
    assert result(await waiting) == "mended", "nobody waits because code that is gone has failed"
    assert len(children()) == 1


async def test_a_stop_in_the_middle_leaves_no_process(running: Running) -> None:
    answers(running, "old")
    runtime = await started(running, changing(concurrency=2))
    asked = asyncio.create_task(Busy(running, runtime).one())
    await until((running.folder / "began0").exists)
    answers(running, "hangs", "import time; open('hangs', 'w').close(); time.sleep(100)")
    replacing = asyncio.create_task(runtime.replace())
    await until((running.folder / "hangs").exists)
    assert len(children()) == 2
    await asyncio.wait_for(running.stop(), 2)
    assert children() == []
    with pytest.raises(FunctionInitError):
        await replacing
    with pytest.raises(AssertionError, match="ExitError"):
        await (await asked)
    await runtime.replace()
    assert children() == []


async def test_a_function_that_is_switched_off_stays_off(running: Running) -> None:
    answers(running, "old")
    runtime = await started(running, changing(concurrency=0))
    await runtime.replace()
    assert children() == []
