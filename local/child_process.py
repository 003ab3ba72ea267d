"""A process of our own that is restarted when it dies and ends when we end."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from adapters.private_files import make_private_file
from local.backoff import Backoff
from local.stack import ROOT, StackError

#: Pauses before restarts, seconds. The pause grows while the process keeps dying, and is short again after a process
#: that lived longer than the longest pause.
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
#: How long we wait for a process to be ready, seconds.
_READY_SECONDS: Final = 30.0


class SupervisedProcess:
    """A child process that reports when it is ready, ends when we end, and is restarted when it dies.

    Parameters
    ----------
    name : str
        What messages and log files call it.
    command : sequence of str
        Must print one line of JSON on standard output when the process is ready. The process must end on SIGTERM, and
        when its standard input is closed, which happens however we end.
    variables : Mapping of str to str
        Environment variables, added to our own environment.
    log : Path or None
        File to which its standard error is appended; None for our own standard error.
    notify : callable
        Takes a sentence for the user about a death or a failed restart.
    loss : str
        Sentence for the user that names what is lost when the process dies; empty if nothing is.
    stop_seconds : float
        How long `stop` waits after SIGTERM before it kills the process.

    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        log: Path | None,
        notify: Callable[[str], None],
        loss: str = "",
        stop_seconds: float = 2.0,
    ) -> None:
        self.name = name
        self._command = command
        self._variables = variables
        self._log = log
        self._notify = notify
        self._loss = loss
        self._stop_seconds = stop_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._supervision: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None while the process does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def write_line(self, line: str) -> None:
        """Write a line to the standard input of the process; do nothing while it does not run."""
        if self.pid is not None and self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(f"{line}\n".encode())

    async def start(self) -> None:
        """Start the process and wait until it is ready. Raises StackError with its last log line if it fails."""
        self._process = await self._launch()
        self._supervision = asyncio.create_task(self._supervise(self._process))

    async def stop(self) -> None:
        """End the process with SIGTERM, or with SIGKILL if it has not ended after a while."""
        if self._supervision is not None:
            self._supervision.cancel()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(self._stop_seconds):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _launch(self) -> asyncio.subprocess.Process:
        if self._log is not None:
            make_private_file(self._log)
        with contextlib.nullcontext() if self._log is None else self._log.open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **self._variables},
                start_new_session=True,  # Ctrl-C then reaches only the supervisor, which stops the parts in order
            )
        assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        try:
            async with asyncio.timeout(_READY_SECONDS):
                ready = await process.stdout.readline()
        except TimeoutError:
            ready = b""
        if not ready:
            if process.returncode is None:
                process.kill()
            await process.wait()
            raise StackError(f"The {self.name} did not start: {self._last_log_line()}")
        return process

    def _last_log_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log is not None else []
        return lines[-1] if lines else "it logged no reason."

    async def _supervise(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        pauses = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            began = loop.time()
            await process.wait()
            if loop.time() - began > _LONGEST_PAUSE_SECONDS:
                pauses.reset()
            cause = _cause_of_death(process.returncode)
            self._notify(f"The {self.name} died ({cause}) and is being restarted. {self._loss}".rstrip())
            while True:
                await asyncio.sleep(pauses.next())
                try:
                    process = await self._launch()
                    break
                except (StackError, OSError) as error:
                    self._notify(f"The {self.name} cannot be restarted yet: {error}")


def _cause_of_death(code: int | None) -> str:
    return f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
