"""What the functions of a stack on this machine have counted since it started: sums of the metrics in their logs."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from client.stack_logs import container_log_lines
from client.stack_state import CONTAINERS, FILE, RunningStack
from pipeline.metrics import COUNT, METRICS, NAMESPACE

#: How a line with metrics begins, after what a runtime writes before it. In any other line the quotation marks would
#: have backslashes.
_EMF: Final = '{"_aws":'


def metric_sums(stack: RunningStack, state_folder: Path) -> dict[str, dict[str, float]]:
    """Return the sum of each metric, by function.

    For processes, the sums are since the start, as long as no function has logged more than 512 MiB: older lines are
    deleted. For containers, they are since the containers were created, as far as Docker keeps their logs.

    Parameters
    ----------
    stack : RunningStack
    state_folder : Path
        Has the record of a stack that runs as processes.

    Raises
    ------
    BadInput
        The stack runs in containers, and Docker does not show their logs.

    """
    if stack.runtime == CONTAINERS:
        return sums(container_log_lines(stack.logs, tuple(METRICS), _EMF))
    return sums(_process_lines(Path(stack.logs), (state_folder / FILE).stat().st_mtime))


def sums(lines: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return the sum of each metric in log lines, by function; 0 for those of our functions that no line contains.

    Sums of counts are whole numbers.
    """
    totals: dict[str, dict[str, float]] = {
        function: {metric.value: 0 for metric in metrics} for function, metrics in METRICS.items()
    }
    for line in lines:
        _, start, rest = line.partition(_EMF)
        try:
            fields = json.loads(start + rest) if start else None
        except ValueError:  # cut off, as the last line of a process that was killed
            continue
        if isinstance(fields, dict):
            _add(totals, fields)
    return totals


def _add(totals: dict[str, dict[str, float]], fields: Mapping[str, object]) -> None:
    metadata = fields.get("_aws")
    directives = metadata.get("CloudWatchMetrics") if isinstance(metadata, dict) else None
    for directive in directives if isinstance(directives, list) else ():
        if directive["Namespace"] != NAMESPACE:
            continue
        of_function = totals.setdefault(str(fields["service"]), {})
        for metric in directive["Metrics"]:
            values = fields[metric["Name"]]
            total = of_function.get(metric["Name"], 0) + sum(values if isinstance(values, list) else [values])
            of_function[metric["Name"]] = int(total) if metric["Unit"] == COUNT else total


def _process_lines(folder: Path, ready: float) -> Iterator[str]:
    """Yield the lines with metrics of a stack that was ready at `ready`, in seconds since the epoch.

    A file `.log.1` is of the run before, unless it was written to since.
    """
    for file in folder.glob("*.log"):
        for part in (file.with_suffix(".log.1"), file):
            if part == file or (part.exists() and part.stat().st_mtime > ready):
                yield from _lines_with_metrics(part)


def _lines_with_metrics(file: Path) -> Iterator[str]:
    marker = _EMF.encode()
    with file.open("rb") as stream:
        for line in stream:
            if marker in line:
                yield line.decode("utf-8", "replace")
