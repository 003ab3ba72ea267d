"""What the functions' own logs say about their memory and time, and what follows from it.

Lambda writes a REPORT line at the end of each call, or a `platform.report` record where logs are JSON. (Lambda
developer guide, "Using CloudWatch Logs with Lambda" and "Lambda Telemetry API Event schema reference")
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

#: What template.yaml's parameters of a function begin with.
PARAMETERS: Final = {"face-detection": "Detection", "face-recognition": "Recognition"}

#: MB at which a function has one whole vCPU. (Lambda developer guide, "Configure Lambda function memory")
ONE_CPU_MB: Final = 1769
MOST_MB: Final = 10_240
MOST_SECONDS: Final = 900
#: Milliseconds that an init may take; then it begins anew inside the first call. (developer guide, "Init phase")
INIT_LIMIT_MS: Final = 10_000
#: Fewer calls than this do not show that less would do.
ENOUGH_CALLS: Final = 100
#: Shares of a limit: from here on it is too tight; up to here it is more than is used.
TIGHT: Final = 0.9
LOOSE: Final = 0.5
#: From this share of calls on, starting an environment happens often.
OFTEN: Final = 0.1

_TIMED_OUT: Final = re.compile(r"(?P<id>\S+) Task timed out after [\d.]+ seconds")


@dataclass(frozen=True)
class Line:
    """One event of a log group.

    Parameters
    ----------
    stream : str
        The log stream: one environment of the function, which works on one call at a time.
    at_ms : int
        When it was written, epoch milliseconds.
    message : str

    """

    stream: str
    at_ms: int
    message: str


@dataclass(frozen=True)
class Report:
    """One call of a function.

    Parameters
    ----------
    status : str
        `success`, `failure`, `error` or `timeout`.
    error_type : str
        Lambda's name for the error, such as `Runtime.OutOfMemory`; empty if it gives none.
    init_ms : float or None
        How long the environment took to start, None if it had started before.

    """

    request_id: str
    duration_ms: float
    billed_ms: float
    memory_mb: int
    used_mb: int
    init_ms: float | None
    status: str = "success"
    error_type: str = ""


@dataclass(frozen=True)
class Advice:
    """A sentence, and the parameters of template.yaml that it would set; none if nothing is to be done."""

    sentence: str
    parameters: tuple[tuple[str, int], ...] = ()

    @property
    def command(self) -> str:
        """The command that follows the advice, empty if nothing is to be done."""
        settings = [f"--set {name}={value}" for name, value in self.parameters]
        return " ".join(["faceq deploy", *settings]) if settings else ""


@dataclass(frozen=True)
class Summary:
    """All calls of a function with one memory size.

    Parameters
    ----------
    errors, timeouts : int
        Calls that ended so; a timeout is no error here.
    p50_ms, p95_ms, max_ms : float
        Duration of a call, without init.
    inits : int
        Calls that started an environment, and the median of what that took, in milliseconds (None if there were none).
    used_mb : int
        Most memory that any call used.
    gb_seconds : float
        What is billed.

    """

    function: str
    memory_mb: int
    requests: int
    errors: int
    timeouts: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    inits: int
    init_p50_ms: float | None
    used_mb: int
    gb_seconds: float
    advice: tuple[Advice, ...] = ()


def reports(lines: Iterable[Line]) -> list[Report]:
    """Return the calls that these lines of one function tell of, in order; what they say otherwise is passed over."""
    found: dict[str, Report] = {}
    timed_out: set[str] = set()
    failing: set[str] = set()
    slow_to_start: set[str] = set()
    for line in lines:
        if late := _TIMED_OUT.search(line.message):
            timed_out.add(late["id"])
        elif line.message.startswith("[ERROR]"):  # an exception that left the handler, by Lambda's runtime client
            failing.add(line.stream)
        elif line.message.startswith("INIT_REPORT ") and "Status: timeout" in line.message:
            slow_to_start.add(line.stream)
        elif (report := _report(line.message)) is not None:
            failed = line.stream in failing and report.status == "success"
            if line.stream in slow_to_start and report.init_ms is None:  # its REPORT leaves that init out
                report = replace(report, init_ms=float(INIT_LIMIT_MS))
            failing.discard(line.stream)
            slow_to_start.discard(line.stream)
            found[report.request_id] = replace(report, status="error") if failed else report
    return [replace(call, status="timeout") if call.request_id in timed_out else call for call in found.values()]


def summaries(function: str, calls: Sequence[Report], timeout_seconds: int) -> list[Summary]:
    """Return one summary for each memory size that the calls had, the newest last; that one has advice.

    Parameters
    ----------
    function : str
        A key of `PARAMETERS`.
    calls : sequence of Report
        In order.
    timeout_seconds : int
        The function's Timeout as it is now.

    """
    sizes = list(dict.fromkeys(call.memory_mb for call in reversed(calls)))
    made = [_summary(function, [call for call in calls if call.memory_mb == size]) for size in reversed(sizes)]
    if made:
        newest = [call for call in calls if call.memory_mb == made[-1].memory_mb]
        made[-1] = replace(made[-1], advice=tuple(_advice(made[-1], newest, timeout_seconds)))
    return made


def _report(message: str) -> Report | None:
    if message.startswith("{"):
        return _record(message)
    if not message.startswith("REPORT "):
        return None
    fields = dict(part.strip().split(": ", 1) for part in message.split("\t") if ": " in part)
    try:
        return Report(
            request_id=fields["REPORT RequestId"],
            duration_ms=_figure(fields["Duration"]),
            billed_ms=_figure(fields["Billed Duration"]),
            memory_mb=int(_figure(fields["Memory Size"])),
            used_mb=int(_figure(fields["Max Memory Used"])),
            init_ms=_figure(fields["Init Duration"]) if "Init Duration" in fields else None,
            status=fields.get("Status", "success"),
            error_type=fields.get("Error Type", ""),
        )
    except (KeyError, ValueError):
        return None  # a line of the function's own that only begins like one


def _figure(text: str) -> float:
    """Return the number of a figure with its unit."""
    return float(text.split()[0])


def _record(message: str) -> Report | None:
    try:
        event = json.loads(message)
        if event.get("type") != "platform.report":
            return None
        record = event["record"]
        metrics = record["metrics"]
        return Report(
            request_id=str(record["requestId"]),
            duration_ms=float(metrics["durationMs"]),
            billed_ms=float(metrics["billedDurationMs"]),
            memory_mb=int(metrics["memorySizeMB"]),
            used_mb=int(metrics["maxMemoryUsedMB"]),
            init_ms=float(metrics["initDurationMs"]) if "initDurationMs" in metrics else None,
            status=str(record["status"]),
            error_type=str(record.get("errorType", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # a line of the function's own


def _summary(function: str, calls: Sequence[Report]) -> Summary:
    durations = [call.duration_ms for call in calls]
    inits = [call.init_ms for call in calls if call.init_ms is not None]
    return Summary(
        function=function,
        memory_mb=calls[0].memory_mb,
        requests=len(calls),
        errors=sum(call.status in {"error", "failure"} for call in calls),
        timeouts=sum(call.status == "timeout" for call in calls),
        p50_ms=float(np.percentile(durations, 50)),
        p95_ms=float(np.percentile(durations, 95)),
        max_ms=max(durations),
        inits=len(inits),
        init_p50_ms=float(np.median(inits)) if inits else None,
        used_mb=max(call.used_mb for call in calls),
        gb_seconds=sum(call.billed_ms / 1e3 * call.memory_mb / 1024 for call in calls),
    )


def _advice(now: Summary, calls: Sequence[Report], timeout_seconds: int) -> Iterator[Advice]:
    """Yield what to change, the worst first; one sentence that all is well if nothing is to be changed."""
    changes = [*_memory_advice(now, calls), *_time_advice(now, timeout_seconds), *_init_advice(now)]
    yield from changes
    if not changes and now.requests < ENOUGH_CALLS:
        yield Advice(f"Nothing is too tight. Whether less would do is seen from {ENOUGH_CALLS} calls on.")
    elif not changes:
        yield Advice("MemorySize and Timeout fit.")


def _memory_advice(now: Summary, calls: Sequence[Report]) -> Iterator[Advice]:
    parameter = f"{PARAMETERS[now.function]}Memory"
    starved = sum(call.error_type == "Runtime.OutOfMemory" or call.used_mb >= call.memory_mb for call in calls)
    used = f"{now.used_mb} MB of {now.memory_mb} MB"
    if starved and now.memory_mb < MOST_MB:
        size = min(MOST_MB, 2 * now.memory_mb)
        yield Advice(
            f"Memory ran out in {starved} of {now.requests} calls ({used}). Raise MemorySize.", ((parameter, size),)
        )
    elif now.used_mb >= TIGHT * now.memory_mb and now.memory_mb < MOST_MB:
        size = min(MOST_MB, _rounded(1.5 * now.used_mb))
        yield Advice(f"Memory is nearly full ({used}). Raise MemorySize.", ((parameter, size),))
    elif now.memory_mb < ONE_CPU_MB:
        yield Advice(
            f"{now.memory_mb} MB give less than one vCPU, and a frame is all computing: {ONE_CPU_MB} MB answer sooner "
            "for about the same price. Raise MemorySize.",
            ((parameter, ONE_CPU_MB),),
        )
    elif now.memory_mb > ONE_CPU_MB and now.used_mb <= LOOSE * now.memory_mb and now.requests >= ENOUGH_CALLS:
        size = max(ONE_CPU_MB, _rounded(1.5 * now.used_mb))
        if size < now.memory_mb:
            yield Advice(
                f"Only {used} are used. Lower MemorySize if fewer vCPUs will do too, and look at the times again.",
                ((parameter, size),),
            )


def _time_advice(now: Summary, timeout_seconds: int) -> Iterator[Advice]:
    longest = now.max_ms / 1e3
    if now.timeouts and timeout_seconds < MOST_SECONDS:
        why = (
            f"{now.timeouts} of {now.requests} calls ran out of their {timeout_seconds} s. If more memory does not "
            "make them faster, raise Timeout."
        )
        yield _timeout(now.function, min(MOST_SECONDS, 2 * timeout_seconds), why)
    elif longest >= TIGHT * timeout_seconds and timeout_seconds < MOST_SECONDS:
        why = f"The longest call took {longest:.1f} s of its {timeout_seconds} s. Raise Timeout."
        yield _timeout(now.function, min(MOST_SECONDS, 2 * timeout_seconds), why)
    elif now.requests >= ENOUGH_CALLS and timeout_seconds > max(30, 10 * longest):
        why = f"No call took more than {longest:.1f} s; one that hangs is paid for {timeout_seconds} s. Lower Timeout."
        yield _timeout(now.function, max(10, math.ceil(5 * longest)), why)


def _timeout(function: str, seconds: int, why: str) -> Advice:
    name = f"{PARAMETERS[function]}Timeout"
    if function != "face-recognition":
        return Advice(why, ((name, seconds),))
    # Six times the timeout: what template.yaml says of the parameter, and why.
    visibility = min(43_200, 6 * seconds)
    note = " RequestVisibilityTimeout goes with it; add BatchingWindow to it if you set one."
    return Advice(why + note, ((name, seconds), ("RequestVisibilityTimeout", visibility)))


def _init_advice(now: Summary) -> Iterator[Advice]:
    prefix = PARAMETERS[now.function]
    if now.init_p50_ms is not None and now.init_p50_ms >= TIGHT * INIT_LIMIT_MS and now.memory_mb < MOST_MB:
        size = min(MOST_MB, 2 * now.memory_mb)
        yield Advice(
            f"An environment takes {now.init_p50_ms / 1e3:.1f} s to start; after {INIT_LIMIT_MS // 1000} s it begins "
            "anew inside a call. Raise MemorySize, which brings vCPUs.",
            ((f"{prefix}Memory", size),),
        )
    elif now.requests >= ENOUGH_CALLS and now.inits > OFTEN * now.requests:
        yield Advice(
            f"{now.inits} of {now.requests} calls waited for an environment to start. Keep one warm; it is paid by the "
            "second.",
            ((f"{prefix}Provisioned", 1),),
        )


def _rounded(megabytes: float) -> int:
    """Round up to a multiple of 64 MB."""
    return math.ceil(megabytes / 64) * 64
