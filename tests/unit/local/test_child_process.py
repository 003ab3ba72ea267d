"""Supervised processes, with real children."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from local.child_process import SupervisedProcess
from local.stack import StackError
from tests.polling import until

#: Reports that it is ready, then echoes its standard input to its standard error until that is closed.
ECHO = "import sys; print('{}', flush=True); [print(line, end='', file=sys.stderr, flush=True) for line in sys.stdin]"

Supervise = Callable[..., SupervisedProcess]


@pytest.fixture
def messages() -> list[str]:
    """The sentences that the user gets."""
    return []


@pytest.fixture
async def supervise(tmp_path: Path, messages: list[str]) -> AsyncIterator[Supervise]:
    children: list[SupervisedProcess] = []

    def supervise(code: str, stop_seconds: float = 10) -> SupervisedProcess:
        command, log = [sys.executable, "-c", code], tmp_path / "log"
        child = SupervisedProcess("part", command, {"A": "1"}, log, messages.append, "Data is lost.", stop_seconds)
        children.append(child)
        return child

    yield supervise
    for child in children:
        await child.stop()
        assert child.pid is None


async def test_a_started_process_is_ready_and_reads_lines(supervise: Supervise, tmp_path: Path) -> None:
    child = supervise(ECHO)
    assert child.pid is None
    await child.start()
    child.write_line("hello")
    await until(lambda: (tmp_path / "log").read_text() == "hello\n")


async def test_a_process_gets_our_variables_and_its_own(supervise: Supervise, tmp_path: Path) -> None:
    print_variables = "import os, sys; print(os.environ['A'], os.environ['PATH'], file=sys.stderr); print('{}')"
    await supervise(print_variables).start()
    assert (tmp_path / "log").read_text() == f"1 {os.environ['PATH']}\n"


async def test_a_process_that_dies_is_restarted_and_the_user_learns_what_is_lost(
    supervise: Supervise, messages: list[str]
) -> None:
    child = supervise(ECHO)
    await child.start()
    first = child.pid
    assert first is not None
    os.kill(first, 9)
    await until(lambda: child.pid not in {None, first})
    assert messages == ["The part died (killed by signal 9) and is being restarted. Data is lost."]


async def test_a_process_that_cannot_start_is_reported_with_its_last_log_line(supervise: Supervise) -> None:
    child = supervise("import sys; sys.exit('Port 1 is taken.')")
    with pytest.raises(StackError, match=r"^The part did not start: Port 1 is taken\.$"):
        await child.start()


async def test_a_process_that_ignores_sigterm_is_killed(supervise: Supervise) -> None:
    child = supervise(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {ECHO}", stop_seconds=0.1)
    await child.start()
    await child.stop()
    assert child.pid is None
