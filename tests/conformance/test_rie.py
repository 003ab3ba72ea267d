"""What only the RIE driver promises: its replicas may come, go and die, and none gets two requests at the same time."""

import asyncio
import base64
import dataclasses
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from local.free_ports import free_ports
from local.runtimes.function_runtime import FunctionInitError, Invocation, TooManyRequests
from local.runtimes.limits import MAX_RESPONSE_BYTES
from local.runtimes.replica_pool import Find, ReplicaTiming
from local.runtimes.rie import RieRuntime, by_name
from local.runtimes.rie_request import Address
from template.model import Function
from tests.conformance.runtime_drivers import NAME, ROOT, HeldRequests, call, failure, result, sample
from tests.polling import until
from tests.rie_replicas import QUICK_TIMING, Replicas, RestartingProcess, RieWithReplicas, is_alive, is_listening

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RIE is a Linux program")


class RieRuns:
    """The drivers and replicas that one test started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._started: list[RieWithReplicas | Replicas] = []

    async def start(
        self, *functions: Function, task_root: Path = ROOT, timing: ReplicaTiming = QUICK_TIMING
    ) -> RieWithReplicas:
        """Start a driver and the replicas of these functions, and wait until all replicas are idle."""
        runtime = RieWithReplicas(list(functions), task_root=task_root, logs=self.logs, environment={}, timing=timing)
        self._started.append(runtime)
        await runtime.start()
        await until(lambda: all_idle(runtime, sum(function.reserved_concurrency or 1 for function in functions)))
        return runtime

    def start_replicas(self, *functions: Function, client: str = "local.runtimes.rie_client") -> Replicas:
        """Start replicas without a driver."""
        replicas = Replicas(functions, task_root=ROOT, logs=self.logs, environment={}, client=client)
        self._started.append(replicas)
        replicas.start()
        return replicas

    async def stop(self) -> None:
        for started in self._started:
            await started.stop()


@pytest.fixture
async def rie(tmp_path: Path) -> AsyncIterator[RieRuns]:
    """Return a way to start replicas under RIE; they are stopped after the test."""
    rie = RieRuns(tmp_path)
    yield rie
    await rie.stop()


def driver(find: Find, wait_ready_seconds: float = 20, function: Function | None = None) -> RieRuntime:
    """Return a driver, not started yet, of replicas that `find` finds."""
    return RieRuntime(
        [function or sample()],
        find=find,
        wait_ready_seconds=wait_ready_seconds,
        notify=lambda message: None,
        timing=QUICK_TIMING,
    )


def all_idle(runtime: RieWithReplicas, number: int) -> bool:
    replicas = [replica for replicas in runtime.driver.replicas().values() for replica in replicas]
    return [replica.state for replica in replicas] == ["idle"] * number


def states(runtime: RieWithReplicas) -> list[str]:
    return [replica.state for replica in runtime.replicas(NAME)]


def is_stopped(pid: int) -> bool:
    """Return whether every thread of the process is stopped; a signal does not reach all of them immediately."""
    return all("\nState:\tT" in (thread / "status").read_text() for thread in Path(f"/proc/{pid}/task").iterdir())


def error(invocation: Invocation) -> str:
    return str(failure(invocation)["errorMessage"])


async def post(process: RestartingProcess, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Send a request directly to RIE, as curl would."""
    address = f"http://127.0.0.1:{process.address[1]}/2015-03-31/functions/function/invocations"
    async with aiohttp.ClientSession() as http, http.post(address, data=body, headers=headers) as response:
        return await response.read()


def recorded_requests(record: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


# Which replica gets a request


async def test_all_replicas_are_used_in_turn(rie: RieRuns) -> None:
    runtime = await rie.start(sample(concurrency=3))
    assert runtime.concurrency(NAME) == 3
    record = rie.folder / "record"
    for number in range(9):
        await call(runtime, do="record", file=str(record), seconds=0, n=number)
    pids = [row["pid"] for row in recorded_requests(record)]
    assert len(set(pids[:3])) == 3
    assert pids[:3] == pids[3:6] == pids[6:9]
    assert [replica.answered for replica in runtime.replicas(NAME)] == [3, 3, 3]


async def test_50_parallel_requests_with_cancelled_callers_never_share_a_replica(rie: RieRuns) -> None:
    """A second request in flight would end RIE."""
    runtime = await rie.start(sample(concurrency=3))
    before = {process.pid for process in runtime.containers.by_function[NAME]}
    record = rie.folder / "record"
    tasks = [
        asyncio.create_task(call(runtime, do="record", file=str(record), seconds=0.01, n=number))
        for number in range(50)
    ]  # fmt: skip
    await until(lambda: record.exists() and len(recorded_requests(record)) >= 5)
    for task in tasks[::7]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: len(recorded_requests(record)) == 50)
    for pid in {row["pid"] for row in recorded_requests(record)}:
        requests = sorted((row for row in recorded_requests(record) if row["pid"] == pid), key=lambda row: row["began"])
        assert all(first["ended"] <= second["began"] for first, second in itertools.pairwise(requests))
    assert {process.pid for process in runtime.containers.by_function[NAME]} == before, "no RIE has ended"


async def test_requests_are_throttled_when_all_replicas_are_busy(rie: RieRuns) -> None:
    runtime = await rie.start(sample(concurrency=2))
    held = HeldRequests(runtime, rie.folder)
    requests = await held.send(2)
    assert states(runtime) == ["busy", "busy"]
    with pytest.raises(TooManyRequests):
        await call(runtime, wait_seconds=0.1)
    held.release()
    assert len({result(await request) for request in requests}) == 2


async def test_a_replica_is_not_used_before_its_init_has_ended(rie: RieRuns) -> None:
    """GIVEN a ready replica, WHEN another one starts whose init takes long, THEN all requests go to the first."""
    go = rie.folder / "go"
    (rie.folder / "slow.py").write_text(
        "import os, time, pathlib\n"
        f"first, go = pathlib.Path({str(rie.folder / 'first')!r}), pathlib.Path({str(go)!r})\n"
        "if first.exists():\n    while not go.exists(): time.sleep(0.01)\n"
        "first.touch()\n"
        "def handler(event, context): return os.getpid()"
    )
    runtime = await rie.start(sample(handler="slow.handler"), task_root=rie.folder)
    runtime.containers.add(NAME)
    await until(lambda: states(runtime).count("starting") == 1)
    assert len({result(await call(runtime)) for _ in range(6)}) == 1
    go.touch()
    await until(lambda: all_idle(runtime, 2))
    assert len({result(await call(runtime)) for _ in range(6)}) == 2


async def test_added_replicas_are_used_and_removed_replicas_are_dropped(rie: RieRuns) -> None:
    runtime = await rie.start(sample())
    added = runtime.containers.add(NAME)
    await until(lambda: all_idle(runtime, 2))
    assert runtime.concurrency(NAME) == 2
    await runtime.containers.remove(NAME, added)
    await until(lambda: all_idle(runtime, 1))
    assert result(await call(runtime)) == {}
    assert any(message.endswith("is gone") for message in runtime.messages)


async def test_a_busy_replica_whose_address_is_gone_still_answers_its_request(rie: RieRuns) -> None:
    runtime = await rie.start(sample())
    held = HeldRequests(runtime, rie.folder)
    (request,) = await held.send()
    runtime.containers.hide(NAME)
    added = runtime.containers.add(NAME)
    await until(lambda: states(runtime).count("idle") == 1)
    held.release()
    result(await request)
    await until(lambda: [replica.address for replica in runtime.replicas(NAME)] == [added.address])


# Death


async def test_a_replica_that_dies_during_a_request_is_an_exit_error_and_is_used_again_after_its_restart(
    rie: RieRuns,
) -> None:
    runtime = await rie.start(sample(timeout_seconds=60))
    began = rie.folder / "began"
    task = asyncio.create_task(call(runtime, do="wait in C", began=str(began)))
    await until(lambda: began.exists() and began.read_text())
    runtime.containers.by_function[NAME][0].kill()
    invocation = await asyncio.wait_for(task, 5)
    assert error(invocation) == (
        f"RequestId: {invocation.request_id} Error: Runtime exited with error: signal: killed"
    )  # fmt: skip
    assert result(await call(runtime)) == {}


async def test_an_idle_replica_that_dies_costs_no_request(rie: RieRuns) -> None:
    """GIVEN three replicas, WHEN they die and restart one after the other, THEN no request fails or waits for them."""
    runtime = await rie.start(sample(concurrency=3))
    for process in runtime.containers.by_function[NAME]:
        process.kill()
        for _ in range(6):
            assert result(await call(runtime, wait_seconds=5)) == {}
        await until(lambda: all_idle(runtime, 3))
    assert any("has ended" in message for message in runtime.messages)


async def test_a_replica_that_hangs_is_a_timeout_and_is_used_again_when_it_continues(rie: RieRuns) -> None:
    timing = dataclasses.replace(QUICK_TIMING, margin_seconds=0.3)
    runtime = await rie.start(sample(timeout_seconds=1), timing=timing)
    process = runtime.containers.by_function[NAME][0]
    os.kill(process.pid, signal.SIGSTOP)
    try:
        await until(lambda: is_stopped(process.pid))
        invocation = await call(runtime)
        assert error(invocation) == f"RequestId: {invocation.request_id} Error: Task timed out after 1.00 seconds"
        assert states(runtime) == ["busy"]
        with pytest.raises(TooManyRequests):
            await call(runtime, wait_seconds=0.1)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert result(await call(runtime)) == {}
    assert runtime.containers.by_function[NAME][0].pid == process.pid, "no second request has ended it"


async def test_a_replica_whose_idle_function_died_works_again_after_one_error(rie: RieRuns) -> None:
    """RIE reports the death only with its next answer."""
    runtime = await rie.start(sample())
    (function,) = runtime.containers.by_function[NAME][0].functions()
    os.kill(function, signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(function) or not is_alive(psutil.Process(function)))
    assert error(await call(runtime)).endswith("Runtime exited with error: signal: killed")
    assert result(await call(runtime)) == {}


async def test_the_init_after_a_timeout_takes_no_time_from_the_next_request(rie: RieRuns) -> None:
    """GIVEN an init of most of the timeout, WHEN the function was killed, THEN the next request has its full time."""
    (rie.folder / "slow.py").write_text(
        "import time\ntime.sleep(0.8)\n"
        "def handler(event, context):\n    time.sleep(event['seconds'])\n    return 'done'"
    )
    runtime = await rie.start(sample(handler="slow.handler", timeout_seconds=1), task_root=rie.folder)
    assert "Task timed out" in error(await call(runtime, seconds=10))
    assert result(await call(runtime, seconds=0.4)) == "done"


async def test_a_new_driver_can_use_a_replica_that_is_busy_with_the_request_of_an_old_one(rie: RieRuns) -> None:
    """The first driver leaves a request in flight. The second one's warm-up ends that RIE, which then restarts."""
    containers = rie.start_replicas(sample(timeout_seconds=60))
    began = rie.folder / "began"
    first, second = (driver(containers.find, function=sample(timeout_seconds=60)) for _ in range(2))
    await first.start()
    task = asyncio.create_task(call(first, do="wait in C", began=str(began)))
    await until(began.exists)
    await first.stop()
    await task
    await second.start()
    assert result(await call(second)) == {}
    await second.stop()


async def test_the_last_lines_of_a_function_that_dies_are_in_the_containers_log(rie: RieRuns) -> None:
    (rie.folder / "dies.py").write_text(
        "import os\ndef handler(event, context):\n    print('my last line')\n    os._exit(1)"
    )
    runtime = await rie.start(sample(handler="dies.handler"), task_root=rie.folder)
    for _ in range(5):
        assert "exit status 1" in error(await call(runtime))
    await until(lambda: (rie.logs / f"{NAME}.log").read_text().count("my last line") == 5)


# Start


async def test_a_replica_of_another_function_is_not_used(rie: RieRuns) -> None:
    """An address may pass to another container between two look-ups."""
    containers = rie.start_replicas(sample(name="other"))
    (process,) = containers.by_function["other"]
    await until(lambda: is_listening(process.address))
    await post(process, b"{}")  # its init is over, so it answers a warm-up immediately

    async def find(function: str) -> set[Address]:
        return {process.address}

    with pytest.raises(FunctionInitError, match="another function runs there"):
        await driver(find, wait_ready_seconds=0.5).start()


async def test_a_container_with_plain_awslambdaric_is_not_used_and_the_reason_is_reported(rie: RieRuns) -> None:
    containers = rie.start_replicas(sample(), client="awslambdaric")
    runtime = driver(containers.find)
    with pytest.raises(FunctionInitError, match=re.escape("does not run local.runtimes.rie_client")):
        await runtime.start()


async def test_a_function_without_containers_is_an_error_with_the_name_that_was_looked_up() -> None:
    async def nothing(function: str) -> set[Address]:
        return set()

    runtime = driver(nothing, wait_ready_seconds=0.1)
    with pytest.raises(FunctionInitError, match=r"no container of the name sample was found within 0\.1 s"):
        await runtime.start()


async def test_a_container_that_takes_no_connections_is_an_error_with_its_address() -> None:
    (port,) = free_ports(1)

    async def find(function: str) -> set[Address]:
        return {("127.0.0.1", port)}

    runtime = driver(find, wait_ready_seconds=0.2)
    with pytest.raises(FunctionInitError, match=f"127.0.0.1:{port} is not ready after 0.2 s"):
        await runtime.start()


async def test_the_start_waits_for_a_replica_that_starts_late(rie: RieRuns) -> None:
    containers = Replicas([sample()], task_root=ROOT, logs=rie.logs, environment={})
    runtime = driver(containers.find)
    starting = asyncio.create_task(runtime.start())
    await asyncio.sleep(0)
    containers.start()
    try:
        await starting
        assert result(await call(runtime)) == {}
    finally:
        await runtime.stop()
        await containers.stop()


async def test_replicas_are_looked_up_by_name() -> None:
    assert ("127.0.0.1", 8080) in await by_name("localhost")
    assert await by_name("x" * 64) == ()


# What RIE hides


async def test_a_result_that_looks_like_an_error_is_a_success(rie: RieRuns) -> None:
    (rie.folder / "bare.py").write_text(
        "import json\ndef handler(event, context): return event if isinstance(event, dict) else event.encode()"
    )
    runtime = await rie.start(sample())
    bare = await rie.start(sample(handler="bare.handler"), task_root=rie.folder)
    values: list[object] = [
        "Task timed out after 1.00 seconds",
        {"errorType": "Runtime.ExitError", "errorMessage": "RequestId: x Error: Runtime exited"},
        {"errorMessage": "", "errorType": "ValueError", "requestId": "", "stackTrace": []},
    ]
    for value in values:
        assert result(await call(runtime, do="echo", value=value)) == {"do": "echo", "value": value}
        invocation = await bare.invoke(NAME, json.dumps(value).encode(), 5)
        assert invocation.function_error is None, value
        assert invocation.payload == (value.encode() if isinstance(value, str) else json.dumps(value).encode())


async def test_results_near_the_limit_come_back_complete(rie: RieRuns) -> None:
    (rie.folder / "sized.py").write_text("def handler(event, context): return b'1' * event")
    runtime = await rie.start(sample(handler="sized.handler"), task_root=rie.folder)
    for room in [0, 10, 44, 45, 46, 300, 6000]:
        invocation = await runtime.invoke(NAME, str(MAX_RESPONSE_BYTES - room).encode(), 5)
        assert invocation.function_error is None, room
        assert invocation.payload == b"1" * (MAX_RESPONSE_BYTES - room), room


async def test_an_error_report_too_large_for_rie_is_an_error(rie: RieRuns) -> None:
    runtime = await rie.start(sample())
    invocation = await call(runtime, do="fail", message="x" * (MAX_RESPONSE_BYTES - 300))
    assert "exceeded maximum allowed payload size" in error(invocation)


async def test_a_request_without_a_driver_and_its_answer_are_not_changed(rie: RieRuns) -> None:
    process = rie.start_replicas(sample()).by_function[NAME][0]
    await until(lambda: is_listening(process.address))
    assert await post(process, b'{"a":1}') == b'{"a": 1}'
    own = base64.b64encode(json.dumps({"custom": {"faceq": 1}}).encode()).decode()
    seen = json.loads(await post(process, b'{"do":"context"}', {"X-Amz-Client-Context": own}))
    assert seen["custom"] == {"faceq": 1}
    report = json.loads(await post(process, b'{"do":"fail","message":"m"}'))
    assert report["errorType"] == "CustomError"


async def test_the_tail_has_the_lines_of_c_code_and_of_child_processes(rie: RieRuns) -> None:
    (rie.folder / "low.py").write_text(
        "import os\ndef handler(event, context):\n    os.write(1, b'low\\n')\n    os.system('echo from a child >&2')"
    )
    runtime = await rie.start(sample(handler="low.handler"), task_root=rie.folder)
    invocation = await call(runtime)
    assert invocation.log_tail.decode().splitlines() == [
        f"START RequestId: {invocation.request_id} Version: $LATEST",
        "low",
        "from a child",
        f"END RequestId: {invocation.request_id}",
    ]
    assert "low\nfrom a child\n" in (rie.logs / f"{NAME}.log").read_text()


# The end


async def test_stop_gives_up_running_requests_within_a_second(rie: RieRuns) -> None:
    runtime = await rie.start(sample(timeout_seconds=60))
    began = rie.folder / "began"
    busy = asyncio.create_task(call(runtime, do="wait in C", began=str(began)))
    await until(began.exists)
    await asyncio.wait_for(runtime.driver.stop(), 1)
    assert "signal: killed" in error(await busy)
    with pytest.raises(TooManyRequests):
        await call(runtime)
