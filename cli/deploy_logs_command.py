"""`faceq deploy logs`: show what the functions on AWS logged, or a report on their time and memory."""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from adapters.aws_errors import translated_aws_errors
from cli.printable_text import printable
from cli.target_options import Profile, Region
from client.cloudwatch_logs import LogEvent, containing, follow_log_events, log_events, timeout_seconds
from client.deployed_stack import session
from pipeline.errors import BadInput
from template.reader import shipped_service

if TYPE_CHECKING:
    import boto3

    from deploy.reports import Summary

#: The filter pattern for the lines that a report is made of; `?` means "or". (CloudWatch Logs user guide, "Filter
#: pattern syntax for metric filters, subscription filters, filter log events, and Live Tail")
REPORT_LINES: Final = '?REPORT ?"Task timed out" ?"[ERROR]" ?INIT_REPORT ?"platform.report"'

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def logs(
    function: Annotated[
        str | None,
        typer.Option("--function", metavar="NAME", help="Show only this function's lines.  [default: all]"),
    ] = None,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="Look this far back, as in 90s, 30m, 1h or 2d.")
    ] = "1h",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Show new lines too, until Ctrl-C.")] = False,
    request_id: Annotated[
        str,
        typer.Option("--request-id", "--request", metavar="ID", help="Show only lines about the frame with this id."),
    ] = "",
    report: Annotated[
        bool,
        typer.Option("--report", help="Instead of lines, show the calls, their time and memory, and what to change."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: one object per line, or the report.")] = False,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Show what the functions on AWS logged, oldest first.

    With --report, show instead how much time and memory the calls took, and what to change.
    """
    start_ms = max(0, int((datetime.now(UTC) - _duration(since)).timestamp() * 1e3))
    if report and (follow or request_id):
        raise BadInput("report_of_all", "--report covers all calls. Leave out --follow and --request-id.")
    names = list(shipped_service().functions)
    if function is not None and function not in names:
        raise typer.BadParameter(f"choose one of {', '.join(names)}", param_hint="--function")
    functions = [function] if function is not None else names
    aws = session(region, profile)
    with translated_aws_errors():
        if report:
            _show_report(aws, functions, start_ms, since, as_json)
            return
        read = follow_log_events if follow else log_events
        show_events(read(aws.client("logs"), functions, start_ms, containing(request_id)), as_json)


def show_events(events: Iterable[LogEvent], as_json: bool) -> None:
    """Print log lines as they come. Ctrl-C ends it."""
    with suppress(KeyboardInterrupt):
        for event in events:
            if as_json:
                fields = {"function": event.function, "at": event.at, "stream": event.stream}
                print(json.dumps({**fields, "message": event.message.rstrip()}), flush=True)
            else:
                for line in event.message.rstrip().splitlines():
                    print(f"{event.function}: {event.at} {printable(line)}", flush=True)


def _show_report(aws: "boto3.Session", functions: Sequence[str], start_ms: int, since: str, as_json: bool) -> None:
    summaries = _summaries(aws, functions, start_ms)
    if as_json:
        rows = [
            {
                **asdict(summary),
                "advice": [{"sentence": advice.sentence, "command": advice.command} for advice in summary.advice],
            }
            for summary in summaries
        ]
        print(json.dumps(rows, indent=2))
        return
    console = Console(highlight=False)
    if not summaries:
        console.print(
            f"No function was called in the last {since}. Look further back: faceq deploy logs --report --since 7d"
        )
        return
    table = Table("function", "calls", "errors", "timeouts", "p50/p95/max ms", "inits", "MB used", "GB·s")
    table.columns[0].no_wrap = True
    for summary in summaries:
        inits = f"{summary.inits}, p50 {summary.init_p50_ms:.0f} ms" if summary.init_p50_ms is not None else "0"
        table.add_row(
            summary.function,
            *map(str, (summary.requests, summary.errors, summary.timeouts)),
            f"{summary.p50_ms:.0f}/{summary.p95_ms:.0f}/{summary.max_ms:.0f}",
            inits,
            f"{summary.used_mb} of {summary.memory_mb}",
            f"{summary.gb_seconds:.2f}",
        )
    console.print(table)
    for summary in summaries:
        for advice in summary.advice:
            console.print(f"{summary.function}: {advice.sentence}", soft_wrap=True, markup=False)
            if advice.command:
                console.print(f"    {advice.command}", soft_wrap=True)


def _summaries(aws: "boto3.Session", functions: Sequence[str], start_ms: int) -> "list[Summary]":
    from deploy.reports import Line, reports, summaries

    found: list[Summary] = []
    for function in functions:
        events = log_events(aws.client("logs"), [function], start_ms, REPORT_LINES)
        calls = reports(Line(event.stream, event.at_ms, event.message) for event in events)
        found += summaries(function, calls, timeout_seconds(aws.client("lambda"), function))
    return found


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,5})([smhd])", text)
    if match is None:
        raise BadInput("no_time", f"--since {text} is not a duration. Give a number with its unit: 90s, 30m, 1h, 2d.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
