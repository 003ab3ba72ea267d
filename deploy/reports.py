"""Memory and duration of the functions' calls, read from their logs, and advice on the settings.

Lambda writes a REPORT line at the end of each call, or a `platform.report` record if logs are JSON. (Lambda developer
guide, "Using CloudWatch Logs with Lambda" and "Lambda Telemetry API Event schema reference")
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np

from template.lambda_facts import MAX_MEMORY_MB, MAX_TIMEOUT_SECONDS, MB_PER_PROCESSOR
from template.reader import TEMPLATE_FILE, shipped_service
from template.resources import Template
from template.rules import TIMEOUTS_HIDDEN

#: Longest init, in milliseconds. After it Lambda starts the init again, inside the first call. (Lambda developer guide,
#: "Init phase")
INIT_LIMIT_MS: Final = 10_000
#: With fewer calls than this, a report does not advise lowering a setting.
ENOUGH_CALLS: Final = 100
#: A setting is too low if this share of it is used.
TOO_LOW: Final = 0.9
#: A setting is too high if no more than this share of it is used.
TOO_HIGH: Final = 0.5
#: Calls wait for an environment too often if more than this share of them does.
TOO_OFTEN: Final = 0.1

_TIMED_OUT: Final = re.compile(r"(?P<id>\S+) Task timed out after [\d.]+ seconds")


@dataclass(frozen=True)
class Line:
    """One event of a log group.

    Parameters
    ----------
    stream : str
        The log stream. Each execution environment of the function has its own, and works on one call at a time.
    at_ms : int
        Time of the event, epoch milliseconds.
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
    request_id : str
    duration_ms, billed_ms : float
    memory_mb, used_mb : int
        The function's memory, and the most that its environment has used so far.
    init_ms : float or None
        How long the environment took to start; None if it had started before.
    status : str
        `success`, `failure`, `error` or `timeout`.
    error_type : str
        Lambda's name for the error, such as `Runtime.OutOfMemory`; empty if it gives none.

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
    """A sentence of advice, and the parameters of template.yaml to set; none if no change is needed."""

    sentence: str
    parameters: tuple[tuple[str, int], ...] = ()

    @property
    def command(self) -> str:
        """The command that follows the advice; empty if no change is needed."""
        settings = [f"--set {name}={value}" for name, value in self.parameters]
        return " ".join(["faceq deploy", *settings]) if settings else ""


@dataclass(frozen=True)
class Summary:
    """All calls of a function with one memory size.

    Parameters
    ----------
    function : str
    memory_mb : int
    requests, errors, timeouts : int
        Number of all calls, of those that failed, and of those that ran out of time. A timeout is not counted as an
        error.
    p50_ms, p95_ms, max_ms : float
        Duration of a call, without init.
    inits : int
        Number of calls that started an environment.
    init_p50_ms : float or None
        Median time to start an environment; None if no call started one.
    used_mb : int
        Most memory that any call used.
    gb_seconds : float
        The billed duration times the memory.
    advice : tuple of Advice
        Only for the memory size that the function has now; the most important first.

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
    """Return the calls that these lines of one function report, in order. Other lines are ignored."""
    calls: dict[str, Report] = {}
    timed_out: set[str] = set()
    failing: set[str] = set()
    slow_to_start: set[str] = set()
    for line in lines:
        if timeout := _TIMED_OUT.search(line.message):
            timed_out.add(timeout["id"])
        elif line.message.startswith("[ERROR]"):  # written by Lambda's runtime client when the handler raises
            failing.add(line.stream)
        elif line.message.startswith("INIT_REPORT ") and "Status: timeout" in line.message:
            slow_to_start.add(line.stream)
        elif (report := _report(line.message)) is not None:
            failed = line.stream in failing and report.status == "success"
            if line.stream in slow_to_start and report.init_ms is None:  # the REPORT line omits such an init
                report = replace(report, init_ms=float(INIT_LIMIT_MS))
            failing.discard(line.stream)
            slow_to_start.discard(line.stream)
            calls[report.request_id] = replace(report, status="error") if failed else report
    return [replace(call, status="timeout") if call.request_id in timed_out else call for call in calls.values()]


def summaries(function: str, calls: Sequence[Report], timeout_seconds: int) -> list[Summary]:
    """Return one summary for each memory size of the calls. The latest size is last, and only it has advice.

    Parameters
    ----------
    function : str
        Its name in the template.
    calls : sequence of Report
        In order of time.
    timeout_seconds : int
        The function's current Timeout.

    """
    sizes = list(dict.fromkeys(call.memory_mb for call in reversed(calls)))
    by_size = [_summary(function, [call for call in calls if call.memory_mb == size]) for size in reversed(sizes)]
    if by_size:
        latest_calls = [call for call in calls if call.memory_mb == by_size[-1].memory_mb]
        by_size[-1] = replace(by_size[-1], advice=tuple(_advice(by_size[-1], latest_calls, timeout_seconds)))
    return by_size


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
        return None  # a line that the function itself printed and that only begins like a REPORT line


def _figure(text: str) -> float:
    """Return the number in a text such as `12.3 ms`."""
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
        return None  # a line that the function itself printed


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
    """Yield what to change, the most important first; one sentence that nothing needs to change if so."""
    changes = [*_memory_advice(now, calls), *_time_advice(now, timeout_seconds), *_init_advice(now)]
    yield from changes
    if not changes and now.requests < ENOUGH_CALLS:
        yield Advice(f"No setting is too low. At least {ENOUGH_CALLS} calls are needed to see whether one is too high.")
    elif not changes:
        yield Advice("MemorySize and Timeout fit.")


def _memory_advice(now: Summary, calls: Sequence[Report]) -> Iterator[Advice]:
    parameter = _parameters(now.function).memory
    out_of_memory = sum(call.error_type == "Runtime.OutOfMemory" or call.used_mb >= call.memory_mb for call in calls)
    used = f"{now.used_mb} MB of {now.memory_mb} MB"
    if out_of_memory and now.memory_mb < MAX_MEMORY_MB:
        size = min(MAX_MEMORY_MB, 2 * now.memory_mb)
        yield Advice(
            f"Memory ran out in {out_of_memory} of {now.requests} calls ({used}). Raise MemorySize.",
            _set(parameter, size),
        )
    elif now.used_mb >= TOO_LOW * now.memory_mb and now.memory_mb < MAX_MEMORY_MB:
        size = min(MAX_MEMORY_MB, _rounded(1.5 * now.used_mb))
        yield Advice(f"Memory is nearly full ({used}). Raise MemorySize.", _set(parameter, size))
    elif now.memory_mb < MB_PER_PROCESSOR:
        yield Advice(
            f"{now.memory_mb} MB give less than one vCPU, and a frame takes only computing. {MB_PER_PROCESSOR} MB are "
            "faster for about the same price. Raise MemorySize.",
            _set(parameter, MB_PER_PROCESSOR),
        )
    elif now.memory_mb > MB_PER_PROCESSOR and now.used_mb <= TOO_HIGH * now.memory_mb and now.requests >= ENOUGH_CALLS:
        size = max(MB_PER_PROCESSOR, _rounded(1.5 * now.used_mb))
        if size < now.memory_mb:
            yield Advice(
                f"Only {used} are used. Lower MemorySize if fewer vCPUs are enough too, and compare the durations.",
                _set(parameter, size),
            )


def _time_advice(now: Summary, timeout_seconds: int) -> Iterator[Advice]:
    longest = now.max_ms / 1e3
    if now.timeouts and timeout_seconds < MAX_TIMEOUT_SECONDS:
        reason = (
            f"{now.timeouts} of {now.requests} calls ran out of their {timeout_seconds} s. If more memory does not "
            "make them faster, raise Timeout."
        )
        yield _timeout(now.function, min(MAX_TIMEOUT_SECONDS, 2 * timeout_seconds), reason)
    elif longest >= TOO_LOW * timeout_seconds and timeout_seconds < MAX_TIMEOUT_SECONDS:
        reason = f"The longest call took {longest:.1f} s of its {timeout_seconds} s. Raise Timeout."
        yield _timeout(now.function, min(MAX_TIMEOUT_SECONDS, 2 * timeout_seconds), reason)
    elif now.requests >= ENOUGH_CALLS and timeout_seconds > max(30, 10 * longest):
        reason = (
            f"No call took more than {longest:.1f} s, but one that hangs is billed for {timeout_seconds} s. "
            "Lower Timeout."
        )
        yield _timeout(now.function, max(10, math.ceil(5 * longest)), reason)


def _timeout(function: str, seconds: int, reason: str) -> Advice:
    parameters = _parameters(function)
    if parameters.visibility is None:
        return Advice(reason, _set(parameters.timeout, seconds))
    visibility = min(43_200, TIMEOUTS_HIDDEN * seconds)
    window = f"; add {parameters.window} to it if you set one" if parameters.window else ""
    note = f" {parameters.visibility} must change with it{window}."
    return Advice(reason + note, (*_set(parameters.timeout, seconds), *_set(parameters.visibility, visibility)))


def _init_advice(now: Summary) -> Iterator[Advice]:
    parameters = _parameters(now.function)
    if now.init_p50_ms is not None and now.init_p50_ms >= TOO_LOW * INIT_LIMIT_MS and now.memory_mb < MAX_MEMORY_MB:
        size = min(MAX_MEMORY_MB, 2 * now.memory_mb)
        yield Advice(
            f"An environment takes {now.init_p50_ms / 1e3:.1f} s to start; after {INIT_LIMIT_MS // 1000} s Lambda "
            "starts it again, inside a call. Raise MemorySize, which brings more vCPUs.",
            _set(parameters.memory, size),
        )
    elif now.requests >= ENOUGH_CALLS and now.inits > TOO_OFTEN * now.requests:
        yield Advice(
            f"{now.inits} of {now.requests} calls waited for an environment to start. Keep one warm, which AWS bills "
            "by the second.",
            _set(parameters.provisioned, 1),
        )


@dataclass(frozen=True)
class _Parameters:
    """Names of the template's parameters that set a function; None for what the template sets without a parameter.

    `visibility` and `window` are those of the queue that calls the function.
    """

    memory: str | None
    timeout: str | None
    provisioned: str | None
    visibility: str | None
    window: str | None


@cache
def _parameters(function: str) -> _Parameters:
    template, service = Template(TEMPLATE_FILE.read_text(), {}), shipped_service()
    resource = template.resources[service.functions[function].logical_id]
    aliases = [
        alias
        for alias in template.of("AWS::Lambda::Alias").values()
        if template.function_of(alias.property("FunctionName")) == resource.logical_id
    ]
    mappings = [mapping for mapping in service.event_source_mappings if mapping.function == function]
    queues = [template.resources[service.queues[mapping.queue].logical_id] for mapping in mappings]
    windows = [template.resources[mapping.logical_id] for mapping in mappings]
    provisioned = ("ProvisionedConcurrencyConfig", "ProvisionedConcurrentExecutions")
    return _Parameters(
        memory=resource.parameter("MemorySize"),
        timeout=resource.parameter("Timeout"),
        provisioned=next((alias.parameter(*provisioned) for alias in aliases), None),
        visibility=next((queue.parameter("VisibilityTimeout") for queue in queues), None),
        window=next((mapping.parameter("MaximumBatchingWindowInSeconds") for mapping in windows), None),
    )


def _set(parameter: str | None, value: int) -> tuple[tuple[str, int], ...]:
    return ((parameter, value),) if parameter else ()


def _rounded(megabytes: float) -> int:
    """Round up to a multiple of 64 MB."""
    return math.ceil(megabytes / 64) * 64
