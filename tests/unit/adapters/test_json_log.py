"""Log lines as programs read them."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from adapters import json_log

PACKAGES = ("pipeline", "template", "adapters", "client", "local", "deploy")


@pytest.fixture(autouse=True)
def _restored_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    yield
    for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers = handlers
        logger.propagate = propagate


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_logs_one_object_a_line(package: str) -> None:
    stream = io.StringIO()
    json_log.set_up("some-service", stream)
    logging.getLogger(f"{package}.module").warning("a frame of %d bytes", 7, extra={"request_id": "r-1"})
    (line,) = lines(stream)
    assert set(line) == {"level", "location", "message", "timestamp", "service", "request_id"}
    assert line["level"] == "WARNING"
    assert line["message"] == "a frame of 7 bytes"
    assert line["service"] == "some-service"
    assert line["request_id"] == "r-1"


def test_lines_begin_at_level_info() -> None:
    stream = io.StringIO()
    json_log.set_up("some-service", stream)
    logging.getLogger("local.module").debug("detail")
    logging.getLogger("local.module").info("event")
    assert [line["message"] for line in lines(stream)] == ["event"]


def test_an_exception_stays_on_its_line() -> None:
    stream = io.StringIO()
    json_log.set_up("some-service", stream)
    try:
        raise ValueError("a reason")
    except ValueError:
        logging.getLogger("pipeline.module").exception("it failed")
    (line,) = lines(stream)
    assert line["exception_name"] == "ValueError"
    assert "a reason" in str(line["exception"])
    assert {"exception", "exception_name", "stack_trace"} < set(line)


def test_a_later_call_replaces_the_earlier_one() -> None:
    first, second, third = io.StringIO(), io.StringIO(), io.StringIO()
    json_log.set_up("some-service", first)
    json_log.set_up("some-service", second)
    logging.getLogger("pipeline").info("again")
    json_log.set_up("another-service", third)
    logging.getLogger("pipeline").info("another")
    assert first.getvalue() == ""
    assert [line["service"] for line in lines(second)] == ["some-service"]
    assert [line["service"] for line in lines(third)] == ["another-service"]


def test_appended_keys_are_in_every_later_line() -> None:
    stream = io.StringIO()
    json_log.set_up("some-service", stream).append_keys(queue="a-req-queue")
    logging.getLogger("local").info("event")
    assert [line["queue"] for line in lines(stream)] == ["a-req-queue"]


def run(program: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)


def test_lines_go_to_standard_output_once_also_beside_a_handler_of_the_root_logger() -> None:
    """Lambda's runtime client has such a handler."""
    done = run(
        "import logging; from adapters import json_log; logging.basicConfig();"
        "json_log.set_up('a'); logging.getLogger('pipeline.module').warning('event')"
    )
    assert done.stderr == ""
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == ["event"]


def test_the_level_that_lambda_sets_counts() -> None:
    done = run(
        "import os; os.environ['AWS_LAMBDA_LOG_LEVEL'] = 'ERROR'\n"
        "import logging; from adapters import json_log\n"
        "json_log.set_up('a'); log = logging.getLogger('pipeline.module'); log.warning('no'); log.error('yes')"
    )
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == ["yes"]
