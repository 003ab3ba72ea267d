"""What a failure of the platform looks like to a caller, in one line, and where it was in the function's code."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.runtimes.environment_pool import restart_delay
from local.runtimes.platform_failure import KILLED, PlatformFailure, timed_out

ROOT = Path("/functions")


def report(**fields: object) -> PlatformFailure:
    return PlatformFailure("Runtime.ExitError", "exit status 1", json.dumps(fields).encode())


def test_a_failure_without_a_report_has_the_payload_that_aws_sends() -> None:
    assert json.loads(timed_out(3).payload("id-1")) == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": "RequestId: id-1 Error: Task timed out after 3.00 seconds",
    }
    assert timed_out(3).is_timeout
    assert not KILLED.is_timeout


def test_the_report_of_the_process_is_the_payload_and_the_reason() -> None:
    failure = report(errorType="ValueError", errorMessage="no\n model")
    assert failure.payload("id-1") == failure.report
    assert failure.reason() == "ValueError: no model"


@pytest.mark.parametrize(
    ("trace", "place"),
    [
        (['  File "/functions/a.py", line 3, in handler\n', '  File "/functions/b/c.py", line 7\n'], "b/c.py, line 7"),
        (['  File "/functions/a.py", line 3\n', '  File "/usr/lib/python3.11/json.py", line 7\n'], "a.py, line 3"),
        (['  File "/functions/.venv/lib/site-packages/x.py", line 7\n'], ""),
        (['  File "/functions/broken.py" Line 2\n    def handler(:'], "broken.py, line 2"),
        ([], ""),
        ("text", ""),
        (None, ""),
    ],
)
def test_the_place_is_the_last_line_of_the_functions_own_code(trace: object, place: str) -> None:
    assert report(errorType="ValueError", errorMessage="", stackTrace=trace).place(ROOT) == place


@given(st.binary() | st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
    lambda value: json.dumps(value).encode()
))  # fmt: skip
def test_a_report_of_any_content_gives_a_reason_in_one_line_and_no_error(content: bytes) -> None:
    failure = PlatformFailure("Runtime.ExitError", "exit status 1", content)
    assert "\n" not in failure.reason()
    assert failure.place(ROOT) == ""
    assert failure.payload("id-1")


def test_the_delays_before_restarts_double_up_to_5_seconds() -> None:
    delays = [restart_delay(failures) for failures in range(1, 9)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert restart_delay(10_000) == 5.0
