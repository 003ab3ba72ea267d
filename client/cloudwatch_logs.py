"""The log lines of the functions on AWS, read from CloudWatch Logs."""

import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from client.deployed_stack import ALIAS
from pipeline.errors import BadInput

if TYPE_CHECKING:
    from botocore.client import BaseClient

#: Longest pause between two requests for new lines, seconds. CloudWatch allows an account only a few of these calls a
#: second.
POLL_SECONDS: Final = 2.0
#: Pause after a request that brought new lines, seconds. It doubles while none arrive, up to `POLL_SECONDS`.
_FIRST_POLL_SECONDS: Final = 0.5
#: How long after its timestamp a line may still arrive in CloudWatch, milliseconds.
LATE_MS: Final = 30_000


@dataclass(frozen=True, order=True)
class LogEvent:
    """A line of a function's log.

    Parameters
    ----------
    at_ms : int
        When the line was written, milliseconds since the epoch.
    function : str
    stream : str
        The log stream: one execution environment of the function.
    id : str
        CloudWatch's id, the same each time the line is fetched.
    message : str

    """

    at_ms: int
    function: str
    stream: str
    id: str
    message: str

    @property
    def at(self) -> str:
        """When the line was written, UTC, ISO 8601 with milliseconds."""
        return datetime.fromtimestamp(self.at_ms / 1e3, UTC).isoformat(timespec="milliseconds")


def log_group(function: str) -> str:
    """Return the log group that template.yaml gives a function, which is also Lambda's default."""
    return f"/aws/lambda/{function}"


def containing(phrase: str) -> str:
    """Return the filter pattern for lines that contain a phrase; an empty phrase matches every line."""
    escaped = phrase.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if phrase else ""


def log_events(logs: "BaseClient", functions: Sequence[str], start_ms: int, pattern: str = "") -> Iterator[LogEvent]:
    """Yield the lines of these functions from `start_ms` on, oldest first.

    Parameters
    ----------
    logs : botocore client
        For CloudWatch Logs.
    pattern : str
        Fetch only lines that match. (CloudWatch Logs user guide, "Filter pattern syntax for metric filters,
        subscription filters, filter log events, and Live Tail")

    Raises
    ------
    BadInput
        A function has no log group in this region.

    """
    return heapq.merge(*(_events_of(logs, function, start_ms, pattern) for function in functions))


def follow_log_events(
    logs: "BaseClient", functions: Sequence[str], start_ms: int, pattern: str = ""
) -> Iterator[LogEvent]:
    """Yield the lines as `log_events` does, then each new line once when it arrives, without end."""
    seen: dict[str, int] = {}
    newest_ms = start_ms
    pause = _FIRST_POLL_SECONDS
    while True:
        from_ms = max(start_ms, newest_ms - LATE_MS)
        seen = {event_id: at_ms for event_id, at_ms in seen.items() if at_ms >= from_ms}
        for event in log_events(logs, functions, from_ms, pattern):
            if event.id not in seen:
                seen[event.id] = event.at_ms
                newest_ms = max(newest_ms, event.at_ms)
                pause = _FIRST_POLL_SECONDS
                yield event
        time.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS)


def timeout_seconds(lambda_client: "BaseClient", function: str) -> int:
    """Return the Timeout that a function has now. Raises BadInput if the function does not exist in this region."""
    from botocore.exceptions import ClientError

    try:
        configuration = lambda_client.get_function_configuration(FunctionName=function, Qualifier=ALIAS)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        raise _not_deployed(f"The function {function} with the alias {ALIAS}") from None
    return int(configuration["Timeout"])


def _events_of(logs: "BaseClient", function: str, start_ms: int, pattern: str) -> Iterator[LogEvent]:
    from botocore.exceptions import ClientError

    request = {"logGroupName": log_group(function), "startTime": start_ms}
    if pattern:
        request["filterPattern"] = pattern
    try:
        for page in logs.get_paginator("filter_log_events").paginate(**request):
            for event in page["events"]:
                yield LogEvent(event["timestamp"], function, event["logStreamName"], event["eventId"], event["message"])
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        raise _not_deployed(f"The log group {log_group(function)}") from None


def _not_deployed(resource: str) -> BadInput:
    return BadInput(
        "not_deployed",
        f"{resource} does not exist in this region. Deploy with: faceq deploy, or name the region with --region.",
    )
