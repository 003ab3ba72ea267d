"""Metrics as log lines in CloudWatch's embedded metric format (EMF), by Powertools for AWS Lambda.

CloudWatch reads metrics out of such lines, so a function needs no permission and no call beyond its log. (CloudWatch
user guide, "Specification: Embedded metric format") Importing Powertools' provider costs nothing more: 2 ms, which the
package already spends when `adapters.json_log` imports its Logger (measured with -X importtime).

CloudWatch bills each combination of name and dimensions that gets a value in an hour, by the hour. There are twelve
(`pipeline.metrics`), with the function as the only dimension, called `service` as Powertools does.
"""

import json
import math
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from typing import Final, TextIO

from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

from pipeline.metrics import COUNT, MILLISECONDS, NAMESPACE, Metric
from pipeline.ports import MetricsRecorder

#: Most values of a metric in one line. EMF allows 100; Powertools prints a line by itself when it gets the hundredth.
_MAX_VALUES: Final = 99


class EmfMetrics(MetricsRecorder):
    """Writes one line at each flush; a further line for each 99 durations, which only batches of so many frames have.

    Parameters
    ----------
    function : str
        The value of the dimension `service`.
    stream : text file, optional
        By default standard output, where Lambda collects lines.

    """

    def __init__(self, function: str, stream: TextIO | None = None) -> None:
        self._function = function
        self._stream = stream or sys.stdout
        self._counts: Counter[Metric] = Counter()
        self._durations: defaultdict[Metric, list[float]] = defaultdict(list)

    def count(self, metric: Metric, number: int = 1) -> None:  # noqa: D102 - documented in the Protocol
        if metric.unit != COUNT or number < 0:
            raise ValueError(f"{metric} cannot be increased by {number}")
        self._counts[metric] += number

    def milliseconds(self, metric: Metric, value: float) -> None:  # noqa: D102
        if metric.unit != MILLISECONDS or not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{metric} cannot be {value} ms")
        self._durations[metric].append(value)

    def flush(self) -> None:  # noqa: D102
        while any(self._counts.values()) or any(self._durations.values()):
            emf = AmazonCloudWatchEMFProvider(namespace=NAMESPACE, service=self._function)
            for metric, number in self._counts.items():
                if number:
                    emf.add_metric(metric.value, metric.unit, number)
            self._counts.clear()
            for metric, values in self._durations.items():
                for value in values[:_MAX_VALUES]:
                    emf.add_metric(metric.value, metric.unit, round(value, 3))
                del values[:_MAX_VALUES]
            line = json.dumps(emf.serialize_metric_set(), separators=(",", ":"), allow_nan=False)
            with suppress(OSError):
                self._stream.write(f"{line}\n")
                self._stream.flush()
