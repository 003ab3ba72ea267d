"""What only the RIE driver promises: replicas that come, go, die and are never asked twice at once."""

import asyncio
import base64
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
from local.runtimes.rie import RieRuntime, by_name
from local.runtimes.rie_request import Address
from template.model import Function
from tests.polling import until
from tests.rie_replicas import ROOT, Process, Replicas, RieWithReplicas, is_alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RIE is a Linux program")

NAME = "sample"
HANDLER = "tests.conformance.sample_functions.handler"


def sample(replicas: int = 1, handler: str = HANDLER, timeout_seconds: int = 20, name: str = NAME) -> Function:
    return Function(name, name, handler, timeout_seconds, 512, {}, replicas)


class Running:
    """Started runtimes of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._started: list[RieWithReplicas] = []
        self._replicas: list[Replicas] = []

    async def start(self, *functions: Function, task_root: Path = ROOT) -> RieWithReplicas:
        runtime = RieWithReplicas(list(functions), task_root=task_root, logs=self.logs, environment={})
        self._started.append(runtime)
        await runtime.start()
        await until(lambda: all_idle(runtime, sum(function.reserved_concurrency or 1 for function in functions)))
        return runtime

    def containers(self, *functions: Function, client: str = "local.runtimes.rie_client") -> Replicas:
        """Start replicas without a driver."""
        replicas = Replicas(functions, task_root=ROOT, logs=self.logs, environment={}, client=client)
        self._replicas.append(replicas)
        replicas.start()
        return replicas

    async def stop(self) -> None:
        for started in (*self._started, *self._replicas):
            await started.stop()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(tmp_path)
    yield running
    await running.stop()


def all_idle(runtime: RieWithReplicas, number: int) -> bool:
    replicas = [replica for replicas in runtime.driver.replicas().values() for replica in replicas]
    return [replica.state for replica in replicas] == ["idle"] * number


async def call(runtime: RieWithReplicas | RieRuntime, wait_seconds: float = 20.0, **event: object) -> Invocation:
    return await runtime.invoke(NAME, json.dumps(event).encode(), wait_seconds)


def result(invocation: Invocation) -> object:
    assert invocation.function_error is None, invocation.payload
    return json.loads(invocation.payload)


def error(invocation: Invocation) -> str:
    assert invocation.function_error == "Unhandled"
    return str(json.loads(invocation.payload)["errorMessage"])


async def post(process: Process, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Do what a curl does."""
    address = f"http://127.0.0.1:{process.address[1]}/2015-03-31/functions/function/invocations"
    async with aiohttp.ClientSession() as http, http.post(address, data=body, headers=headers) as response:
        return await response.read()


def rows_of(record: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


# Which replica


async def test_all_replicas_are_used_in_turn(running: Running) -> None:
    runtime = await running.start(sample(3))
    assert runtime.concurrency(NAME) == 3
    record = running.folder / "record"
    for number in range(9):
        await call(runtime, do="record", file=str(record), seconds=0, n=number)
    pids = [row["pid"] for row in rows_of(record)]
    assert len(set(pids[:3])) == 3
    assert pids[:3] == pids[3:6] == pids[6:9]
    assert [replica.answered for replica in runtime.replicas(NAME)] == [3, 3, 3]


async def test_50_parallel_requests_with_cancelled_callers_never_meet_in_a_replica(running: Running) -> None:
    """RIE would not survive it: a second request in flight ends it."""
    runtime = await running.start(sample(3))
    before = {process.pid for process in runtime.containers.by_function[NAME]}
    record = running.folder / "record"
    tasks = [
        asyncio.create_task(call(runtime, do="record", file=str(record), seconds=0.01, n=number))
        for number in range(50)
    ]  # fmt: skip
    await until(lambda: record.exists() and len(rows_of(record)) >= 5)
    for task in tasks[::7]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: len(rows_of(record)) == 50)
    for pid in {row["pid"] for row in rows_of(record)}:
        mine = sorted((row for row in rows_of(record) if row["pid"] == pid), key=lambda row: row["began"])
        assert all(first["ended"] <= second["began"] for first, second in itertools.pairwise(mine))
    assert {process.pid for process in runtime.containers.by_function[NAME]} == before, "no RIE has ended"


async def test_when_all_are_busy_it_throttles(running: Running) -> None:
    runtime = await running.start(sample(2))
    go, began = running.folder / "go", [running.folder / f"began{number}" for number in range(2)]
    tasks = [asyncio.create_task(call(runtime, do="wait", began=str(file), until=str(go))) for file in began]
    await until(lambda: all(file.exists() for file in began))
    assert [replica.state for replica in runtime.replicas(NAME)] == ["busy", "busy"]
    with pytest.raises(TooManyRequests):
        await call(runtime, wait_seconds=0.1)
    go.touch()
    assert len({result(await task) for task in tasks}) == 2


async def test_a_replica_that_inits_is_not_used_until_it_has(running: Running) -> None:
    """GIVEN one ready replica, WHEN another one comes whose init takes long, THEN all requests go to the first."""
    go = running.folder / "go"
    (running.folder / "slow.py").write_text(
        "import os, time, pathlib\n"
        f"first, go = pathlib.Path({str(running.folder / 'first')!r}), pathlib.Path({str(go)!r})\n"
        "if first.exists():\n    while not go.exists(): time.sleep(0.01)\n"
        "first.touch()\n"
        "def handler(event, context): return os.getpid()"
    )
    runtime = await running.start(sample(1, "slow.handler"), task_root=running.folder)
    runtime.containers.add(NAME)
    await until(lambda: [replica.state for replica in runtime.replicas(NAME)].count("starting") == 1)
    assert len({result(await call(runtime)) for _ in range(6)}) == 1
    go.touch()
    await until(lambda: all_idle(runtime, 2))
    assert len({result(await call(runtime)) for _ in range(6)}) == 2


async def test_replicas_that_are_added_are_used_and_those_that_are_removed_are_forgotten(running: Running) -> None:
    runtime = await running.start(sample(1))
    added = runtime.containers.add(NAME)
    await until(lambda: all_idle(runtime, 2))
    assert runtime.concurrency(NAME) == 2
    await runtime.containers.remove(NAME, added)
    await until(lambda: all_idle(runtime, 1))
    assert result(await call(runtime)) == {}
    assert any(line.endswith("has gone") for line in runtime.messages)


async def test_a_busy_replica_that_is_not_found_any_more_answers_its_last_request(running: Running) -> None:
    runtime = await running.start(sample(1))
    go, began = running.folder / "go", running.folder / "began"
    task = asyncio.create_task(call(runtime, do="wait", began=str(began), until=str(go)))
    await until(began.exists)
    process = runtime.containers.by_function[NAME].pop()
    added = runtime.containers.add(NAME)
    await until(lambda: [replica.state for replica in runtime.replicas(NAME)].count("idle") == 1)
    go.touch()
    result(await task)
    await until(lambda: [replica.address for replica in runtime.replicas(NAME)] == [added.address])
    await process.stop()


# Death


async def test_a_replica_that_dies_in_flight_is_an_exit_error_and_is_used_again_when_it_is_back(
    running: Running,
) -> None:
    runtime = await running.start(sample(1, timeout_seconds=60))
    began = running.folder / "began"
    task = asyncio.create_task(call(runtime, do="wait in C", began=str(began)))
    await until(lambda: began.exists() and began.read_text())
    runtime.containers.by_function[NAME][0].kill()
    invocation = await asyncio.wait_for(task, 5)
    assert error(invocation) == (
        f"RequestId: {invocation.request_id} Error: Runtime exited with error: signal: killed"
    )  # fmt: skip
    assert result(await call(runtime)) == {}


async def test_a_replica_that_dies_idle_costs_no_request(running: Running) -> None:
    """GIVEN three replicas, WHEN one after the other dies and comes back, THEN no request fails or waits for it."""
    runtime = await running.start(sample(3))
    for process in runtime.containers.by_function[NAME]:
        process.kill()
        for _ in range(6):
            assert result(await call(runtime, wait_seconds=5)) == {}
        await until(lambda: all_idle(runtime, 3))
    assert any("has ended" in line for line in runtime.messages)


async def test_a_replica_that_hangs_is_a_timeout_and_is_used_again_when_it_goes_on(running: Running) -> None:
    runtime = await running.start(sample(1, timeout_seconds=1))
    process = runtime.containers.by_function[NAME][0]
    os.kill(process.pid, signal.SIGSTOP)
    try:
        invocation = await call(runtime)
        assert error(invocation) == f"RequestId: {invocation.request_id} Error: Task timed out after 1.00 seconds"
        assert [replica.state for replica in runtime.replicas(NAME)] == ["busy"]
        with pytest.raises(TooManyRequests):
            await call(runtime, wait_seconds=0.1)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert result(await call(runtime)) == {}
    assert runtime.containers.by_function[NAME][0].pid == process.pid, "no second request has ended it"


async def test_a_replica_whose_function_died_idle_is_well_after_one_error(running: Running) -> None:
    """RIE tells of it with its next answer only."""
    runtime = await running.start(sample())
    (function,) = runtime.containers.by_function[NAME][0].functions()
    os.kill(function, signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(function) or not is_alive(psutil.Process(function)))
    assert error(await call(runtime)).endswith("Runtime exited with error: signal: killed")
    assert result(await call(runtime)) == {}


async def test_after_a_timeout_the_next_request_does_not_pay_for_the_init(running: Running) -> None:
    """GIVEN a function that inits for most of its time, WHEN it was killed, THEN the next request has all its time."""
    (running.folder / "slow.py").write_text(
        "import time\ntime.sleep(1.7)\n"
        "def handler(event, context):\n    time.sleep(event['seconds'])\n    return 'done'"
    )
    runtime = await running.start(sample(1, "slow.handler", timeout_seconds=3), task_root=running.folder)
    assert "Task timed out" in error(await call(runtime, seconds=10))
    assert result(await call(runtime, seconds=1.7)) == "done"


async def test_a_driver_that_takes_over_while_a_replica_works_gets_it_in_the_end(running: Running) -> None:
    """The first driver is gone with a request in flight; the second one's warm-up ends that RIE, which comes back."""
    containers = running.containers(sample(1, timeout_seconds=60))
    began = running.folder / "began"
    first, second = (
        RieRuntime(
            [sample(1, timeout_seconds=60)], find=containers.find, wait_ready_seconds=20, notify=lambda message: None
        )
        for _ in range(2)
    )
    await first.start()
    task = asyncio.create_task(call(first, do="wait in C", began=str(began)))
    await until(began.exists)
    await first.stop()
    await task
    await second.start()
    assert result(await call(second)) == {}
    await second.stop()


async def test_the_last_words_of_a_function_that_dies_are_in_the_containers_log(running: Running) -> None:
    (running.folder / "dies.py").write_text(
        "import os\ndef handler(event, context):\n    print('my last words')\n    os._exit(1)"
    )
    runtime = await running.start(sample(1, "dies.handler"), task_root=running.folder)
    for _ in range(5):
        assert "exit status 1" in error(await call(runtime))
    await until(lambda: (running.logs / f"{NAME}.log").read_text().count("my last words") == 5)


# Start


async def test_a_replica_of_another_function_is_not_used(running: Running) -> None:
    """An address may become another container's between two looks."""
    containers = running.containers(sample(name="other"))
    addresses = {containers.by_function["other"][0].address}

    async def find(function: str) -> set[Address]:
        return addresses

    runtime = RieRuntime([sample()], find=find, wait_ready_seconds=2, notify=lambda message: None)
    with pytest.raises(FunctionInitError, match="another function's"):
        await runtime.start()


async def test_a_container_with_the_plain_client_is_not_used_and_it_says_why(running: Running) -> None:
    containers = running.containers(sample(), client="awslambdaric")
    runtime = RieRuntime([sample()], find=containers.find, wait_ready_seconds=20, notify=lambda message: None)
    with pytest.raises(FunctionInitError, match=re.escape("does not run local.runtimes.rie_client")):
        await runtime.start()


async def test_a_function_without_containers_says_what_was_looked_for() -> None:
    async def nothing(function: str) -> set[Address]:
        return set()

    runtime = RieRuntime([sample()], find=nothing, wait_ready_seconds=0.1, notify=lambda message: None)
    with pytest.raises(FunctionInitError, match=r"no container of the name sample was found within 0\.1 s"):
        await runtime.start()


async def test_a_container_that_takes_no_connections_says_so() -> None:
    (port,) = free_ports(1)

    async def find(function: str) -> set[Address]:
        return {("127.0.0.1", port)}

    runtime = RieRuntime([sample()], find=find, wait_ready_seconds=0.2, notify=lambda message: None)
    with pytest.raises(FunctionInitError, match=f"127.0.0.1:{port} is not ready after 0.2 s"):
        await runtime.start()


async def test_a_replica_that_comes_late_is_waited_for(running: Running) -> None:
    containers = Replicas([sample()], task_root=ROOT, logs=running.logs, environment={})
    runtime = RieRuntime([sample()], find=containers.find, wait_ready_seconds=20, notify=lambda message: None)
    starting = asyncio.create_task(runtime.start())
    await asyncio.sleep(0)
    containers.start()
    try:
        await starting
        assert result(await call(runtime)) == {}
    finally:
        await runtime.stop()
        await containers.stop()


async def test_names_are_looked_up_in_the_network() -> None:
    assert ("127.0.0.1", 8080) in await by_name("localhost")
    assert await by_name("x" * 64) == ()


# What RIE hides


@pytest.mark.parametrize(
    "value",
    [
        "Task timed out after 1.00 seconds",
        {"errorType": "Runtime.ExitError", "errorMessage": "RequestId: x Error: Runtime exited"},
        {"errorMessage": "", "errorType": "ValueError", "requestId": "", "stackTrace": []},
    ],
)
async def test_a_result_that_looks_like_an_error_is_a_success(running: Running, value: object) -> None:
    runtime = await running.start(sample())
    assert result(await call(runtime, do="echo", value=value)) == {"do": "echo", "value": value}
    (running.folder / "bare.py").write_text(
        "import json\ndef handler(event, context): return event if isinstance(event, dict) else event.encode()"
    )
    bare = await running.start(sample(1, "bare.handler"), task_root=running.folder)
    invocation = await bare.invoke(NAME, json.dumps(value).encode(), 5)
    assert invocation.function_error is None
    assert invocation.payload == (value.encode() if isinstance(value, str) else json.dumps(value).encode())


@pytest.mark.parametrize("room", [0, 10, 44, 45, 46, 300, 6000])
async def test_results_near_the_limit_come_back_whole(running: Running, room: int) -> None:
    (running.folder / "sized.py").write_text("def handler(event, context): return b'1' * event")
    runtime = await running.start(sample(1, "sized.handler"), task_root=running.folder)
    invocation = await runtime.invoke(NAME, str(MAX_RESPONSE_BYTES - room).encode(), 5)
    assert invocation.function_error is None
    assert invocation.payload == b"1" * (MAX_RESPONSE_BYTES - room)


async def test_an_error_too_large_for_rie_is_an_error(running: Running) -> None:
    runtime = await running.start(sample())
    invocation = await call(runtime, do="fail", message="x" * (MAX_RESPONSE_BYTES - 300))
    assert "exceeded maximum allowed payload size" in error(invocation)


async def test_a_request_without_a_driver_goes_through_untouched(running: Running) -> None:
    process = running.containers(sample()).by_function[NAME][0]
    assert await rie_is_up(process)
    assert await post(process, b'{"a":1}') == b'{"a": 1}'
    own = base64.b64encode(json.dumps({"custom": {"faceq": 1}}).encode()).decode()
    seen = json.loads(await post(process, b'{"do":"context"}', {"X-Amz-Client-Context": own}))
    assert seen["custom"] == {"faceq": 1}
    report = json.loads(await post(process, b'{"do":"fail","message":"m"}'))
    assert report["errorType"] == "CustomError"


async def rie_is_up(process: Process) -> bool:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection(*process.address)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return True
    return False


async def test_lines_of_c_code_and_of_children_are_in_the_tail(running: Running) -> None:
    (running.folder / "low.py").write_text(
        "import os\ndef handler(event, context):\n    os.write(1, b'low\\n')\n    os.system('echo from a child >&2')"
    )
    runtime = await running.start(sample(1, "low.handler"), task_root=running.folder)
    invocation = await call(runtime)
    assert invocation.log_tail.decode().splitlines() == [
        f"START RequestId: {invocation.request_id} Version: $LATEST",
        "low",
        "from a child",
        f"END RequestId: {invocation.request_id}",
    ]
    assert "low\nfrom a child\n" in (running.logs / f"{NAME}.log").read_text()


# The end


async def test_stop_gives_up_what_runs_within_a_second(running: Running) -> None:
    runtime = await running.start(sample(1, timeout_seconds=60))
    began = running.folder / "began"
    busy = asyncio.create_task(call(runtime, do="wait in C", began=str(began)))
    await until(began.exists)
    await asyncio.wait_for(runtime.driver.stop(), 1)
    assert "signal: killed" in error(await busy)
    with pytest.raises(TooManyRequests):
        await call(runtime)
