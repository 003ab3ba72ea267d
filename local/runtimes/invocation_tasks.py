"""Invocations as tasks of their own: a function runs to its end even if its caller is cancelled."""

import asyncio
from collections.abc import Coroutine

from local.runtimes.function_runtime import Invocation


class InvocationTasks:
    """The invocations that a runtime is running."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Invocation]] = set()

    async def run(self, invocation: Coroutine[None, None, Invocation]) -> Invocation:
        """Run the invocation to its end and return its outcome. If the caller is cancelled, the task continues."""
        task = asyncio.create_task(invocation)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    async def wait(self) -> None:
        """Wait until all running invocations have ended."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _finished(self, task: "asyncio.Task[Invocation]") -> None:
        self._running.discard(task)
        retrieve_exception(task)


def retrieve_exception(task: "asyncio.Task[Invocation] | asyncio.Task[None]") -> None:
    """Keep asyncio from reporting the task's exception as never retrieved: the caller may have been cancelled."""
    if not task.cancelled():
        task.exception()
