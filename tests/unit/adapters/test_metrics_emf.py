"""Lines with metrics are valid by CloudWatch's specification.

Source: CloudWatch user guide, "Specification: Embedded metric format", whose JSON schema is repeated here in essence.
"""

import io
import json
import subprocess
import sys
import time
from typing import Any

from adapters.metrics_emf import EmfMetrics
from pipeline.metrics import METRICS, MILLISECONDS, Metric


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def documents(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def record(recorder: EmfMetrics, metric: Metric, value: int) -> None:
    if metric.unit == MILLISECONDS:
        recorder.milliseconds(metric, value)
    else:
        recorder.count(metric, value)


def assert_is_valid(document: dict[str, Any]) -> None:
    metadata = document["_aws"]
    assert metadata.keys() == {"Timestamp", "CloudWatchMetrics"}
    assert isinstance(metadata["Timestamp"], int)
    assert abs(metadata["Timestamp"] - time.time() * 1e3) < 60_000, "milliseconds since the epoch"
    for directive in metadata["CloudWatchMetrics"]:
        assert directive.keys() == {"Namespace", "Dimensions", "Metrics"}
        assert 1 <= len(directive["Namespace"]) <= 1024
        assert len(directive["Metrics"]) <= 100
        for dimensions in directive["Dimensions"]:
            assert 1 <= len(dimensions) <= 30
            assert all(isinstance(document[name], str) and 1 <= len(document[name]) <= 1024 for name in dimensions)
        for metric in directive["Metrics"]:
            assert metric.keys() <= {"Name", "Unit", "StorageResolution"}
            assert 1 <= len(metric["Name"]) <= 1024
            assert metric["Unit"] in {"Count", "Milliseconds"}
            values = document[metric["Name"]]
            assert 1 <= len(values) <= 100
            assert all(isinstance(value, int | float) for value in values)


def test_a_line_with_every_metric_of_a_function_is_valid() -> None:
    for function, metrics in METRICS.items():
        stream = io.StringIO()
        recorder = EmfMetrics(function, stream)
        for number, metric in enumerate(metrics, start=1):
            record(recorder, metric, number)
        recorder.flush()
        (document,) = documents(stream)
        assert_is_valid(document)
        (directive,) = document["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == "faceq"
        assert directive["Dimensions"] == [["service"]], "no dimension but the function"
        assert document["service"] == function
        assert {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]} == {
            metric.value: metric.unit for metric in metrics
        }
        assert document.keys() == {"_aws", "service", *(metric.value for metric in metrics)}


def test_a_batch_of_many_frames_is_reported_in_lines_that_are_valid() -> None:
    stream = io.StringIO()
    recorder = EmfMetrics("face-recognition", stream)
    for number in range(250):
        recorder.count(Metric.ANSWERED_NAME)
        recorder.milliseconds(Metric.COMPUTE_MILLISECONDS, number)
    recorder.flush()
    found = documents(stream)
    for document in found:
        assert_is_valid(document)
    assert [value for document in found for value in document["ComputeMilliseconds"]] == list(range(250))
    assert [document.get("AnsweredName") for document in found] == [[250], None, None]


def test_the_metrics_of_all_functions_are_about_a_dozen_because_each_costs_money() -> None:
    assert sum(map(len, METRICS.values())) <= 12


def test_a_stream_that_cannot_be_written_to_does_not_fail_the_function() -> None:
    recorder = EmfMetrics("face-detection", FullDisk())
    recorder.count(Metric.FRAMES_ACCEPTED)
    recorder.flush()


def test_lines_go_to_standard_output_one_at_a_time() -> None:
    code = (
        "from adapters.metrics_emf import EmfMetrics; from pipeline.metrics import Metric; import os;"
        "metrics = EmfMetrics('f'); metrics.count(Metric.FACES); metrics.flush(); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith('{"_aws":{')
    assert done.stdout.count("\n") == 1
