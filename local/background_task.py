"""Ending an asyncio task."""

import asyncio
import contextlib


async def cancel(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
