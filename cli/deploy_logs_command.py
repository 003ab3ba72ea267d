"""`faceq deploy logs`: what the functions on AWS wrote, and what Lambda reports of their time and memory."""

import heapq
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from adapters.aws_errors import translated_aws_errors
from cli.target_options import Profile, Region
from client.deployed_stack import session
from pipeline.errors import BadInput

if TYPE_CHECKING:
    import boto3

    from deploy.reports import Summary

#: How often `-f` looks for new lines, seconds: CloudWatch allows an account few of these calls a second.
FOLLOW_SECONDS: Final = 2.0
#: How long after its time a line may still come to CloudWatch, milliseconds.
LATE_MS: Final = 30_000
#: The lines that a report is made of, so that only they are fetched. (CloudWatch Logs user guide, "Filter pattern
#: syntax for metric filters, subscription filters, filter log events, and Live Tail": `?` is "or")
REPORT_LINES: Final = '?REPORT ?"Task timed out" ?"[ERROR]" ?INIT_REPORT ?"platform.report"'

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Function(StrEnum):
    """The functions, whose names are part of the contract."""

    DETECTION = "face-detection"
    RECOGNITION = "face-recognition"

    @property
    def log_group(self) -> str:
        """The log group that template.yaml gives it."""
        return f"/aws/lambda/{self}"


@dataclass(frozen=True, order=True)
class Event:
    """A line of a function's log. `id` is CloudWatch's, the same each time the line is fetched."""

    at_ms: int
    function: str
    stream: str
    id: str
    message: str

    @property
    def at(self) -> str:
        """When it was written, UTC, ISO 8601."""
        return datetime.fromtimestamp(self.at_ms / 1e3, UTC).isoformat(timespec="milliseconds")


def logs(
    function: Annotated[
        Function | None, typer.Option("--function", help="Only this one's.  [default: both]", show_default=False)
    ] = None,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="How far back: 90s, 30m, 1h, 2d.")] = "1h",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    request_id: Annotated[
        str, typer.Option("--request-id", "--request", metavar="ID", help="Only lines of the frame with this id.")
    ] = "",
    report: Annotated[
        bool, typer.Option("--report", help="In place of lines: calls, times and memory, and what to change.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; of lines, one object a line.")] = False,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Show what the functions on AWS wrote, oldest first, or what to make of their memory and time."""
    start_ms = max(0, int((datetime.now(UTC) - _duration(since)).timestamp() * 1e3))
    if report and (follow or request_id):
        raise BadInput("report_of_all", "--report is made of all calls: leave out --follow and --request-id.")
    functions = [function] if function is not None else list(Function)
    aws = session(region, profile)
    with translated_aws_errors():
        if report:
            _report(aws, functions, start_ms, since, as_json)
        else:
            phrase = request_id.replace("\\", "\\\\").replace('"', '\\"')
            _lines(aws, functions, start_ms, f'"{phrase}"' if phrase else "", follow, as_json)


def _lines(
    aws: "boto3.Session", functions: Sequence[Function], start_ms: int, pattern: str, follow: bool, as_json: bool
) -> None:
    seen: dict[str, int] = {}
    newest_ms = start_ms
    try:
        while True:
            from_ms = max(start_ms, newest_ms - LATE_MS)
            seen = {event_id: at_ms for event_id, at_ms in seen.items() if at_ms >= from_ms}
            for event in _events(aws, functions, from_ms, pattern):
                if event.id not in seen:
                    seen[event.id] = event.at_ms
                    newest_ms = max(newest_ms, event.at_ms)
                    _show(event, as_json)
            if not follow:
                return
            time.sleep(FOLLOW_SECONDS)
    except KeyboardInterrupt:
        return


def _events(aws: "boto3.Session", functions: Sequence[Function], start_ms: int, pattern: str) -> Iterator[Event]:
    """Yield the lines of all functions in the order of time."""
    client = aws.client("logs")
    yield from heapq.merge(*(_of_group(client, function, start_ms, pattern) for function in functions))


def _of_group(client: object, function: Function, start_ms: int, pattern: str) -> Iterator[Event]:
    from botocore.exceptions import ClientError

    asked = {"logGroupName": function.log_group, "startTime": start_ms}
    if pattern:
        asked["filterPattern"] = pattern
    try:
        for page in client.get_paginator("filter_log_events").paginate(**asked):  # type: ignore[attr-defined]
            for event in page["events"]:
                yield Event(event["timestamp"], function, event["logStreamName"], event["eventId"], event["message"])
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        raise _nothing_there(f"no log group {function.log_group}") from None


def _show(event: Event, as_json: bool) -> None:
    if as_json:
        fields = {"function": event.function, "at": event.at, "stream": event.stream, "message": event.message.rstrip()}
        print(json.dumps(fields), flush=True)
    else:
        for line in event.message.rstrip().splitlines():
            print(f"{event.function}: {event.at} {line}", flush=True)


def _report(aws: "boto3.Session", functions: Sequence[Function], start_ms: int, since: str, as_json: bool) -> None:
    from deploy.reports import Line, reports, summaries

    found: list[Summary] = []
    for function in functions:
        events = _events(aws, [function], start_ms, REPORT_LINES)
        calls = reports(Line(event.stream, event.at_ms, event.message) for event in events)
        found += summaries(function, calls, _timeout_seconds(aws, function))
    if as_json:
        rows = [
            {**asdict(row), "advice": [{"sentence": said.sentence, "command": said.command} for said in row.advice]}
            for row in found
        ]
        print(json.dumps(rows, indent=2))
        return
    console = Console(highlight=False)
    if not found:
        console.print(
            f"No function was called in the last {since}. Look further back: faceq deploy logs --report --since 7d"
        )
        return
    table = Table("function", "calls", "errors", "timeouts", "p50/p95/max ms", "inits", "MB used", "GB·s")
    table.columns[0].no_wrap = True
    for row in found:
        inits = f"{row.inits}, p50 {row.init_p50_ms:.0f} ms" if row.init_p50_ms is not None else "0"
        table.add_row(
            row.function,
            *map(str, (row.requests, row.errors, row.timeouts)),
            f"{row.p50_ms:.0f}/{row.p95_ms:.0f}/{row.max_ms:.0f}",
            inits,
            f"{row.used_mb} of {row.memory_mb}",
            f"{row.gb_seconds:.2f}",
        )
    console.print(table)
    for row in found:
        for said in row.advice:
            console.print(f"{row.function}: {said.sentence}", soft_wrap=True, markup=False)
            if said.command:
                console.print(f"    {said.command}", soft_wrap=True)


def _timeout_seconds(aws: "boto3.Session", function: Function) -> int:
    from botocore.exceptions import ClientError

    try:
        configuration = aws.client("lambda").get_function_configuration(FunctionName=str(function), Qualifier="live")
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        raise _nothing_there(f"no function {function} with an alias live") from None
    return int(configuration["Timeout"])


def _nothing_there(what: str) -> BadInput:
    return BadInput(
        "not_deployed", f"There is {what} in this region. Deploy with: faceq deploy, or name the region with --region."
    )


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,5})([smhd])", text)
    if found is None:
        raise BadInput("no_time", f"--since {text} is no time. Give a number and its unit: 90s, 30m, 1h, 2d.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
