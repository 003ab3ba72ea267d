"""How tests wait: for a condition, with a deadline, and never for a fixed time."""

import asyncio
import time
from collections.abc import Callable, Iterator

SECONDS = 20.0
_PAUSE_SECONDS = 0.01


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Return once `condition` is true; fail if it is not within `seconds`. Other asyncio tasks run meanwhile."""
    for _ in _attempts(condition, seconds):
        await asyncio.sleep(_PAUSE_SECONDS)


def eventually(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Return once `condition` is true; fail if it is not within `seconds`."""
    for _ in _attempts(condition, seconds):
        time.sleep(_PAUSE_SECONDS)


def _attempts(condition: Callable[[], object], seconds: float) -> Iterator[None]:
    """Yield as long as `condition` is false."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        yield
