"""The fixture that the tests of the runtimes share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.runtime_drivers import DRIVERS, Running


@pytest.fixture(params=DRIVERS)
async def running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    """Return a way to start runtimes of each driver; they are stopped after the test."""
    running = Running(request.param, tmp_path)
    yield running
    await running.stop()
