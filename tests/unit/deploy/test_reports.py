"""Reading Lambda's REPORT lines, in all the forms that Lambda writes, and the advice that follows from them."""

import json

import pytest

from deploy.reports import Advice, Line, Report, Summary, reports, summaries

ID = "8f507cfc-xmpl-4697-b07a-ac58fc914c{:02d}"


def line(message: str, stream: str = "2026/11/25/[1]aaaa", at_ms: int = 0) -> Line:
    return Line(stream, at_ms, message)


def report(
    number: int = 0,
    duration: float = 200.0,
    memory: int = 1769,
    used: int = 900,
    init: float | None = None,
    tail: str = "",
    stream: str = "2026/11/25/[1]aaaa",
) -> Line:
    """Return a REPORT line: tabs between its fields, and a tab and a newline after the last one."""
    fields = [
        f"REPORT RequestId: {ID.format(number)}",
        f"Duration: {duration:.2f} ms",
        f"Billed Duration: {int(duration) + 1} ms",
        f"Memory Size: {memory} MB",
        f"Max Memory Used: {used} MB",
        *([f"Init Duration: {init:.2f} ms"] if init is not None else []),
        *([tail] if tail else []),
    ]
    return line("\t".join(fields) + "\t\n", stream)


def many(count: int, **fields: object) -> list[Report]:
    """Return calls that differ only in their ids."""
    return reports(report(number, **fields) for number in range(count))  # type: ignore[arg-type]


def test_a_report_line_is_read() -> None:
    (call,) = reports([report(7, duration=12.34, used=512, init=1234.56)])
    assert call == Report(ID.format(7), 12.34, 13.0, 1769, 512, 1234.56)


def test_a_report_line_with_an_x_ray_trace_is_read() -> None:
    traced = "\nXRAY TraceId: 1-5e34a614-10bdxmplf1fb44f07bc535a1\tSegmentId: 07f5xmpl2d1f6f85\tSampled: true"
    (call,) = reports([line(report().message.rstrip() + "\t" + traced)])
    assert (call.memory_mb, call.init_ms, call.status) == (1769, None, "success")


def test_a_report_record_of_json_logs_is_read() -> None:
    record = {
        "time": "2026-11-25T08:00:00.000Z",
        "type": "platform.report",
        "record": {
            "requestId": ID,
            "metrics": {
                "durationMs": 30000.0,
                "billedDurationMs": 30000,
                "memorySizeMB": 1769,
                "maxMemoryUsedMB": 611,
                "initDurationMs": 2100.5,
            },
            "status": "timeout",
        },
    }
    assert reports([line(json.dumps(record))]) == [Report(ID, 30000.0, 30000.0, 1769, 611, 2100.5, "timeout")]


@pytest.mark.parametrize(
    "message",
    [
        "START RequestId: 8f507cfc Version: 3\n",
        "END RequestId: 8f507cfc\n",
        "REPORT of the day\n",
        "REPORT RequestId: 8f507cfc\tDuration: none\tBilled Duration: 1 ms\tMemory Size: 1 MB\tMax Memory Used: 1 MB",
        '{"level":"INFO","message":"detected","request_id":"a"}\n',
        '{"type":"platform.report"}',
        '{"type":"platform.report","record":{"metrics":[]}}',
        "{",
        "",
    ],
)
def test_other_lines_are_ignored(message: str) -> None:
    assert reports([line(message)]) == []


def test_both_forms_of_a_timeout_are_recognised() -> None:
    late = line(f"2026-11-25T08:00:30.000Z {ID.format(1)} Task timed out after 30.03 seconds\n\n")
    calls = reports([report(0, 30_000, tail="Status: timeout"), report(1, 30_030), late, report(2)])
    assert [call.status for call in calls] == ["timeout", "timeout", "success"]


def test_an_exception_counts_for_the_call_of_its_own_environment() -> None:
    """Two environments write into one log group at the same time."""
    calls = reports(
        [
            line("START RequestId: 0 Version: 1", "a"),
            line("START RequestId: 1 Version: 1", "b"),
            line("[ERROR] SetupError: There is no model.\nTraceback (most recent call last):", "a"),
            report(1, stream="b"),
            report(0, stream="a"),
            report(2, stream="a"),
        ]
    )
    assert [(call.request_id, call.status) for call in calls] == [
        (ID.format(1), "success"),
        (ID.format(0), "error"),
        (ID.format(2), "success"),
    ]


def test_a_crash_is_reported_with_lambdas_error_type() -> None:
    (call,) = reports([report(tail="Status: error\tError Type: Runtime.OutOfMemory")])
    assert (call.status, call.error_type) == ("error", "Runtime.OutOfMemory")


def test_an_init_that_ran_out_of_time_counts_as_long_as_its_limit() -> None:
    """Lambda starts it again inside the call, and omits it from the call's REPORT line."""
    init = line("INIT_REPORT Init Duration: 10008.71 ms\tPhase: init\tStatus: timeout\n")
    assert [call.init_ms for call in reports([init, report(0), report(1)])] == [10_000.0, None]


def test_a_summary_counts_calls_and_measures_durations_and_memory() -> None:
    calls = reports(
        [
            report(0, 100, init=1500),
            report(1, 200, used=950),
            report(2, 300, init=2500),
            report(3, 30_000, tail="Status: timeout"),
            report(4, 50, tail="Status: error\tError Type: Runtime.ExitError"),
        ]
    )
    (found,) = summaries("face-detection", calls, 30)
    assert (found.requests, found.errors, found.timeouts, found.inits) == (5, 1, 1, 2)
    assert (found.p50_ms, found.max_ms, found.init_p50_ms, found.used_mb) == (200.0, 30_000.0, 2000.0, 950)
    assert found.p95_ms == pytest.approx(24_060)
    assert found.gb_seconds == pytest.approx((101 + 201 + 301 + 30_001 + 51) / 1e3 * 1769 / 1024)


def test_each_memory_size_has_its_own_summary_and_only_the_latest_has_advice() -> None:
    before, after = summaries("face-detection", [*many(3, memory=1024), *many(2, memory=1769)], 30)
    assert (before.memory_mb, before.requests, before.advice) == (1024, 3, ())
    assert (after.memory_mb, after.requests) == (1769, 2)
    assert after.advice


def test_without_calls_there_is_no_summary() -> None:
    assert summaries("face-detection", [], 30) == []


def commands(function: str, calls: list[Report], timeout: int = 30) -> list[str]:
    summary: Summary = summaries(function, calls, timeout)[-1]
    return [advice.command for advice in summary.advice if advice.command]


@pytest.mark.parametrize(
    ("calls", "command"),
    [
        (many(5, used=1769), "faceq deploy --set DetectionMemory=3538"),
        (many(5, tail="Status: error\tError Type: Runtime.OutOfMemory"), "faceq deploy --set DetectionMemory=3538"),
        (many(5, used=1700), "faceq deploy --set DetectionMemory=2560"),
        (many(5, memory=1024, used=600), "faceq deploy --set DetectionMemory=1769"),
        (many(100, memory=4096, used=900), "faceq deploy --set DetectionMemory=1769"),
        (many(100, memory=8192, used=3000), "faceq deploy --set DetectionMemory=4544"),
        (many(5, duration=30_000, tail="Status: timeout"), "faceq deploy --set DetectionTimeout=60"),
        (many(5, duration=28_000), "faceq deploy --set DetectionTimeout=60"),
        (many(5, init=9_500), "faceq deploy --set DetectionMemory=3538"),
        (many(100, init=1_500), "faceq deploy --set DetectionProvisioned=1"),
    ],
)
def test_a_setting_that_is_too_low_or_too_high_gets_the_command_that_changes_it(
    calls: list[Report], command: str
) -> None:
    assert commands("face-detection", calls) == [command]


def test_raising_the_recognisers_timeout_raises_the_queues_visibility_timeout_too() -> None:
    """It must be six times the function's timeout."""
    assert commands("face-recognition", many(5, duration=30_000, tail="Status: timeout")) == [
        "faceq deploy --set RecognitionTimeout=60 --set RequestVisibilityTimeout=360"
    ]


def test_a_timeout_that_is_never_needed_may_be_lowered() -> None:
    assert commands("face-detection", many(100, duration=2_500), timeout=300) == [
        "faceq deploy --set DetectionTimeout=13"
    ]


def test_settings_that_fit_need_no_command_and_few_calls_are_not_enough_for_advice() -> None:
    def sentences(calls: list[Report]) -> list[Advice]:
        return list(summaries("face-detection", calls, 30)[-1].advice)

    assert sentences(many(100)) == [Advice("MemorySize and Timeout fit.")]
    (few,) = sentences(many(5, memory=4096, used=900))
    assert (few.command, "At least 100 calls" in few.sentence) == ("", True)


def test_no_advice_exceeds_lambdas_limits() -> None:
    assert commands("face-detection", many(5, memory=10_240, used=10_240)) == []
    assert commands("face-detection", many(5, duration=900_000, tail="Status: timeout"), timeout=900) == []
