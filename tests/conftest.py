"""What all tests share."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the functional tests run against either of the two ways to run the service."""
    parser.addoption(
        "--target", choices=("processes", "containers"), default="processes", help="what the functional tests start"
    )
