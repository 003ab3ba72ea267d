"""How tests wait: on a condition, with a deadline, never for a time."""

import asyncio
import time
from collections.abc import Callable, Iterator

SECONDS = 20.0
_PAUSE_SECONDS = 0.01


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Return once `condition` holds; fail if it does not within `seconds`. Other tasks go on meanwhile."""
    for _ in _misses(condition, seconds):
        await asyncio.sleep(_PAUSE_SECONDS)


def eventually(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Return once `condition` holds; fail if it does not within `seconds`."""
    for _ in _misses(condition, seconds):
        time.sleep(_PAUSE_SECONDS)


def _misses(condition: Callable[[], object], seconds: float) -> Iterator[None]:
    """Yield as long as `condition` does not hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not become true in time"
        yield
